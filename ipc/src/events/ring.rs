//! The recent entries of a log, in one ring that every subscriber of the process reads.
//!
//! A store appends; a subscriber is a cursor. So an event is held once whatever the number of
//! subscribers, replay and live are the same read, and one that falls behind sees exactly where
//! the ring has moved on without it.
//!
//! Positions are given here (the embedded log) or come with the entries (a log that several
//! processes share). Either way an entry directly follows the one before it, which has the offset
//! below in the same epoch; where it does not, a gap goes in between. So a position can be resumed
//! from exactly if it is that of an entry or a gap that is here, or of the last that was dropped.
//!
//! Bounds: bytes (events, channels and encoded frames; appending keeps an eighth free so that the
//! frames of new events fit; exceeded by at most the frames being encoded at that moment), age and
//! number of entries, as in [`LogSettings`]. What is beyond them is dropped by the next append,
//! and never handed out meanwhile if it is too old. The lock is held for one append (of what one
//! reading of a store brings at most), or for a read of at most [`MAX_SCAN`] entries, and never across
//! an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

use super::channel::ChannelName;
use super::event::{Budget, EVENT_OVERHEAD, Event, event_size};
use super::log::{Entry, Gap, GapReason, PublishError};
use super::pattern::ChannelPattern;
use super::position::Position;
use super::settings::LogSettings;
use super::wakeups::{Waiter, Wakeups};

#[cfg(test)]
mod tests;

/// The most entries that one read looks at under the lock.
const MAX_SCAN: usize = 1024;

/// The most entries that are dropped for their age under one hold of the lock.
const MAX_EXPIRE: usize = 4096;

/// What a gap is charged, in bytes.
const GAP_SIZE: usize = EVENT_OVERHEAD;

pub(super) struct Ring {
    /// What it means that a position belongs to no epoch of this log.
    other_epoch: GapReason,
    limits: LogSettings,
    budget: Arc<Budget>,
    state: RwLock<State>,
    recorded: AtomicU64,
    /// Says that something was appended.
    appended: Wakeups,
}

struct State {
    slots: VecDeque<Slot>,
    /// The number of the first slot, counted from 1 over all that there ever were.
    first: u64,
    /// The last position before the first slot; [`Position::NOWHERE`] before anything is known.
    floor: Position,
    /// The sizes of everything ever trimmed, in bytes.
    trimmed_bytes: u64,
}

/// An entry that a store hands over.
pub(super) struct Found {
    pub(super) position: Position,
    pub(super) age: Duration,
    pub(super) recorded_at: SystemTime,
    pub(super) what: What,
}

pub(super) enum What {
    Event(ChannelName, Bytes),
    /// On one channel, or on all of them.
    Gap(GapReason, Option<ChannelName>),
}

struct Slot {
    position: Position,
    at: Instant,
    /// The sizes of everything up to and with this entry, in bytes.
    end_bytes: u64,
    item: Item,
}

enum Item {
    Event(Arc<Event>),
    Gap(GapReason, Option<ChannelName>),
}

/// Where a subscriber stands: it has been given everything up to and with `position`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) position: Position,
    /// The number of the slot there.
    number: u64,
    /// The sizes of everything up to there, in bytes.
    bytes: u64,
}

/// How much one batch may still take.
pub(super) struct Room {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// Where a new subscriber starts.
pub(super) struct Opening {
    pub(super) start: Position,
    pub(super) cursor: Cursor,
    pub(super) gap: Option<Gap>,
}

impl Ring {
    /// The ring of a log within this process, with an epoch from the clock. `limits` are valid.
    pub(super) fn embedded(limits: LogSettings) -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = clock.map_or(1, |since| since.as_millis());
        let epoch = u64::try_from(millis).unwrap_or(u64::MAX).max(1);
        let floor = Position { epoch, offset: 0 };
        Self::new(limits, floor, GapReason::StoreRestarted)
    }

    /// The ring of a log that others write too; nothing is known of it yet. `limits` are valid.
    pub(super) fn following(limits: LogSettings) -> Self {
        Self::new(limits, Position::NOWHERE, GapReason::StoreLostData)
    }

