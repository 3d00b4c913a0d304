//! The model with the lowest average latency.
//!
//! A model that was never measured would never be picked, so it goes first; but only one call at a
//! time explores it, and none for [`AFTER_FAILURE`] after a call to it failed. Until it is measured
//! all other calls put it last. Health checks don't count as measured: they are far quicker than
//! calls.

use std::time::Duration;

use super::{Asked, Pick, Strategy, least};
use crate::router::candidate::Candidate;

/// How long a model that was never measured, and failed, is not explored again.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct LatencyOptimized;

/// In the order of preference.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Explore,
    /// The bits of the latency: for numbers above 0 they are in the order of the numbers.
    Measured(u32),
    Unknown,
}

impl Strategy for LatencyOptimized {
    fn pick(&self, pool: &[Candidate], asked: &Asked) -> Option<Pick> {
        let index = least(pool, |candidate| Some(rank(candidate, asked)))?;
        let why = match pool[index].load.call_latency_ms() {
            Some(latency) => format!(
                "latency optimized: {latency:.1} ms on average, the lowest of {}",
                pool.len()
            ),
            None => "latency optimized: not measured yet".to_owned(),
        };
        Some(Pick { index, why })
    }
}

fn rank(candidate: &Candidate, asked: &Asked) -> Rank {
    let load = &candidate.load;
    match load.call_latency_ms() {
        Some(latency) => Rank::Measured(latency.to_bits()),
        None if load.in_flight() > 0 => Rank::Unknown,
        None if load.standing.failed_within(AFTER_FAILURE, asked.now) => Rank::Unknown,
        None => Rank::Explore,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{asked, candidate, pool};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_lowest_average_wins_once_all_are_measured() {
        let pool = pool(["a", "b", "c"]);
        for (candidate, ms) in pool.iter().zip([30, 10, 20]) {
            candidate.load.observe_latency(Duration::from_millis(ms));
        }
        let pick = LatencyOptimized.pick(&pool, &asked()).unwrap();
        assert_eq!(pick.index, 1);
        assert!(pick.why.contains("10.0 ms"), "{}", pick.why);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_was_never_measured_is_explored_by_one_call_at_a_time() {
        let pool = pool(["fast", "new"]);
        pool[0].load.observe_latency(Duration::from_millis(1));
        assert_eq!(LatencyOptimized.pick(&pool, &asked()).unwrap().index, 1);
        let exploring = pool[1].load.begin();
        assert_eq!(LatencyOptimized.pick(&pool, &asked()).unwrap().index, 0);
        drop(exploring);
        assert_eq!(LatencyOptimized.pick(&pool, &asked()).unwrap().index, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_failed_unmeasured_is_not_explored_for_a_while() {
        let pool = [candidate("fast"), candidate("new")];
        pool[0].load.observe_latency(Duration::from_millis(1));
        pool[1].load.standing.failed(asked().now);
        assert_eq!(LatencyOptimized.pick(&pool, &asked()).unwrap().index, 0);
        tokio::time::advance(AFTER_FAILURE).await;
        assert_eq!(LatencyOptimized.pick(&pool, &asked()).unwrap().index, 1);
    }
}
