//! What operators see of the endpoints of upstreams. Looked at when somebody
//! asks; calls cost nothing here.
//!
//! Labels are names of the configuration and endpoints, 256 at most of each
//! upstream; what is gone is shown no more. A counter goes on where it was as long
//! as its endpoint is there, also when a reload gives that a new breaker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use intellirouter::resilience::{Breaker, BreakerState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::upstream::{Figures, Upstream};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    upstream: String,
    endpoint: String,
}

/// See the module's comment.
#[derive(Default)]
pub(crate) struct UpstreamMetrics {
    breaker_state: Family<Labels, Gauge>,
    breaker_opened: Family<Labels, Counter>,
    breaker_refused: Family<Labels, Counter>,
    healthy: Family<Labels, Gauge>,
    ejected: Family<Labels, Gauge>,
    calls: Family<Labels, Gauge>,
    counted: Mutex<HashMap<Labels, Counted>>,
}

/// What the counters of an endpoint have taken in.
#[derive(Default)]
struct Counted {
    breaker: Weak<Breaker>,
    opened: u64,
    refused: u64,
    look: u64,
}

impl UpstreamMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "upstream_breaker_state",
            "Of each endpoint: 0 closed, 1 half open, 2 open",
            this.breaker_state.clone(),
        );
        registry.register(
            "upstream_breaker_opened",
            "How often the breaker of an endpoint opened",
            this.breaker_opened.clone(),
        );
        registry.register(
            "upstream_breaker_refused",
            "Calls that were refused because no endpoint had a breaker that let them pass, by the \
             endpoint that was the next to be probed",
            this.breaker_refused.clone(),
        );
        registry.register(
            "upstream_healthy",
            "0 while an endpoint gets no calls because it fails its health checks",
            this.healthy.clone(),
        );
        registry.register(
            "upstream_ejected",
            "1 while an endpoint is left out because it fails more than the others",
            this.ejected.clone(),
        );
        registry.register(
            "upstream_calls_in_flight",
            "Calls in progress at an endpoint",
            this.calls.clone(),
        );
        this
    }

    /// Takes down how these endpoints are now, and forgets all others.
    pub(crate) fn observe(&self, upstreams: &[Arc<Upstream>]) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let look = counted.values().map(|one| one.look).max().unwrap_or(0) + 1;
        for upstream in upstreams {
            for endpoint in upstream.endpoints().iter() {
                let labels = Labels {
                    upstream: upstream.name.clone(),
                    endpoint: endpoint.name.to_string(),
                };
                let known = counted.entry(labels.clone()).or_default();
                known.look = look;
                self.show(&labels, &endpoint.figures(), known);
            }
        }
        counted.retain(|labels, one| {
            let stays = one.look == look;
            if !stays {
                self.remove(labels);
            }
            stays
        });
    }

    fn show(&self, labels: &Labels, now: &Figures, known: &mut Counted) {
        let report = now.breaker.describe();
        if known.breaker.as_ptr() != Arc::as_ptr(&now.breaker) {
            (known.opened, known.refused) = (0, 0);
            known.breaker = Arc::downgrade(&now.breaker);
        }
        let add = |counter: &Family<Labels, Counter>, known: &mut u64, now: u64| {
            let more = now.saturating_sub(*known);
            counter.get_or_create(labels).inc_by(more);
            *known = now;
        };
        add(&self.breaker_opened, &mut known.opened, report.opened);
        add(&self.breaker_refused, &mut known.refused, report.refused);
        let set = |gauge: &Family<Labels, Gauge>, value: i64| {
            gauge.get_or_create(labels).set(value);
        };
        let state = match report.state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        set(&self.breaker_state, state);
        set(&self.healthy, i64::from(now.is_up));
        set(&self.ejected, i64::from(now.is_ejected));
        let calls = i64::try_from(now.calls_in_flight).unwrap_or(i64::MAX);
        set(&self.calls, calls);
    }

    fn remove(&self, labels: &Labels) {
        for gauge in [
            &self.breaker_state,
            &self.healthy,
            &self.ejected,
            &self.calls,
        ] {
            gauge.remove(labels);
        }
        for counter in [&self.breaker_opened, &self.breaker_refused] {
            counter.remove(labels);
        }
    }
}

#[cfg(test)]
mod tests;
