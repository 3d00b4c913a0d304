//! Says whether a model meets a filter: all of its conditions, and what is not set is none.
//!
//! The meaning of each field stands at [`ModelRegistry`](super::ModelRegistry). Pure: it looks at
//! two messages that are already checked, and cannot fail.

use intellirouter_proto::intellirouter::model_registry::v1::{
    ModelCapabilities, ModelFilter, ModelMetadata,
};

/// True if `model` meets every condition of `filter`. `latency_ms` is its live average latency, if
/// anything is known of it; the one in `model` is not looked at.
pub(crate) fn matches(
    filter: &ModelFilter,
    model: &ModelMetadata,
    latency_ms: Option<f32>,
) -> bool {
    any_of(&filter.providers, &model.provider)
        && any_of(&filter.types, &model.r#type)
        && any_of(&filter.statuses, &model.status)
        && model.context_window >= filter.min_context_window
        && has_capabilities(
            filter.required_capabilities.as_ref(),
            model.capabilities.as_ref(),
        )
        && within(filter.max_cost_per_1k_input, model.cost_per_1k_input)
        && within(filter.max_cost_per_1k_output, model.cost_per_1k_output)
        && within(filter.max_latency_ms, latency_ms.unwrap_or(0.0))
        && filter.tags.iter().all(|tag| model.tags.contains(tag))
        && filter
            .metadata
            .iter()
            .all(|(key, value)| model.metadata.get(key) == Some(value))
}

fn any_of<T: PartialEq>(wanted: &[T], value: &T) -> bool {
    wanted.is_empty() || wanted.contains(value)
}

fn within(max: f32, value: f32) -> bool {
    max == 0.0 || value <= max
}

fn has_capabilities(wanted: Option<&ModelCapabilities>, has: Option<&ModelCapabilities>) -> bool {
    let Some(wanted) = wanted else { return true };
    // A model that says nothing of its capabilities has none.
    let none = ModelCapabilities::default();
    let has = has.unwrap_or(&none);
    let more = &has.additional_capabilities;
    let flags = flags(wanted).into_iter().zip(flags(has));
    flags.into_iter().all(|(wanted, has)| has || !wanted)
        && wanted
            .additional_capabilities
            .iter()
            .all(|name| more.contains(name))
}

fn flags(capabilities: &ModelCapabilities) -> [bool; 9] {
    // Taken apart in full, so that a new capability cannot be forgotten here.
    let &ModelCapabilities {
        streaming,
        function_calling,
        vision,
        audio,
        tools,
        json_mode,
        parallel_function_calling,
        response_format,
        seed,
        additional_capabilities: _,
    } = capabilities;
    [
        streaming,
        function_calling,
        vision,
        audio,
        tools,
        json_mode,
        parallel_function_calling,
        response_format,
        seed,
    ]
}
