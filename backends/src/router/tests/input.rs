use pb::tool_choice::Choice;
use pb::{FunctionDefinition, FunctionToolChoice, ResponseFormat, Tool, ToolChoice};

use super::*;

#[track_caller]
fn message(content: String) -> common::Message {
    common::Message {
        role: "user".to_owned(),
        content,
        ..Default::default()
    }
}

fn function(name: &str, parameters: &str) -> Tool {
    Tool {
        r#type: "function".to_owned(),
        function: Some(FunctionDefinition {
            name: name.to_owned(),
            description: String::new(),
            parameters: parameters.to_owned(),
        }),
    }
}

/// Everything that is allowed, at its bound.
fn largest() -> ChatCompletionRequest {
    let entries = |count, value: &str| {
        (0..count)
            .map(|n| (n.to_string(), value.to_owned()))
            .collect()
    };
    ChatCompletionRequest {
        messages: (0..1000).map(|_| message("x".repeat(1000))).collect(),
        temperature: 2.0,
        top_p: 1.0,
        n: 16,
        stop: vec!["x".repeat(256); 16],
        presence_penalty: -2.0,
        frequency_penalty: 2.0,
        logit_bias: (0..1000).map(|n| (n.to_string(), -100.0)).collect(),
        user: "u".repeat(256),
        response_format: Some(ResponseFormat {
            r#type: "json_object".to_owned(),
        }),
        tools: (0..128).map(|n| function(&format!("f{n}"), "{}")).collect(),
        tool_choice: Some(ToolChoice {
            choice: Some(Choice::Function(FunctionToolChoice {
                name: "f127".to_owned(),
            })),
        }),
        additional_parameters: entries(64, "1"),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_request_at_every_bound_is_taken() {
    let server = talking().await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let mut largest_request = request();
    largest_request.request = Some(largest());
    fixture.route(largest_request).await.unwrap();
}

#[tokio::test]
async fn every_fault_of_a_chat_is_named() {
    let mut fixture = Fixture::new([local("m")]).await;
    let mut named = async |change: &dyn Fn(&mut ChatCompletionRequest), expected: &[&str]| {
        let mut faulty = request();
        change(faulty.request.as_mut().unwrap());
        let fields = faulty_fields(&fixture.refusal(faulty).await);
        assert_eq!(fields, expected);
    };
    named(&|chat| chat.model = "no id!".to_owned(), &["request.model"]).await;
    named(
        &|chat| {
            chat.messages.clear();
            chat.n = 1;
        },
        &["request.messages"],
    )
    .await;
    named(
        &|chat| chat.messages = vec![message(String::new()); 1001],
        &["request.messages"],
    )
    .await;
    named(
        &|chat| chat.messages = vec![message("x".repeat(512 * 1024 + 1)); 2],
        &["request.messages"],
    )
    .await;
    named(
        &|chat| chat.messages[0].role.clear(),
        &["request.messages[0].role"],
    )
    .await;
    named(
        &|chat| {
            chat.temperature = f32::NAN;
            chat.top_p = 1.01;
            chat.presence_penalty = -2.1;
            chat.frequency_penalty = f32::INFINITY;
            chat.n = 17;
        },
        &[
            "request.frequency_penalty",
            "request.n",
            "request.presence_penalty",
            "request.temperature",
            "request.top_p",
        ],
    )
    .await;
    named(
        &|chat| chat.stop = vec!["x".to_owned(); 17],
        &["request.stop"],
    )
    .await;
    named(
        &|chat| chat.stop = vec![String::new()],
        &["request.stop[0]"],
    )
    .await;
    named(
        &|chat| chat.logit_bias = HashMap::from([("50256".to_owned(), 101.0)]),
        &["request.logit_bias[\"50256\"]"],
    )
    .await;
    named(
        &|chat| chat.logit_bias = (0..1001).map(|n| (n.to_string(), 0.0)).collect(),
        &["request.logit_bias"],
    )
    .await;
    named(
        &|chat| chat.tools = vec![function("f", ""); 129],
        &["request.tools"],
    )
    .await;
    named(
        &|chat| {
            chat.tools = vec![function("", "[]"), Tool::default()];
            chat.tool_choice = Some(ToolChoice {
                choice: Some(Choice::Function(FunctionToolChoice {
                    name: "g".to_owned(),
                })),
            });
        },
        &[
            "request.tool_choice.function.name",
            "request.tools[0].function.name",
            "request.tools[0].function.parameters",
            "request.tools[1].function",
            "request.tools[1].type",
        ],
    )
    .await;
    named(
        &|chat| chat.response_format = Some(ResponseFormat::default()),
        &["request.response_format.type"],
    )
    .await;
    named(
        &|chat| {
            let long = "x".repeat(16 * 1024 + 1);
            chat.additional_parameters = pairs(&[("long", &long), ("", "x")]);
        },
        &[
            "request.additional_parameters",
            "request.additional_parameters[\"long\"]",
        ],
    )
    .await;
}

#[tokio::test]
async fn every_fault_of_the_routing_is_named() {
    let mut fixture = Fixture::new([local("m")]).await;
    let filter = pb::ModelFilter {
        max_latency_ms: -1.0,
        types: vec![99],
        ..Default::default()
    };
    let faulty = routed(RoutingRequest {
        model_filter: Some(filter),
        preferred_model_id: "not an id".to_owned(),
        excluded_model_ids: vec![String::new()],
        max_attempts: 11,
        timeout_ms: 600_001,
        strategy: 7,
        strategy_parameters: pairs(&[("", "x")]),
        ..Default::default()
    });
    let status = fixture.refusal(faulty).await;
    let expected = [
        "routing.excluded_model_ids[0]",
        "routing.max_attempts",
        "routing.model_filter.max_latency_ms",
        "routing.model_filter.types[0]",
        "routing.preferred_model_id",
        "routing.strategy",
        "routing.strategy_parameters",
        "routing.timeout_ms",
    ];
    assert_eq!(faulty_fields(&status), expected);
}

#[tokio::test]
async fn a_request_without_a_chat_is_refused() {
    let mut fixture = Fixture::new([local("m")]).await;
    let status = fixture.refusal(RouteRequestRequest::default()).await;
    assert_eq!(faulty_fields(&status), ["request"]);
}

#[tokio::test]
async fn a_model_that_is_preferred_and_excluded_is_a_fault() {
    let mut fixture = Fixture::new([local("m")]).await;
    let faulty = routed(RoutingRequest {
        preferred_model_id: "m".to_owned(),
        excluded_model_ids: vec!["m".to_owned()],
        ..Default::default()
    });
    let status = fixture.refusal(faulty).await;
    assert_eq!(faulty_fields(&status), ["routing.excluded_model_ids"]);
}

#[tokio::test]
async fn parameters_that_the_strategy_does_not_know_or_cannot_read_are_named() {
    let mut fixture = Fixture::new([local("m")]).await;
    for (kind, name, value) in [
        (RoutingStrategy::RoundRobin, "rule.1", "x => y"),
        (RoutingStrategy::LoadBalanced, "weights", "m=1"),
        (RoutingStrategy::ContentBased, "rule.1", "( => y"),
        (
            RoutingStrategy::CostOptimized,
            "expected_output_tokens",
            "0",
        ),
        (RoutingStrategy::LatencyOptimized, "max_latency_ms", "fast"),
        (RoutingStrategy::Custom, "weights", "m"),
    ] {
        let status = fixture
            .refusal(with_parameters(kind, &[(name, value)]))
            .await;
        let expected = format!("routing.strategy_parameters[{name:?}]");
        assert_eq!(faulty_fields(&status), [expected]);
    }
}

#[tokio::test]
async fn what_has_a_field_with_limits_may_not_be_an_additional_parameter_at_any_connector() {
    let server = talking().await;
    for model in [local("m"), remote("m", &server.url())] {
        let mut fixture = Fixture::new([model]).await;
        for name in [
            "model",
            "messages",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "n",
            "user",
            "tools",
            "tool_choice",
            "functions",
            "function_call",
            "response_format",
        ] {
            let mut faulty = request();
            faulty.request.as_mut().unwrap().additional_parameters = pairs(&[(name, "1")]);
            let field = format!("request.additional_parameters[{name:?}]");
            assert_eq!(faulty_fields(&fixture.refusal(faulty).await), [field]);
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_request_with_long_keys_that_are_wrong_is_refused_as_such() {
    let mut fixture = Fixture::new([local("m")]).await;
    let key = |n| (format!("{}{n}", "\u{1}".repeat(120)), "x".to_owned());
    for _ in 0..20 {
        let faulty = routed(RoutingRequest {
            strategy_parameters: (10..74).map(key).collect(),
            ..Default::default()
        });
        let status = fixture.refusal(faulty).await;
        assert!(!faulty_fields(&status).is_empty());
    }
}
