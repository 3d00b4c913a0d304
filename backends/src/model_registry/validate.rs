//! Says whether a request is well formed, before anything is looked up or changed.
//!
//! Owns the rules per field; the bounds are in `limits`, the way of saying what is wrong in
//! `faults`. What depends on the state (a taken id, a full registry) is the store's. Nothing here
//! allocates unless there is a fault.

use http::Uri;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ConnectorConfig, ModelCapabilities, ModelFilter, ModelMetadata, ModelStatus, ModelType,
    UpdateModelStatusRequest,
};
use tonic::Status;

use super::STATUS_REASON;
use super::limits::{
    API_KEY_BYTES, CONNECTOR_RETRIES, CONNECTOR_TIMEOUT_MS, CONNECTOR_TYPE_BYTES,
    ENDPOINT_URL_BYTES, HEALTH_TIMEOUT_MS, ID_BYTES, LIST_ENTRIES, NAME_BYTES, REASON_BYTES,
    VERSION_BYTES,
};
use crate::connectors::{ConnectorError, Connectors};
use crate::faults::Faults;

/// The model of a Register or Update request. What a connector needs, `connectors` says.
pub(super) fn model(
    model: Option<ModelMetadata>,
    connectors: &Connectors,
) -> Result<ModelMetadata, Status> {
    let mut faults = Faults::default();
    match &model {
        Some(model) => check_model(&mut faults, model, connectors),
        None => faults.add("metadata", "required"),
    }
    faults.into_result()?;
    // `None` was a fault, so the default is never taken.
    Ok(model.unwrap_or_default())
}

/// The id of a Get or Remove request.
pub(super) fn model_id(id: &str) -> Result<(), Status> {
    let mut faults = Faults::default();
    check_id(&mut faults, "model_id", id);
    faults.into_result()
}

/// An UpdateModelStatus request.
pub(super) fn status_change(request: &UpdateModelStatusRequest) -> Result<(), Status> {
    let mut faults = Faults::default();
    check_id(&mut faults, "model_id", &request.model_id);
    check_known_status(&mut faults, "status", request.status);
    faults.text("reason", &request.reason, REASON_BYTES);
    faults.into_result()
}

/// A CheckModelHealth request.
pub(super) fn health_check(id: &str, timeout_ms: u32) -> Result<(), Status> {
    let mut faults = Faults::default();
    check_id(&mut faults, "model_id", id);
    faults.at_most("timeout_ms", timeout_ms, HEALTH_TIMEOUT_MS);
    faults.into_result()
}

/// The filter of a FindModels request.
pub(super) fn filter(filter: &ModelFilter) -> Result<(), Status> {
    let mut faults = Faults::default();
    check_filter(&mut faults, "filter", filter);
    faults.into_result()
}

/// A filter that stands in the field `at`.
pub(crate) fn check_filter(faults: &mut Faults, at: &str, filter: &ModelFilter) {
    let field = |name: &str| format!("{at}.{name}");
    faults.list(&field("providers"), &filter.providers);
    if faults.entries(&field("types"), filter.types.len(), LIST_ENTRIES) {
        for (index, value) in filter.types.iter().enumerate() {
            faults.variant::<ModelType>(&format!("{at}.types[{index}]"), *value, "ModelType");
        }
    }
    if faults.entries(&field("statuses"), filter.statuses.len(), LIST_ENTRIES) {
        for (index, value) in filter.statuses.iter().enumerate() {
            check_known_status(faults, &format!("{at}.statuses[{index}]"), *value);
        }
    }
    if let Some(required) = &filter.required_capabilities {
        check_capabilities(faults, &field("required_capabilities"), required);
    }
    let amounts = [
        ("max_cost_per_1k_input", filter.max_cost_per_1k_input),
        ("max_cost_per_1k_output", filter.max_cost_per_1k_output),
        ("max_latency_ms", filter.max_latency_ms),
    ];
    for (name, amount) in amounts {
        faults.amount(&field(name), amount);
    }
    faults.list(&field("tags"), &filter.tags);
    faults.map(&field("metadata"), &filter.metadata, None);
}

