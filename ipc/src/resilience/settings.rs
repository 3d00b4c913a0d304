//! The numbers behind a policy, and what they must be.

use std::time::Duration;

use crate::error::{IpcError, IpcResult};

/// The longest time that any of the settings may name.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// How a client deals with a service that fails or stalls.
#[derive(Clone, Debug, PartialEq)]
pub struct Resilience {
    /// How long one try of a repeatable call may take, for a stream: to begin (default 10 s). A try of
    /// any other call may take all the time that is left: to give it up is of no use when it can't be
    /// repeated.
    pub try_timeout: Duration,
    /// How long a call may take, tries and waits together (default 30 s). A stream must have ended by
    /// then.
    pub total_timeout: Duration,
    /// As `total_timeout`, for calls that run models: chains and chats, as a stream or not (default
    /// 300 s).
    pub work_timeout: Duration,
    /// How often a call is tried at most, the first try included (1 to 10, default 3).
    pub max_tries: u32,
    /// The wait before the first retry (default 50 ms). It doubles with each retry; each wait is
    /// shortened by up to half at random.
    pub backoff_min: Duration,
    /// The longest wait that the doubling leads to (default 2 s). A server that names a longer one
    /// gets it.
    pub backoff_max: Duration,
    /// How many retries a call pays for (0 to 1, default 0.2: one retry for five calls). One that the
    /// breaker refuses pays for none.
    pub retry_ratio: f64,
    /// Retries per second that are free, so that a client with few calls can retry at all (up to
    /// 1000, default 10).
    pub retries_per_second: u32,
    /// When to stop calling at all.
    pub breaker: BreakerSettings,
}

/// When a breaker opens, and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Opens after so many failures in a row (default 5).
    pub consecutive_failures: u32,
    /// Opens when more than this share of the calls in `window` failed (above 0 to 1, default 0.5;
    /// 1 turns this rule off).
    pub failure_ratio: f64,
    /// How many calls `window` must hold before `failure_ratio` says anything (default 20).
    pub min_calls: u32,
    /// How far back `failure_ratio` looks (100 ms or more, default 10 s).
    pub window: Duration,
    /// How long it stays open at first (default 1 s). It doubles with each failed probe; each time
    /// is shortened by up to half at random.
    pub open_min: Duration,
    /// The longest time that it stays open (default 30 s).
    pub open_max: Duration,
    /// How many probes may be under way at once after that (up to 100, default 1). As many must
    /// succeed before it closes; one failure opens it again. When none went for as long as it was
    /// open, since those under way take so long, one more may go, and so on for up to 100 more.
    pub probes: u32,
}

impl Default for Resilience {
    fn default() -> Self {
        Self {
            try_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(30),
            work_timeout: Duration::from_secs(300),
            max_tries: 3,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            retry_ratio: 0.2,
            retries_per_second: 10,
            breaker: BreakerSettings::default(),
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_ratio: 0.5,
            min_calls: 20,
            window: Duration::from_secs(10),
            open_min: Duration::from_secs(1),
            open_max: Duration::from_secs(30),
            probes: 1,
        }
    }
}

impl Resilience {
    /// Checks that the settings make sense, alone and together.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] that names every wrong setting and what it must be.
    pub fn validate(&self) -> IpcResult<()> {
        let mut faults = self.breaker.faults();
        let mut check = |right: bool, text| {
            if !right {
                faults.push(text);
            }
        };
        check(
            is_time(self.try_timeout),
            "try_timeout must be above 0 and at most one day",
        );
        check(
            is_time(self.total_timeout),
            "total_timeout must be above 0 and at most one day",
        );
        check(
            is_time(self.work_timeout),
            "work_timeout must be above 0 and at most one day",
        );
        check(
            (1..=10).contains(&self.max_tries),
            "max_tries must be 1 to 10",
        );
        check(
            is_range(self.backoff_min, self.backoff_max),
            "backoff_min must be above 0 and at most backoff_max, and that at most one day",
        );
        check(
            (0.0..=1.0).contains(&self.retry_ratio),
            "retry_ratio must be 0 to 1",
        );
        check(
            self.retries_per_second <= 1000,
            "retries_per_second must be at most 1000",
        );
        refuse(&faults)
    }
}

impl BreakerSettings {
    /// Checks that the settings make sense, alone and together.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] that names every wrong setting and what it must be.
    pub fn validate(&self) -> IpcResult<()> {
        refuse(&self.faults())
    }

    fn faults(&self) -> Vec<&'static str> {
        let rules = [
            (
                self.consecutive_failures >= 1,
                "breaker.consecutive_failures must be at least 1",
            ),
            (
                self.failure_ratio > 0.0 && self.failure_ratio <= 1.0,
                "breaker.failure_ratio must be above 0 and at most 1",
            ),
            (self.min_calls >= 1, "breaker.min_calls must be at least 1"),
            (
                self.window >= Duration::from_millis(100) && is_time(self.window),
                "breaker.window must be 100 ms to one day",
            ),
            (
                is_range(self.open_min, self.open_max),
                "breaker.open_min must be above 0 and at most breaker.open_max, and that at most \
                 one day",
            ),
            (
                (1..=100).contains(&self.probes),
                "breaker.probes must be 1 to 100",
            ),
        ];
        let wrong = rules.into_iter().filter(|(right, _)| !right);
        wrong.map(|(_, text)| text).collect()
    }
}

fn is_time(time: Duration) -> bool {
    !time.is_zero() && time <= MAX_TIME
}

fn is_range(min: Duration, max: Duration) -> bool {
    is_time(min) && is_time(max) && min <= max
}

fn refuse(faults: &[&str]) -> IpcResult<()> {
    match faults {
        [] => Ok(()),
        _ => Err(IpcError::InvalidArgument(format!(
            "resilience settings: {}",
            faults.join("; ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Resilience::default().validate().unwrap();
        BreakerSettings::default().validate().unwrap();
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let settings = Resilience {
            try_timeout: Duration::ZERO,
            total_timeout: Duration::ZERO,
            work_timeout: Duration::MAX,
            max_tries: 0,
            backoff_min: Duration::from_secs(3),
            backoff_max: Duration::from_secs(2),
            retry_ratio: f64::NAN,
            retries_per_second: 1001,
            breaker: BreakerSettings {
                consecutive_failures: 0,
                failure_ratio: 0.0,
                min_calls: 0,
                window: Duration::from_millis(99),
                open_min: Duration::ZERO,
                open_max: Duration::MAX,
                probes: 0,
            },
        };
        let error = settings.validate().unwrap_err().to_string();
        for name in [
            "try_timeout",
            "total_timeout",
            "work_timeout",
            "max_tries",
            "backoff_min",
            "retry_ratio",
            "retries_per_second",
            "consecutive_failures",
            "failure_ratio",
            "min_calls",
            "window",
            "open_min",
            "probes",
        ] {
            let fault = format!("{name} must be");
            assert!(error.contains(&fault), "{name} is missing in: {error}");
        }
        assert!(settings.breaker.validate().is_err());
    }
}
