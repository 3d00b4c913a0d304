//! A request in the endpoint's terms: JSON.
//!
//! Owns the mapping of every field. A number that is 0 and a text or list that is empty are not
//! set, and not sent: the contract can't tell them apart. Who wants a temperature of 0 sends the
//! additional parameter `temperature` = `0`. Additional parameters go out as they are, as JSON if
//! they are JSON, else as text; they win over the request's other fields, but may not name those in
//! [`RESERVED_PARAMETERS`].
//!
//! A message may carry the tool calls that it answers or makes, in its metadata: `tool_calls` (JSON,
//! as answers have it), `tool_call_id`, `name`. Other metadata is not sent.
//!
//! It fails with [`ConnectorError::Invalid`], which names the field. The size of a request is for
//! whoever calls to bound.

use intellirouter_proto::intellirouter::common::v1::Message;
use intellirouter_proto::intellirouter::model_registry::v1::tool_choice::Choice;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionRequest, Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

use super::super::{ConnectorError, RESERVED_PARAMETERS};

/// The body of a request. The same request gives the same bytes: keys are sorted. Without
/// `streamed` it does not say how the answer is to come.
pub(in super::super) fn body(
    model: &str,
    request: &ChatCompletionRequest,
    streamed: Option<bool>,
) -> Result<Vec<u8>, ConnectorError> {
    let mut body = Map::new();
    set_numbers(&mut body, request)?;
    set_texts(&mut body, request);
    set_tools(&mut body, request)?;
    for (name, value) in &request.additional_parameters {
        if RESERVED_PARAMETERS.contains(&name.as_str()) {
            let why = "may not be set here";
            return Err(invalid(&format!("additional_parameters.{name}"), why));
        }
        let json = serde_json::from_str(value);
        body.insert(name.clone(), json.unwrap_or_else(|_| value.as_str().into()));
    }
    body.insert("model".to_owned(), model.into());
    body.insert("messages".to_owned(), messages(&request.messages)?);
    if let Some(streamed) = streamed {
        body.insert("stream".to_owned(), streamed.into());
    }
    if streamed == Some(true) {
        let options = json!({"include_usage": true});
        body.insert("stream_options".to_owned(), options);
    }
    let mut bytes = Value::Object(body).to_string().into_bytes();
    // Grown by doubling, it may have twice the room that it needs, for as long as it is sent.
    bytes.shrink_to_fit();
    Ok(bytes)
}

fn set_numbers(
    body: &mut Map<String, Value>,
    request: &ChatCompletionRequest,
) -> Result<(), ConnectorError> {
    for (name, value) in [
        ("temperature", request.temperature),
        ("top_p", request.top_p),
        ("presence_penalty", request.presence_penalty),
        ("frequency_penalty", request.frequency_penalty),
    ] {
        if value != 0.0 {
            body.insert(name.to_owned(), number(name, value)?);
        }
    }
    for (name, value) in [
        ("max_tokens", i64::from(request.max_tokens)),
        ("n", i64::from(request.n)),
        ("seed", request.seed),
    ] {
        if value != 0 {
            body.insert(name.to_owned(), value.into());
        }
    }
    if !request.logit_bias.is_empty() {
        let bias = request.logit_bias.iter().map(|(token, bias)| {
            let bias = number(&format!("logit_bias.{token}"), *bias)?;
            Ok((token.clone(), bias))
        });
        let bias = bias.collect::<Result<Map<_, _>, ConnectorError>>()?;
        body.insert("logit_bias".to_owned(), bias.into());
    }
    Ok(())
}

fn set_texts(body: &mut Map<String, Value>, request: &ChatCompletionRequest) {
    if !request.stop.is_empty() {
        body.insert("stop".to_owned(), request.stop.clone().into());
    }
    if !request.user.is_empty() {
        body.insert("user".to_owned(), request.user.as_str().into());
    }
    if let Some(format) = &request.response_format
        && !format.r#type.is_empty()
    {
        let format = json!({"type": format.r#type});
        body.insert("response_format".to_owned(), format);
    }
}

fn set_tools(
    body: &mut Map<String, Value>,
    request: &ChatCompletionRequest,
) -> Result<(), ConnectorError> {
    if !request.tools.is_empty() {
        let tools = request.tools.iter().enumerate();
        let tools = tools.map(|(index, tool)| self::tool(index, tool));
        let tools = tools.collect::<Result<Value, ConnectorError>>()?;
        body.insert("tools".to_owned(), tools);
    }
    if let Some(choice) = request.tool_choice.as_ref().and_then(tool_choice) {
        body.insert("tool_choice".to_owned(), choice);
    }
    Ok(())
}

fn tool(index: usize, tool: &Tool) -> Result<Value, ConnectorError> {
    let field = |name: &str| format!("tools[{index}].{name}");
    let kind = match tool.r#type.as_str() {
        "" => "function",
        kind => kind,
    };
    let Some(definition) = &tool.function else {
        return Err(invalid(&field("function"), "required"));
    };
    let mut function = Map::new();
    function.insert("name".to_owned(), definition.name.as_str().into());
    if !definition.description.is_empty() {
        let description = definition.description.as_str().into();
        function.insert("description".to_owned(), description);
    }
    if !definition.parameters.is_empty() {
        let parameters: Map<_, _> = serde_json::from_str(&definition.parameters)
            .map_err(|_| invalid(&field("function.parameters"), "expected a JSON object"))?;
        function.insert("parameters".to_owned(), parameters.into());
    }
    Ok(json!({"type": kind, "function": function}))
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    Some(match choice.choice.as_ref()? {
        Choice::Auto(true) => "auto".into(),
        // Set, and to the contrary: the model is not free to use any.
        Choice::Auto(false) => "none".into(),
        Choice::Required(_) => "required".into(),
        Choice::Function(function) => {
            json!({"type": "function", "function": {"name": function.name}})
        }
    })
}

fn messages(messages: &[Message]) -> Result<Value, ConnectorError> {
    let messages = messages.iter().enumerate();
    messages
        .map(|(index, message)| self::message(index, message))
        .collect()
}

fn message(index: usize, message: &Message) -> Result<Value, ConnectorError> {
    let mut json = Map::new();
    json.insert("role".to_owned(), message.role.as_str().into());
    json.insert("content".to_owned(), message.content.as_str().into());
    let metadata = message.metadata.iter().flat_map(|m| &m.values);
    for (name, value) in metadata {
        match name.as_str() {
            "tool_calls" => {
                let calls: Vec<Value> = serde_json::from_str(value).map_err(|_| {
                    let field = format!("messages[{index}].metadata.tool_calls");
                    invalid(&field, "expected a JSON array")
                })?;
                json.insert(name.clone(), calls.into());
            }
            "tool_call_id" | "name" => {
                json.insert(name.clone(), value.as_str().into());
            }
            _ => {}
        }
    }
    Ok(json.into())
}

/// As it is written in decimal: 0.7 is not to become 0.699999988.
fn number(field: &str, value: f32) -> Result<Value, ConnectorError> {
    let decimal: Option<f64> = value.to_string().parse().ok();
    let finite = decimal.filter(|decimal| decimal.is_finite());
    finite
        .map(Value::from)
        .ok_or_else(|| invalid(field, "expected a finite number"))
}

fn invalid(field: &str, why: &str) -> ConnectorError {
    ConnectorError::Invalid(format!("{field}: {why}"))
}

#[cfg(test)]
mod tests;
