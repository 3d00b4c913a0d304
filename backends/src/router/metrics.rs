//! What operators see of the router: calls by outcome, fallbacks, tokens and times.
//!
//! Owns the metrics and the record of one call. A record that is dropped without an outcome is a
//! call that its caller gave up, or one that panicked. Label values are the names of strategies,
//! outcomes and directions: their number is fixed. A call that is refused before its strategy is
//! known counts under the one that it asks for, which may be `unspecified`.

use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::{RoutingStrategy, UsageInfo};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::strategies;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub(super) strategy: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct StrategyLabels {
    pub(super) strategy: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct TokenLabels {
    pub(super) direction: &'static str,
}

/// The metrics of one router.
#[derive(Debug)]
pub(super) struct Metrics {
    calls: Family<CallLabels, Counter>,
    fallbacks: Family<StrategyLabels, Counter>,
    failed_attempts: Counter,
    tokens: Family<TokenLabels, Counter>,
    seconds: Family<StrategyLabels, Histogram, fn() -> Histogram>,
    open_calls: Gauge,
}

fn buckets() -> Histogram {
    // 5 ms to about 650 s, which is more than a call may take.
    Histogram::new(exponential_buckets(0.005, 2.0, 18))
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            calls: Family::default(),
            fallbacks: Family::default(),
            failed_attempts: Counter::default(),
            tokens: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            open_calls: Gauge::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let calls = "Routed calls that ended, by strategy and outcome";
        registry.register("router_calls", calls, self.calls.clone());
        let fallbacks = "Calls that another model than the first choice answered";
        registry.register("router_fallbacks", fallbacks, self.fallbacks.clone());
        let failed = "Models that were asked and gave no answer";
        registry.register(
            "router_failed_attempts",
            failed,
            self.failed_attempts.clone(),
        );
        let tokens = "Tokens that models say they took and gave";
        registry.register("router_tokens", tokens, self.tokens.clone());
        let seconds = "Time from a call's arrival to the end of its answer";
        registry.register_with_unit("router_call", seconds, Unit::Seconds, self.seconds.clone());
        let open = "Routed calls and streams in progress";
        registry.register("router_open_calls", open, self.open_calls.clone());
    }

    /// A model was asked and gave no answer.
    pub(super) fn attempt_failed(&self) {
        self.failed_attempts.inc();
    }

    /// What an answer took, as the model says.
    pub(super) fn used(&self, usage: UsageInfo) {
        let add = |direction, tokens: u32| {
            let counter = self.tokens.get_or_create(&TokenLabels { direction });
            counter.inc_by(tokens.into());
        };
        add("input", usage.prompt_tokens);
        add("output", usage.completion_tokens);
    }
}

/// A call, from its arrival.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Arc<Metrics>,
    strategy: &'static str,
    started: Instant,
    outcome: &'static str,
}

impl Record {
    pub(super) fn begin(metrics: &Arc<Metrics>, wanted: RoutingStrategy) -> Self {
        metrics.open_calls.inc();
        Self {
            metrics: Arc::clone(metrics),
            strategy: strategies::name(wanted),
            started: Instant::now(),
            outcome: "cancelled",
        }
    }

    /// The strategy that it gets.
    pub(super) fn by(&mut self, kind: RoutingStrategy) {
        self.strategy = strategies::name(kind);
    }

    /// Another model than the first choice answers.
    pub(super) fn fell_back(&self) {
        let strategy = self.strategy;
        let fallbacks = &self.metrics.fallbacks;
        fallbacks.get_or_create(&StrategyLabels { strategy }).inc();
    }

    /// How it ends.
    pub(super) fn ends(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let strategy = self.strategy;
        let outcome = match std::thread::panicking() {
            true => "internal",
            false => self.outcome,
        };
        let metrics = &self.metrics;
        metrics.open_calls.dec();
        let labels = CallLabels { strategy, outcome };
        metrics.calls.get_or_create(&labels).inc();
        let seconds = metrics.seconds.get_or_create(&StrategyLabels { strategy });
        seconds.observe(self.started.elapsed().as_secs_f64());
    }
}
