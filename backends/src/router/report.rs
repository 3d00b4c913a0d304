//! Tells how an answer came about: to the caller in `RoutingMetadata`, to others in events.
//!
//! Owns the wording and the keys of `additional_metadata`. It cannot fail; events are sent when
//! their turn comes.

use std::collections::HashMap;
use std::time::Duration;

use intellirouter::events::{ModelRoutingDecisionEvent, ModelUsageEvent};
use intellirouter_proto::intellirouter::model_registry::v1::{RoutingMetadata, UsageInfo};
use prost_types::Timestamp;

use super::Shared;
use super::attempts::Answered;
use super::error::failures;
use super::plan::Plan;
use super::strategies;

/// What the caller learns about the choice.
pub(super) fn metadata<T>(plan: &Plan, answered: &Answered<T>) -> RoutingMetadata {
    let time = routing_time(plan, answered);
    RoutingMetadata {
        selected_model_id: answered.chosen.candidate.model.id.clone(),
        strategy_name: strategies::name(plan.kind).to_owned(),
        routing_start_time: Some(Timestamp::from(plan.started_at)),
        routing_end_time: Some(Timestamp::from(plan.started_at + time)),
        routing_time_ms: milliseconds(time),
        models_considered: answered.pool.matched,
        attempts: count(answered.tried.len()).saturating_add(1),
        is_fallback: is_fallback(plan, answered),
        selection_criteria: answered.chosen.why.clone(),
        additional_metadata: additional(plan, answered),
    }
}

/// From the arrival of the request until the model was asked that then answered.
fn routing_time<T>(plan: &Plan, answered: &Answered<T>) -> Duration {
    answered.chosen.at.saturating_duration_since(plan.started)
}

/// Another model than the first choice answers: that one failed, or the one that the caller asks
/// for could not be picked.
pub(super) fn is_fallback<T>(plan: &Plan, answered: &Answered<T>) -> bool {
    let preferred = plan.conditions.preferred.as_ref();
    let other = preferred.is_some_and(|id| *id != answered.chosen.candidate.model.id);
    other || !answered.tried.is_empty()
}

fn additional<T>(plan: &Plan, answered: &Answered<T>) -> HashMap<String, String> {
    let mut entries: HashMap<_, _> = answered.pool.left_out.metadata().collect();
    let mut add = |key: &str, value: String| entries.insert(key.to_owned(), value);
    add("request_id", plan.request_id.clone());
    if answered.retries > 0 {
        add("retries", answered.retries.to_string());
    }
    if !answered.tried.is_empty() {
        add("failures", failures(&answered.tried));
    }
    if let Some(reason) = answered.pool.preferred_is_out {
        add("preferred_model_left_out", reason.to_owned());
    }
    entries
}

/// The tokens of an answer, as entries of `additional_metadata`: a stream has no field for them.
pub(super) fn tokens(usage: UsageInfo) -> [(String, String); 3] {
    let entry = |key: &str, tokens: u32| (key.to_owned(), tokens.to_string());
    [
        entry("prompt_tokens", usage.prompt_tokens),
        entry("completion_tokens", usage.completion_tokens),
        entry("total_tokens", usage.total_tokens),
    ]
}

/// Tells that a model was picked, and has begun to answer.
pub(super) fn decided<T>(shared: &Shared, plan: &Plan, answered: &Answered<T>) {
    shared.events.emit(&ModelRoutingDecisionEvent {
        request_id: plan.request_id.clone(),
        selected_model_id: answered.chosen.candidate.model.id.clone(),
        strategy_name: strategies::name(plan.kind).to_owned(),
        routing_time_ms: milliseconds(routing_time(plan, answered)),
        timestamp: (shared.clock)().into(),
        metadata: HashMap::new(),
    });
}

/// Tells that a model has answered, and what it took. A model that doesn't tell took 0 tokens.
pub(super) fn used<T>(
    shared: &Shared,
    plan: &Plan,
    answered: &Answered<T>,
    usage: Option<UsageInfo>,
) {
    let usage = usage.unwrap_or_default();
    shared.metrics.used(usage);
    shared.events.emit(&ModelUsageEvent {
        model_id: answered.chosen.candidate.model.id.clone(),
        request_id: plan.request_id.clone(),
        input_tokens: usage.prompt_tokens,
        output_tokens: usage.completion_tokens,
        latency_ms: answered.chosen.at.elapsed().as_secs_f32() * 1000.0,
        timestamp: (shared.clock)().into(),
        metadata: HashMap::new(),
    });
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
