//! What the registry counts for operators: models by status, health checks and writes by outcome.
//!
//! Models are counted when somebody looks, so that the number is what is there. All label values
//! are fixed names: at most ten series.

use std::fmt;
use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::ModelStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::error::RegistryError;
use super::health::Outcome;
use super::memory::Memory;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    checks: Family<Ended, Counter>,
    writes: Family<Ended, Counter>,
}

impl Metrics {
    /// Makes them, and the models of `memory`, visible in `registry`.
    pub(super) fn register(&self, memory: &Arc<Memory>, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("model_registry");
        registry.register(
            "health_checks",
            "Health checks by outcome",
            self.checks.clone(),
        );
        registry.register(
            "writes",
            "Changes of the models that were written to disk or could not be",
            self.writes.clone(),
        );
        registry.register_collector(Box::new(Models(Arc::clone(memory))));
    }

    pub(super) fn count_check(&self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Answered(_) => "healthy",
            Outcome::Failed { .. } => "failed",
            Outcome::Silent(_) => "timeout",
        };
        self.checks.get_or_create(&Ended { outcome }).inc();
    }

    /// Counts a write; one that was refused before it wrote is none.
    pub(super) fn count_write<T>(&self, written: &Result<T, RegistryError>) {
        let outcome = match written {
            Ok(_) => "committed",
            Err(RegistryError::Storage(_)) => "failed",
            Err(_) => return,
        };
        self.writes.get_or_create(&Ended { outcome }).inc();
    }
}

/// The models, counted at the time of the look.
#[derive(Debug)]
struct Models(Arc<Memory>);

impl Collector for Models {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut models = encoder.encode_descriptor(
            "models",
            "Registered models by status",
            None,
            MetricType::Gauge,
        )?;
        for (status, count) in self.0.by_status() {
            // Requests with another number are refused, so every model has a name for its status.
            let status = ModelStatus::try_from(status).unwrap_or_default();
            let labels = [("status", status.as_str_name())];
            ConstGauge::new(count).encode(models.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
