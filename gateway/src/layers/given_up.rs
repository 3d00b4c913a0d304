//! How many calls a client may give up as soon as it has begun them.
//!
//! A call that is given up at once has already cost its backend as much as one
//! that was wanted, and backends close connections on which too much is reset.
//! So a client may do so some times a second, and as often as it lets calls
//! come to their end; and a number of them at once. Kept twice: per connection,
//! which is closed beyond that (for those without a token, and for resets that
//! no call comes from), and per caller, whose calls are refused (for those who
//! connect again).
//!
//! Counted are calls, not frames: whatever ends a call without an answer within
//! [`SOON`] counts, RST_STREAM, a deadline, or a frame that makes the gateway
//! reset the stream (CVE-2023-44487, CVE-2025-8671). To end an answer is the usual
//! end of a stream that goes on until it is ended; what ends later is a call that
//! its backend does not answer in time, and an ailing backend must not cost
//! clients their connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a call must have lived not to be counted.
pub(crate) const SOON: Duration = Duration::from_millis(100);

/// A bucket, kept as the time at which it is full again.
#[derive(Debug)]
pub(crate) struct GivenUp {
    started: Instant,
    /// What one call costs, in microseconds.
    cost: u64,
    /// How far ahead of now `full_at` may be, in microseconds.
    most: u64,
    /// In microseconds since `started`.
    full_at: AtomicU64,
}

impl GivenUp {
    /// So many at once, and so many a second; both at least 1.
    pub(crate) fn new(at_once: u32, per_second: u32) -> Self {
        let cost = 1_000_000 / u64::from(per_second.max(1));
        Self {
            started: Instant::now(),
            cost,
            most: cost * u64::from(at_once.max(1)),
            full_at: AtomicU64::new(0),
        }
    }

    /// A call without an answer was given up that had lived so long.
    pub(crate) fn count(&self, lived: Duration) {
        if lived <= SOON {
            self.spend();
        }
    }

    /// The same of one that counts however long it lived.
    pub(crate) fn spend(&self) {
        let now = self.now();
        let spend = |full_at: u64| Some(full_at.max(now).saturating_add(self.cost));
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
    }

    /// A call was answered to its end.
    pub(crate) fn answered(&self) {
        // Costs a client that never gave one up no more than this load.
        if self.full_at.load(Ordering::Relaxed) != 0 {
            let give = |full_at: u64| Some(full_at.saturating_sub(self.cost));
            let _ = self
                .full_at
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
        }
    }

    /// How long until another call may be given up, if that is not now.
    pub(crate) fn overdrawn(&self) -> Option<Duration> {
        let full_at = self.full_at.load(Ordering::Relaxed);
        if full_at == 0 {
            return None;
        }
        let over = full_at.saturating_sub(self.now() + self.most);
        (over > 0).then(|| Duration::from_micros(over))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_once(given_up: &GivenUp) -> usize {
        (1..10_000)
            .find(|_| {
                given_up.count(Duration::ZERO);
                given_up.overdrawn().is_some()
            })
            .unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_of_calls_may_be_given_up_at_once_but_no_more() {
        assert_eq!(at_once(&GivenUp::new(200, 50)), 201);
        assert_eq!(at_once(&GivenUp::new(1000, 1)), 1001);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_given_up_too_many_waits_until_they_are_worked_off() {
        let given_up = GivenUp::new(200, 50);
        (0..300).for_each(|_| given_up.count(Duration::ZERO));
        assert_eq!(given_up.overdrawn(), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(given_up.overdrawn(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn some_a_second_may_be_given_up_for_ever() {
        let given_up = GivenUp::new(200, 50);
        for _ in 0..10_000 {
            given_up.count(Duration::ZERO);
            assert_eq!(given_up.overdrawn(), None);
            tokio::time::advance(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_lets_as_many_calls_end_may_give_up_any_number() {
        let given_up = GivenUp::new(200, 50);
        for _ in 0..10_000 {
            given_up.count(Duration::ZERO);
            given_up.answered();
            assert_eq!(given_up.overdrawn(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answered_calls_are_not_saved_up() {
        let given_up = GivenUp::new(200, 50);
        tokio::time::advance(Duration::from_secs(3600)).await;
        given_up.count(Duration::ZERO);
        (0..10_000).for_each(|_| given_up.answered());
        assert_eq!(at_once(&given_up), 201);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_waited_for_may_be_given_up_as_often_as_one_likes() {
        let given_up = GivenUp::new(200, 50);
        (0..10_000).for_each(|_| given_up.count(SOON + Duration::from_millis(1)));
        assert_eq!(given_up.overdrawn(), None);
    }
}
