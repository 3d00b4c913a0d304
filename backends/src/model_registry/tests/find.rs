use std::collections::HashMap;

use pb::{ModelCapabilities, ModelFilter, ModelStatus, ModelType};

use super::super::filter;
use super::*;
use crate::router::candidate::ModelSource;

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn pairs(values: &[(&str, &str)]) -> HashMap<String, String> {
    values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// What the filters below are held against.
fn subject() -> ModelMetadata {
    ModelMetadata {
        r#type: ModelType::Chat.into(),
        status: ModelStatus::Available.into(),
        context_window: 8000,
        capabilities: Some(ModelCapabilities {
            streaming: true,
            tools: true,
            additional_capabilities: texts(&["citations", "search"]),
            ..Default::default()
        }),
        cost_per_1k_input: 0.5,
        cost_per_1k_output: 1.5,
        avg_latency_ms: 100.0,
        tags: texts(&["fast", "eu"]),
        metadata: pairs(&[("region", "eu"), ("tier", "1")]),
        ..model("m")
    }
}

/// As if what was registered were what was measured.
fn matches(filter: &ModelFilter, model: &ModelMetadata) -> bool {
    let latency = model.avg_latency_ms;
    filter::matches(filter, model, (latency > 0.0).then_some(latency))
}

/// `meets` lets the subject through, `fails` does not.
#[track_caller]
fn assert_decides(meets: ModelFilter, fails: ModelFilter) {
    assert!(matches(&meets, &subject()), "{meets:?}");
    assert!(!matches(&fails, &subject()), "{fails:?}");
}

fn needs(capabilities: ModelCapabilities) -> ModelFilter {
    ModelFilter {
        required_capabilities: Some(capabilities),
        ..Default::default()
    }
}

#[test]
fn an_empty_filter_is_no_condition() {
    assert!(matches(&ModelFilter::default(), &subject()));
    assert!(matches(&ModelFilter::default(), &ModelMetadata::default()));
}

#[test]
fn the_provider_is_one_of_those_named() {
    assert_decides(
        ModelFilter {
            providers: texts(&["other", "acme"]),
            ..Default::default()
        },
        ModelFilter {
            providers: texts(&["other", "ACME"]),
            ..Default::default()
        },
    );
}

#[test]
fn the_type_is_one_of_those_named() {
    assert_decides(
        ModelFilter {
            types: vec![3, ModelType::Chat.into()],
            ..Default::default()
        },
        ModelFilter {
            types: vec![ModelType::Embedding.into()],
            ..Default::default()
        },
    );
}

#[test]
fn the_status_is_one_of_those_named() {
    assert_decides(
        ModelFilter {
            statuses: vec![5, ModelStatus::Available.into()],
            ..Default::default()
        },
        ModelFilter {
            statuses: vec![ModelStatus::Limited.into()],
            ..Default::default()
        },
    );
}

#[test]
fn the_context_window_is_at_least_the_one_named() {
    assert_decides(
        ModelFilter {
            min_context_window: 8000,
            ..Default::default()
        },
        ModelFilter {
            min_context_window: 8001,
            ..Default::default()
        },
    );
}

#[test]
fn the_input_cost_is_at_most_the_one_named() {
    assert_decides(
        ModelFilter {
            max_cost_per_1k_input: 0.5,
            ..Default::default()
        },
        ModelFilter {
            max_cost_per_1k_input: 0.49,
            ..Default::default()
        },
    );
}

#[test]
fn the_output_cost_is_at_most_the_one_named() {
    assert_decides(
        ModelFilter {
            max_cost_per_1k_output: 1.5,
            ..Default::default()
        },
        ModelFilter {
            max_cost_per_1k_output: 1.49,
            ..Default::default()
        },
    );
}

#[test]
fn the_latency_is_at_most_the_one_named() {
    assert_decides(
        ModelFilter {
            max_latency_ms: 100.0,
            ..Default::default()
        },
        ModelFilter {
            max_latency_ms: 99.9,
            ..Default::default()
        },
    );
}

#[test]
fn a_model_that_was_never_measured_meets_any_latency() {
    let filter = ModelFilter {
        max_latency_ms: 0.1,
        ..Default::default()
    };
    assert!(matches(&filter, &model("m")));
}

#[tokio::test]
async fn the_latency_that_counts_and_is_shown_is_the_live_one() {
    let mut world = World::new(quiet()).await;
    let measured = ModelMetadata {
        avg_latency_ms: 100.0,
        ..model("m")
    };
    register(&mut world.client, measured).await.unwrap();
    let load = world.registry.candidate("m").unwrap().load;
    load.observe_latency(Duration::from_millis(600));
    let filter = |max_latency_ms| ModelFilter {
        max_latency_ms,
        ..Default::default()
    };
    let client = &mut world.client;
    assert!(find(client, filter(199.0)).await.unwrap().is_empty());
    let found = find(client, filter(201.0)).await.unwrap();
    assert_eq!(found[0].avg_latency_ms, 200.0);
    assert_eq!(get(client, "m").await.unwrap().avg_latency_ms, 200.0);
}

#[test]
fn the_model_has_all_tags_that_are_named() {
    assert_decides(
        ModelFilter {
            tags: texts(&["eu", "fast"]),
            ..Default::default()
        },
        ModelFilter {
            tags: texts(&["eu", "cheap"]),
            ..Default::default()
        },
    );
}

#[test]
fn the_model_has_all_metadata_that_is_named() {
    assert_decides(
        ModelFilter {
            metadata: pairs(&[("tier", "1"), ("region", "eu")]),
            ..Default::default()
        },
        ModelFilter {
            metadata: pairs(&[("tier", "1"), ("region", "us")]),
            ..Default::default()
        },
    );
    let absent = ModelFilter {
        metadata: pairs(&[("owner", "")]),
        ..Default::default()
    };
    assert!(!matches(&absent, &subject()));
}

#[test]
fn the_model_has_all_additional_capabilities_that_are_named() {
    let named = |names| ModelCapabilities {
        additional_capabilities: texts(names),
        ..Default::default()
    };
    assert_decides(needs(named(&["search"])), needs(named(&["search", "maps"])));
}

#[test]
fn each_capability_flag_is_a_condition_of_its_own() {
    let flags: [fn(&mut ModelCapabilities) -> &mut bool; 9] = [
        |c| &mut c.streaming,
        |c| &mut c.function_calling,
        |c| &mut c.vision,
        |c| &mut c.audio,
        |c| &mut c.tools,
        |c| &mut c.json_mode,
        |c| &mut c.parallel_function_calling,
        |c| &mut c.response_format,
        |c| &mut c.seed,
    ];
    let only = |flag: fn(&mut ModelCapabilities) -> &mut bool| {
        let mut capabilities = ModelCapabilities::default();
        *flag(&mut capabilities) = true;
        capabilities
    };
    for (wanted, flag) in flags.into_iter().enumerate() {
        for (has, other) in flags.into_iter().enumerate() {
            let model = ModelMetadata {
                capabilities: Some(only(other)),
                ..model("m")
            };
            assert_eq!(matches(&needs(only(flag)), &model), wanted == has);
        }
    }
}

#[test]
fn a_model_without_capabilities_has_none() {
    let streaming = ModelCapabilities {
        streaming: true,
        ..Default::default()
    };
    assert!(!matches(&needs(streaming), &model("m")));
    assert!(matches(&needs(ModelCapabilities::default()), &model("m")));
}

#[test]
fn one_condition_that_fails_is_enough() {
    let filter = ModelFilter {
        providers: texts(&["acme"]),
        tags: texts(&["fast"]),
        min_context_window: 9000,
        ..Default::default()
    };
    assert!(!matches(&filter, &subject()));
}

#[tokio::test]
async fn all_models_are_listed_in_the_order_of_ids() {
    let mut client = default_client().await;
    assert!(list(&mut client).await.unwrap().is_empty());
    for id in ["b", "c", "a/2", "a/1"] {
        register(&mut client, model(id)).await.unwrap();
    }
    assert_eq!(
        ids(&list(&mut client).await.unwrap()),
        ["a/1", "a/2", "b", "c"]
    );
}

#[tokio::test]
async fn the_models_that_match_are_found_in_the_order_of_ids() {
    let mut client = default_client().await;
    // More than are looked at in one turn.
    for n in (0..300).rev() {
        let tags = texts(if n % 100 == 7 { &["seven"] } else { &[] });
        register(
            &mut client,
            ModelMetadata {
                tags,
                ..model(&format!("{n:03}"))
            },
        )
        .await
        .unwrap();
    }
    let filter = ModelFilter {
        tags: texts(&["seven"]),
        ..Default::default()
    };
    assert_eq!(
        ids(&find(&mut client, filter).await.unwrap()),
        ["007", "107", "207"]
    );
}

#[tokio::test]
async fn a_request_without_a_filter_finds_all_models() {
    let mut client = default_client().await;
    register(&mut client, model("m")).await.unwrap();
    let answer = client
        .find_models(pb::FindModelsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ids(&answer.models), ["m"]);
    assert_eq!(answer.status(), super::super::Ended::Success);
}

#[tokio::test]
async fn every_filter_field_out_of_bounds_is_refused_by_name() {
    let many = || (0..33).map(|n| n.to_string()).collect::<Vec<_>>();
    let all = ModelFilter::default;
    let cases = [
        (
            "providers",
            ModelFilter {
                providers: many(),
                ..all()
            },
        ),
        (
            "types",
            ModelFilter {
                types: vec![1; 33],
                ..all()
            },
        ),
        (
            "types[1]",
            ModelFilter {
                types: vec![1, 7],
                ..all()
            },
        ),
        (
            "statuses",
            ModelFilter {
                statuses: vec![1; 33],
                ..all()
            },
        ),
        (
            "statuses[0]",
            ModelFilter {
                statuses: vec![0],
                ..all()
            },
        ),
        (
            "statuses[0]",
            ModelFilter {
                statuses: vec![6],
                ..all()
            },
        ),
        (
            "required_capabilities.additional_capabilities",
            needs(ModelCapabilities {
                additional_capabilities: many(),
                ..Default::default()
            }),
        ),
        (
            "max_cost_per_1k_input",
            ModelFilter {
                max_cost_per_1k_input: -1.0,
                ..all()
            },
        ),
        (
            "max_cost_per_1k_output",
            ModelFilter {
                max_cost_per_1k_output: f32::NAN,
                ..all()
            },
        ),
        (
            "max_latency_ms",
            ModelFilter {
                max_latency_ms: f32::INFINITY,
                ..all()
            },
        ),
        (
            "tags",
            ModelFilter {
                tags: many(),
                ..all()
            },
        ),
        (
            "tags[0]",
            ModelFilter {
                tags: vec![String::new()],
                ..all()
            },
        ),
        (
            "metadata",
            ModelFilter {
                metadata: (0..65).map(|n| (n.to_string(), "".into())).collect(),
                ..all()
            },
        ),
    ];
    let mut client = default_client().await;
    for (field, filter) in cases {
        let status = find(&mut client, filter).await.unwrap_err();
        assert_eq!(faulty_fields(&status), [format!("filter.{field}")]);
    }
}
