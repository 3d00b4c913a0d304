//! The state of a breaker and its changes, without lock and log.

use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;
use super::{OpenReason, Readiness};
use crate::resilience::backoff::Backoff;
use crate::resilience::settings::BreakerSettings;
use crate::resilience::verdict::Outcome;

/// How many more probes than the settings say may be under way, because they take too long.
const MAX_OVERDUE: u32 = 100;

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
    Open { until: Instant, wait: Duration },
    HalfOpen(Probing),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    pub(super) under_way: u32,
    succeeded: u32,
    // How many went because no probe had ended for too long.
    overdue: u32,
    // What is too long: the time that it was open.
    patience: Duration,
    // When it is too long since the last one went.
    until: Instant,
    // Since when there is a place for one, if there is.
    free_since: Instant,
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

    /// The epoch, and in the lowest bit whether calls have to be looked at.
    pub(super) fn word(&self) -> u64 {
        // A breaker that changes a million times a second does so for 292,000 years.
        self.epoch << 1 | u64::from(!matches!(self.state, State::Closed))
    }

    pub(super) fn readiness(&self, now: Instant, settings: &BreakerSettings) -> Readiness {
        match self.state {
            State::Closed => Readiness::Closed,
            State::Open { until, .. } if now >= until => Readiness::ProbeDue { since: until },
            State::Open { until, .. } => Readiness::Refusing {
                retry_after: until - now,
            },
            State::HalfOpen(probing) => match probing.room(now, settings) {
                Ok(Room { since, .. }) => Readiness::ProbeDue { since },
                Err(retry_after) => Readiness::Refusing { retry_after },
            },
        }
    }

    pub(super) fn admit(
        &mut self,
        now: Instant,
        settings: &BreakerSettings,
    ) -> (Result<(), Duration>, Option<Change>) {
        let wait = match &mut self.state {
            State::Closed => return (Ok(()), None),
            State::Open { until, wait } if now >= *until => {
                let probing = Probing::first(now, *wait);
                self.epoch += 1;
                self.state = State::HalfOpen(probing);
                return (Ok(()), Some(Change::HalfOpened));
            }
            State::Open { until, .. } => *until - now,
            State::HalfOpen(probing) => match probing.admit(now, settings) {
                Ok(()) => return (Ok(()), None),
                Err(wait) => wait,
            },
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
            (State::HalfOpen(probing), Outcome::Ignored) => {
                probing.leave(now, settings);
                return None;
            }
            (State::HalfOpen(probing), Outcome::Success) => {
                probing.under_way -= 1;
                probing.succeeded += 1;
                return (probing.succeeded >= settings.probes).then(|| self.close());
            }
            (State::HalfOpen(_), Outcome::Failure) => OpenReason::ProbeFailed,
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
        let until = now + wait;
        self.state = State::Open { until, wait };
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

/// A place for a probe.
struct Room {
    since: Instant,
    // It is there because no probe went for too long.
    is_overdue: bool,
}

impl Probing {
    fn first(now: Instant, patience: Duration) -> Self {
        Self {
            under_way: 1,
            succeeded: 0,
            overdue: 0,
            patience,
            until: now + patience,
            free_since: now,
        }
    }

    /// Lets a probe go, or says when to ask again.
    fn admit(&mut self, now: Instant, settings: &BreakerSettings) -> Result<(), Duration> {
        self.overdue += u32::from(self.room(now, settings)?.is_overdue);
        self.under_way += 1;
        self.until = now + self.patience;
        Ok(())
    }

    /// Whether a probe may go, or when to ask again.
    fn room(&self, now: Instant, settings: &BreakerSettings) -> Result<Room, Duration> {
        if self.is_below(settings) {
            return Ok(Room {
                since: self.free_since,
                is_overdue: false,
            });
        }
        // Nobody knows how long the probes take. If they fail, it is about this long at least.
        let wait = settings.open_min;
        if self.overdue == MAX_OVERDUE {
            return Err(wait);
        }
        if now < self.until {
            return Err(wait.min(self.until - now));
        }
        Ok(Room {
            since: self.until,
            is_overdue: true,
        })
    }

    fn is_below(&self, settings: &BreakerSettings) -> bool {
        self.under_way + self.succeeded < settings.probes + self.overdue
    }

    /// A probe is over that told nothing.
    fn leave(&mut self, now: Instant, settings: &BreakerSettings) {
        if !self.is_below(settings) {
            self.free_since = now;
        }
        self.under_way -= 1;
    }
}
