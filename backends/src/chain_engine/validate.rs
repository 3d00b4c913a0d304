//! Says whether a request is well formed, before anything is looked up, stored or run.
//!
//! Owns the rules per field; the bounds are in `limits`. All faults of a request are named at once,
//! but for those of templates, which `compile` looks at when all else is in order.

use std::collections::{HashMap, HashSet};

use intellirouter_proto::intellirouter::chain_engine::v1::chain_execution_request::ChainIdentifier;
use intellirouter_proto::intellirouter::chain_engine::v1::{
    Chain, ChainExecutionRequest, ChainStep, ListChainsRequest,
};
use intellirouter_proto::intellirouter::common::v1::RequestContext;
use prost::Message;
use tonic::Status;

use super::limits::{
    CHAIN_BYTES, CHAIN_ID_BYTES, DESCRIPTION_BYTES, INPUT_BYTES, LARGEST_PAGE, NAME_BYTES,
    STEP_ID_BYTES, STEPS, SYSTEM_PROMPT_BYTES, TEMPERATURE, TEMPLATE_BYTES, TIMEOUT_SECONDS,
    VARIABLE_BYTES, VARIABLE_NAME_BYTES, VARIABLES, VARIABLES_BYTES,
};
use crate::connectors::RESERVED_PARAMETERS;
use crate::faults::Faults;
use crate::model_registry::validate::check_id;

/// Longest id of an execution, in bytes; those that are given out are shorter.
const EXECUTION_ID_BYTES: usize = 64;

/// An ExecuteChain or StreamChainExecution request.
pub(super) fn execution(request: &ChainExecutionRequest) -> Result<(), Status> {
    let mut faults = Faults::default();
    if let Some(context) = &request.context {
        check_context(&mut faults, context);
    }
    match &request.chain_identifier {
        Some(ChainIdentifier::ChainId(id)) => check_chain_id(&mut faults, "chain_id", id),
        Some(ChainIdentifier::Chain(chain)) => check_chain(&mut faults, chain),
        None => faults.add("chain", "expected chain_id or chain"),
    }
    faults.text("input", &request.input, INPUT_BYTES);
    check_variables(&mut faults, &request.variables);
    faults.at_most("timeout_seconds", request.timeout_seconds, TIMEOUT_SECONDS);
    faults.into_result()
}

/// The chain of a PutChain request.
pub(super) fn chain_to_store(chain: Option<Chain>) -> Result<Chain, Status> {
    let mut faults = Faults::default();
    match &chain {
        Some(chain) => {
            if chain.id.is_empty() {
                faults.add("chain.id", "required");
            }
            check_chain(&mut faults, chain);
        }
        None => faults.add("chain", "required"),
    }
    faults.into_result()?;
    // `None` was a fault, so the default is never taken.
    Ok(chain.unwrap_or_default())
}

/// The id of a GetChain or DeleteChain request.
pub(super) fn chain_id(id: &str) -> Result<(), Status> {
    let mut faults = Faults::default();
    check_chain_id(&mut faults, "chain_id", id);
    faults.into_result()
}

/// A ListChains request.
pub(super) fn page(request: &ListChainsRequest) -> Result<(), Status> {
    let mut faults = Faults::default();
    faults.at_most("limit", request.limit, LARGEST_PAGE);
    faults.text("after_id", &request.after_id, CHAIN_ID_BYTES);
    faults.into_result()
}

/// The id of a GetChainStatus or CancelChainExecution request.
pub(super) fn execution_id(id: &str) -> Result<(), Status> {
    let mut faults = Faults::default();
    faults.required("execution_id", id, EXECUTION_ID_BYTES);
    faults.into_result()
}

fn check_context(faults: &mut Faults, context: &RequestContext) {
    faults.text("context.request_id", &context.request_id, NAME_BYTES);
    faults.text("context.user_id", &context.user_id, NAME_BYTES);
    faults.text("context.org_id", &context.org_id, NAME_BYTES);
    faults.list("context.tags", &context.tags);
    if let Some(metadata) = &context.metadata {
        faults.map("context.metadata.values", &metadata.values, None);
    }
}

