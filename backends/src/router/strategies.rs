//! The rules by which a model is picked among those that may be.
//!
//! Owns the six strategies and the reading of their parameters. A strategy picks one model at a
//! time out of a pool; whoever asks takes that one out and asks again. What may be in the pool is
//! `select`'s concern. A pick happens under a lock that all requests share, so it does nothing
//! slow: what must be read out of the request's text is read before, by [`Strategy::look`].
//!
//! Reading fails by adding to the faults of a request; a pick cannot fail.

mod content_based;
mod cost_optimized;
mod custom;
mod latency_optimized;
mod load_balanced;
mod parameters;
mod round_robin;

use std::fmt;
use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::RoutingStrategy;
use tokio::time::Instant;

pub(super) use self::parameters::Parameters;
use super::candidate::Candidate;

/// All strategies, in the order in which they are listed.
pub(super) const ALL: [RoutingStrategy; 6] = [
    RoutingStrategy::RoundRobin,
    RoutingStrategy::LoadBalanced,
    RoutingStrategy::ContentBased,
    RoutingStrategy::CostOptimized,
    RoutingStrategy::LatencyOptimized,
    RoutingStrategy::Custom,
];

/// A way to pick.
pub(super) trait Strategy: fmt::Debug + Send + Sync {
    /// Picks one of the pool, which is in the order of ids; `None` if none suits.
    fn pick(&self, pool: &[Candidate], asked: &Asked) -> Option<Pick>;

    /// What the text of a request asks for.
    fn look(&self, _text: &str) -> Option<Wanted> {
        None
    }
}

/// What a pick may depend on, beside the models.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// What the text asks for.
    pub(super) wanted: Option<Wanted>,
    /// Tokens of the prompt, estimated.
    pub(super) prompt_tokens: u32,
    /// Most tokens to generate; 0: not said.
    pub(super) max_tokens: u32,
    /// Answers to generate, at least 1.
    pub(super) answers: u32,
    /// When the request came.
    pub(super) now: Instant,
    /// Gives a random number below the one given, which is not 0.
    pub(super) dice: fn(u64) -> u64,
}

/// A tag that models should have, by one of the content based rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) tag: String,
    /// The parameter that says so.
    pub(super) because: String,
}

/// A choice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pick {
    /// Its place in the pool.
    pub(super) index: usize,
    /// Why this one, in words.
    pub(super) why: String,
}

/// The name of a strategy in answers, events and metrics.
pub(super) fn name(kind: RoutingStrategy) -> &'static str {
    match kind {
        RoutingStrategy::Unspecified => "unspecified",
        RoutingStrategy::RoundRobin => "round_robin",
        RoutingStrategy::LoadBalanced => "load_balanced",
        RoutingStrategy::ContentBased => "content_based",
        RoutingStrategy::CostOptimized => "cost_optimized",
        RoutingStrategy::LatencyOptimized => "latency_optimized",
        RoutingStrategy::Custom => "custom",
    }
}

/// What a strategy does, for people.
pub(super) fn description(kind: RoutingStrategy) -> &'static str {
    match kind {
        RoutingStrategy::Unspecified => "",
        RoutingStrategy::RoundRobin => "Each model in turn: the one that was picked longest ago.",
        RoutingStrategy::LoadBalanced => "The model with the fewest calls in progress.",
        RoutingStrategy::ContentBased => {
            "A model with the tag that the first matching rule names. Parameters: rule.1 to \
             rule.32, each `<regular expression> => <tag>`, tried in order on the last user \
             message; default_tag, for when none matches."
        }
        RoutingStrategy::CostOptimized => {
            "The model with the lowest estimated cost. Parameter: expected_output_tokens, for \
             requests without max_tokens."
        }
        RoutingStrategy::LatencyOptimized => {
            "The model with the lowest average latency; one that was never measured is tried once \
             first."
        }
        RoutingStrategy::Custom => {
            "A model drawn by weight. Parameter: weights, such as `model-a=3, model-b=1`; without \
             it all weigh the same."
        }
    }
}

/// Whether reading or looking may take long: then neither has a place on an async thread.
pub(super) fn takes_long(kind: RoutingStrategy) -> bool {
    kind == RoutingStrategy::ContentBased
}

/// Makes a strategy out of its parameters. Where there is a fault, what comes back is of no use.
pub(super) fn read(kind: RoutingStrategy, parameters: &mut Parameters<'_>) -> Arc<dyn Strategy> {
    match kind {
        // Nobody asks for it: what is not specified is resolved before.
        RoutingStrategy::Unspecified | RoutingStrategy::RoundRobin => {
            Arc::new(round_robin::RoundRobin)
        }
        RoutingStrategy::LoadBalanced => Arc::new(load_balanced::LoadBalanced),
        RoutingStrategy::ContentBased => Arc::new(content_based::ContentBased::read(parameters)),
        RoutingStrategy::CostOptimized => Arc::new(cost_optimized::CostOptimized::read(parameters)),
        RoutingStrategy::LatencyOptimized => Arc::new(latency_optimized::LatencyOptimized),
        RoutingStrategy::Custom => Arc::new(custom::Custom::read(parameters)),
    }
}

/// The place of the candidate with the smallest key; of equals, the one that was picked longest
/// ago; of those never picked, the first. `None` as a key: not this one.
fn least<K: Ord>(pool: &[Candidate], key: impl Fn(&Candidate) -> Option<K>) -> Option<usize> {
    let keyed = pool.iter().enumerate().filter_map(|(index, candidate)| {
        let turn = candidate.load.standing.turn();
        key(candidate).map(|key| ((key, turn), index))
    });
    keyed.min().map(|(_, index)| index)
}

#[cfg(test)]
pub(super) mod test_util;
