//! What operators see of the engine: executions and steps by how they ended, tokens, times.
//!
//! Labels come from a fixed set, so that their number is bounded.

use std::time::Duration;

use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl From<Ended> for Outcome {
    fn from(ended: Ended) -> Self {
        let outcome = match ended {
            Ended::Success => "success",
            Ended::Timeout => "timeout",
            Ended::Cancelled => "cancelled",
            Ended::Unspecified | Ended::Error | Ended::InProgress => "error",
        };
        Self { outcome }
    }
}

/// All metrics of one engine.
pub(super) struct Metrics {
    executions: Family<Outcome, Counter>,
    steps: Family<Outcome, Counter>,
    tokens: Counter,
    seconds: Histogram,
    pub(super) running: Gauge,
    pub(super) refused: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            executions: Family::default(),
            steps: Family::default(),
            tokens: Counter::default(),
            // 50 ms to about an hour.
            seconds: Histogram::new(exponential_buckets(0.05, 2.0, 17)),
            running: Gauge::default(),
            refused: Counter::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("chain");
        registry.register(
            "executions",
            "Ended executions by outcome",
            self.executions.clone(),
        );
        registry.register("steps", "Ended steps by outcome", self.steps.clone());
        registry.register(
            "tokens",
            "Tokens of all ended steps, input and output",
            self.tokens.clone(),
        );
        registry.register(
            "execution_seconds",
            "From the start of an execution to its end",
            self.seconds.clone(),
        );
        registry.register(
            "executions_running",
            "Executions that run now",
            self.running.clone(),
        );
        registry.register(
            "executions_refused",
            "Executions that were refused, as too many ran or the engine was stopping",
            self.refused.clone(),
        );
    }

    pub(super) fn execution_ended(&self, ended: Ended, took: Duration) {
        self.executions.get_or_create(&ended.into()).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn step_ended(&self, ended: Ended, tokens: u32) {
        self.steps.get_or_create(&ended.into()).inc();
        self.tokens.inc_by(u64::from(tokens));
    }
}
