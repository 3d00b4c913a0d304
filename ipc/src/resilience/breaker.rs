//! Stops calls to what has failed too often, and finds out by single calls when it is back.
//!
//! *Closed*: calls pass, and their outcomes are counted. After too many failures it is *open*: calls
//! are refused at once. When its time is over it is *half open*: a few calls pass as probes. If they
//! succeed it closes, if one fails it opens again, for longer.
//!
//! Owns the counts and the state, not the judgement: whoever makes the call says how it ended
//! ([`Permit::record`]). A permit that is dropped without a word counts for nothing. Outcomes of calls
//! that were let through before the last change of state are not counted: they tell of the past.
//!
//! A probe occupies its place until its permit is gone. So that one long call (a chain, a stream) does
//! not keep all others out, one more probe goes each time that none went for as long as the breaker
//! was open.
//!
//! Who chooses among several destinations looks first ([`Breaker::readiness`]): that counts nothing.
//!
//! Limits: constant size; a lock that is held for well under a microsecond, never across a wait. While
//! it is closed, asking takes no lock at all. Of probes, at most 100 more than
//! [`BreakerSettings::probes`] are under way at once.

mod state;
mod window;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{Backoff, Random};
use super::settings::BreakerSettings;
use super::verdict::Outcome;
use crate::error::IpcResult;
use state::{Change, Core, State};

/// A circuit breaker in front of one destination. Shared by all who call it.
#[derive(Debug)]
pub struct Breaker {
    name: Arc<str>,
    settings: BreakerSettings,
    open_times: Backoff,
    /// What [`Core::word`] says, to be read without the lock. Written under it.
    word: AtomicU64,
    core: Mutex<Core>,
}

/// Whether a breaker lets calls through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Yes.
    Closed,
    /// No.
    Open,
    /// A few, as probes.
    HalfOpen,
}

/// What a breaker would say to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It may pass.
    Closed,
    /// It may pass, as a probe.
    ProbeDue {
        /// Since when one may.
        since: Instant,
    },
    /// It may not.
    Refusing {
        /// When one may, at the earliest.
        retry_after: Duration,
    },
}

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenReason {
    /// So many calls failed one after the other.
    ConsecutiveFailures(u32),
    /// Too many of the latest calls failed.
    FailureRatio {
        /// How many calls there were.
        calls: u32,
        /// How many of them failed.
        failures: u32,
    },
    /// It was half open, and a probe failed.
    ProbeFailed,
}

impl fmt::Display for OpenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(count) => write!(f, "{count} failures in a row"),
            Self::FailureRatio { calls, failures } => {
                write!(f, "{failures} of the latest {calls} calls failed")
            }
            Self::ProbeFailed => f.write_str("a probe failed"),
        }
    }
}

/// The refusal of a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker {name}: open{}", .reason.map(|reason| format!(": {reason}")).unwrap_or_default())]
pub struct BreakerOpen {
    /// The name of the breaker.
    pub name: Arc<str>,
    /// Why it opened.
    pub reason: Option<OpenReason>,
    /// When a call may pass again, at the earliest.
    pub retry_after: Duration,
}

/// What a breaker can tell about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerReport {
    /// Whether it lets calls through.
    pub state: BreakerState,
    /// Why it opened, unless it is closed.
    pub reason: Option<OpenReason>,
    /// Failures since the last success, while it was last closed.
    pub consecutive_failures: u32,
    /// Calls in the window, while closed.
    pub calls: u32,
    /// Those that failed.
    pub failures: u32,
    /// Probes under way.
    pub probes: u32,
    /// How often it has opened.
    pub opened: u64,
    /// How many calls it has refused.
    pub refused: u64,
    /// When it lets the first probe through; nothing unless it is open.
    pub next_probe_in: Option<Duration>,
}

impl Breaker {
    /// A closed breaker. The name stands in logs and refusals: that of the destination.
    ///
    /// # Errors
    /// What [`BreakerSettings::validate`] says.
    pub fn new(name: &str, settings: BreakerSettings) -> IpcResult<Self> {
        settings.validate()?;
        let core = Core::new(&settings);
        Ok(Self {
            name: name.into(),
            open_times: Backoff::new(settings.open_min, settings.open_max),
            word: AtomicU64::new(core.word()),
            core: Mutex::new(core),
            settings,
        })
    }

    /// The same breaker with another source of randomness for the time that it stays open.
    #[must_use]
    pub fn with_random(mut self, random: Random) -> Self {
        self.open_times = self.open_times.with_random(random);
        self
    }

