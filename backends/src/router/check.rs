//! Says whether a request to be routed is well formed, before any model is looked at.
//!
//! Owns the rules per field; the bounds are in [`limits`](super::limits) and in the registry's. The
//! parameters of strategies are theirs to check. It fails by adding to the faults, each with the
//! name of its field.

use intellirouter_proto::intellirouter::common::v1::RequestContext;
use intellirouter_proto::intellirouter::model_registry::v1::tool_choice::Choice;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionRequest, RoutingContext, RoutingRequest, RoutingStrategy, Tool,
};

use super::limits::{
    ADDITIONAL_PARAMETER_BYTES, ADDITIONAL_PARAMETERS, ANSWERS, ATTEMPTS, CONTENT_BYTES,
    EXCLUDED_MODELS, FUNCTION_NAME_BYTES, LOGIT_BIAS_ENTRIES, MESSAGES, ROLE_BYTES, STOP_BYTES,
    STOPS, TIMEOUT_MS, TOOLS,
};
use crate::connectors::RESERVED_PARAMETERS;
use crate::faults::{Faults, entry};
use crate::model_registry::limits::{ID_BYTES, MAP_KEY_BYTES, NAME_BYTES};
use crate::model_registry::validate::{check_filter, check_id};

/// Who asks.
pub(super) fn context(faults: &mut Faults, context: &RequestContext) {
    faults.text("context.request_id", &context.request_id, ID_BYTES);
    faults.text("context.user_id", &context.user_id, NAME_BYTES);
    faults.text("context.org_id", &context.org_id, NAME_BYTES);
    faults.list("context.tags", &context.tags);
    if let Some(metadata) = &context.metadata {
        faults.map("context.metadata.values", &metadata.values, None);
    }
}

/// How a model is to be picked.
pub(super) fn routing(faults: &mut Faults, routing: &RoutingRequest) {
    if let Some(context) = &routing.context {
        routing_context(faults, context);
    }
    if let Some(filter) = &routing.model_filter {
        check_filter(faults, "routing.model_filter", filter);
    }
    let preferred = &routing.preferred_model_id;
    if !preferred.is_empty() {
        check_id(faults, "routing.preferred_model_id", preferred);
    }
    let excluded = &routing.excluded_model_ids;
    if faults.entries(
        "routing.excluded_model_ids",
        excluded.len(),
        EXCLUDED_MODELS,
    ) {
        for (index, id) in excluded.iter().enumerate() {
            check_id(faults, &format!("routing.excluded_model_ids[{index}]"), id);
        }
    }
    faults.at_most("routing.max_attempts", routing.max_attempts, ATTEMPTS);
    faults.at_most("routing.timeout_ms", routing.timeout_ms, TIMEOUT_MS);
    faults.variant::<RoutingStrategy>("routing.strategy", routing.strategy, "RoutingStrategy");
    let parameters = &routing.strategy_parameters;
    faults.map("routing.strategy_parameters", parameters, None);
}

fn routing_context(faults: &mut Faults, context: &RoutingContext) {
    faults.text("routing.context.user_id", &context.user_id, NAME_BYTES);
    faults.text("routing.context.org_id", &context.org_id, NAME_BYTES);
    faults.list("routing.context.tags", &context.tags);
    faults.map("routing.context.parameters", &context.parameters, None);
}

