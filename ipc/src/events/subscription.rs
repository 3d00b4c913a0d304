//! One subscriber's place in a log.
//!
//! It is a cursor over the ring that all subscribers share: nothing is queued for it, so one that
//! is never read costs nothing but itself, and learns of what it missed by a gap. It ends when it
//! is dropped; the loss of the store does not end it.

use std::fmt;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop;
use tokio::time::Instant;

use super::interest::Interest;
use super::log::{Entry, Gap, MAX_PATTERNS, SubscribeError};
use super::pattern::ChannelPattern;
use super::position::Position;
use super::ring::{Cursor, Ring, Room};
use super::wakeups::Waiter;

/// The most entries that one batch hands over.
pub const MAX_BATCH_ENTRIES: usize = 64;

/// A batch ends with the event whose payload brings it to this size, in bytes.
pub const MAX_BATCH_BYTES: usize = 64 << 10;

/// An open subscription; see [`EventLog::subscribe`](super::EventLog::subscribe).
pub struct LogSubscription {
    ring: Arc<Ring>,
    interest: Interest,
    start: Position,
    cursor: Cursor,
    /// The sizes of everything when it began, or was last found waiting.
    joined: u64,
    /// It was given everything, and waits to be woken.
    waits: bool,
    /// The gap to be handed over first.
    gap: Option<Gap>,
    appended: Waiter,
    read_at: Instant,
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
            interest: Interest::new(patterns),
            start: opening.start,
            cursor: opening.cursor,
            joined: ring.end_bytes(),
            waits: false,
            gap: opening.gap,
            appended: ring.wakeups(),
            read_at: Instant::now(),
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

    /// When the log was last read for this subscription, or when it began: the time of the last batch.
    #[must_use]
    pub fn read_at(&self) -> Instant {
        self.read_at
    }

    /// How much was appended to the log after [`LogSubscription::position`], on any channel, in
    /// bytes; more than is retained once a gap is certain. What there was before the subscription
    /// began does not count, nor what came while it was waited for, unless [`LogSubscription::held_up`]
    /// says otherwise: who resumes, or has not been woken yet, is behind without being slow.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        if self.waits {
            return 0;
        }
        self.ring.bytes_after(&self.cursor, self.joined)
    }

    /// The subscriber is held up, say by a client that takes nothing: what comes until it asks again
    /// counts as lag, though it had been given everything.
    pub fn held_up(&mut self) {
        self.waits = false;
    }

    /// Waits for an entry, then adds all that are ready to `out`, at most [`MAX_BATCH_ENTRIES`]
    /// and about [`MAX_BATCH_BYTES`], in order.
    ///
    /// Cancel safe: dropped before it returns, it has taken nothing.
    pub async fn next_batch(&mut self, out: &mut Vec<Entry>) {
        std::future::poll_fn(|cx| self.poll_batch(cx, out)).await;
    }

    /// The same for those who poll. Pending, it has taken nothing, and an entry wakes the task once.
    pub fn poll_batch(&mut self, cx: &mut Context<'_>, out: &mut Vec<Entry>) -> Poll<()> {
        // A subscriber that always finds something ready must not keep its thread for itself.
        ready!(pin!(coop::consume_budget()).poll(cx));
        if std::mem::take(&mut self.waits) {
            self.joined = self.ring.end_bytes();
        }
        let before = out.len();
        let mut room = Room {
            entries: MAX_BATCH_ENTRIES,
            bytes: MAX_BATCH_BYTES,
        };
        if let Some(gap) = self.gap.take() {
            out.push(Entry::Gap(gap));
            room.entries -= 1;
        }
        let (cursor, ring) = (&mut self.cursor, &self.ring);
        if ring.goes_on_after(cursor) {
            let (now, at_end) = ring.read(cursor, &mut self.interest, &mut room, out);
            self.read_at = now;
            if out.len() > before {
                return Poll::Ready(());
            }
            if !at_end {
                // Nothing of much that was read matches; others first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        } else if out.len() > before {
            return Poll::Ready(());
        }
        // Before the last look: what is appended after it wakes up.
        self.appended.arm(cx.waker());
        self.waits = true;
        if ring.goes_on_after(cursor) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl fmt::Debug for LogSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSubscription")
            .field("patterns", &self.interest.patterns())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
