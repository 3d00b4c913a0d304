use std::collections::HashMap;

use intellirouter_proto::intellirouter::common::v1::Metadata;
use intellirouter_proto::intellirouter::model_registry::v1::{
    FunctionDefinition, FunctionToolChoice, ResponseFormat,
};

use super::*;

fn json(request: &ChatCompletionRequest) -> Value {
    let body = body("big", request, None).unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn fault(request: &ChatCompletionRequest) -> String {
    match body("big", request, None) {
        Err(ConnectorError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn tool(parameters: &str) -> Tool {
    Tool {
        r#type: String::new(),
        function: Some(FunctionDefinition {
            name: "weather".to_owned(),
            description: "Tells it".to_owned(),
            parameters: parameters.to_owned(),
        }),
    }
}

fn with_message(metadata: &[(&str, &str)]) -> ChatCompletionRequest {
    let metadata = Metadata {
        values: pairs(metadata),
    };
    let message = Message {
        role: "assistant".to_owned(),
        content: "hi".to_owned(),
        timestamp: None,
        metadata: Some(metadata),
    };
    ChatCompletionRequest {
        messages: vec![message],
        ..Default::default()
    }
}

#[test]
fn what_is_not_set_is_not_sent() {
    let nothing = ChatCompletionRequest {
        response_format: Some(ResponseFormat::default()),
        tool_choice: Some(ToolChoice::default()),
        ..Default::default()
    };
    assert_eq!(json(&nothing), json!({"model": "big", "messages": []}));
}

#[test]
fn every_field_has_its_place() {
    let request = ChatCompletionRequest {
        model: "what the caller asked the router for".to_owned(),
        messages: vec![Message {
            role: "user".to_owned(),
            content: "hi".to_owned(),
            ..Default::default()
        }],
        max_tokens: 10,
        temperature: 0.7,
        top_p: 0.9,
        n: 2,
        stream: true,
        stop: vec!["end".to_owned()],
        presence_penalty: -0.1,
        frequency_penalty: 1.5,
        logit_bias: [("50256".to_owned(), -100.0)].into(),
        user: "u".to_owned(),
        response_format: Some(ResponseFormat {
            r#type: "json_object".to_owned(),
        }),
        seed: -5,
        tools: vec![tool(r#"{"type": "object"}"#)],
        tool_choice: Some(ToolChoice {
            choice: Some(Choice::Auto(true)),
        }),
        additional_parameters: pairs(&[("top_k", "40"), ("reasoning_effort", "low")]),
    };
    let function = json!({
        "name": "weather",
        "description": "Tells it",
        "parameters": {"type": "object"},
    });
    let expected = json!({
        "model": "big",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 10,
        "temperature": 0.7,
        "top_p": 0.9,
        "n": 2,
        "stop": ["end"],
        "presence_penalty": -0.1,
        "frequency_penalty": 1.5,
        "logit_bias": {"50256": -100.0},
        "user": "u",
        "response_format": {"type": "json_object"},
        "seed": -5,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "auto",
        "top_k": 40,
        "reasoning_effort": "low",
    });
    assert_eq!(json(&request), expected);
}

#[test]
fn a_tool_choice_has_the_terms_of_the_api() {
    let name = "weather".to_owned();
    for (choice, expected) in [
        (Choice::Auto(true), json!("auto")),
        (Choice::Auto(false), json!("none")),
        (Choice::Required("any".to_owned()), json!("required")),
        (
            Choice::Function(FunctionToolChoice { name }),
            json!({"type": "function", "function": {"name": "weather"}}),
        ),
    ] {
        let choice = Some(choice);
        let request = ChatCompletionRequest {
            tool_choice: Some(ToolChoice { choice }),
            ..Default::default()
        };
        assert_eq!(json(&request)["tool_choice"], expected);
    }
}

#[test]
fn an_additional_parameter_wins_over_a_field_so_that_zero_can_be_said() {
    let request = ChatCompletionRequest {
        temperature: 0.7,
        additional_parameters: pairs(&[("temperature", "0")]),
        ..Default::default()
    };
    assert_eq!(json(&request)["temperature"], 0);
}

#[test]
fn an_additional_parameter_is_json_if_it_can_be_and_else_text() {
    for (text, expected) in [
        ("true", json!(true)),
        ("[1, \"a\"]", json!([1, "a"])),
        ("{\"a\": null}", json!({"a": null})),
        ("\"quoted\"", json!("quoted")),
        ("plain", json!("plain")),
        ("", json!("")),
    ] {
        let request = ChatCompletionRequest {
            additional_parameters: pairs(&[("x", text)]),
            ..Default::default()
        };
        assert_eq!(json(&request)["x"], expected, "{text}");
    }
}

#[test]
fn an_additional_parameter_cannot_decide_who_answers_what_and_how() {
    for name in RESERVED_PARAMETERS.iter().copied() {
        let request = ChatCompletionRequest {
            additional_parameters: pairs(&[(name, "1")]),
            ..Default::default()
        };
        let expected = format!("additional_parameters.{name}: may not be set here");
        assert_eq!(fault(&request), expected);
    }
}

#[test]
fn a_message_carries_its_tool_calls_and_no_other_metadata() {
    let calls = r#"[{"id": "call-1"}]"#;
    let made = with_message(&[("tool_calls", calls), ("secret", "x")]);
    let expected =
        json!([{"role": "assistant", "content": "hi", "tool_calls": [{"id": "call-1"}]}]);
    assert_eq!(json(&made)["messages"], expected);
    let answered = with_message(&[("tool_call_id", "call-1"), ("name", "weather")]);
    let message = &json(&answered)["messages"][0];
    assert_eq!(message["tool_call_id"], "call-1");
    assert_eq!(message["name"], "weather");
}

#[test]
fn what_is_not_what_it_should_be_is_refused_by_the_name_of_its_field() {
    let with_tool = |tool| ChatCompletionRequest {
        tools: vec![self::tool("{}"), tool],
        ..Default::default()
    };
    for parameters in ["{", "[]", "1"] {
        let why = "tools[1].function.parameters: expected a JSON object";
        assert_eq!(fault(&with_tool(tool(parameters))), why);
    }
    let why = "tools[1].function: required";
    assert_eq!(fault(&with_tool(Tool::default())), why);
    for calls in ["{", "{}", "1"] {
        let why = "messages[0].metadata.tool_calls: expected a JSON array";
        assert_eq!(fault(&with_message(&[("tool_calls", calls)])), why);
    }
    let infinite = ChatCompletionRequest {
        top_p: f32::INFINITY,
        ..Default::default()
    };
    assert_eq!(fault(&infinite), "top_p: expected a finite number");
    let unlikely = ChatCompletionRequest {
        logit_bias: [("7".to_owned(), f32::NAN)].into(),
        ..Default::default()
    };
    assert_eq!(fault(&unlikely), "logit_bias.7: expected a finite number");
}
