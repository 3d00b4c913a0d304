//! How loaded an endpoint is: calls in flight, and how long its answers take
//! (peak EWMA: a slower answer counts at once, a faster one bit by bit).
//!
//! Failing is quick. So it never makes an endpoint look faster, or one that only
//! fails would get nearly all calls.
//!
//! Shared by all workers: two atomic numbers, no lock. Of two workers that
//! report at the same moment one may be lost, which costs one sample.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// In this time without a new answer what is known shrinks to a third: an
/// endpoint that was slow is tried again before long.
const MEMORY: Duration = Duration::from_secs(2);
/// What is expected of one of which nothing is known but that it fails, in
/// microseconds: more than of most that answer.
const FAILING: f64 = 1e6;

/// See the module's comment.
#[derive(Debug)]
pub(super) struct Load {
    start: Instant,
    in_flight: AtomicUsize,
    /// The latency in microseconds (high half) and when that was, in
    /// milliseconds since `start` (low half, wrapping after 49 days). 0 while
    /// nothing is known.
    latency: AtomicU64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            in_flight: AtomicUsize::new(0),
            latency: AtomicU64::new(0),
        }
    }
}

impl Load {
    /// Counts a call that is sent.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// The call is over.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// An answer took so long.
    pub(super) fn observe(&self, took: Duration, now: Instant) {
        self.store(self.smoothed(micros(took), now), now);
    }

    /// An answer has not come for so long: it would have taken longer.
    pub(super) fn waited(&self, time: Duration, now: Instant) {
        if self.expected(now).is_none_or(|known| micros(time) > known) {
            self.observe(time, now);
        }
    }

    /// It took so long to fail.
    pub(super) fn failed(&self, took: Duration, now: Instant) {
        let least = self.expected(now).unwrap_or(FAILING);
        let next = self.smoothed(micros(took).max(least), now);
        // Up: else each of many in a row would take off a microsecond.
        self.store(next.ceil(), now);
    }

    fn smoothed(&self, took: f64, now: Instant) -> f64 {
        match self.latency(now) {
            // What is known counts less the longer ago it was.
            Some((known, age)) if took < known => {
                let kept = weight(age);
                known * kept + took * (1.0 - kept)
            }
            _ => took,
        }
    }

    /// Forgets what is known of the latency: the endpoint was away.
    pub(super) fn forget(&self) {
        self.latency.store(0, Relaxed);
    }

    /// What an answer is expected to take now, in microseconds.
    pub(super) fn expected(&self, now: Instant) -> Option<f64> {
        self.latency(now).map(|(known, age)| known * weight(age))
    }

    fn latency(&self, now: Instant) -> Option<(f64, Duration)> {
        let packed = self.latency.load(Relaxed);
        let age = (self.millis(now)).wrapping_sub(packed as u32);
        // Threads read the clock before they get here: time may seem to go back.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        let known = (packed >> 32) as u32;
        (known > 0).then(|| (f64::from(known), Duration::from_millis(age.into())))
    }

    fn store(&self, latency: f64, now: Instant) {
        // At least 1: 0 is nothing known. Casts of floats saturate.
        let latency = (latency as u32).max(1);
        let packed = (u64::from(latency) << 32) | u64::from(self.millis(now));
        self.latency.store(packed, Relaxed);
    }

    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_millis() as u32
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn weight(age: Duration) -> f64 {
    (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn expected(load: &Load) -> f64 {
        load.expected(Instant::now()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slower_answer_counts_at_once_and_a_faster_one_bit_by_bit() {
        let load = Load::default();
        assert_eq!(load.expected(Instant::now()), None);
        load.observe(MS, Instant::now());
        assert_eq!(expected(&load), 1000.0);
        load.observe(500 * MS, Instant::now());
        assert_eq!(expected(&load), 500_000.0);
        load.observe(MS, Instant::now());
        assert_eq!(expected(&load), 500_000.0);
        advance(MEMORY / 2).await;
        load.observe(MS, Instant::now());
        assert!((290_000.0..310_000.0).contains(&expected(&load)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_fades_without_new_answers() {
        let load = Load::default();
        load.observe(500 * MS, Instant::now());
        advance(7 * MEMORY).await;
        assert!(expected(&load) < 1000.0);
        advance(Duration::from_secs(50 * 86_400)).await;
        load.observe(MS, Instant::now());
        assert_eq!(expected(&load), 1000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_however_many_and_quick_make_nothing_look_faster() {
        let load = Load::default();
        load.observe(5 * MS, Instant::now());
        for _ in 0..10_000 {
            advance(MS).await;
            load.failed(Duration::ZERO, Instant::now());
        }
        assert_eq!(expected(&load), 5000.0);
        load.failed(500 * MS, Instant::now());
        assert_eq!(expected(&load), 500_000.0, "a slow one counts");
        // One that gets few calls is tried again before long.
        advance(7 * MEMORY).await;
        load.failed(Duration::ZERO, Instant::now());
        assert!(expected(&load) < 1000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_only_ever_failed_looks_slow() {
        let load = Load::default();
        load.failed(MS, Instant::now());
        assert_eq!(expected(&load), FAILING);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_no_longer_tells_only_of_what_takes_longer_than_expected() {
        let load = Load::default();
        load.waited(20 * MS, Instant::now());
        assert_eq!(expected(&load), 20_000.0);
        advance(MEMORY / 4).await;
        let known = expected(&load);
        load.waited(MS, Instant::now());
        assert_eq!(expected(&load), known);
        load.waited(30 * MS, Instant::now());
        assert_eq!(expected(&load), 30_000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_was_away_begins_anew() {
        let load = Load::default();
        load.observe(500 * MS, Instant::now());
        load.forget();
        assert_eq!(load.expected(Instant::now()), None);
    }
}
