//! Asks a model for a sign of life through its connector, and records and tells what came of it.
//!
//! Owns the measuring and the order: ask, record, then count, log and emit. How a model is asked is
//! the connectors' concern, what the outcome changes is `record`'s. A model that is not healthy is a
//! result, not an error of the call; it fails only if the outcome cannot be recorded. One check waits
//! at most [`HEALTH_TIMEOUT_MS`](super::limits::HEALTH_TIMEOUT_MS) milliseconds.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use intellirouter::events::ModelHealthCheckEvent;
use intellirouter_proto::intellirouter::common::v1;
use intellirouter_proto::intellirouter::model_registry::v1::HealthCheckResult;
use prost_types::Timestamp;
use tokio::time::Instant;

use super::error::RegistryError;
use super::limits::HEALTH_TIMEOUT_MS;
use super::memory::Entry;
use super::metrics::Metrics;
use super::store::Store;
use crate::connectors::{ConnectorError, Connectors, Endpoint};
use crate::events::Events;
use crate::router::candidate::milliseconds;

/// Longest text that says why a model is not healthy, in bytes: with what stands around it, it is a
/// reason of a status.
const FAULT_BYTES: usize = 900;

/// What came of a check.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The model answered as it should, after this time.
    Answered(Duration),
    /// It failed, or its connector did.
    Failed { after: Duration, why: String },
    /// Nothing came within this time.
    Silent(Duration),
}

impl Outcome {
    pub(super) fn healthy(&self) -> bool {
        matches!(self, Self::Answered(_))
    }

    /// Why the model is not healthy, if it isn't.
    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Self::Answered(_) => None,
            Self::Failed { why, .. } => Some(why.clone()),
            Self::Silent(limit) => Some(format!("no answer within {} ms", limit.as_millis())),
        }
    }

    /// How the work ended, as the contract has it: a check that learned that the model is not
    /// healthy did its work.
    pub(super) fn status(&self) -> v1::Status {
        match self {
            Self::Answered(_) | Self::Failed { .. } => v1::Status::Success,
            Self::Silent(_) => v1::Status::Timeout,
        }
    }

    pub(super) fn latency(&self) -> Duration {
        match self {
            Self::Answered(latency) | Self::Failed { after: latency, .. } => *latency,
            Self::Silent(limit) => *limit,
        }
    }
}

/// A check that was done and recorded.
#[derive(Debug)]
pub(super) struct Checked {
    outcome: Outcome,
    connector: String,
    at: SystemTime,
}

impl Checked {
    pub(super) fn status(&self) -> v1::Status {
        self.outcome.status()
    }

    /// As the caller sees it.
    pub(super) fn result(self) -> HealthCheckResult {
        HealthCheckResult {
            healthy: self.outcome.healthy(),
            latency_ms: milliseconds(self.outcome.latency()),
            error_message: self.outcome.fault().unwrap_or_default(),
            timestamp: Some(Timestamp::from(self.at)),
            details: HashMap::from([("connector".to_owned(), self.connector)]),
        }
    }

    fn event(&self, model_id: &str) -> ModelHealthCheckEvent {
        let error = self.outcome.fault().map(|why| ("error".to_owned(), why));
        ModelHealthCheckEvent {
            model_id: model_id.to_owned(),
            healthy: self.outcome.healthy(),
            latency_ms: milliseconds(self.outcome.latency()),
            timestamp: self.at.into(),
            metadata: error.into_iter().collect(),
        }
    }
}

/// Who asks for a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A client: the outcome is on disk before the answer, and always told.
    Call,
    /// The registry itself: only what changes is told, and only a changed status written.
    Round,
}

/// What a check needs.
#[derive(Debug)]
pub(super) struct Checker {
    pub(super) store: Arc<Store>,
    pub(super) connectors: Connectors,
    pub(super) events: Events,
    pub(super) metrics: Arc<Metrics>,
    /// How long to wait if nobody says, and the most that a round waits.
    pub(super) timeout: Duration,
    /// Wall clock; tests have their own.
    pub(super) clock: fn() -> SystemTime,
}

impl Checker {
    /// Checks a model, and waits at most `requested_ms` for its answer; 0: as long as its
    /// connector or the settings say.
    pub(super) async fn check(
        &self,
        entry: &Entry,
        requested_ms: u32,
        by: By,
    ) -> Result<Checked, RegistryError> {
        let candidate = entry.candidate();
        let model_id = &candidate.model.id;
        let Some(config) = &candidate.model.connector_config else {
            return Err(RegistryError::NoConnector(model_id.clone()));
        };
        let limit = limit(requested_ms, config.timeout_ms, self.timeout);
        let limit = match by {
            By::Call => limit,
            // Others wait for their turn, whatever patience this model's calls need.
            By::Round => limit.min(self.timeout),
        };
        let endpoint = Endpoint {
            model_id: model_id.clone(),
            config: config.clone(),
            api_key: candidate.api_key,
        };
        let outcome = measure(self.connectors.check(&endpoint, limit), limit).await;
        let checked = Checked {
            outcome,
            connector: endpoint.config.r#type,
            at: (self.clock)(),
        };
        self.metrics.count_check(&checked.outcome);
        let at = Timestamp::from(checked.at);
        let durable = by == By::Call;
        let recorded = self
            .store
            .record_check(&entry.record, &checked.outcome, at, durable);
        let changed = recorded.await?;
        if changed {
            log(model_id, &checked.outcome);
        }
        if changed || by == By::Call {
            self.events.emit(&checked.event(model_id));
        }
        Ok(checked)
    }
}

fn log(model_id: &str, outcome: &Outcome) {
    match outcome.fault() {
        None => tracing::info!(model_id, "model is healthy again"),
        Some(why) => tracing::warn!(model_id, why, "model is not healthy"),
    }
}

async fn measure(
    answers: impl Future<Output = Result<(), ConnectorError>>,
    limit: Duration,
) -> Outcome {
    let start = Instant::now();
    // The connector has the same limit; here it is a promise, whatever the connector does.
    match tokio::time::timeout(limit, answers).await {
        Ok(Ok(())) => Outcome::Answered(start.elapsed()),
        Ok(Err(ConnectorError::TimedOut(limit))) => Outcome::Silent(limit),
        Ok(Err(error)) => {
            let mut why = error.to_string();
            why.truncate(why.floor_char_boundary(FAULT_BYTES));
            Outcome::Failed {
                after: start.elapsed(),
                why,
            }
        }
        Err(_) => Outcome::Silent(limit),
    }
}

/// How long to wait: what the request says, else the connector, else the service.
pub(super) fn limit(requested_ms: u32, connector_ms: u32, default: Duration) -> Duration {
    let longest = Duration::from_millis(HEALTH_TIMEOUT_MS.into());
    let ms = [requested_ms, connector_ms].into_iter().find(|ms| *ms > 0);
    ms.map_or(default, |ms| Duration::from_millis(ms.into()))
        .min(longest)
}
