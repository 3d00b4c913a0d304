//! The numbers of a rate, and time as limits count it.
//!
//! A bucket is one number (GCRA): the time at which it will be full again if
//! nothing more is taken. Times are nanoseconds since a [`Ticks`] began.

use std::time::Duration;

use governor::clock::Clock;
use governor::nanos::Nanos;
use tokio::time::Instant;

use crate::config::MeterConfig;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Nanoseconds until one more call fits, at least 1,000.
    pub(super) interval: u64,
    pub(super) burst: u32,
}

impl Pace {
    /// Rounds towards the slower pace: by at most one part in a thousand.
    pub(super) fn new(meter: &MeterConfig) -> Self {
        let period = nanos(meter.period);
        Self {
            interval: period.div_ceil(u64::from(meter.rate.max(1))).max(1),
            burst: meter.burst.max(1),
        }
    }

    /// How long an empty bucket takes to fill.
    pub(super) fn fill(self) -> u64 {
        self.interval * u64::from(self.burst)
    }

    /// How many calls fit into a bucket now.
    pub(super) fn left(self, full_at: u64, now: u64) -> u32 {
        let room = self.fill().saturating_sub(full_at.saturating_sub(now));
        u32::try_from(room / self.interval).unwrap_or(self.burst)
    }

    /// How long until one call fits; 0 when it does now.
    pub(super) fn wait(self, full_at: u64, now: u64) -> u64 {
        (full_at + self.interval).saturating_sub(now + self.fill())
    }

    /// Where a bucket of this pace stands that takes over from one of `old`:
    /// it holds no more than that one did.
    pub(super) fn take_over(self, old: Self, full_at: u64, then: u64, now: u64) -> u64 {
        let left = match full_at <= then {
            true => self.burst,
            false => old.left(full_at, then).min(self.burst),
        };
        now + self.interval * u64::from(self.burst - left)
    }
}

/// A duration in nanoseconds; what the config allows fits many times.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks(Instant);

impl Ticks {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }
}

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(Self::now(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Pace = Pace {
        interval: 100,
        burst: 10,
    };

    #[test]
    fn a_bucket_is_the_time_at_which_it_is_full() {
        assert_eq!((TEN.left(0, 5000), TEN.wait(0, 5000)), (10, 0));
        assert_eq!((TEN.left(5250, 5000), TEN.wait(5250, 5000)), (7, 0));
        assert_eq!((TEN.left(6000, 5000), TEN.wait(6000, 5000)), (0, 100));
        assert_eq!((TEN.left(9000, 5000), TEN.wait(9000, 5000)), (0, 3100));
    }

    #[test]
    fn a_successor_holds_no_more_than_its_predecessor_and_a_full_one_is_full() {
        let more = Pace {
            interval: 10,
            burst: 1000,
        };
        let less = Pace {
            interval: 1000,
            burst: 4,
        };
        for (full_at, left) in [(5250, 7), (6000, 0), (9000, 0)] {
            let taken_over = more.take_over(TEN, full_at, 5000, 77);
            assert_eq!(more.left(taken_over, 77), left);
            let taken_over = less.take_over(TEN, full_at, 5000, 77);
            assert_eq!(less.left(taken_over, 77), left.min(4));
        }
        assert_eq!(more.left(more.take_over(TEN, 4000, 5000, 77), 77), 1000);
    }
}
