use std::collections::HashMap;

use pb::{ModelCapabilities, ModelStatus, ModelType};
use prost_types::Timestamp;

use super::super::STATUS_REASON;
use super::*;

/// Every field that a client may set, set.
fn full_model() -> ModelMetadata {
    let pair = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
    ModelMetadata {
        id: "acme/chat:1.0".to_owned(),
        name: "Chat".to_owned(),
        provider: "acme".to_owned(),
        version: "1.0".to_owned(),
        r#type: ModelType::Chat.into(),
        status: ModelStatus::Limited.into(),
        context_window: 128_000,
        capabilities: Some(ModelCapabilities {
            streaming: true,
            seed: true,
            additional_capabilities: vec!["citations".to_owned()],
            ..Default::default()
        }),
        cost_per_1k_input: 0.5,
        cost_per_1k_output: 1.5,
        avg_latency_ms: 90.0,
        max_tokens_per_request: 4096,
        max_requests_per_minute: 60,
        metadata: pair("region", "eu"),
        tags: vec!["fast".to_owned(), "cheap".to_owned()],
        connector_config: Some(ConnectorConfig {
            r#type: "openai".to_owned(),
            endpoint_url: "https://models.example:443/v1".to_owned(),
            api_key: String::new(),
            org_id: "org".to_owned(),
            timeout_ms: 1000,
            max_retries: 2,
            parameters: pair("quality", "high"),
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_registered_comes_back_whole() {
    let mut client = default_client().await;
    let registered = register(&mut client, full_model()).await.unwrap();
    let expected = ModelMetadata {
        created_at: registered.created_at,
        updated_at: registered.created_at,
        ..full_model()
    };
    assert_eq!(registered, expected);
    assert_eq!(get(&mut client, "acme/chat:1.0").await.unwrap(), expected);
}

#[tokio::test]
async fn the_answer_says_success_in_band() {
    let mut client = default_client().await;
    let request = pb::RegisterModelRequest {
        context: None,
        metadata: Some(model("m")),
    };
    let answer = client.register_model(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), super::super::Ended::Success);
    assert_eq!(answer.error, None);
}

#[tokio::test]
async fn times_are_the_registrys_whatever_the_client_says() {
    let mut client = default_client().await;
    let claimed = Some(Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    });
    let claim = ModelMetadata {
        created_at: claimed,
        updated_at: claimed,
        last_checked_at: claimed,
        ..model("m")
    };
    let registered = register(&mut client, claim).await.unwrap();
    assert!(registered.created_at.is_some());
    assert_ne!(registered.created_at, claimed);
    assert_eq!(registered.updated_at, registered.created_at);
    assert_eq!(registered.last_checked_at, None);
}

#[tokio::test]
async fn the_times_are_of_the_wall_clock() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join(FILE), MIGRATIONS).unwrap();
    let connectors = Connectors::new(ConnectorSettings::default()).unwrap();
    let log = Arc::new(MemoryLog::new(LogSettings::default()).unwrap());
    let registry = ModelRegistry::open(database, quiet(), connectors, Events::start(log));
    let mut client = serve(Arc::new(registry.await.unwrap()), Arc::new(directory)).await;
    let before = SystemTime::now();
    let registered = register(&mut client, model("m")).await.unwrap();
    let at = SystemTime::try_from(registered.created_at.unwrap()).unwrap();
    assert!(before <= at && at <= SystemTime::now());
}

#[tokio::test]
async fn a_model_without_status_is_available() {
    let mut client = default_client().await;
    let registered = register(&mut client, model("m")).await.unwrap();
    assert_eq!(registered.status(), ModelStatus::Available);
}

#[tokio::test]
async fn a_taken_id_is_refused_and_the_model_there_stays() {
    let mut client = default_client().await;
    let first = register(&mut client, model("m")).await.unwrap();
    let second = ModelMetadata {
        name: "Another".to_owned(),
        ..model("m")
    };
    let status = register(&mut client, second).await.unwrap_err();
    assert_about_model(&status, Code::AlreadyExists, "m");
    assert_eq!(get(&mut client, "m").await.unwrap(), first);
}

#[tokio::test]
async fn a_request_without_a_model_is_refused() {
    let mut client = default_client().await;
    let status = client
        .register_model(pb::RegisterModelRequest::default())
        .await
        .unwrap_err();
    assert_eq!(faulty_fields(&status), ["metadata"]);
}

#[tokio::test]
async fn all_that_is_missing_is_named_at_once() {
    let mut client = default_client().await;
    let status = register(&mut client, ModelMetadata::default())
        .await
        .unwrap_err();
    assert_eq!(
        faulty_fields(&status),
        ["metadata.id", "metadata.name", "metadata.provider"]
    );
    assert_eq!(
        status.message(),
        "3 faults; the first: metadata.id: required"
    );
}

