//! How long to wait before the next try: twice as long each time, up to a cap, and never the same
//! for all.
//!
//! Owns no state: the caller counts the failures. A step is drawn between half and all of its length,
//! so that callers which failed together do not come back together, and none comes back at once.

use std::time::Duration;

/// A source of randomness: a number from 0 up to 1.
///
/// A plain function, so that a test can say what it gives.
pub type Random = fn() -> f64;

/// Steps that double from `base` up to `cap`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    random: Random,
}

impl Backoff {
    /// The first step is `base`; none is longer than `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            random: rand::random::<f64>,
        }
    }

    /// The same steps with another source of randomness; what it gives is taken as within 0 and 1.
    #[must_use]
    pub fn with_random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// How long to wait after the `failures`-th failure in a row, counted from 1.
    pub fn delay(&self, failures: u32) -> Duration {
        // Beyond 31 doublings every cap is reached that fits in a config.
        let doublings = failures.saturating_sub(1).min(31);
        let step = self.base.saturating_mul(1 << doublings).min(self.cap);
        // NaN.clamp is NaN, which `max` turns into 0.
        let share = (self.random)().clamp(0.0, 1.0).max(0.0);
        (step / 2).saturating_add((step / 2).mul_f64(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(1);

    fn delays(random: Random) -> Vec<u128> {
        let backoff = Backoff::new(BASE, CAP).with_random(random);
        (1..=6).map(|n| backoff.delay(n).as_millis()).collect()
    }

    #[test]
    fn each_step_is_twice_the_one_before_up_to_the_cap() {
        assert_eq!(delays(|| 1.0), [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn chance_shortens_a_step_by_at_most_half() {
        assert_eq!(delays(|| 0.0), [50, 100, 200, 400, 500, 500]);
        assert_eq!(delays(|| 0.5), [75, 150, 300, 600, 750, 750]);
    }

    #[test]
    fn no_count_and_no_randomness_leads_beyond_the_cap_or_below_half() {
        for random in [|| 7.0, || -7.0, || f64::NAN, || f64::INFINITY] as [Random; 4] {
            let backoff = Backoff::new(BASE, CAP).with_random(random);
            for failures in [0, 1, 31, 32, 33, u32::MAX] {
                let delay = backoff.delay(failures);
                assert!((BASE / 2..=CAP).contains(&delay), "{failures}: {delay:?}");
            }
        }
        let longest = Backoff::new(Duration::MAX, Duration::MAX).with_random(|| 1.0);
        assert!(longest.delay(u32::MAX) > Duration::MAX / 2);
    }

    #[test]
    fn two_waits_differ_without_a_given_randomness() {
        let backoff = Backoff::new(CAP, CAP);
        let first = backoff.delay(1);
        assert!((0..20).any(|_| backoff.delay(1) != first));
    }
}