fn check_model(faults: &mut Faults, model: &ModelMetadata, connectors: &Connectors) {
    check_id(faults, "metadata.id", &model.id);
    faults.required("metadata.name", &model.name, NAME_BYTES);
    faults.required("metadata.provider", &model.provider, NAME_BYTES);
    faults.text("metadata.version", &model.version, VERSION_BYTES);
    faults.variant::<ModelType>("metadata.type", model.r#type, "ModelType");
    faults.variant::<ModelStatus>("metadata.status", model.status, "ModelStatus");
    if let Some(capabilities) = &model.capabilities {
        check_capabilities(faults, "metadata.capabilities", capabilities);
    }
    faults.amount("metadata.cost_per_1k_input", model.cost_per_1k_input);
    faults.amount("metadata.cost_per_1k_output", model.cost_per_1k_output);
    faults.amount("metadata.avg_latency_ms", model.avg_latency_ms);
    faults.map("metadata.metadata", &model.metadata, Some(STATUS_REASON));
    faults.list("metadata.tags", &model.tags);
    if let Some(connector) = &model.connector_config {
        let before = faults.count();
        check_connector(faults, connector);
        // A connector judges only what is well formed, so that no fault is named twice.
        if faults.count() == before {
            check_settings(faults, connector, connectors);
        }
    }
}

/// The id of a model.
pub(crate) fn check_id(faults: &mut Faults, field: &str, id: &str) {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:/-".contains(&c);
    if id.is_empty() {
        faults.add(field, "required");
    } else if id.len() > ID_BYTES || !id.bytes().all(allowed) {
        let expected = format!("expected 1 to {ID_BYTES} characters of A-Z a-z 0-9 . _ : / -");
        faults.add(field, expected);
    }
}

/// A status that says something: no model is ever without one.
fn check_known_status(faults: &mut Faults, field: &str, value: i32) {
    if value == ModelStatus::Unspecified as i32 {
        faults.add(
            field,
            "expected a value of ModelStatus other than MODEL_STATUS_UNSPECIFIED",
        );
    } else {
        faults.variant::<ModelStatus>(field, value, "ModelStatus");
    }
}

fn check_capabilities(faults: &mut Faults, field: &str, capabilities: &ModelCapabilities) {
    let field = format!("{field}.additional_capabilities");
    faults.list(&field, &capabilities.additional_capabilities);
}

fn check_connector(faults: &mut Faults, connector: &ConnectorConfig) {
    let field = |name: &str| format!("metadata.connector_config.{name}");
    faults.required(&field("type"), &connector.r#type, CONNECTOR_TYPE_BYTES);
    faults.text(
        &field("endpoint_url"),
        &connector.endpoint_url,
        ENDPOINT_URL_BYTES,
    );
    if !connector.endpoint_url.is_empty() && !is_plain_url(&connector.endpoint_url) {
        let expected = "expected an absolute URL such as https://host:443/v1, \
                        without user name and password";
        faults.add(field("endpoint_url"), expected);
    }
    faults.text(&field("api_key"), &connector.api_key, API_KEY_BYTES);
    // It goes out in a header; the fault is told now, not at every call.
    if !connector
        .api_key
        .bytes()
        .all(|byte| byte.is_ascii_graphic())
    {
        faults.add(field("api_key"), "expected printable ASCII without spaces");
    }
    faults.text(&field("org_id"), &connector.org_id, NAME_BYTES);
    faults.at_most(
        &field("timeout_ms"),
        connector.timeout_ms,
        CONNECTOR_TIMEOUT_MS,
    );
    faults.at_most(
        &field("max_retries"),
        connector.max_retries,
        CONNECTOR_RETRIES,
    );
    faults.map(&field("parameters"), &connector.parameters, None);
}

/// What only the connector itself can judge.
fn check_settings(faults: &mut Faults, connector: &ConnectorConfig, connectors: &Connectors) {
    let text = match connectors.check_settings(connector) {
        Ok(()) => return,
        Err(ConnectorError::Settings(text)) => text,
        Err(error) => error.to_string(),
    };
    // It begins with the field, if it is about one.
    match text.split_once(": ") {
        Some((field, expected)) => {
            faults.add(format!("metadata.connector_config.{field}"), expected);
        }
        None => faults.add("metadata.connector_config", text),
    }
}

/// A URL comes back in answers, so a password in it would too.
fn is_plain_url(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| {
        let host = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
        uri.scheme().is_some() && host
    })
}