fn check_chain_id(faults: &mut Faults, field: &str, id: &str) {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:/-".contains(&c);
    if id.is_empty() || id.len() > CHAIN_ID_BYTES || !id.bytes().all(allowed) {
        let expected =
            format!("expected 1 to {CHAIN_ID_BYTES} characters of A-Z a-z 0-9 . _ : / -");
        faults.add(field, expected);
    }
}

/// A chain that may be without an id.
fn check_chain(faults: &mut Faults, chain: &Chain) {
    if !chain.id.is_empty() {
        check_chain_id(faults, "chain.id", &chain.id);
    }
    faults.text("chain.name", &chain.name, NAME_BYTES);
    faults.text("chain.description", &chain.description, DESCRIPTION_BYTES);
    if let Some(metadata) = &chain.metadata {
        faults.map("chain.metadata.values", &metadata.values, None);
    }
    let size = chain.encoded_len();
    if size > CHAIN_BYTES {
        let expected = format!("expected at most {CHAIN_BYTES} bytes when encoded, got {size}");
        faults.add("chain", expected);
    }
    if chain.steps.is_empty() {
        faults.add("chain.steps", "expected at least one step");
    }
    if !faults.entries("chain.steps", chain.steps.len(), STEPS) {
        return;
    }
    let mut ids = HashSet::new();
    for (index, step) in chain.steps.iter().enumerate() {
        let field = |name: &str| format!("chain.steps[{index}].{name}");
        check_step(faults, step, field);
        if !ids.insert(step.id.as_str()) {
            faults.add(field("id"), "expected an id that no other step has");
        }
    }
}

fn check_step(faults: &mut Faults, step: &ChainStep, field: impl Fn(&str) -> String) {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"_-".contains(&c);
    if step.id.is_empty() || step.id.len() > STEP_ID_BYTES || !step.id.bytes().all(allowed) {
        let expected = format!("expected 1 to {STEP_ID_BYTES} characters of A-Z a-z 0-9 _ -");
        faults.add(field("id"), expected);
    }
    faults.text(&field("description"), &step.description, DESCRIPTION_BYTES);
    if !step.model.is_empty() {
        check_id(faults, &field("model"), &step.model);
    }
    faults.text(
        &field("system_prompt"),
        &step.system_prompt,
        SYSTEM_PROMPT_BYTES,
    );
    faults.text(
        &field("input_template"),
        &step.input_template,
        TEMPLATE_BYTES,
    );
    if !matches!(step.output_format.as_str(), "" | "text" | "json") {
        faults.add(field("output_format"), "expected text or json, or nothing");
    }
    if !(0.0..=TEMPERATURE).contains(&step.temperature) {
        let expected = format!("expected a number from 0 to {TEMPERATURE}");
        faults.add(field("temperature"), expected);
    }
    faults.map(&field("parameters"), &step.parameters, None);
    for name in RESERVED_PARAMETERS {
        if step.parameters.contains_key(*name) {
            faults.add(
                field(&format!("parameters[{name:?}]")),
                "may not be set here",
            );
        }
    }
}

fn check_variables(faults: &mut Faults, variables: &HashMap<String, String>) {
    if !faults.entries("variables", variables.len(), VARIABLES) {
        return;
    }
    for (name, value) in variables {
        if name.is_empty() || name.len() > VARIABLE_NAME_BYTES {
            let expected = format!("name: expected 1 to {VARIABLE_NAME_BYTES} bytes");
            faults.add("variables", expected);
        } else {
            faults.text(&format!("variables[{name:?}]"), value, VARIABLE_BYTES);
        }
    }
    let size: usize = variables
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if size > VARIABLES_BYTES {
        let expected = format!("expected at most {VARIABLES_BYTES} bytes in all, got {size}");
        faults.add("variables", expected);
    }
}
