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
//! reading of a store brings at most), or for a read of a bounded number of entries
//! ([`reading`]), and never across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

use super::channel::ChannelName;
use super::event::{Budget, EVENT_OVERHEAD, Event, event_size};
use super::interest::Names;
use super::log::{GapReason, PublishError};
use super::payloads::Payloads;
use super::position::Position;
use super::settings::LogSettings;
use super::wakeups::{Waiter, Wakeups};

mod reading;
#[cfg(test)]
mod tests;

pub(super) use reading::{Cursor, Room};

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
    pub(super) payloads: Payloads,
    /// The number of the last slot, and the sizes of everything up to there, for those who don't hold
    /// the lock.
    last: AtomicU64,
    end_bytes: AtomicU64,
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
    names: Names,
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
                names: Names::default(),
            }),
            recorded: AtomicU64::new(0),
            payloads: Payloads::default(),
            last: AtomicU64::new(0),
            end_bytes: AtomicU64::new(0),
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
        self.count(&payload);
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

    /// Counts an event as recorded.
    pub(super) fn count(&self, payload: &[u8]) {
        self.payloads.count(payload);
        self.recorded.fetch_add(1, Ordering::Relaxed);
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
                let channel = state.names.one(channel);
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
        self.end_bytes.store(state.end_bytes(), Ordering::Release);
        let last = state.last();
        self.last.store(last, Ordering::Release);
        drop(state);
        drop(dropped);
        self.appended.tell(last);
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
}