#[tokio::test]
async fn every_field_out_of_bounds_is_refused_by_name() {
    let long = |bytes: usize| "x".repeat(bytes);
    let many = |entries: usize| (0..entries).map(|n| n.to_string()).collect::<Vec<_>>();
    let map = |entries: usize| {
        many(entries)
            .into_iter()
            .map(|key| (key, String::new()))
            .collect::<HashMap<_, _>>()
    };
    let pair = |key: String, value: String| HashMap::from([(key, value)]);
    type Spoil<'a> = Box<dyn Fn(&mut ModelMetadata) + 'a>;
    // Each bound is tested from just outside; just inside is the next test.
    let cases: Vec<(&str, Spoil<'_>)> = vec![
        ("id", Box::new(|m| m.id = long(129))),
        ("id", Box::new(|m| m.id = "white space".to_owned())),
        ("id", Box::new(|m| m.id = "größe".to_owned())),
        ("name", Box::new(|m| m.name = long(257))),
        ("provider", Box::new(|m| m.provider = long(257))),
        ("version", Box::new(|m| m.version = long(129))),
        ("type", Box::new(|m| m.r#type = 7)),
        ("status", Box::new(|m| m.status = -1)),
        (
            "cost_per_1k_input",
            Box::new(|m| m.cost_per_1k_input = f32::NAN),
        ),
        (
            "cost_per_1k_output",
            Box::new(|m| m.cost_per_1k_output = -0.1),
        ),
        (
            "avg_latency_ms",
            Box::new(|m| m.avg_latency_ms = f32::INFINITY),
        ),
        ("metadata", Box::new(|m| m.metadata = map(65))),
        (
            "metadata",
            Box::new(|m| m.metadata = pair(String::new(), String::new())),
        ),
        (
            "metadata",
            Box::new(|m| m.metadata = pair(long(129), String::new())),
        ),
        (
            "metadata[\"k\"]",
            Box::new(|m| m.metadata = pair("k".to_owned(), long(1025))),
        ),
        ("tags", Box::new(|m| m.tags = many(33))),
        (
            "tags[1]",
            Box::new(|m| m.tags = vec!["a".to_owned(), String::new()]),
        ),
        ("tags[0]", Box::new(|m| m.tags = vec![long(129)])),
        (
            "capabilities.additional_capabilities",
            Box::new(|m| capabilities(m).additional_capabilities = many(33)),
        ),
        (
            "connector_config.type",
            Box::new(|m| config(m).r#type = String::new()),
        ),
        (
            "connector_config.type",
            Box::new(|m| config(m).r#type = long(65)),
        ),
        (
            "connector_config.endpoint_url",
            Box::new(|m| config(m).endpoint_url = format!("https://host/{}", long(2048))),
        ),
        (
            "connector_config.endpoint_url",
            Box::new(|m| config(m).endpoint_url = "host".into()),
        ),
        (
            "connector_config.endpoint_url",
            Box::new(|m| config(m).endpoint_url = "/path".into()),
        ),
        (
            "connector_config.endpoint_url",
            Box::new(|m| config(m).endpoint_url = "https://user:pass@host/v1".into()),
        ),
        (
            "connector_config.api_key",
            Box::new(|m| config(m).api_key = long(8193)),
        ),
        (
            "connector_config.org_id",
            Box::new(|m| config(m).org_id = long(257)),
        ),
        (
            "connector_config.timeout_ms",
            Box::new(|m| config(m).timeout_ms = 600_001),
        ),
        (
            "connector_config.max_retries",
            Box::new(|m| config(m).max_retries = 101),
        ),
        (
            "connector_config.parameters",
            Box::new(|m| config(m).parameters = map(65)),
        ),
    ];
    let mut client = default_client().await;
    for (field, spoil) in cases {
        let mut model = full_model();
        spoil(&mut model);
        let status = register(&mut client, model).await.unwrap_err();
        assert_eq!(faulty_fields(&status), [format!("metadata.{field}")]);
    }
    assert!(list(&mut client).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_connector_that_does_not_exist_is_refused_and_those_that_do_are_named() {
    let mut client = default_client().await;
    let unknown = with_connector("m", connector("telepathy", "https://host/v1", ""));
    let refused = [register(&mut client, unknown.clone()).await.unwrap_err(), {
        register(&mut client, model("m")).await.unwrap();
        update(&mut client, unknown).await.unwrap_err()
    }];
    for status in refused {
        assert_eq!(faulty_fields(&status), ["metadata.connector_config.type"]);
        let text = status.message();
        assert!(text.ends_with("expected one of local, openai"), "{text}");
    }
}

#[tokio::test]
async fn every_field_at_its_bound_is_taken() {
    let long = |bytes: usize| "x".repeat(bytes);
    let mut map: HashMap<_, _> = (0..63).map(|n| (n.to_string(), String::new())).collect();
    map.insert(long(128), long(1024));
    let mut list: Vec<_> = (0..31).map(|n| n.to_string()).collect();
    list.push(long(128));
    let host = "https://host/";
    let mut model = ModelMetadata {
        id: long(128),
        name: long(256),
        provider: long(256),
        version: long(128),
        metadata: map.clone(),
        tags: list.clone(),
        connector_config: Some(ConnectorConfig {
            // The longest type is longer than the name of any connector.
            r#type: "openai".to_owned(),
            endpoint_url: format!("{host}{}", long(2048 - host.len())),
            api_key: long(8192),
            org_id: long(256),
            timeout_ms: 600_000,
            max_retries: 100,
            parameters: map,
        }),
        ..full_model()
    };
    capabilities(&mut model).additional_capabilities = list;
    // The registry's own entry takes none of the room.
    model.metadata.insert(STATUS_REASON.to_owned(), long(1024));
    register(&mut default_client().await, model).await.unwrap();
}

#[tokio::test]
async fn a_request_full_of_faults_gets_an_answer_that_fits_in_headers() {
    let mut client = default_client().await;
    let keys = (0..64).map(|n| format!("{n:0>128}"));
    let metadata = keys.map(|key| (key, "x".repeat(1025))).collect();
    let status = register(
        &mut client,
        ModelMetadata {
            metadata,
            ..model("m")
        },
    )
    .await
    .unwrap_err();
    assert_eq!(faulty_fields(&status).len(), 10);
    assert!(status.message().starts_with("64 faults"));
    assert!(status.details().len() < 6000, "{}", status.details().len());
}

fn capabilities(model: &mut ModelMetadata) -> &mut ModelCapabilities {
    model.capabilities.as_mut().unwrap()
}

fn config(model: &mut ModelMetadata) -> &mut ConnectorConfig {
    model.connector_config.as_mut().unwrap()
}
