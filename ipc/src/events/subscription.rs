//! One subscriber's place in a log.
//!
//! It is a cursor over the ring that all subscribers share: nothing is queued for it, so one that
//! is never read costs nothing but itself, and learns of what it missed by a gap. It ends when it
//! is dropped; the loss of the store does not end it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{coop, yield_now};

use super::log::{Entry, Gap, MAX_PATTERNS, SubscribeError};
use super::pattern::ChannelPattern;
use super::position::Position;
use super::ring::{Cursor, Ring, Room};

/// The most entries that one batch hands over.
pub const MAX_BATCH_ENTRIES: usize = 64;

/// A batch ends with the event whose payload brings it to this size, in bytes.
pub const MAX_BATCH_BYTES: usize = 64 << 10;

/// An open subscription; see [`EventLog::subscribe`](super::EventLog::subscribe).
pub struct LogSubscription {
    ring: Arc<Ring>,
    patterns: Box<[ChannelPattern]>,
    start: Position,
    cursor: Cursor,
    /// The gap to be handed over first.
    gap: Option<Gap>,
    appended: watch::Receiver<()>,
}

/// Refuses none and too many.
pub(super) fn check(patterns: &[ChannelPattern]) -> Result<(), SubscribeError> {
    match patterns.len() {
        0 => Err(SubscribeError::NoPattern),
        1..=MAX_PATTERNS => Ok(()),
        many => Err(SubscribeError::TooManyPatterns(many)),
    }
}

impl LogSubscription {
    pub(super) fn open(
        ring: &Arc<Ring>,
        patterns: Vec<ChannelPattern>,
        after: Option<Position>,
    ) -> Result<Self, SubscribeError> {
        check(&patterns)?;
        let opening = ring.open(after);
        Ok(Self {
            ring: Arc::clone(ring),
            patterns: patterns.into(),
            start: opening.start,
            cursor: opening.cursor,
            gap: opening.gap,
            appended: ring.wakeups(),
        })
    }

    /// Where to resume if the stream is cut before it brought anything: the end of the log when
    /// it was opened, or the position that it was resumed from. Before a first gap it is one that
    /// meets this gap again.
    #[must_use]
    pub fn start(&self) -> Position {
        self.start
    }

    /// Up to where everything that matches was handed over. It moves on over what doesn't match
    /// too, while [`LogSubscription::next_batch`] is awaited; so on a quiet channel it remains a
    /// position that resumes without a gap.
    #[must_use]
    pub fn position(&self) -> Position {
        match self.gap {
            Some(_) => self.start,
            None => self.cursor.position,
        }
    }

    /// How much was appended to the log after [`LogSubscription::position`], on any channel, in
    /// bytes; more than is retained once a gap is certain.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        self.ring.bytes_after(&self.cursor)
    }

    /// Waits for an entry, then adds all that are ready to `out`, at most [`MAX_BATCH_ENTRIES`]
    /// and about [`MAX_BATCH_BYTES`], in order.
    ///
    /// Cancel safe: dropped before it returns, it has taken nothing.
    pub async fn next_batch(&mut self, out: &mut Vec<Entry>) {
        // A subscriber that always finds something ready must not keep its thread for itself.
        coop::consume_budget().await;
        let before = out.len();
        let mut room = Room {
            entries: MAX_BATCH_ENTRIES,
            bytes: MAX_BATCH_BYTES,
        };
        if let Some(gap) = self.gap.take() {
            out.push(Entry::Gap(gap));
            room.entries -= 1;
        }
        loop {
            // Marked before the read: what is appended during it is a change to wake up for.
            self.appended.mark_unchanged();
            let (cursor, ring) = (&mut self.cursor, &self.ring);
            let at_end = ring.read(cursor, &self.patterns, &mut room, out);
            if out.len() > before {
                return;
            }
            if !at_end {
                yield_now().await;
            } else if self.appended.changed().await.is_err() {
                // The sender lives in the ring that this subscription holds, so this can't be;
                // if it were, nothing could ever come.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for LogSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSubscription")
            .field("patterns", &self.patterns)
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