    fn new(limits: LogSettings, floor: Position, other_epoch: GapReason) -> Self {
        Self {
            other_epoch,
            budget: Arc::new(Budget::new(limits.retain_bytes)),
            limits,
            state: RwLock::new(State {
                slots: VecDeque::new(),
                first: 1,
                floor,
                trimmed_bytes: 0,
            }),
            recorded: AtomicU64::new(0),
            appended: Wakeups::new(),
        }
    }

    /// How many events were ever appended.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(super) fn limits(&self) -> &LogSettings {
        &self.limits
    }

    /// A place to wait for the next append.
    pub(super) fn wakeups(&self) -> Waiter {
        self.appended.join()
    }

    /// The position of the last entry.
    pub(super) fn head(&self) -> Position {
        self.read_state().head()
    }

    /// Adds an event at the end, and drops what must go for it.
    pub(super) fn append(
        &self,
        channel: ChannelName,
        payload: Bytes,
    ) -> Result<Position, PublishError> {
        if payload.len() > self.limits.max_payload {
            return Err(PublishError::TooLarge {
                bytes: payload.len(),
                limit: self.limits.max_payload,
            });
        }
        // Before anybody can see the event, so that who has seen it finds it counted.
        self.count(1);
        let now = Instant::now();
        self.expire(now);
        let mut dropped = Vec::new();
        let mut state = self.write();
        let position = state.head().after();
        let at = (now, SystemTime::now());
        self.push(
            &mut state,
            &mut dropped,
            position,
            at,
            What::Event(channel, payload),
        );
        self.let_go(state, dropped);
        Ok(position)
    }

    /// Adds what a store has at its end, in its order, and a gap wherever an entry does not directly
    /// follow the one before it. What is here already is left out.
    pub(super) fn follow(&self, entries: Vec<Found>) {
        let now = Instant::now();
        self.expire(now);
        let mut dropped = Vec::new();
        let mut state = self.write();
        for found in entries {
            let (before, head) = (found.position.before(), state.head());
            if found.position <= head {
                continue;
            }
            let at = now.checked_sub(found.age).unwrap_or(now);
            if state.is_blank() {
                state.floor = before;
            } else if before != head {
                self.push_jump(&mut state, &mut dropped, before, at);
            }
            let at = (at, found.recorded_at);
            self.push(&mut state, &mut dropped, found.position, at, found.what);
        }
        self.let_go(state, dropped);
    }

    /// The store ends at `end`, and has nothing between what is here and there.
    pub(super) fn jump(&self, end: Position) {
        let mut dropped = Vec::new();
        let mut state = self.write();
        if end <= state.head() {
            return;
        }
        if state.is_blank() {
            state.floor = end;
        } else {
            self.push_jump(&mut state, &mut dropped, end, Instant::now());
        }
        self.let_go(state, dropped);
    }

    /// Counts events as recorded.
    pub(super) fn count(&self, events: u64) {
        self.recorded.fetch_add(events, Ordering::Relaxed);
    }

    /// Adds a gap from the head to `to`.
    fn push_jump(&self, state: &mut State, dropped: &mut Vec<Slot>, to: Position, at: Instant) {
        let reason = if to.epoch == state.head().epoch {
            GapReason::Trimmed
        } else {
            GapReason::StoreLostData
        };
        let at = (at, SystemTime::UNIX_EPOCH);
        self.push(state, dropped, to, at, What::Gap(reason, None));
    }

    fn push(
        &self,
        state: &mut State,
        dropped: &mut Vec<Slot>,
        position: Position,
        (at, recorded_at): (Instant, SystemTime),
        what: What,
    ) {
        let size = match &what {
            What::Event(channel, payload) => event_size(channel, payload.len()),
            What::Gap(..) => GAP_SIZE,
        };
        // An eighth stays free for frames, see the top.
        let target = self.limits.retain_bytes - self.limits.retain_bytes / 8;
        while state.slots.len() >= self.limits.retain_events
            || self.budget.used().saturating_add(size) > target
        {
            let Some(slot) = self.pop(state) else {
                break;
            };
            dropped.push(slot);
        }
        let item = match what {
            What::Event(channel, payload) => {
                let budget = Arc::clone(&self.budget);
                let event = Event::new(position, channel, payload, recorded_at, budget);
                Item::Event(Arc::new(event))
            }
            What::Gap(reason, channel) => {
                self.budget.add(GAP_SIZE);
                Item::Gap(reason, channel)
            }
        };
        let last = state.slots.back().map(|slot| slot.at);
        let slot = Slot {
            position,
            // Slots expire from the front, so none may be older than the one before it.
            at: last.map_or(at, |last| at.max(last)),
            end_bytes: state.end_bytes() + size as u64,
            item,
        };
        state.slots.push_back(slot);
    }

    /// Ends a change. What it dropped is freed only now, so that the lock is not held for it.
    fn let_go(&self, state: RwLockWriteGuard<'_, State>, dropped: Vec<Slot>) {
        drop(state);
        drop(dropped);
        self.appended.tell();
    }

    /// Drops what is too old, a bounded number under each hold of the lock.
    fn expire(&self, now: Instant) {
        loop {
            if !self.has_expired(&self.read_state(), now) {
                return;
            }
            let mut dropped = Vec::new();
            let mut state = self.write();
            while dropped.len() < MAX_EXPIRE && self.has_expired(&state, now) {
                dropped.extend(self.pop(&mut state));
            }
        }
    }

    fn has_expired(&self, state: &State, now: Instant) -> bool {
        let first = state.slots.front();
        first.is_some_and(|slot| now.duration_since(slot.at) >= self.limits.retain_age)
    }

    fn pop(&self, state: &mut State) -> Option<Slot> {
        let slot = state.slots.pop_front()?;
        state.first += 1;
        state.floor = slot.position;
        state.trimmed_bytes = slot.end_bytes;
        match &slot.item {
            Item::Event(event) => event.release(),
            Item::Gap(..) => self.budget.give_back(GAP_SIZE),
        }
        Some(slot)
    }

    /// Whether a subscriber can go on from `position` without a gap.
    pub(super) fn holds(&self, position: Position) -> bool {
        // Of a log that nothing is known of, not even its end can be resumed from.
        !self.read_state().is_blank() && self.open(Some(position)).gap.is_none()
    }

    /// Where a subscriber starts that has seen everything up to `after`, or wants what is new.
    pub(super) fn open(&self, after: Option<Position>) -> Opening {
        self.expire(Instant::now());
        let state = self.read_state();
        let live = state.cursor(state.last());
        let Some(after) = after else {
            return Opening {
                start: live.position,
                cursor: live,
                gap: None,
            };
        };
        // The last place that is not behind `after`, counted as slots before it and with it.
        let seen = state.slots.partition_point(|slot| slot.position <= after);
        let here = state.cursor(state.first - 1 + seen as u64);
        if here.position == after {
            return Opening {
                start: after,
                cursor: here,
                gap: None,
            };
        }
        // Between two that are here lies what a gap stands for: the place after it is known again.
        // Behind all lies the future, before all what was dropped.
        let future = seen == state.slots.len();
        let cursor = if future || after < state.floor {
            here
        } else {
            state.cursor(here.number + 1)
        };
        let reason = if after.epoch != cursor.position.epoch {
            self.other_epoch
        } else if after < cursor.position {
            GapReason::Trimmed
        } else {
            GapReason::StoreLostData
        };
        let gap = Gap {
            from: Some(after),
            to: cursor.position,
            reason,
        };
        // A stream that is cut before it said the gap must meet the gap again. `after` does that,
        // except from the future, where the log may have come to it by then.
        Opening {
            start: if after > live.position {
                Position::NOWHERE
            } else {
                after
            },
            cursor,
            gap: Some(gap),
        }
    }

    /// Moves `cursor` on, and what matches on the way into `out`, until `room` is filled or
    /// [`MAX_SCAN`] entries were looked at. True if the cursor has reached the end.
    pub(super) fn read(
        &self,
        cursor: &mut Cursor,
        patterns: &[ChannelPattern],
        room: &mut Room,
        out: &mut Vec<Entry>,
    ) -> bool {
        let state = self.fresh_state();
        let oldest = state.cursor(state.first - 1);
        if cursor.number < oldest.number {
            let from = Some(cursor.position);
            let (to, reason) = (oldest.position, GapReason::Slow);
            out.push(Entry::Gap(Gap { from, to, reason }));
            room.take(0);
            *cursor = oldest;
        }
        let seen = usize::try_from(cursor.number - oldest.number).unwrap_or(usize::MAX);
        for slot in state.slots.iter().skip(seen).take(MAX_SCAN) {
            if room.is_filled() {
                return false;
            }
            if let Some(entry) = entry(slot, cursor.position, patterns) {
                room.take(match &entry {
                    Entry::Event(event) => event.payload().len(),
                    Entry::Gap(_) => 0,
                });
                out.push(entry);
            }
            *cursor = Cursor {
                position: slot.position,
                number: cursor.number + 1,
                bytes: slot.end_bytes,
            };
        }
        cursor.number == state.last()
    }

    /// The sizes of everything that was ever appended, in bytes.
    pub(super) fn end_bytes(&self) -> u64 {
        self.read_state().end_bytes()
    }

    /// The sizes of what was appended after both `cursor` and the moment at which everything had
    /// the size `joined`, on any channel, in bytes.
    pub(super) fn bytes_after(&self, cursor: &Cursor, joined: u64) -> u64 {
        let end = self.read_state().end_bytes();
        end.saturating_sub(cursor.bytes.max(joined))
    }

    /// The state without what is too old; one lock where nothing is.
    fn fresh_state(&self) -> RwLockReadGuard<'_, State> {
        let now = Instant::now();
        let state = self.read_state();
        if !self.has_expired(&state, now) {
            return state;
        }
        drop(state);
        self.expire(now);
        self.read_state()
    }

    // Every change of the state leaves it whole between two statements that can panic (only
    // allocation could), so a poisoned lock is safe to take.
    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing is known yet of the log that this follows.
    fn is_blank(&self) -> bool {
        self.slots.is_empty() && self.floor == Position::NOWHERE
    }

    /// The number of the last slot.
    fn last(&self) -> u64 {
        self.first + self.slots.len() as u64 - 1
    }

    /// The position of the last slot.
    fn head(&self) -> Position {
        self.slots.back().map_or(self.floor, |slot| slot.position)
    }

    /// The sizes of everything ever appended, in bytes.
    fn end_bytes(&self) -> u64 {
        self.slots
            .back()
            .map_or(self.trimmed_bytes, |s| s.end_bytes)
    }

    /// The cursor at a slot between the last trimmed one and the last.
    fn cursor(&self, number: u64) -> Cursor {
        let index = usize::try_from(number - (self.first - 1)).ok();
        let slot = index
            .and_then(|i| i.checked_sub(1))
            .and_then(|i| self.slots.get(i));
        Cursor {
            position: slot.map_or(self.floor, |slot| slot.position),
            number,
            bytes: slot.map_or(self.trimmed_bytes, |slot| slot.end_bytes),
        }
    }
}

/// What a subscriber that stands at `before` is given for the next slot.
fn entry(slot: &Slot, before: Position, patterns: &[ChannelPattern]) -> Option<Entry> {
    let meant = |channel: &ChannelName| patterns.iter().any(|p| p.matches_name(channel));
    match &slot.item {
        Item::Event(event) => meant(event.channel()).then(|| Entry::Event(Arc::clone(event))),
        Item::Gap(reason, channel) => channel.as_ref().is_none_or(meant).then(|| {
            Entry::Gap(Gap {
                from: Some(before),
                to: slot.position,
                reason: *reason,
            })
        }),
    }
}

impl Room {
    fn take(&mut self, bytes: usize) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_filled(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }
}
