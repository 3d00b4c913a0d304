//! The state of a breaker and its changes, without lock and log.

use std::time::Duration;

use tokio::time::Instant;

use super::OpenReason;
use super::window::Window;
use crate::resilience::backoff::Backoff;
use crate::resilience::settings::BreakerSettings;
use crate::resilience::verdict::Outcome;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) state: State,
    // Rises with every change of state.
    pub(super) epoch: u64,
    pub(super) window: Window,
    pub(super) consecutive_failures: u32,
    // How often it has opened since it was last closed.
    trips: u32,
    pub(super) reason: Option<OpenReason>,
    pub(super) opened: u64,
    pub(super) refused: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { probes: u32, succeeded: u32 },
}

/// A change of state, to be logged when the lock is gone.
pub(super) enum Change {
    Opened { reason: OpenReason, wait: Duration },
    HalfOpened,
    Closed,
}

impl Core {
    pub(super) fn new(settings: &BreakerSettings) -> Self {
        Self {
            state: State::Closed,
            epoch: 0,
            window: Window::new(settings.window),
            consecutive_failures: 0,
            trips: 0,
            reason: None,
            opened: 0,
            refused: 0,
        }
    }

    pub(super) fn admit(
        &mut self,
        now: Instant,
        settings: &BreakerSettings,
    ) -> (Result<(), Duration>, Option<Change>) {
        let wait = match &mut self.state {
            State::Closed => return (Ok(()), None),
            State::Open { until } if now >= *until => {
                self.epoch += 1;
                self.state = State::HalfOpen {
                    probes: 1,
                    succeeded: 0,
                };
                return (Ok(()), Some(Change::HalfOpened));
            }
            State::Open { until } => *until - now,
            State::HalfOpen { probes, succeeded } if *probes + *succeeded < settings.probes => {
                *probes += 1;
                return (Ok(()), None);
            }
            // Nobody knows how long the probes take. If they fail, it is about this long at least.
            State::HalfOpen { .. } => settings.open_min,
        };
        self.refused += 1;
        (Err(wait), None)
    }

    pub(super) fn count(
        &mut self,
        outcome: Outcome,
        now: Instant,
        settings: &BreakerSettings,
        open_times: &Backoff,
    ) -> Option<Change> {
        let reason = match (&mut self.state, outcome) {
            // No permit is out that belongs to this state.
            (State::Open { .. }, _) | (State::Closed, Outcome::Ignored) => return None,
            (State::Closed, Outcome::Success) => {
                self.consecutive_failures = 0;
                self.window.add(now, false);
                return None;
            }
            (State::Closed, Outcome::Failure) => self.fail(now, settings)?,
            (State::HalfOpen { probes, .. }, Outcome::Ignored) => {
                *probes -= 1;
                return None;
            }
            (State::HalfOpen { probes, succeeded }, Outcome::Success) => {
                *probes -= 1;
                *succeeded += 1;
                return (*succeeded >= settings.probes).then(|| self.close());
            }
            (State::HalfOpen { .. }, Outcome::Failure) => OpenReason::ProbeFailed,
        };
        Some(self.open(now, reason, open_times))
    }

    fn fail(&mut self, now: Instant, settings: &BreakerSettings) -> Option<OpenReason> {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.window.add(now, true);
        let counts = self.window.counts(now);
        let (calls, failures) = (counts.calls, counts.failures);
        if self.consecutive_failures >= settings.consecutive_failures {
            Some(OpenReason::ConsecutiveFailures(self.consecutive_failures))
        } else if calls >= settings.min_calls
            && f64::from(failures) > f64::from(calls) * settings.failure_ratio
        {
            Some(OpenReason::FailureRatio { calls, failures })
        } else {
            None
        }
    }

    fn open(&mut self, now: Instant, reason: OpenReason, open_times: &Backoff) -> Change {
        self.trips = self.trips.saturating_add(1);
        let wait = open_times.delay(self.trips);
        self.state = State::Open { until: now + wait };
        self.epoch += 1;
        self.reason = Some(reason);
        self.opened += 1;
        self.window.clear();
        Change::Opened { reason, wait }
    }

    fn close(&mut self) -> Change {
        self.state = State::Closed;
        self.epoch += 1;
        self.reason = None;
        self.trips = 0;
        self.consecutive_failures = 0;
        Change::Closed
    }
}
