//! One rate in this process alone: `governor`'s GCRA over a bounded map.
//!
//! Owns the buckets of one rate. Fails in no way; what a full map does is told
//! in [`super::shards`]. A look-up costs one short lock and no allocation for a
//! known key.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use super::key::{Key, Parts, Seeds};
use super::pace::{Pace, Ticks};
use super::shards::{KeyMetrics, Shards, Slot};

/// See the module's comment.
pub(super) struct Local {
    seeds: Seeds,
    pace: Pace,
    ticks: Ticks,
    buckets: Buckets,
    limiter: RateLimiter<Key, Buckets, Ticks, StateInformationMiddleware>,
}

/// When the bucket is full again; 0 for one that was never used.
struct Bucket(u64);

impl Slot for Bucket {
    fn idle_at(&self) -> u64 {
        self.0
    }
}

#[derive(Clone)]
struct Buckets {
    shards: Arc<Shards<Bucket>>,
    ticks: Ticks,
}

impl StateStore for Buckets {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let new = |_| Bucket(0);
        self.shards.with(
            *key,
            || self.ticks.now(),
            new,
            |bucket, _| {
                let (outcome, full_at) = decide(Some(Nanos::new(bucket.0)))?;
                bucket.0 = full_at.as_u64();
                Ok(outcome)
            },
        )
    }
}

impl Local {
    /// Takes over what the buckets of `previous` hold, if it counts the same
    /// callers.
    pub(super) fn new(
        pace: Pace,
        keys: usize,
        metrics: KeyMetrics,
        previous: Option<&Self>,
    ) -> Self {
        let ticks = Ticks::start();
        let buckets = Buckets {
            shards: Arc::new(Shards::new(keys, metrics)),
            ticks,
        };
        let burst = NonZeroU32::new(pace.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(pace.interval))
            .unwrap_or(Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let limiter = RateLimiter::new(quota, buckets.clone(), ticks);
        if let Some(old) = previous {
            let (then, now) = (old.ticks.now(), ticks.now());
            buckets.shards.take_over(&old.buckets.shards, |bucket| {
                Bucket(pace.take_over(old.pace, bucket.0, then, now))
            });
        }
        Self {
            seeds: previous.map(|old| old.seeds.clone()).unwrap_or_default(),
            pace,
            ticks,
            buckets,
            limiter,
        }
    }

    /// Takes one call's worth; tells how many are left, or how long to wait.
    pub(super) fn take(&self, parts: &Parts<'_>) -> Result<u32, Duration> {
        self.limiter
            .check_key(&self.seeds.key(parts))
            .map(|state| state.remaining_burst_capacity())
            .map_err(|until| until.wait_time_from(Nanos::new(self.ticks.now())))
    }

    /// Undoes one take.
    pub(super) fn give_back(&self, parts: &Parts<'_>) {
        let interval = self.pace.interval;
        self.buckets.shards.find(self.seeds.key(parts), |bucket| {
            bucket.0 = bucket.0.saturating_sub(interval);
        });
    }

    /// How long until there is room; takes nothing.
    pub(super) fn wait(&self, parts: &Parts<'_>) -> Duration {
        let now = self.ticks.now();
        let key = self.seeds.key(parts);
        let wait = self
            .buckets
            .shards
            .find(key, |bucket| self.pace.wait(bucket.0, now));
        Duration::from_nanos(wait.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const TEN_PER_SECOND: Pace = Pace {
        interval: SECOND / 10,
        burst: 5,
    };

    fn local(pace: Pace) -> Local {
        Local::new(pace, 1024, KeyMetrics::default(), None)
    }

    fn subject(subject: &str) -> Parts<'_> {
        Parts {
            issuer: Some("idp"),
            subject: Some(subject),
            ..Parts::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate_and_the_wait_is_until_one_more_passes() {
        let (limit, alice) = (local(TEN_PER_SECOND), subject("alice"));
        for left in [4, 3, 2, 1, 0] {
            assert_eq!(limit.take(&alice), Ok(left));
        }
        assert_eq!(limit.take(&alice), Err(Duration::from_millis(100)));
        advance(Duration::from_millis(40)).await;
        assert_eq!(limit.take(&alice), Err(Duration::from_millis(60)));
        assert_eq!(limit.wait(&alice), Duration::from_millis(60));
        assert_eq!(limit.take(&subject("bob")), Ok(4), "others have their own");
        advance(Duration::from_millis(60)).await;
        assert_eq!(limit.take(&alice), Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_can_be_taken_again_and_not_more() {
        let (limit, alice) = (local(TEN_PER_SECOND), subject("alice"));
        for _ in 0..5 {
            limit.take(&alice).unwrap();
        }
        limit.give_back(&alice);
        assert_eq!(limit.take(&alice), Ok(0));
        assert!(limit.take(&alice).is_err());
        limit.give_back(&subject("nobody"));
        assert_eq!(limit.take(&subject("nobody")), Ok(4));
    }

    #[tokio::test(start_paused = true)]
    async fn ever_new_callers_refill_nobodys_bucket() {
        let limit = local(TEN_PER_SECOND);
        let alice = subject("alice");
        for _ in 0..5 {
            limit.take(&alice).unwrap();
        }
        let mut passed = 0;
        for n in 0..20_000 {
            passed += u32::from(limit.take(&subject(&n.to_string())).is_ok());
        }
        assert!(limit.take(&alice).is_err());
        // 1,024 of their own at most, and 64 shared buckets of 5.
        assert!(passed <= 1024 + 64 * 5, "{passed}");
        assert!(limit.buckets.shards.metrics().overflow.get() > 18_000);
        assert!(limit.buckets.shards.metrics().keys.get() <= 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn new_numbers_start_no_fuller_than_the_old_were() {
        let old = local(TEN_PER_SECOND);
        for _ in 0..3 {
            old.take(&subject("alice")).unwrap();
        }
        advance(Duration::from_millis(100)).await;
        let pace = Pace {
            interval: SECOND,
            burst: 100,
        };
        let new = Local::new(pace, 1024, KeyMetrics::default(), Some(&old));
        assert_eq!(new.take(&subject("alice")), Ok(2));
        assert_eq!(new.take(&subject("bob")), Ok(99), "full before, full now");
    }
}
