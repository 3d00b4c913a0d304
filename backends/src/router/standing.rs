//! How a model stands with the router: when it was picked last, until when it wants to be left
//! alone, and when it failed last.
//!
//! Owns these three facts; they live and end with the model's [`Load`](super::candidate::Load). It
//! does not own what follows from them. Limit: a model is left alone for at most
//! [`LONGEST_REST`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest time for which an endpoint's "not now" (429) is believed.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(300);
/// How long a model is left alone if its endpoint doesn't say.
const DEFAULT_REST: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    turn: AtomicU64,
    moments: Mutex<Moments>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    rests_until: Option<Instant>,
    failed: Option<Instant>,
}

impl Standing {
    /// The number of the turn in which it was picked last; 0: never.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// It was picked in this turn.
    pub(super) fn picked(&self, turn: u64) {
        self.turn.store(turn, Ordering::Relaxed);
    }

    /// Its endpoint wants no calls for a while.
    pub(super) fn rest(&self, now: Instant, wanted: Option<Duration>) {
        let until = now + wanted.unwrap_or(DEFAULT_REST).min(LONGEST_REST);
        let mut moments = self.moments();
        // Of two answers the one that asks for more counts.
        moments.rests_until = moments.rests_until.max(Some(until));
    }

    /// For how long it is still to be left alone.
    pub(super) fn rests_for(&self, now: Instant) -> Option<Duration> {
        let left = self.moments().rests_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// A call to it failed.
    pub(super) fn failed(&self, now: Instant) {
        self.moments().failed = Some(now);
    }

    /// Whether a call to it failed within this time.
    pub(super) fn failed_within(&self, time: Duration, now: Instant) -> bool {
        let failed = self.moments().failed;
        failed.is_some_and(|failed| now.saturating_duration_since(failed) < time)
    }

    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_model_rests_as_long_as_its_endpoint_wants_and_no_longer_than_five_minutes() {
        let (standing, now) = (Standing::default(), Instant::now());
        assert_eq!(standing.rests_for(now), None);
        standing.rest(now, Some(SECOND * 3));
        assert_eq!(standing.rests_for(now + SECOND), Some(SECOND * 2));
        assert_eq!(standing.rests_for(now + SECOND * 3), None);
        standing.rest(now, Some(Duration::MAX));
        assert_eq!(standing.rests_for(now), Some(LONGEST_REST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_wish_does_not_end_a_longer_rest() {
        let (standing, now) = (Standing::default(), Instant::now());
        standing.rest(now, Some(SECOND * 60));
        standing.rest(now, None);
        assert_eq!(standing.rests_for(now), Some(SECOND * 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_for_the_time_that_is_asked_for() {
        let (standing, now) = (Standing::default(), Instant::now());
        assert!(!standing.failed_within(SECOND, now));
        standing.failed(now);
        assert!(standing.failed_within(SECOND, now));
        assert!(!standing.failed_within(SECOND, now + SECOND));
    }
}
