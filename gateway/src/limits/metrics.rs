//! What operators see of limits. Labels are the names of rates and fixed
//! words, so their number is bounded by the configuration.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::shards::KeyMetrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    limit: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    limit: String,
    outcome: &'static str,
}

/// Of all rates.
pub(crate) struct LimitMetrics {
    decisions: Family<DecisionLabels, Counter>,
    keys: Family<LimitLabels, Gauge>,
    overflow: Family<LimitLabels, Counter>,
    store_connected: Gauge,
}

/// Of one rate, resolved once.
pub(super) struct RateMetrics {
    pub(super) allowed: Counter,
    pub(super) refused: Counter,
    pub(super) fallback_allowed: Counter,
    pub(super) fallback_refused: Counter,
    pub(super) given_back: Counter,
    pub(super) keys: KeyMetrics,
}

impl LimitMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            decisions: Family::default(),
            keys: Family::default(),
            overflow: Family::default(),
            store_connected: Gauge::default(),
        };
        registry.register(
            "rate_limit_decisions",
            "Calls that a limit had room for or not; fallback: without its store; given_back: \
             of those with room, the ones that another limit refused",
            metrics.decisions.clone(),
        );
        registry.register(
            "rate_limit_keys",
            "Callers that a limit keeps a bucket for",
            metrics.keys.clone(),
        );
        registry.register(
            "rate_limit_overflow",
            "Calls that shared a bucket because there was no room for one of their own",
            metrics.overflow.clone(),
        );
        registry.register(
            "limit_store_connected",
            "0 while the store of global limits is away",
            metrics.store_connected.clone(),
        );
        metrics
    }

    /// Without a store nothing is away.
    pub(super) fn set_store(&self, connected: bool) {
        self.store_connected.set(i64::from(connected));
    }

    pub(super) fn of(&self, name: &str) -> RateMetrics {
        let decisions = |outcome| {
            self.decisions.get_or_create_owned(&DecisionLabels {
                limit: name.to_owned(),
                outcome,
            })
        };
        let limit = LimitLabels {
            limit: name.to_owned(),
        };
        RateMetrics {
            allowed: decisions("allowed"),
            refused: decisions("refused"),
            fallback_allowed: decisions("fallback_allowed"),
            fallback_refused: decisions("fallback_refused"),
            given_back: decisions("given_back"),
            keys: KeyMetrics {
                keys: self.keys.get_or_create_owned(&limit),
                overflow: self.overflow.get_or_create_owned(&limit),
            },
        }
    }
}