    /// Asks whether a call may be made now.
    ///
    /// # Errors
    /// [`BreakerOpen`] if not.
    pub fn try_acquire(self: &Arc<Self>) -> Result<Permit, BreakerOpen> {
        if let Some(epoch) = self.closed_epoch() {
            return Ok(self.permit(epoch, false));
        }
        let now = Instant::now();
        let mut core = self.lock();
        let (answer, change) = core.admit(now, &self.settings);
        let (epoch, reason) = (core.epoch, core.reason);
        let is_probe = !matches!(core.state, State::Closed);
        self.publish(&core);
        drop(core);
        self.log(change);
        match answer {
            Ok(()) => Ok(self.permit(epoch, is_probe)),
            Err(retry_after) => Err(BreakerOpen {
                name: Arc::clone(&self.name),
                reason,
                retry_after,
            }),
        }
    }

    /// What a call would be told now. Counts nothing and changes nothing.
    pub fn readiness(&self) -> Readiness {
        match self.closed_epoch() {
            Some(_) => Readiness::Closed,
            None => self.lock().readiness(Instant::now(), &self.settings),
        }
    }

    /// Forgets the calls that it has counted, if it is closed: the destination was out of use, and what
    /// it did before says nothing of it now.
    pub fn forget_calls(&self) {
        let mut core = self.lock();
        if let State::Closed = core.state {
            core.consecutive_failures = 0;
            core.window.clear();
        }
    }

    /// Its state and counts.
    pub fn describe(&self) -> BreakerReport {
        let now = Instant::now();
        let mut core = self.lock();
        let counts = core.window.counts(now);
        let (state, probes, next_probe_in) = match core.state {
            State::Closed => (BreakerState::Closed, 0, None),
            State::Open { until, .. } => {
                let wait = until.saturating_duration_since(now);
                (BreakerState::Open, 0, Some(wait))
            }
            State::HalfOpen(probing) => (BreakerState::HalfOpen, probing.under_way, None),
        };
        BreakerReport {
            state,
            reason: core.reason,
            consecutive_failures: core.consecutive_failures,
            calls: counts.calls,
            failures: counts.failures,
            probes,
            opened: core.opened,
            refused: core.refused,
            next_probe_in,
        }
    }

    fn permit(self: &Arc<Self>, epoch: u64, is_probe: bool) -> Permit {
        Permit {
            breaker: Arc::clone(self),
            epoch,
            is_probe,
            outcome: Outcome::Ignored,
        }
    }

    fn count(&self, outcome: Outcome, epoch: u64) {
        let now = Instant::now();
        let mut core = self.lock();
        if core.epoch != epoch {
            return;
        }
        let change = core.count(outcome, now, &self.settings, &self.open_times);
        self.publish(&core);
        drop(core);
        self.log(change);
    }

    /// The epoch, if it is closed. The word stands alone: what a permit of an epoch that has just ended
    /// says is not counted, as it is of one that was given out a moment before.
    fn closed_epoch(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Relaxed);
        (word & 1 == 0).then_some(word >> 1)
    }

    fn publish(&self, core: &Core) {
        // Written only when it changes: those who read it keep their copy.
        if core.word() != self.word.load(Ordering::Relaxed) {
            self.word.store(core.word(), Ordering::Relaxed);
        }
    }

    fn log(&self, change: Option<Change>) {
        let name = &*self.name;
        match change {
            None => {}
            Some(Change::Opened { reason, wait }) => {
                tracing::warn!(breaker = name, %reason, ?wait, "circuit breaker opened");
            }
            Some(Change::HalfOpened) => {
                tracing::info!(breaker = name, "circuit breaker half open: probing");
            }
            Some(Change::Closed) => tracing::info!(breaker = name, "circuit breaker closed"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing in here panics between two writes that belong together.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to make one call.
#[derive(Debug)]
#[must_use = "dropped at once, it counts for nothing"]
pub struct Permit {
    breaker: Arc<Breaker>,
    epoch: u64,
    is_probe: bool,
    outcome: Outcome,
}

impl Permit {
    /// Whether the call is made to find out if the destination is back.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Says how the call ended.
    pub fn record(mut self, outcome: Outcome) {
        // Counted by the drop that follows, which also serves those who never get here.
        self.outcome = outcome;
    }

    /// Says how the call will have ended if nobody says more.
    pub fn presume(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Only the place of a probe is to be given back.
        if self.is_probe || self.outcome != Outcome::Ignored {
            self.breaker.count(self.outcome, self.epoch);
        }
    }
}
