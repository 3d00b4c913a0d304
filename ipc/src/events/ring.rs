//! The recent entries of a log, in one ring that every subscriber of the process reads.
//!
//! A store appends; a subscriber is a cursor. So an event is held once whatever the number of
//! subscribers, replay and live are the same read, and one that falls behind sees exactly where
//! the ring has moved on without it.
//!
//! Bounds: bytes (events, channels and encoded frames; appending keeps an eighth free so that the
//! frames of new events fit; exceeded by at most the frames being encoded at that moment), age and
//! number of entries, as in [`LogSettings`]. What is beyond them is dropped by the next append,
//! and never handed out meanwhile if it is too old. The lock is held for one append, or for a read
//! of at most [`MAX_SCAN`] entries, and never across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::channel::ChannelName;
use super::event::{Budget, EVENT_OVERHEAD, Event, event_size};
use super::log::{Entry, Gap, GapReason, PublishError};
use super::pattern::ChannelPattern;
use super::position::Position;
use super::settings::LogSettings;

#[cfg(test)]
mod tests;

/// The most entries that one read looks at under the lock.
const MAX_SCAN: usize = 1024;

/// The most entries that are dropped for their age under one hold of the lock.
const MAX_EXPIRE: usize = 4096;

/// What a gap is charged, in bytes.
const GAP_SIZE: usize = EVENT_OVERHEAD;

/// Whose positions the ring hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// This log's alone. An older epoch is the same log before a restart, so whoever comes with
    /// one has seen nothing that is in the ring, and gets all of it after the gap.
    Own,
    /// Other processes hand out positions of the same store under epochs of their own. Who comes
    /// with another epoch may have seen what is in the ring, and goes on with what is new.
    Shared,
}

pub(super) struct Ring {
    epoch: u64,
    ids: Ids,
    limits: LogSettings,
    budget: Arc<Budget>,
    state: RwLock<State>,
    recorded: AtomicU64,
    /// Says that something was appended. A watch and not a queue: thousands may wait, and a
    /// change between a read and the wait is seen.
    appended: watch::Sender<()>,
}

struct State {
    slots: VecDeque<Slot>,
    /// The offset of the first slot. Offsets are consecutive and start at 1.
    first: u64,
    /// The sizes of everything ever trimmed, in bytes.
    trimmed_bytes: u64,
}

struct Slot {
    at: Instant,
    /// The sizes of everything up to and with this entry, in bytes.
    end_bytes: u64,
    item: Item,
}

enum Item {
    Event(Arc<Event>),
    Gap(GapReason, Option<ChannelName>),
}

