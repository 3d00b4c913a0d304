//! What a caller may know of a limit that covers it, as HTTP headers
//! (draft-ietf-httpapi-ratelimit-headers, sections 5.1 to 5.4 of -06).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::pace::Pace;
use crate::config::MeterConfig;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How much is left of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    rate: u32,
    period: Duration,
    burst: u32,
    remaining: u32,
    /// Until all of it is there again; of a refusal, until one call passes.
    reset: Duration,
}

impl Quota {
    pub(crate) fn new(meter: &MeterConfig, remaining: u32) -> Self {
        let used = meter.burst.saturating_sub(remaining);
        let reset = Pace::new(meter).interval.saturating_mul(u64::from(used));
        Self {
            rate: meter.rate,
            period: meter.period,
            burst: meter.burst,
            remaining: remaining.min(meter.burst),
            reset: Duration::from_nanos(reset),
        }
    }

    /// Of a call that would pass after `wait`.
    pub(crate) fn refused(meter: &MeterConfig, wait: Duration) -> Self {
        Self {
            reset: wait,
            ..Self::new(meter, 0)
        }
    }

    /// The one that will refuse first.
    pub(crate) fn tightest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if other.remaining < one.remaining => Some(other),
            (one, other) => one.or(other),
        }
    }

    /// Tells it in the headers of an answer.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        // The window is in whole seconds; a shorter one is told by a longer.
        let window = ceil_seconds(self.period).max(1);
        let calls = u64::from(self.rate) * window * 1_000_000_000;
        let calls = calls / u64::try_from(self.period.as_nanos().max(1)).unwrap_or(u64::MAX);
        let policy = format!("{calls};w={window};burst={}", self.burst);
        headers.insert(LIMIT, HeaderValue::from(self.burst));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(ceil_seconds(self.reset)));
        if let Ok(policy) = HeaderValue::try_from(policy) {
            headers.insert(POLICY, policy);
        }
    }
}

fn ceil_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(rate: u32, millis: u64, burst: u32) -> MeterConfig {
        MeterConfig {
            per: Vec::new(),
            rate,
            period: Duration::from_millis(millis),
            burst,
            keys: 1024,
            global: false,
        }
    }

    fn marked(quota: Quota) -> [String; 4] {
        let mut headers = HeaderMap::new();
        quota.mark(&mut headers);
        [LIMIT, REMAINING, RESET, POLICY].map(|name| headers[name].to_str().unwrap().to_owned())
    }

    #[test]
    fn headers_tell_what_is_left_and_when_all_is_there_again_in_whole_seconds() {
        let quota = Quota::new(&meter(100, 1000, 200), 49);
        assert_eq!(marked(quota), ["200", "49", "2", "100;w=1;burst=200"]);
        let quota = Quota::new(&meter(5, 60_000, 5), 5);
        assert_eq!(marked(quota), ["5", "5", "0", "5;w=60;burst=5"]);
    }

    #[test]
    fn a_period_that_is_no_whole_second_is_told_by_a_whole_window() {
        let policy = |rate, millis| {
            let [.., policy] = marked(Quota::new(&meter(rate, millis, 1), 1));
            policy
        };
        assert_eq!(policy(5, 100), "50;w=1;burst=1");
        assert_eq!(policy(3, 1500), "4;w=2;burst=1");
    }

    #[test]
    fn the_tightest_is_the_one_with_least_left() {
        let (one, other) = (
            Quota::new(&meter(9, 1000, 9), 3),
            Quota::new(&meter(5, 1000, 5), 2),
        );
        assert_eq!(Quota::tightest(Some(one), Some(other)), Some(other));
        assert_eq!(Quota::tightest(Some(other), Some(one)), Some(other));
        assert_eq!(Quota::tightest(None, Some(one)), Some(one));
        assert_eq!(Quota::tightest(Some(one), None), Some(one));
    }
}
