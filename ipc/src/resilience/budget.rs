//! How many retries a client may make in all, so that retries never become the load that keeps a
//! service down.
//!
//! Every call that is made pays a share of a retry into the budget (one that a breaker refuses is not:
//! else an outage would save up the storm for the moment after it), and every retry takes a whole one
//! out, before it waits: so retries that wait count as well. Some retries per second are free, for clients with
//! few calls. When nothing is left, a call fails with the error of its last try.
//!
//! Limits: at most 100 paid retries are kept, and the free ones of 10 seconds. Two atomic numbers;
//! no lock, and in the usual case (nothing retried) no write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A retry, in the unit in which calls pay.
const RETRY: u64 = 1000;
/// What is kept of the payments at most.
const MAX_PAID: u64 = 100 * RETRY;
/// For how long free retries are kept, in nanoseconds.
const KEPT: u64 = Duration::from_secs(10).as_nanos() as u64;

/// The retries that are left. One budget stands for one destination, and all who call it share it.
#[derive(Debug)]
pub struct RetryBudget {
    per_call: u64,
    paid: AtomicU64,
    free: Option<Free>,
}

impl RetryBudget {
    /// Each call pays for `ratio` of a retry (taken as 0 to 1, in thousandths), and
    /// `per_second` retries are free.
    pub fn new(ratio: f64, per_second: u32) -> Self {
        Self {
            // Within 0 and 1000; NaN becomes 0.
            per_call: (ratio.clamp(0.0, 1.0) * RETRY as f64).round() as u64,
            paid: AtomicU64::new(0),
            free: (per_second > 0).then(|| Free::new(per_second)),
        }
    }

    /// Counts a call that is made. Not for its retries.
    pub fn deposit(&self) {
        let add = |paid: u64| (paid < MAX_PAID).then(|| (paid + self.per_call).min(MAX_PAID));
        if self.per_call > 0 {
            // An error means that the budget is full, which is as good.
            let _ = update(&self.paid, add);
        }
    }

    /// How many retries are left now, paid and free.
    pub fn left(&self) -> u64 {
        let paid = self.paid.load(Ordering::Relaxed) / RETRY;
        paid + self.free.as_ref().map_or(0, Free::left)
    }

    /// Takes one retry out; false when none is left.
    pub fn withdraw(&self) -> bool {
        update(&self.paid, |paid| paid.checked_sub(RETRY))
            || self.free.as_ref().is_some_and(Free::take)
    }
}

/// Free retries: each takes up an interval of time, and no more time can be taken than has passed.
#[derive(Debug)]
struct Free {
    start: Instant,
    interval: u64,
    // Up to when the time is taken, in nanoseconds since `start` less `KEPT`.
    taken: AtomicU64,
}

impl Free {
    fn new(per_second: u32) -> Self {
        Self {
            start: Instant::now(),
            interval: 1_000_000_000 / u64::from(per_second),
            taken: AtomicU64::new(0),
        }
    }

    fn take(&self) -> bool {
        let now = self.now();
        update(&self.taken, |taken| {
            let taken = taken.max(now - KEPT) + self.interval;
            (taken <= now).then_some(taken)
        })
    }

    fn left(&self) -> u64 {
        let now = self.now();
        let taken = self.taken.load(Ordering::Relaxed).max(now - KEPT);
        // Another thread may have read a later time.
        now.saturating_sub(taken) / self.interval
    }

    /// In nanoseconds, of which 64 bits hold 584 years.
    fn now(&self) -> u64 {
        KEPT + self.start.elapsed().as_nanos() as u64
    }
}

// The numbers stand alone: nothing else is read because of them, so no order is needed.
fn update(number: &AtomicU64, next: impl FnMut(u64) -> Option<u64>) -> bool {
    number
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn withdrawn(budget: &RetryBudget) -> u32 {
        let mut count = 0;
        while budget.withdraw() {
            count += 1;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn calls_pay_for_the_given_share_of_retries() {
        let budget = RetryBudget::new(0.2, 0);
        assert!(!budget.withdraw(), "nobody has paid yet");
        for _ in 0..24 {
            budget.deposit();
        }
        assert_eq!(withdrawn(&budget), 4);
        budget.deposit();
        assert_eq!(withdrawn(&budget), 1, "the rest of the 24 was kept");
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_100_paid_retries_are_kept() {
        let budget = RetryBudget::new(1.0, 0);
        for _ in 0..1000 {
            budget.deposit();
        }
        assert_eq!(withdrawn(&budget), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn free_retries_come_with_time_and_those_of_ten_seconds_are_kept() {
        let budget = RetryBudget::new(0.0, 5);
        assert_eq!(withdrawn(&budget), 50);
        advance(Duration::from_millis(199)).await;
        assert!(!budget.withdraw());
        advance(Duration::from_millis(1)).await;
        assert_eq!(withdrawn(&budget), 1);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(withdrawn(&budget), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_what_can_be_taken() {
        let budget = RetryBudget::new(0.2, 5);
        for _ in 0..14 {
            budget.deposit();
        }
        for expected in (0..=52).rev() {
            assert_eq!(budget.left(), expected);
            assert_eq!(budget.withdraw(), expected > 0);
        }
        advance(Duration::from_millis(399)).await;
        assert_eq!(budget.left(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn with_neither_share_nor_free_retries_there_are_none() {
        let budget = RetryBudget::new(0.0, 0);
        budget.deposit();
        advance(Duration::from_secs(60)).await;
        assert!(!budget.withdraw());
    }

    #[tokio::test(start_paused = true)]
    async fn paid_retries_go_first_so_that_the_free_ones_last() {
        let budget = RetryBudget::new(1.0, 1);
        for _ in 0..3 {
            budget.deposit();
        }
        assert_eq!(withdrawn(&budget), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_that_is_no_number_pays_nothing() {
        let budget = RetryBudget::new(f64::NAN, 0);
        budget.deposit();
        assert!(!budget.withdraw());
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let budget = RetryBudget::new(1.0, 0);
        for _ in 0..100 {
            budget.deposit();
        }
        let taken: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| withdrawn(&budget))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 100);
    }
}
