//! One event, with its encoded frames beside it.
//!
//! An event is shared by all its subscribers. Each way to put it on the wire (a frame slot) is
//! encoded by the first subscriber that needs it and then shared too. What an event and its frames
//! take is charged to the budget of the ring until the ring lets go of the event; a frame that no
//! longer fits is handed out without being kept, so it may be encoded again.

use std::fmt;
use std::mem::size_of;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;

use super::channel::ChannelName;
use super::position::Position;

/// How many encodings of an event are kept.
pub const FRAME_SLOTS: usize = 4;

/// What is charged for an event beside its channel and payload, in bytes: itself, its place in
/// the ring, and the headers of the allocations that it holds.
pub(super) const EVENT_OVERHEAD: usize = size_of::<Event>() + 192;

/// What is charged for a frame beside its bytes: the headers of its allocation.
const FRAME_OVERHEAD: usize = 64;

/// What was published on a channel.
pub struct Event {
    position: Position,
    channel: ChannelName,
    payload: Bytes,
    recorded_at: SystemTime,
    frames: [OnceLock<Bytes>; FRAME_SLOTS],
    budget: Arc<Budget>,
    /// What this event has charged to the budget; 0 once the ring let go of it.
    charged: AtomicUsize,
}

impl Event {
    /// An event that charges its size to the budget at once.
    pub(super) fn new(
        position: Position,
        channel: ChannelName,
        payload: Bytes,
        recorded_at: SystemTime,
        budget: Arc<Budget>,
    ) -> Self {
        let size = event_size(&channel, payload.len());
        budget.used.fetch_add(size, Ordering::AcqRel);
        Self {
            position,
            channel,
            payload,
            recorded_at,
            frames: Default::default(),
            budget,
            charged: AtomicUsize::new(size),
        }
    }

    /// Where in the log it stands; its id for clients.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The channel that it was published on.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The last segment of its channel.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.channel.event_type()
    }

    /// The payload, exactly as published: any bytes.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// When the store recorded it, by the store's clock.
    #[must_use]
    pub fn recorded_at(&self) -> SystemTime {
        self.recorded_at
    }

    /// The encoding in `slot`, made by `encode` if nobody made it yet. Which slot means which
    /// encoding is the callers' agreement.
    ///
    /// It is made once and shared, whatever the number of subscribers, as long as the budget of
    /// the ring has room for it; else, and for a slot outside `0..FRAME_SLOTS`, each call encodes.
    pub fn frame(&self, slot: usize, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        let Some(frame) = self.frames.get(slot) else {
            return encode(self);
        };
        if let Some(made) = frame.get() {
            return made.clone();
        }
        if !self.budget.has_room(self.payload.len() + FRAME_OVERHEAD) {
            return encode(self);
        }
        let make = || {
            let made = encode(self);
            self.charge(made.len() + FRAME_OVERHEAD);
            made
        };
        frame.get_or_init(make).clone()
    }

    fn charge(&self, size: usize) {
        // The budget first: so it never holds less than the events claim from it, and the
        // subtraction in `release` can't go below zero.
        self.budget.used.fetch_add(size, Ordering::AcqRel);
        let held = |charged: usize| (charged > 0).then_some(charged + size);
        let (ok, fail) = (Ordering::AcqRel, Ordering::Acquire);
        if self.charged.fetch_update(ok, fail, held).is_err() {
            self.budget.used.fetch_sub(size, Ordering::AcqRel);
        }
    }

    /// Gives back what the event and its frames have charged. The ring calls it when it lets go.
    pub(super) fn release(&self) {
        let charged = self.charged.swap(0, Ordering::AcqRel);
        self.budget.used.fetch_sub(charged, Ordering::AcqRel);
    }
}

impl fmt::Debug for Event {
    /// The payload is the publisher's business and stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("position", &self.position)
            .field("channel", &self.channel)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// What an event with such a payload is charged before any frame is made, in bytes.
pub(super) fn event_size(channel: &ChannelName, payload: usize) -> usize {
    EVENT_OVERHEAD + channel.as_str().len() + payload
}

/// The bytes that one ring may hold, and how many it does.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Whether `size` more would still be within the limit.
    fn has_room(&self, size: usize) -> bool {
        self.used().saturating_add(size) <= self.limit
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub(super) fn add(&self, size: usize) {
        self.used.fetch_add(size, Ordering::AcqRel);
    }

    pub(super) fn give_back(&self, size: usize) {
        self.used.fetch_sub(size, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(limit: usize) -> (Event, Arc<Budget>) {
        let budget = Arc::new(Budget::new(limit));
        let channel = ChannelName::new("a", "b", "c");
        let payload = Bytes::from_static(b"payload");
        let now = SystemTime::UNIX_EPOCH;
        let event = Event::new(
            Position::NOWHERE,
            channel,
            payload,
            now,
            Arc::clone(&budget),
        );
        (event, budget)
    }

    fn never(_: &Event) -> Bytes {
        panic!("encoded twice")
    }

    #[test]
    fn a_frame_is_encoded_once_and_shared() {
        let (event, _) = event(1 << 20);
        let first = event.frame(1, |e| e.payload().clone());
        assert_eq!(event.frame(1, never).as_ptr(), first.as_ptr());
        let other = event.frame(0, |_| Bytes::from_static(b"other"));
        assert_eq!(other, Bytes::from_static(b"other"));
    }

    #[test]
    fn threads_that_ask_at_the_same_time_get_one_encoding() {
        let (event, _) = event(1 << 20);
        let encoded = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    event.frame(0, |e| {
                        encoded.fetch_add(1, Ordering::SeqCst);
                        e.payload().clone()
                    })
                });
            }
        });
        assert_eq!(encoded.into_inner(), 1);
    }

    #[test]
    fn a_frame_beyond_the_budget_is_made_but_not_kept() {
        let (event, budget) = event(0);
        let before = budget.used();
        for _ in 0..2 {
            let made = event.frame(0, |_| Bytes::from_static(b"x"));
            assert_eq!(made, Bytes::from_static(b"x"));
        }
        assert!(event.frames[0].get().is_none());
        assert_eq!(budget.used(), before);
    }

    #[test]
    fn a_slot_that_does_not_exist_still_gives_the_frame() {
        let (event, _) = event(1 << 20);
        let made = event.frame(FRAME_SLOTS, |e| e.payload().clone());
        assert_eq!(made, Bytes::from_static(b"payload"));
    }

    #[test]
    fn everything_charged_is_given_back_also_for_a_frame_made_after_the_release() {
        let (event, budget) = event(1 << 20);
        event.frame(0, |_| Bytes::from(vec![0; 1000]));
        assert!(budget.used() > 1000 + EVENT_OVERHEAD);
        event.release();
        assert_eq!(budget.used(), 0);
        event.frame(1, |_| Bytes::from(vec![0; 1000]));
        assert_eq!(budget.used(), 0);
    }
}
