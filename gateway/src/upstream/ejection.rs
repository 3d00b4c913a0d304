//! Leaves out an endpoint that fails more often than the others do.
//!
//! A breaker looks at its endpoint alone, and opens when most calls fail. One that
//! fails a third of them stays below that, and still it is the one to avoid while
//! others do better. So endpoints are compared, once a second: one whose share of
//! failed calls, in the breaker's window, exceeds that of the others together by
//! the margin is ejected, the worst first. It takes that it had as many calls there
//! as the configuration asks for. Where the others together had fewer, the calls
//! that they lack are taken to fail as often as its own: the fewer there are, the
//! better they must have done, and without any it is like them. An outage of all
//! makes none of them worse than the others, and ejects none.
//!
//! An ejected endpoint gets calls only where no other can have them. It is back
//! after a while, as new: its breaker's counts begin again. The while doubles each
//! time, up to [`LONGEST`], and begins anew once the endpoint has been back for as
//! long as it was out.
//!
//! Limits: never more than the share of all that the configuration says, rounded
//! down, and never all. Should endpoints go, so that those that are out become too
//! many, the ones that would be first are back early.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use crate::config::EjectionConfig;

/// See the module's comment.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// Whether an endpoint is ejected.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    is_out: AtomicBool,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    until: Option<Instant>,
    /// How long it was out the last time, or is now.
    length: Duration,
    /// Since when it is back.
    back_since: Option<Instant>,
}

impl Ejection {
    /// Whether others come first.
    pub(super) fn is_out(&self) -> bool {
        self.is_out.load(Relaxed)
    }

    /// Until when, if it is out.
    pub(super) fn until(&self) -> Option<Instant> {
        self.lock().until
    }

    /// Tells for how long.
    fn eject(&self, now: Instant, first: Duration) -> Duration {
        let mut times = self.lock();
        let again = times
            .back_since
            .is_some_and(|since| now < since + times.length);
        times.length = match again {
            true => times.length.saturating_mul(2).min(LONGEST),
            false => first,
        };
        times.until = Some(now + times.length);
        self.is_out.store(true, Relaxed);
        times.length
    }

    fn end(&self, now: Instant) {
        let mut times = self.lock();
        times.until = None;
        times.back_since = Some(now);
        self.is_out.store(false, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug)]
struct Seen {
    calls: u32,
    failures: u32,
    out_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Out,
    Back,
}

/// Calls and those of them that failed.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    calls: u64,
    failures: u64,
}

impl Sum {
    fn of<'a>(seen: impl IntoIterator<Item = &'a Seen>) -> Self {
        seen.into_iter().fold(Self::default(), |sum, one| Self {
            calls: sum.calls + u64::from(one.calls),
            failures: sum.failures + u64::from(one.failures),
        })
    }

    fn without(self, other: Self) -> Self {
        Self {
            calls: self.calls - other.calls,
            failures: self.failures - other.failures,
        }
    }

    fn share(self) -> f64 {
        self.failures as f64 / self.calls.max(1) as f64
    }

    /// The same of at least so many calls, where those that lack fail so often.
    fn share_of(self, least: u64, share: f64) -> f64 {
        let all = self.calls.max(least).max(1);
        (self.failures as f64 + (all - self.calls) as f64 * share) / all as f64
    }
}

/// Looks at all endpoints of an upstream, and lets them go and come.
pub(super) fn look(
    upstream: &str,
    endpoints: &[Arc<Endpoint>],
    config: &EjectionConfig,
    now: Instant,
) {
    let seen: Vec<_> = endpoints.iter().map(|endpoint| see(endpoint)).collect();
    for (index, verdict) in judge(&seen, config, now) {
        let (
            endpoint,
            Seen {
                calls, failures, ..
            },
        ) = (&endpoints[index], seen[index]);
        let standing = &endpoint.standing;
        match verdict {
            Verdict::Out => {
                let length = standing.ejection.eject(now, config.duration);
                let message = "endpoint ejected: it fails more than the others";
                tracing::warn!(upstream, endpoint = %endpoint.name, calls, failures, ?length, "{message}");
            }
            Verdict::Back => {
                standing.breaker.forget_calls();
                standing.load.forget();
                standing.ejection.end(now);
                tracing::info!(upstream, endpoint = %endpoint.name, "ejected endpoint back");
            }
        }
    }
}

fn see(endpoint: &Endpoint) -> Seen {
    let report = endpoint.standing.breaker.describe();
    Seen {
        calls: report.calls,
        failures: report.failures,
        out_until: endpoint.standing.ejection.until(),
    }
}

/// Which go, and which are back, by their place in the list.
fn judge(seen: &[Seen], config: &EjectionConfig, now: Instant) -> Vec<(usize, Verdict)> {
    let most = most(seen.len(), config.max_share);
    let out = seen.iter().enumerate();
    let mut out: Vec<_> = out
        .filter_map(|(index, one)| Some((one.out_until?, index)))
        .collect();
    out.sort_unstable();
    let over = out.iter().filter(|(until, _)| *until <= now).count();
    let over = over.max(out.len().saturating_sub(most));
    let staying = out.len() - over;
    let back = out.into_iter().take(over);
    let mut verdicts: Vec<_> = back.map(|(_, index)| (index, Verdict::Back)).collect();

    // Those that come back now have no calls to be judged by.
    let within = seen
        .iter()
        .enumerate()
        .filter(|(_, one)| one.out_until.is_none());
    let mut within: Vec<_> = within.collect();
    for _ in staying..most {
        let Some(place) = worst(&within, config) else {
            break;
        };
        verdicts.push((within.swap_remove(place).0, Verdict::Out));
    }
    verdicts
}

/// The one that fails most, if it is to be ejected.
fn worst(within: &[(usize, &Seen)], config: &EjectionConfig) -> Option<usize> {
    let all = Sum::of(within.iter().map(|(_, one)| *one));
    let enough = u64::from(config.min_calls);
    let shares = within.iter().enumerate().filter_map(|(place, (_, one))| {
        let own = Sum::of([*one]);
        let others = all.without(own);
        let share = own.share();
        let is_worse =
            own.calls >= enough && share > others.share_of(enough, share) + config.margin;
        is_worse.then_some((place, share))
    });
    let worst = shares.max_by(|(_, one), (_, other)| one.total_cmp(other));
    worst.map(|(place, _)| place)
}

/// How many of so many may be out at once.
fn most(number: usize, share: f64) -> usize {
    // A little more, so that a tenth of ten is one. Within 0 and 256.
    let most = (number as f64 * share + 1e-9) as usize;
    most.min(number.saturating_sub(1))
}

#[cfg(test)]
mod tests;
