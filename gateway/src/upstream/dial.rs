//! When an endpoint that could not be connected to is tried again.
//!
//! Known for the whole process, whoever connects: all workers, and checks. After
//! each failed attempt the endpoint backs off, for 100 ms at first and twice as
//! long each time, up to 10 s, less up to half by chance. Attempts that were
//! under way at the same time fail as one. While it backs off it is passed over
//! as long as another endpoint stands; a call that has no other may try, and so
//! may a probe of its breaker that is due, which comes at its own growing times.
//! Until an attempt succeeds none begins within [`APART`] of another. A reload
//! that changes how the endpoint is connected to begins anew. Owns neither the
//! attempts nor the choice.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use intellirouter::resilience::Backoff;
use tokio::time::Instant;

const STEPS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Between two attempts at an endpoint that could not be reached.
pub(super) const APART: Duration = Duration::from_millis(100);

/// See the module's comment.
pub(super) struct Dial {
    backoff: Backoff,
    start: Instant,
    /// Until when it backs off, in milliseconds since `start`; 0 if it does not.
    /// Beside the lock, because it is asked for every call.
    until: AtomicU64,
    failures: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    /// Since an attempt last succeeded.
    in_a_row: u32,
    last_at: Option<Instant>,
    /// When the last attempt began that was allowed.
    tried_at: Option<Instant>,
}

impl Default for Dial {
    fn default() -> Self {
        Self::new(Backoff::new(STEPS.0, STEPS.1))
    }
}

impl Dial {
    fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            start: Instant::now(),
            until: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    /// Whether it is to be passed over while another endpoint stands.
    pub(super) fn backs_off(&self, now: Instant) -> bool {
        self.left(now).is_some()
    }

    /// How long it still backs off, if it does.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let until = match self.until.load(Relaxed) {
            0 => return None,
            until => self.start + Duration::from_millis(until),
        };
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Whether an attempt may begin now; then it counts as begun.
    pub(super) fn may_try(&self, now: Instant) -> bool {
        let mut failures = self.lock();
        let last = failures.last_at.max(failures.tried_at);
        let too_soon = last.is_some_and(|last| now.saturating_duration_since(last) < APART);
        if failures.in_a_row > 0 && too_soon {
            return false;
        }
        failures.tried_at = Some(now);
        true
    }

    /// Whether an attempt has failed since then.
    pub(super) fn failed_since(&self, then: Instant) -> bool {
        self.lock().last_at.is_some_and(|at| at >= then)
    }

    /// An attempt has failed that began then.
    pub(super) fn failed(&self, began: Instant, now: Instant) {
        let mut failures = self.lock();
        if failures.last_at.is_some_and(|at| at > began) {
            // Another that was under way with it has said so already.
            return;
        }
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.last_at = Some(now);
        let until = now + self.backoff.delay(failures.in_a_row);
        let until = until.saturating_duration_since(self.start).as_millis();
        // At least 1: 0 is no back-off. Enough for millions of years.
        self.until.store((until as u64).max(1), Relaxed);
    }

    /// An attempt has succeeded.
    pub(super) fn connected(&self) {
        self.forget();
    }

    /// Nothing has failed, as far as is known.
    pub(super) fn forget(&self) {
        *self.lock() = Failures::default();
        self.until.store(0, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn dial() -> Dial {
        Dial::new(Backoff::new(STEPS.0, STEPS.1).with_random(|| 1.0))
    }

    fn fail(dial: &Dial) {
        dial.failed(Instant::now(), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_backs_off_twice_as_long_up_to_ten_seconds() {
        let dial = dial();
        assert!(!dial.backs_off(Instant::now()));
        for ms in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            fail(&dial);
            assert_eq!(dial.left(Instant::now()), Some(ms * MS));
            advance(ms * MS - MS).await;
            assert!(dial.backs_off(Instant::now()), "{ms}");
            advance(MS).await;
            assert!(!dial.backs_off(Instant::now()), "{ms}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_ends_the_back_off_and_the_next_failure_begins_anew() {
        let dial = dial();
        for _ in 0..5 {
            fail(&dial);
            advance(MS).await;
        }
        dial.connected();
        assert!(!dial.backs_off(Instant::now()));
        fail(&dial);
        assert_eq!(dial.left(Instant::now()), Some(100 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_of_all_workers_that_fail_together_are_one_failure() {
        let dial = dial();
        let began = Instant::now();
        advance(3000 * MS).await;
        for _ in 0..8 {
            dial.failed(began, Instant::now());
        }
        assert_eq!(dial.left(Instant::now()), Some(100 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn at_an_endpoint_that_is_down_one_attempt_begins_in_100_ms_for_all_workers() {
        let dial = dial();
        // Nothing has failed: every worker may connect at once.
        assert!((0..8).all(|_| dial.may_try(Instant::now())));
        let mut attempts = 0;
        fail(&dial);
        for _ in 0..1000 {
            advance(MS).await;
            for _ in 0..8 {
                attempts += u32::from(dial.may_try(Instant::now()));
            }
        }
        assert_eq!(attempts, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_begins_within_100_ms_of_a_failure() {
        let dial = dial();
        assert!(dial.may_try(Instant::now()));
        advance(3000 * MS).await;
        fail(&dial);
        assert!(dial.failed_since(Instant::now()));
        advance(99 * MS).await;
        assert!(!dial.may_try(Instant::now()));
        advance(MS).await;
        assert!(dial.may_try(Instant::now()));
        assert!(!dial.failed_since(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn chance_shortens_a_back_off_by_at_most_half() {
        let dial = Dial::new(Backoff::new(STEPS.0, STEPS.1).with_random(|| 0.0));
        fail(&dial);
        assert_eq!(dial.left(Instant::now()), Some(50 * MS));
    }
}