/// Where a subscriber stands: it has been given everything up to and with `offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) offset: u64,
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
    /// An empty ring with an epoch from the clock. `limits` are valid.
    pub(super) fn new(limits: LogSettings, ids: Ids) -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = clock.map_or(1, |since| since.as_millis());
        Self {
            epoch: u64::try_from(millis).unwrap_or(u64::MAX).max(1),
            ids,
            budget: Arc::new(Budget::new(limits.retain_bytes)),
            limits,
            state: RwLock::new(State {
                slots: VecDeque::new(),
                first: 1,
                trimmed_bytes: 0,
            }),
            recorded: AtomicU64::new(0),
            appended: watch::Sender::new(()),
        }
    }

    /// How many events were ever appended.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(super) fn limits(&self) -> &LogSettings {
        &self.limits
    }

    /// A receiver that changes with each append.
    pub(super) fn wakeups(&self) -> watch::Receiver<()> {
        self.appended.subscribe()
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
        let size = event_size(&channel, payload.len());
        // Before anybody can see the event, so that who has seen it finds it counted.
        self.recorded.fetch_add(1, Ordering::Relaxed);
        let position = self.push(size, |position| {
            let budget = Arc::clone(&self.budget);
            Item::Event(Arc::new(Event::new(position, channel, payload, budget)))
        });
        Ok(position)
    }

    /// Adds a gap at the end: on one channel, or on all of them.
    pub(super) fn append_gap(&self, reason: GapReason, channel: Option<ChannelName>) {
        self.push(GAP_SIZE, |_| {
            self.budget.add(GAP_SIZE);
            Item::Gap(reason, channel)
        });
    }

    fn push(&self, size: usize, item: impl FnOnce(Position) -> Item) -> Position {
        let now = Instant::now();
        self.expire(now);
        // An eighth stays free for frames, see the top.
        let target = self.limits.retain_bytes - self.limits.retain_bytes / 8;
        let mut dropped = Vec::new();
        let mut state = self.write();
        while state.slots.len() >= self.limits.retain_events
            || self.budget.used().saturating_add(size) > target
        {
            let Some(slot) = self.pop(&mut state) else {
                break;
            };
            dropped.push(slot);
        }
        let position = self.at(state.head() + 1);
        let end_bytes = state.end_bytes() + size as u64;
        let item = item(position);
        let slot = Slot {
            at: now,
            end_bytes,
            item,
        };
        state.slots.push_back(slot);
        drop(state);
        // Freed only now, so that the lock is not held for it.
        drop(dropped);
        self.appended.send_replace(());
        position
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
        state.trimmed_bytes = slot.end_bytes;
        match &slot.item {
            Item::Event(event) => event.release(),
            Item::Gap(..) => self.budget.give_back(GAP_SIZE),
        }
        Some(slot)
    }

    /// Where a subscriber starts that has seen everything up to `after`, or wants what is new.
    pub(super) fn open(&self, after: Option<Position>) -> Opening {
        self.expire(Instant::now());
        let state = self.read_state();
        let live = state.cursor(state.head());
        let Some(after) = after else {
            return Opening {
                start: self.at(live.offset),
                cursor: live,
                gap: None,
            };
        };
        let oldest = state.cursor(state.first - 1);
        let (cursor, reason) = if after.epoch != self.epoch {
            let unseen = self.ids == Ids::Own && after.epoch < self.epoch;
            (
                if unseen { oldest } else { live },
                GapReason::StoreRestarted,
            )
        } else if after.offset > live.offset {
            (live, GapReason::StoreLostData)
        } else if after.offset < oldest.offset {
            (oldest, GapReason::Trimmed)
        } else {
            return Opening {
                start: after,
                cursor: state.cursor(after.offset),
                gap: None,
            };
        };
        let gap = Gap {
            from: Some(after),
            to: self.at(cursor.offset),
            reason,
        };
        // A stream that is cut before it said the gap must meet the gap again. `after` does that,
        // except from the future, where the log may have come to it by then.
        let future = reason == GapReason::StoreLostData;
        Opening {
            start: if future { Position::NOWHERE } else { after },
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
        self.expire(Instant::now());
        let state = self.read_state();
        let oldest = state.cursor(state.first - 1);
        if cursor.offset < oldest.offset {
            let from = Some(self.at(cursor.offset));
            let (to, reason) = (self.at(oldest.offset), GapReason::Slow);
            out.push(Entry::Gap(Gap { from, to, reason }));
            room.take(0);
            *cursor = oldest;
        }
        let seen = usize::try_from(cursor.offset - oldest.offset).unwrap_or(usize::MAX);
        for slot in state.slots.iter().skip(seen).take(MAX_SCAN) {
            if room.is_filled() {
                return false;
            }
            if let Some(entry) = self.entry(slot, cursor.offset, patterns) {
                room.take(match &entry {
                    Entry::Event(event) => event.payload().len(),
                    Entry::Gap(_) => 0,
                });
                out.push(entry);
            }
            cursor.offset += 1;
            cursor.bytes = slot.end_bytes;
        }
        cursor.offset == state.head()
    }

    /// What a subscriber that stands at `before` is given for the next slot.
    fn entry(&self, slot: &Slot, before: u64, patterns: &[ChannelPattern]) -> Option<Entry> {
        let meant = |channel: &ChannelName| patterns.iter().any(|p| p.matches_name(channel));
        match &slot.item {
            Item::Event(event) => meant(event.channel()).then(|| Entry::Event(Arc::clone(event))),
            Item::Gap(reason, channel) => channel.as_ref().is_none_or(meant).then(|| {
                Entry::Gap(Gap {
                    from: Some(self.at(before)),
                    to: self.at(before + 1),
                    reason: *reason,
                })
            }),
        }
    }

    /// The sizes of what was appended after `cursor`, on any channel, in bytes.
    pub(super) fn bytes_after(&self, cursor: &Cursor) -> u64 {
        self.read_state().end_bytes().saturating_sub(cursor.bytes)
    }

    pub(super) fn at(&self, offset: u64) -> Position {
        Position {
            epoch: self.epoch,
            offset,
        }
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
    /// The offset of the last entry ever appended.
    fn head(&self) -> u64 {
        self.first + self.slots.len() as u64 - 1
    }

    /// The sizes of everything ever appended, in bytes.
    fn end_bytes(&self) -> u64 {
        self.slots
            .back()
            .map_or(self.trimmed_bytes, |s| s.end_bytes)
    }

    /// The cursor at an offset between the last trimmed one and the head.
    fn cursor(&self, offset: u64) -> Cursor {
        let index = usize::try_from(offset - (self.first - 1)).ok();
        let slot = index
            .and_then(|i| i.checked_sub(1))
            .and_then(|i| self.slots.get(i));
        Cursor {
            offset,
            bytes: slot.map_or(self.trimmed_bytes, |slot| slot.end_bytes),
        }
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
