use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::ConnectorConfig;

use super::*;
use crate::connectors::ApiKey;
use crate::router::candidate::Load;

fn available() -> ModelMetadata {
    ModelMetadata {
        id: "m".to_owned(),
        status: ModelStatus::Available.into(),
        connector_config: Some(ConnectorConfig {
            r#type: "local".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn reason(model: ModelMetadata, conditions: &Conditions) -> Option<Reason> {
    let candidate = Candidate {
        load: Arc::new(Load::new(model.avg_latency_ms)),
        model: Arc::new(model),
        api_key: ApiKey::default(),
    };
    against(&candidate, conditions, Instant::now())
}

fn needing(needs: Needs) -> Conditions {
    Conditions {
        needs,
        ..Default::default()
    }
}

#[test]
fn every_reason_stands_at_its_own_place() {
    for (place, (reason, _, _)) in REASONS.iter().enumerate() {
        assert_eq!(*reason as usize, place);
    }
}

#[test]
fn a_model_that_is_available_and_can_be_reached_may_be_picked() {
    assert_eq!(reason(available(), &Conditions::default()), None);
}

#[test]
fn a_model_without_a_connector_or_with_an_unknown_one_may_not() {
    let mut model = available();
    model.connector_config = None;
    let none = reason(model.clone(), &Conditions::default());
    assert_eq!(none, Some(Reason::Connector));
    model.connector_config = Some(ConnectorConfig::default());
    let unknown = reason(model, &Conditions::default());
    assert_eq!(unknown, Some(Reason::Connector));
}

#[test]
fn types_that_are_not_for_chats_may_be_picked_only_if_the_filter_asks_for_them() {
    for (kind, usual) in [
        (ModelType::Unspecified, true),
        (ModelType::Chat, true),
        (ModelType::Text, true),
        (ModelType::Multimodal, true),
        (ModelType::Embedding, false),
        (ModelType::Image, false),
        (ModelType::Audio, false),
    ] {
        let model = ModelMetadata {
            r#type: kind.into(),
            ..available()
        };
        let expected = (!usual).then_some(Reason::Type);
        assert_eq!(reason(model.clone(), &Conditions::default()), expected);
        let asking = Conditions {
            filter: ModelFilter {
                types: vec![kind.into()],
                ..Default::default()
            },
            ..Default::default()
        };
        assert_eq!(reason(model, &asking), None);
    }
}

#[test]
fn a_model_that_tells_its_capabilities_is_taken_at_its_word() {
    let able = |capabilities| ModelMetadata {
        capabilities: Some(capabilities),
        ..available()
    };
    let streaming = || ModelCapabilities {
        streaming: true,
        ..Default::default()
    };
    let stream = needing(Needs {
        streaming: true,
        ..Default::default()
    });
    let tools = needing(Needs {
        tools: true,
        ..Default::default()
    });
    let json = needing(Needs {
        json: true,
        ..Default::default()
    });
    let lacking = Some(Reason::Capabilities);
    assert_eq!(reason(able(streaming()), &stream), None);
    assert_eq!(reason(able(streaming()), &tools), lacking);
    assert_eq!(reason(able(streaming()), &json), lacking);
    let functions = ModelCapabilities {
        function_calling: true,
        json_mode: true,
        ..Default::default()
    };
    assert_eq!(reason(able(functions.clone()), &tools), None);
    assert_eq!(reason(able(functions.clone()), &json), None);
    assert_eq!(reason(able(functions), &stream), lacking);
    // One that says nothing may have them all.
    let silent = able(ModelCapabilities::default());
    for needs in [&stream, &tools, &json] {
        assert_eq!(reason(silent.clone(), needs), None);
    }
}

#[test]
fn a_request_must_fit_in_the_model() {
    let small = ModelMetadata {
        context_window: 100,
        max_tokens_per_request: 50,
        ..available()
    };
    for (max_tokens, tokens, fits) in [(50, 100, true), (51, 60, false), (1, 101, false)] {
        let needs = needing(Needs {
            max_tokens,
            tokens,
            ..Default::default()
        });
        let expected = (!fits).then_some(Reason::Size);
        assert_eq!(reason(small.clone(), &needs), expected);
        assert_eq!(reason(available(), &needs), None);
    }
}

#[test]
fn what_waiting_may_help_is_told_from_what_it_does_not() {
    let of = |reasons: &[Reason]| {
        let mut left_out = LeftOut::default();
        reasons.iter().for_each(|reason| left_out.add(*reason, 1));
        (left_out.may_pass(), left_out.only_limits())
    };
    assert_eq!(of(&[]), (false, false));
    assert_eq!(of(&[Reason::Filter, Reason::Strategy]), (false, false));
    assert_eq!(of(&[Reason::Filter, Reason::Status]), (true, false));
    assert_eq!(of(&[Reason::Filter, Reason::Calls]), (true, true));
    assert_eq!(of(&[Reason::Calls, Reason::EndpointLimit]), (true, true));
    assert_eq!(of(&[Reason::Status, Reason::Calls]), (true, false));
}
