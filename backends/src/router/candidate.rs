//! A model as the router may pick it, and what is measured of it while the process runs.
//!
//! Owns the measurements and the seam between the registry, which has the models, and the router,
//! which picks one. It does not own the choice, and keeps nothing on disk: a restart begins with the
//! latency that was registered. Nothing here can fail. A model's measurements take about 100 bytes,
//! whatever the number of calls.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use intellirouter_proto::intellirouter::model_registry::v1::{ModelFilter, ModelMetadata};
use tokio::time::Instant;

use super::standing::Standing;
use crate::connectors::ApiKey;
use crate::model_registry::filter;

/// Weight of the newest measurement in an average; one that is ten older has 2 %.
const LATENCY_WEIGHT: f32 = 0.2;
/// What `max_requests_per_minute` is counted over.
const MINUTE: Duration = Duration::from_secs(60);

/// A model as the router may pick it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What is recorded of it, without the key. Its average latency is what was registered; the
    /// live one is [`Load::latency_ms`].
    pub model: Arc<ModelMetadata>,
    /// The key that was registered with it; may be empty.
    pub api_key: ApiKey,
    /// What is measured of it.
    pub load: Arc<Load>,
}

impl Candidate {
    /// Whether it meets every condition of `filter`, judged by its live latency.
    #[must_use]
    pub fn meets(&self, filter: &ModelFilter) -> bool {
        filter::matches(filter, &self.model, self.load.latency_ms())
    }
}

/// What is measured of a model while the process runs.
///
/// The average latency is that of calls, beginning with the one that was registered. As long as
/// there is neither, that of health checks stands in for it: they are far quicker than calls, so
/// the two are never mixed.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// Averages in milliseconds, as the bits of an `f32`; 0 stands for: never measured.
    calls_ms: AtomicU32,
    checks_ms: AtomicU32,
    window: Mutex<Window>,
    /// What the router remembers of the model.
    pub(super) standing: Standing,
}

impl Load {
    /// Nothing is measured yet. `latency_ms` is the average that was registered, in milliseconds;
    /// 0 stands for: not known.
    #[must_use]
    pub fn new(latency_ms: f32) -> Self {
        let load = Self::default();
        load.set_latency(latency_ms);
        load
    }

    /// How many calls are in progress.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The average latency, in milliseconds, if anything is known of it.
    #[must_use]
    pub fn latency_ms(&self) -> Option<f32> {
        let averages = [&self.calls_ms, &self.checks_ms];
        averages
            .into_iter()
            .map(|average| f32::from_bits(average.load(Ordering::Relaxed)))
            .find(|ms| *ms > 0.0)
    }

    /// The average latency of calls alone, in milliseconds, if there was one.
    #[must_use]
    pub fn call_latency_ms(&self) -> Option<f32> {
        let ms = f32::from_bits(self.calls_ms.load(Ordering::Relaxed));
        (ms > 0.0).then_some(ms)
    }

    /// Counts the time that a call took into the average.
    pub fn observe_latency(&self, latency: Duration) {
        observe(&self.calls_ms, latency);
    }

    /// Counts the time that a health check took, for as long as no call was measured.
    pub(crate) fn observe_check(&self, latency: Duration) {
        observe(&self.checks_ms, latency);
    }

    /// Replaces the average of calls, in milliseconds; 0 leaves it.
    pub(crate) fn set_latency(&self, ms: f32) {
        if ms > 0.0 {
            self.calls_ms.store(ms.to_bits(), Ordering::Relaxed);
        }
    }

    /// Counts a call as in progress until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Counts a call against `max_per_minute`, unless the limit is reached: then it counts nothing
    /// and says `false`. 0 is no limit.
    ///
    /// The minute slides: of the minute before the current one, the share counts that is not yet
    /// 60 seconds ago, as if its calls had come evenly.
    #[must_use]
    pub fn take_call(&self, max_per_minute: u32, now: Instant) -> bool {
        let mut window = self.window();
        let free = window.has_room(max_per_minute, now);
        if free {
            window.calls = window.calls.saturating_add(1);
        }
        free
    }

    /// Whether [`Load::take_call`] would refuse now.
    #[must_use]
    pub fn limited(&self, max_per_minute: u32, now: Instant) -> bool {
        !self.window().has_room(max_per_minute, now)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Numbers only, so they are whole after a panic too.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in progress; see [`Load::begin`].
#[derive(Debug)]
pub struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The calls of the current minute and of the one before it.
#[derive(Debug, Default)]
struct Window {
    /// When the current minute began.
    since: Option<Instant>,
    calls: u32,
    before: u32,
}

impl Window {
    fn has_room(&mut self, max: u32, now: Instant) -> bool {
        let into = self.turn(now);
        let left = MINUTE.saturating_sub(into).as_nanos();
        // Rounded up, so that the limit is never passed by a fraction.
        let sliding = (u128::from(self.before) * left).div_ceil(MINUTE.as_nanos());
        max == 0 || sliding + u128::from(self.calls) < u128::from(max)
    }

    /// Begins a new minute if the current one is over, and says how old the current one is.
    fn turn(&mut self, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age < MINUTE {
            return age;
        }
        let just_over = age < 2 * MINUTE;
        self.before = if just_over { self.calls } else { 0 };
        self.calls = 0;
        let since = if just_over { since + MINUTE } else { now };
        self.since = Some(since);
        now.saturating_duration_since(since)
    }
}

fn observe(average: &AtomicU32, latency: Duration) {
    // 0 stands for: never measured, so a measurement is always more.
    let newest = milliseconds(latency).max(f32::MIN_POSITIVE);
    let update = |bits| {
        let before = f32::from_bits(bits);
        let after = if before > 0.0 {
            before + LATENCY_WEIGHT * (newest - before)
        } else {
            newest
        };
        Some(after.to_bits())
    };
    // The closure never refuses, so neither does this.
    let _ = average.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
}

/// The contract's unit for latencies.
pub(crate) fn milliseconds(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1000.0
}

/// Where the router gets the models from. All methods are quick and never wait.
pub trait ModelSource: Send + Sync {
    /// All models that are registered, whatever their state, in the order of their ids.
    fn candidates(&self) -> Vec<Candidate>;

    /// One of them.
    fn candidate(&self, id: &str) -> Option<Candidate>;

    /// Tells that a call could not reach the model, so that its health is looked at soon. Nothing
    /// is promised: the router does not rely on it.
    fn report_unreachable(&self, _id: &str, _why: &str) {}
}