/// The chat that stands in the field `at`.
pub(super) fn completion(faults: &mut Faults, at: &str, chat: &ChatCompletionRequest) {
    let field = |name: &str| format!("{at}.{name}");
    if !chat.model.is_empty() {
        check_id(faults, &field("model"), &chat.model);
    }
    messages(faults, at, chat);
    numbers(faults, at, chat);
    if faults.entries(&field("stop"), chat.stop.len(), STOPS) {
        for (index, stop) in chat.stop.iter().enumerate() {
            faults.required(&format!("{at}.stop[{index}]"), stop, STOP_BYTES);
        }
    }
    faults.text(&field("user"), &chat.user, NAME_BYTES);
    if let Some(format) = &chat.response_format
        && !["text", "json_object"].contains(&format.r#type.as_str())
    {
        faults.add(
            field("response_format.type"),
            "expected text or json_object",
        );
    }
    if faults.entries(&field("tools"), chat.tools.len(), TOOLS) {
        for (index, tool) in chat.tools.iter().enumerate() {
            check_tool(faults, &format!("{at}.tools[{index}]"), tool);
        }
        tool_choice(faults, at, chat);
    }
    additional_parameters(faults, at, chat);
}

fn messages(faults: &mut Faults, at: &str, chat: &ChatCompletionRequest) {
    let field = format!("{at}.messages");
    if chat.messages.is_empty() {
        faults.add(field, "expected at least one message");
        return;
    }
    if !faults.entries(&field, chat.messages.len(), MESSAGES) {
        return;
    }
    for (index, message) in chat.messages.iter().enumerate() {
        let role = format!("{field}[{index}].role");
        faults.required(&role, &message.role, ROLE_BYTES);
        if let Some(metadata) = &message.metadata {
            let field = format!("{field}[{index}].metadata.values");
            faults.map(&field, &metadata.values, None);
        }
    }
    let messages: usize = chat.messages.iter().map(|m| m.content.len()).sum();
    let functions = chat.tools.iter().filter_map(|tool| tool.function.as_ref());
    let tools: usize = functions
        .map(|f| f.name.len() + f.description.len() + f.parameters.len())
        .sum();
    let bytes = messages + tools;
    if bytes > CONTENT_BYTES {
        let expected = format!(
            "expected at most {CONTENT_BYTES} bytes in all messages and tools together, got {bytes}"
        );
        faults.add(field, expected);
    }
}

fn numbers(faults: &mut Faults, at: &str, chat: &ChatCompletionRequest) {
    let ranges = [
        ("temperature", chat.temperature, 0.0, 2.0),
        ("top_p", chat.top_p, 0.0, 1.0),
        ("presence_penalty", chat.presence_penalty, -2.0, 2.0),
        ("frequency_penalty", chat.frequency_penalty, -2.0, 2.0),
    ];
    for (name, value, min, max) in ranges {
        within(faults, || format!("{at}.{name}"), value, min, max);
    }
    faults.at_most(&format!("{at}.n"), chat.n, ANSWERS);
    let biases = format!("{at}.logit_bias");
    if faults.entries(&biases, chat.logit_bias.len(), LOGIT_BIAS_ENTRIES) {
        for (token, bias) in &chat.logit_bias {
            if token.is_empty() || token.len() > MAP_KEY_BYTES {
                faults.add(
                    biases.as_str(),
                    format!("key: expected 1 to {MAP_KEY_BYTES} bytes"),
                );
            } else {
                let field = || entry(&biases, token);
                within(faults, field, *bias, -100.0, 100.0);
            }
        }
    }
}

/// What is not a number is not within anything.
fn within(faults: &mut Faults, field: impl Fn() -> String, value: f32, min: f32, max: f32) {
    if !(min..=max).contains(&value) {
        let expected = format!("expected a number from {min} to {max}, got {value}");
        faults.add(field(), expected);
    }
}

fn check_tool(faults: &mut Faults, at: &str, tool: &Tool) {
    if tool.r#type != "function" {
        faults.add(format!("{at}.type"), "expected function");
    }
    let Some(function) = &tool.function else {
        return faults.add(format!("{at}.function"), "required");
    };
    let name = format!("{at}.function.name");
    faults.required(&name, &function.name, FUNCTION_NAME_BYTES);
    let json = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>;
    if !function.parameters.is_empty() && json(&function.parameters).is_err() {
        let expected = "expected a JSON Schema: a JSON object, as text";
        faults.add(format!("{at}.function.parameters"), expected);
    }
}

/// The function that must be used is one that is given.
fn tool_choice(faults: &mut Faults, at: &str, chat: &ChatCompletionRequest) {
    let choice = chat.tool_choice.as_ref();
    if let Some(Choice::Function(wanted)) = choice.and_then(|choice| choice.choice.as_ref()) {
        let mut given = chat.tools.iter().filter_map(|tool| tool.function.as_ref());
        if !given.any(|function| function.name == wanted.name) {
            let field = format!("{at}.tool_choice.function.name");
            faults.add(field, "expected the name of one of the tools");
        }
    }
}

fn additional_parameters(faults: &mut Faults, at: &str, chat: &ChatCompletionRequest) {
    let field = format!("{at}.additional_parameters");
    let parameters = &chat.additional_parameters;
    if !faults.entries(&field, parameters.len(), ADDITIONAL_PARAMETERS) {
        return;
    }
    for (key, value) in parameters {
        if key.is_empty() || key.len() > MAP_KEY_BYTES {
            let expected = format!("key: expected 1 to {MAP_KEY_BYTES} bytes");
            faults.add(field.as_str(), expected);
        } else if RESERVED_PARAMETERS.contains(&key.as_str()) {
            let expected = "may not be set here: it has a field of its own, which has limits";
            faults.add(entry(&field, key), expected);
        } else {
            faults.text(&entry(&field, key), value, ADDITIONAL_PARAMETER_BYTES);
        }
    }
}
