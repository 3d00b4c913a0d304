//! Sorts out the models that may be picked for a request from those that may not, and counts the
//! latter by reason.
//!
//! Owns the conditions and their order; the order in which models are then tried is the
//! strategies'. It cannot fail: an empty pool is a result. Other work gets its turn after every
//! [`MODELS_PER_TURN`] models.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use intellirouter_proto::intellirouter::model_registry::v1::{
    ModelCapabilities, ModelFilter, ModelMetadata, ModelStatus, ModelType,
};
use tokio::time::Instant;

use super::candidate::{Candidate, ModelSource};
use crate::connectors::Connectors;

const MODELS_PER_TURN: usize = 128;

/// What a model must meet.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) filter: ModelFilter,
    pub(super) excluded: HashSet<String>,
    /// It may have the status LIMITED.
    pub(super) include_limited: bool,
    /// Its average latency, at most; `None`: any.
    pub(super) max_latency_ms: Option<u32>,
    /// The model that the caller asks for by id.
    pub(super) preferred: Option<String>,
    pub(super) needs: Needs,
}

/// What a request needs of a model.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) streaming: bool,
    pub(super) tools: bool,
    pub(super) json: bool,
    /// Most tokens to generate; 0: not said.
    pub(super) max_tokens: u32,
    /// Tokens of prompt and answer together, estimated.
    pub(super) tokens: u32,
}

/// Why a model may not be picked, in the order in which it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It does not match the filter.
    Filter,
    /// The caller excludes it.
    Excluded,
    /// It is not for chats.
    Type,
    /// No connector reaches it.
    Connector,
    /// It says what it can do, and what is needed is not among it.
    Capabilities,
    /// The request is too large for it.
    Size,
    /// The strategy doesn't want it.
    Strategy,
    /// It is not AVAILABLE.
    Status,
    /// Its average latency is high.
    Latency,
    /// All calls of this minute are taken.
    Calls,
    /// Its endpoint limits calls.
    EndpointLimit,
}

/// The names of the reasons, and whether each may pass by itself.
const REASONS: [(Reason, &str, bool); 11] = [
    (Reason::Filter, "filter", false),
    (Reason::Excluded, "excluded", false),
    (Reason::Type, "type", false),
    (Reason::Connector, "connector", false),
    (Reason::Capabilities, "capabilities", false),
    (Reason::Size, "size", false),
    (Reason::Strategy, "strategy", false),
    (Reason::Status, "status", true),
    (Reason::Latency, "latency", true),
    (Reason::Calls, "calls_per_minute", true),
    (Reason::EndpointLimit, "endpoint_limit", true),
];

/// How many models may not be picked, by reason.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftOut {
    counts: [u32; REASONS.len()],
    /// When the first of those whose endpoint limits calls may be picked again.
    pub(super) back_in: Option<Duration>,
}

impl LeftOut {
    pub(super) fn add(&mut self, reason: Reason, count: u32) {
        self.counts[reason as usize] += count;
    }

    fn counted(&self) -> impl Iterator<Item = (Reason, &'static str, bool, u32)> {
        let all = REASONS.iter().zip(self.counts);
        all.filter(|(_, count)| *count > 0)
            .map(|(&(reason, name, passes), count)| (reason, name, passes, count))
    }

    /// Whether waiting may help one of them.
    pub(super) fn may_pass(&self) -> bool {
        self.counted().any(|(_, _, passes, _)| passes)
    }

    /// Whether of those that waiting may help, all are at a limit of calls.
    pub(super) fn only_limits(&self) -> bool {
        let mut passing = self.counted().filter(|(_, _, passes, _)| *passes);
        let limit = |reason| matches!(reason, Reason::Calls | Reason::EndpointLimit);
        self.may_pass() && passing.all(|(reason, ..)| limit(reason))
    }

    /// As entries for `google.rpc.ErrorInfo` and the metadata of answers.
    pub(super) fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        self.counted()
            .map(|(_, name, _, count)| (format!("left_out.{name}"), count.to_string()))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self
            .counted()
            .map(|(_, name, _, count)| format!("{count} {name}"))
            .collect();
        match all.is_empty() {
            true => f.write_str("none is registered"),
            false => write!(f, "left out: {}", all.join(", ")),
        }
    }
}

/// The models of a request.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Those that may be picked, in the order of ids.
    pub(super) candidates: Vec<Candidate>,
    pub(super) left_out: LeftOut,
    /// How many matched the filter.
    pub(super) matched: u32,
    /// Why the model that the caller asks for may not be picked.
    pub(super) preferred_is_out: Option<&'static str>,
}

