//! Asks a model's endpoint for a sign of life, within a time limit.
//!
//! Owns the connectors that exist and the measuring. What becomes of the outcome is the store's
//! concern. It fails only by the outcome: an endpoint that does not answer is a result, not an
//! error of the call. One check waits at most
//! [`HEALTH_TIMEOUT_MS`](super::limits::HEALTH_TIMEOUT_MS) milliseconds.

use std::collections::HashMap;
use std::time::Duration;

use intellirouter_proto::intellirouter::common::v1;
use intellirouter_proto::intellirouter::model_registry::v1::{ConnectorConfig, HealthCheckResult};
use prost_types::Timestamp;
use tokio::time::Instant;

use super::limits::HEALTH_TIMEOUT_MS;

/// A way to reach a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connector {
    /// The model runs in this process: there is no endpoint, URL or key.
    Local,
}

impl Connector {
    /// The types that a model may name to be reached.
    pub(super) const NAMES: [&'static str; 1] = ["local"];

    /// The connector that a model asks for, if there is such a one.
    pub(super) fn of(config: Option<&ConnectorConfig>) -> Option<Self> {
        (config?.r#type == Self::NAMES[0]).then_some(Self::Local)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Local => Self::NAMES[0],
        }
    }

    /// Ends when the model has answered.
    async fn answers(self) {
        match self {
            // What runs here answers when this runtime gets round to it, so one turn of the
            // runtime's queue is what there is to wait for, and to measure.
            Self::Local => tokio::task::yield_now().await,
        }
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// The model answered after this time.
    Answered(Duration),
    /// It did not within this time.
    Silent(Duration),
}

impl Outcome {
    /// How the work ended, as the contract has it.
    pub(super) fn status(self) -> v1::Status {
        match self {
            Self::Answered(_) => v1::Status::Success,
            Self::Silent(_) => v1::Status::Timeout,
        }
    }

    /// As the caller sees it.
    pub(super) fn result(self, connector: Connector, at: Timestamp) -> HealthCheckResult {
        let (healthy, latency, error_message) = match self {
            Self::Answered(latency) => (true, latency, String::new()),
            Self::Silent(limit) => (
                false,
                limit,
                format!("no answer within {} ms", limit.as_millis()),
            ),
        };
        HealthCheckResult {
            healthy,
            latency_ms: milliseconds(latency),
            error_message,
            timestamp: Some(at),
            details: HashMap::from([("connector".to_owned(), connector.name().to_owned())]),
        }
    }
}

/// Checks once, and waits at most `limit`.
pub(super) async fn check(connector: Connector, limit: Duration) -> Outcome {
    measure(connector.answers(), limit).await
}

async fn measure(answers: impl Future<Output = ()>, limit: Duration) -> Outcome {
    let start = Instant::now();
    match tokio::time::timeout(limit, answers).await {
        Ok(()) => Outcome::Answered(start.elapsed()),
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

/// The contract's unit for latencies.
pub(super) fn milliseconds(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_model_that_never_answers_is_given_up_after_the_limit() {
        let limit = Duration::from_millis(250);
        let start = Instant::now();
        let outcome = measure(std::future::pending(), limit).await;
        assert_eq!(start.elapsed(), limit);
        assert_eq!(outcome.status(), v1::Status::Timeout);
        let result = outcome.result(Connector::Local, Timestamp::default());
        assert!(!result.healthy);
        assert_eq!(result.latency_ms, 250.0);
        assert_eq!(result.error_message, "no answer within 250 ms");
    }

    #[tokio::test(start_paused = true)]
    async fn the_latency_is_the_time_to_the_answer() {
        let answers = tokio::time::sleep(Duration::from_millis(40));
        let outcome = measure(answers, Duration::from_millis(250)).await;
        assert_eq!(outcome.status(), v1::Status::Success);
        let result = outcome.result(Connector::Local, Timestamp::default());
        assert!(result.healthy);
        assert_eq!(result.latency_ms, 40.0);
        assert_eq!(result.error_message, "");
    }

    #[test]
    fn the_request_sets_the_limit_then_the_connector_then_the_service() {
        let default = Duration::from_secs(5);
        assert_eq!(limit(10, 20, default), Duration::from_millis(10));
        assert_eq!(limit(0, 20, default), Duration::from_millis(20));
        assert_eq!(limit(0, 0, default), default);
    }

    #[test]
    fn no_check_waits_longer_than_the_longest_limit() {
        let longest = Duration::from_millis(HEALTH_TIMEOUT_MS.into());
        assert_eq!(limit(0, 600_000, Duration::from_secs(5)), longest);
        assert_eq!(limit(0, 0, Duration::from_secs(3600)), longest);
    }

    #[test]
    fn every_named_connector_can_be_had() {
        for name in Connector::NAMES {
            let config = ConnectorConfig {
                r#type: name.to_owned(),
                ..Default::default()
            };
            let connector = Connector::of(Some(&config));
            assert_eq!(connector.map(Connector::name), Some(name));
        }
    }
}
