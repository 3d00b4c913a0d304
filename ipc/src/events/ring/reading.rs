//! How subscribers read a ring: where one starts, and how its cursor goes on.
//!
//! Changes nothing, but for letting go of what is too old. Limits: [`MAX_SCAN`] entries for a read.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard};

use tokio::time::Instant;

use super::{Item, Ring, Slot, State};
use crate::events::channel::ChannelName;
use crate::events::interest::Interest;
use crate::events::log::{Entry, Gap, GapReason};
use crate::events::position::Position;

/// The most entries that one read looks at under the lock.
const MAX_SCAN: usize = 1024;

/// Where a subscriber stands: it has been given everything up to and with `position`.
#[derive(Clone, Copy, Debug)]
pub(in crate::events) struct Cursor {
    pub(in crate::events) position: Position,
    /// The number of the slot there.
    number: u64,
    /// The sizes of everything up to there, in bytes.
    bytes: u64,
}

/// How much one batch may still take.
pub(in crate::events) struct Room {
    pub(in crate::events) entries: usize,
    pub(in crate::events) bytes: usize,
}

/// Where a new subscriber starts.
pub(in crate::events) struct Opening {
    pub(in crate::events) start: Position,
    pub(in crate::events) cursor: Cursor,
    pub(in crate::events) gap: Option<Gap>,
}

impl Ring {
    /// Whether a subscriber can go on from `position` without a gap.
    pub(in crate::events) fn holds(&self, position: Position) -> bool {
        // Of a log that nothing is known of, not even its end can be resumed from.
        !self.read_state().is_blank() && self.open(Some(position)).gap.is_none()
    }

    /// Where a subscriber starts that has seen everything up to `after`, or wants what is new.
    pub(in crate::events) fn open(&self, after: Option<Position>) -> Opening {
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
    /// [`MAX_SCAN`] entries were looked at. Tells when that was, and whether the cursor has reached the
    /// end.
    pub(in crate::events) fn read(
        &self,
        cursor: &mut Cursor,
        interest: &mut Interest,
        room: &mut Room,
        out: &mut Vec<Entry>,
    ) -> (Instant, bool) {
        let now = Instant::now();
        let state = self.fresh_state(now);
        let oldest = state.cursor(state.first - 1);
        if cursor.number < oldest.number {
            let from = Some(cursor.position);
            let (to, reason) = (oldest.position, GapReason::Slow);
            out.push(Entry::Gap(Gap { from, to, reason }));
            room.take(0);
            *cursor = oldest;
        }
        let seen = usize::try_from(cursor.number - oldest.number).unwrap_or(usize::MAX);
        let seen = seen.min(state.slots.len());
        for slot in state.slots.range(seen..).take(MAX_SCAN) {
            if room.is_filled() {
                return (now, false);
            }
            if let Some(entry) = entry(slot, cursor.position, interest) {
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
        (now, cursor.number == state.last())
    }

    /// Whether there is anything after `cursor`. Takes no lock: subscribers ask once more for each
    /// thing that they are given.
    pub(in crate::events) fn goes_on_after(&self, cursor: &Cursor) -> bool {
        self.last.load(Ordering::Acquire) != cursor.number
    }

    /// The sizes of everything that was ever appended, in bytes.
    pub(in crate::events) fn end_bytes(&self) -> u64 {
        self.end_bytes.load(Ordering::Acquire)
    }

    /// The sizes of what was appended after both `cursor` and the moment at which everything had
    /// the size `joined`, on any channel, in bytes.
    pub(in crate::events) fn bytes_after(&self, cursor: &Cursor, joined: u64) -> u64 {
        self.end_bytes().saturating_sub(cursor.bytes.max(joined))
    }

    /// The state without what is too old; one lock where nothing is.
    fn fresh_state(&self, now: Instant) -> RwLockReadGuard<'_, State> {
        let state = self.read_state();
        if !self.has_expired(&state, now) {
            return state;
        }
        drop(state);
        self.expire(now);
        self.read_state()
    }
}

impl State {
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
fn entry(slot: &Slot, before: Position, interest: &mut Interest) -> Option<Entry> {
    let mut meant = |channel: &ChannelName| interest.means(channel);
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