impl Pool {
    /// Looks at all models.
    pub(super) async fn gather(source: &dyn ModelSource, conditions: &Conditions) -> Self {
        let mut pool = Self::default();
        let mut all = source.candidates().into_iter();
        while all.len() > 0 {
            let now = Instant::now();
            for candidate in all.by_ref().take(MODELS_PER_TURN) {
                pool.sort(candidate, conditions, now);
            }
            tokio::task::yield_now().await;
        }
        pool
    }

    fn sort(&mut self, candidate: Candidate, conditions: &Conditions, now: Instant) {
        let reason = against(&candidate, conditions, now);
        self.matched += u32::from(reason != Some(Reason::Filter));
        let Some(reason) = reason else {
            return self.candidates.push(candidate);
        };
        self.left_out.add(reason, 1);
        if reason == Reason::EndpointLimit {
            let back = candidate.load.standing.rests_for(now);
            self.left_out.back_in = [self.left_out.back_in, back].into_iter().flatten().min();
        }
        if conditions.preferred.as_ref() == Some(&candidate.model.id) {
            self.preferred_is_out = Some(REASONS[reason as usize].1);
        }
    }
}

/// What stands against a model, if anything.
fn against(candidate: &Candidate, conditions: &Conditions, now: Instant) -> Option<Reason> {
    let Candidate { model, load, .. } = candidate;
    let Conditions { filter, needs, .. } = conditions;
    let max_calls = model.max_requests_per_minute;
    let high = |max: &u32| load.latency_ms().is_some_and(|ms| ms > *max as f32);
    let checks: [(Reason, &dyn Fn() -> bool); 10] = [
        (Reason::Filter, &|| !candidate.meets(filter)),
        (Reason::Excluded, &|| {
            conditions.excluded.contains(&model.id)
        }),
        (Reason::Type, &|| !is_for_chats(model, filter)),
        (Reason::Connector, &|| !has_connector(model)),
        (Reason::Capabilities, &|| !is_capable(model, needs)),
        (Reason::Size, &|| !has_room(model, needs)),
        (Reason::Status, &|| !may_be_picked(model, conditions)),
        (Reason::Latency, &|| {
            conditions.max_latency_ms.as_ref().is_some_and(high)
        }),
        (Reason::Calls, &|| load.limited(max_calls, now)),
        (Reason::EndpointLimit, &|| {
            load.standing.rests_for(now).is_some()
        }),
    ];
    let found = checks.iter().find(|(_, stands_against)| stands_against());
    found.map(|(reason, _)| *reason)
}

/// A model whose type is another is for chats only if the filter asks for that type.
fn is_for_chats(model: &ModelMetadata, filter: &ModelFilter) -> bool {
    let others = [ModelType::Embedding, ModelType::Image, ModelType::Audio];
    !others.contains(&model.r#type()) || filter.types.contains(&model.r#type)
}

fn has_connector(model: &ModelMetadata) -> bool {
    let config = model.connector_config.as_ref();
    config.is_some_and(|config| Connectors::NAMES.contains(&config.r#type.as_str()))
}

/// A model that says nothing of its capabilities may have all of them.
fn is_capable(model: &ModelMetadata, needs: &Needs) -> bool {
    let silent = ModelCapabilities::default();
    let Some(has) = model.capabilities.as_ref().filter(|has| **has != silent) else {
        return true;
    };
    (has.streaming || !needs.streaming)
        && (has.tools || has.function_calling || !needs.tools)
        && (has.json_mode || has.response_format || !needs.json)
}

/// What is 0 is no bound.
fn has_room(model: &ModelMetadata, needs: &Needs) -> bool {
    let within = |value: u32, max: u32| max == 0 || value <= max;
    within(needs.max_tokens, model.max_tokens_per_request)
        && within(needs.tokens, model.context_window)
}

/// A DEPRECATED model still answers, but only those who ask for it.
fn may_be_picked(model: &ModelMetadata, conditions: &Conditions) -> bool {
    match model.status() {
        ModelStatus::Available => true,
        ModelStatus::Limited => conditions.include_limited,
        ModelStatus::Deprecated => conditions.preferred.as_ref() == Some(&model.id),
        ModelStatus::Unspecified | ModelStatus::Unavailable | ModelStatus::Maintenance => false,
    }
}

#[cfg(test)]
mod tests;
