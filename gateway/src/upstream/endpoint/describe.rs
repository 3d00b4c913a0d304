//! What operators are told of an endpoint: in `/upstreams`, and as figures.

use std::sync::{Arc, Weak};
use std::time::Duration;

use intellirouter::resilience::{Breaker, BreakerReport, BreakerState};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::{Endpoint, unpoisoned};

/// An endpoint at one moment, for metrics.
pub(crate) struct Figures {
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) is_up: bool,
    pub(crate) is_ejected: bool,
    pub(crate) calls_in_flight: usize,
}

impl Endpoint {
    pub(crate) fn figures(&self) -> Figures {
        let standing = &self.standing;
        Figures {
            breaker: standing.breaker.clone(),
            is_up: standing.health.is_up(),
            is_ejected: standing.ejection.is_out(),
            calls_in_flight: standing.load.in_flight(),
        }
    }

    /// What stands in `/upstreams`.
    pub(crate) fn describe(&self) -> Value {
        let now = Instant::now();
        let connections = unpoisoned(&self.connections);
        let connections = connections.iter().map(Weak::strong_count);
        let failure = unpoisoned(&self.failure);
        let standing = &self.standing;
        let health = standing.health.report();
        let ejected_until = standing.ejection.until();
        let latency = standing.load.expected(now);
        json!({
            "endpoint": &*self.name,
            "connections": connections.filter(|count| *count > 0).count(),
            "calls_in_flight": standing.load.in_flight(),
            "expected_latency_ms": latency.map(|micros| micros.round() / 1000.0),
            "health": {
                "state": match health.is_up {
                    None => "unknown",
                    Some(true) => "healthy",
                    Some(false) => "unhealthy",
                },
                "failed_in_a_row": health.failed_in_a_row,
                "last_fault": health.last_fault,
            },
            "breaker": breaker(&standing.breaker.describe()),
            "ejected_for_ms": ejected_until.map(|until| millis(until.saturating_duration_since(now))),
            "next_connect_in_ms": standing.dial.left(now).map(millis),
            "last_connect_failure": failure.as_ref().map(|(at, error)| json!({
                "at": OffsetDateTime::from(*at).format(&Rfc3339).unwrap_or_default(),
                "error": error,
            })),
        })
    }
}

fn breaker(report: &BreakerReport) -> Value {
    json!({
        "state": match report.state {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        },
        "reason": report.reason.map(|reason| reason.to_string()),
        "consecutive_failures": report.consecutive_failures,
        "calls": report.calls,
        "failures": report.failures,
        "probes": report.probes,
        "opened": report.opened,
        "refused": report.refused,
        "next_probe_in_ms": report.next_probe_in.map(millis),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
