use pb::router_service_server::RouterService;
use tonic::Request;

use super::*;
use crate::router::catalog::Catalog;

const ALL: [RoutingStrategy; 6] = [
    RoutingStrategy::RoundRobin,
    RoutingStrategy::LoadBalanced,
    RoutingStrategy::ContentBased,
    RoutingStrategy::CostOptimized,
    RoutingStrategy::LatencyOptimized,
    RoutingStrategy::Custom,
];

async fn strategies(client: &mut Client) -> Vec<StrategyInfo> {
    let request = pb::GetRoutingStrategiesRequest { context: None };
    let answer = client.get_routing_strategies(request).await.unwrap();
    answer.into_inner().strategies
}

fn weighted(weights: &str) -> StrategyConfig {
    StrategyConfig {
        parameters: pairs(&[("weights", weights)]),
        fallback_strategy: RoutingStrategy::LoadBalanced.into(),
        max_fallback_attempts: 4,
        include_limited_models: true,
        include_high_latency_models: true,
        timeout_ms: 5_000,
    }
}

#[tokio::test]
async fn all_six_strategies_are_listed_enabled_and_described() {
    let mut fixture = Fixture::new([]).await;
    let listed = strategies(&mut fixture.client).await;
    assert_eq!(
        listed.iter().map(StrategyInfo::r#type).collect::<Vec<_>>(),
        ALL
    );
    for strategy in listed {
        assert!(strategy.enabled);
        assert!(!strategy.name.is_empty() && !strategy.description.is_empty());
        assert_eq!(strategy.config.unwrap().max_fallback_attempts, 2);
    }
}

#[tokio::test]
async fn every_strategy_routes_with_its_default_settings() {
    let mut fixture = Fixture::new([local("m")]).await;
    for kind in ALL {
        let metadata = fixture.metadata(by(kind)).await;
        let name = kind.as_str_name().trim_start_matches("ROUTING_STRATEGY_");
        assert_eq!(metadata.strategy_name, name.to_lowercase());
    }
}

#[tokio::test]
async fn settings_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let models = Models::of([local("a"), local("b")]);
    let log = Arc::new(MemoryLog::new(LogSettings::default()).unwrap());
    let events = Events::start(log);
    let open = async || {
        open(
            &directory,
            models.clone(),
            &events,
            RouterSettings::default(),
        )
        .await
    };
    let list = async |router: &Router| {
        let request = Request::new(pb::GetRoutingStrategiesRequest::default());
        let listed = router.get_routing_strategies(request).await.unwrap();
        listed.into_inner().strategies
    };

    // Called without a server, whose tasks would hold on to the file.
    let router = open().await;
    for (kind, enabled, config) in [
        (RoutingStrategy::Custom, true, Some(weighted("b=1"))),
        (RoutingStrategy::RoundRobin, false, None),
    ] {
        let change = pb::UpdateRoutingStrategyRequest {
            r#type: kind.into(),
            config,
            enabled,
            ..Default::default()
        };
        let changed = router.update_routing_strategy(Request::new(change)).await;
        changed.unwrap();
    }
    let before = list(&router).await;
    assert!(!before[0].enabled);
    assert_eq!(before[5].config, Some(weighted("b=1")));
    drop(router);

    let router = open().await;
    assert_eq!(list(&router).await, before);
    let request = Request::new(by(RoutingStrategy::Custom));
    let answer = router.route_request(request).await.unwrap().into_inner();
    assert_eq!(answer.routing_metadata.unwrap().selected_model_id, "b");
}

#[tokio::test]
async fn a_disabled_strategy_refuses_those_who_ask_for_it() {
    let mut fixture = Fixture::new([local("m")]).await;
    let kind = RoutingStrategy::CostOptimized;
    let changed = fixture.update(kind, false, None).await.unwrap();
    assert!(!changed.enabled);
    let status = fixture.refusal(by(kind)).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let details = status.get_error_details();
    let violation = &details.precondition_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "cost_optimized");

    fixture.update(kind, true, None).await.unwrap();
    fixture.route(by(kind)).await.unwrap();
}

#[tokio::test]
async fn a_request_without_a_strategy_gets_the_first_that_is_enabled() {
    let mut fixture = Fixture::new([local("m")]).await;
    let mut names = Vec::new();
    for kind in ALL {
        names.push(fixture.metadata(request()).await.strategy_name);
        fixture.update(kind, false, None).await.unwrap();
    }
    let expected = [
        "round_robin",
        "load_balanced",
        "content_based",
        "cost_optimized",
        "latency_optimized",
        "custom",
    ];
    assert_eq!(names, expected);
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_change_without_a_config_keeps_the_one_that_is_there() {
    let mut fixture = Fixture::new([]).await;
    let (custom, config) = (RoutingStrategy::Custom, weighted("a=1"));
    fixture
        .update(custom, true, Some(config.clone()))
        .await
        .unwrap();
    let changed = fixture.update(custom, false, None).await.unwrap();
    assert_eq!(changed.config, Some(config));
    assert!(!changed.enabled);
}

#[tokio::test]
async fn changes_at_once_end_in_the_same_state_in_memory_and_on_disk() {
    let mut fixture = Fixture::new([]).await;
    let changes = (1..=40).map(|weight| {
        let mut client = fixture.client.clone();
        let config = (weight % 2 == 0).then(|| weighted(&format!("a={weight}")));
        let request = pb::UpdateRoutingStrategyRequest {
            context: None,
            r#type: RoutingStrategy::Custom.into(),
            config,
            enabled: weight % 3 == 0,
        };
        async move { client.update_routing_strategy(request).await.unwrap() }
    });
    futures_util::future::join_all(changes).await;
    let in_memory = strategies(&mut fixture.client).await;
    let database = fixture.router.shared.catalog.database.clone();
    let on_disk = Catalog::open(database).await.unwrap().all();
    let on_disk: Vec<_> = on_disk.iter().map(|setting| setting.info()).collect();
    assert_eq!(on_disk, in_memory);
    let custom = in_memory.last().unwrap().config.as_ref().unwrap();
    assert!(custom.parameters["weights"].starts_with("a="));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_their_fields_and_change_nothing() {
    let mut fixture = Fixture::new([local("m")]).await;
    let before = strategies(&mut fixture.client).await;
    let mut refused = async |kind, config| {
        let status = fixture.update(kind, true, Some(config)).await.unwrap_err();
        faulty_fields(&status)
    };
    let none = StrategyConfig::default;
    let parameters = |entries| StrategyConfig {
        parameters: pairs(entries),
        ..none()
    };
    let custom = RoutingStrategy::Custom;
    let unspecified = RoutingStrategy::Unspecified;
    assert_eq!(refused(unspecified, none()).await, ["type"]);
    let config = parameters(&[("weights", "a=x"), ("other", "1")]);
    let expected = [
        "config.parameters[\"other\"]",
        "config.parameters[\"weights\"]",
    ];
    assert_eq!(refused(custom, config).await, expected);
    let config = parameters(&[("rule.1", "( => x")]);
    let expected = ["config.parameters[\"rule.1\"]"];
    assert_eq!(
        refused(RoutingStrategy::ContentBased, config).await,
        expected
    );
    let config = StrategyConfig {
        fallback_strategy: custom.into(),
        max_fallback_attempts: 10,
        timeout_ms: 600_001,
        ..none()
    };
    let expected = [
        "config.fallback_strategy",
        "config.max_fallback_attempts",
        "config.timeout_ms",
    ];
    assert_eq!(refused(custom, config).await, expected);
    let config = StrategyConfig {
        fallback_strategy: 77,
        ..none()
    };
    assert_eq!(refused(custom, config).await, ["config.fallback_strategy"]);
    assert_eq!(strategies(&mut fixture.client).await, before);
}

#[tokio::test]
async fn the_parameters_of_a_request_override_the_stored_ones_entry_by_entry() {
    let models = [tagged("c", &["coding"]), tagged("p", &["poems"])];
    let mut fixture = Fixture::new(models).await;
    let kind = RoutingStrategy::ContentBased;
    let config = StrategyConfig {
        parameters: pairs(&[("rule.1", "nothing => coding"), ("default_tag", "poems")]),
        ..Default::default()
    };
    fixture.update(kind, true, Some(config)).await.unwrap();
    assert_eq!(fixture.pick(by(kind)).await, "p");
    let coding = with_parameters(kind, &[("rule.1", "hello => coding")]);
    assert_eq!(fixture.pick(coding).await, "c");
    let other = with_parameters(kind, &[("rule.2", "other => coding")]);
    assert_eq!(
        fixture.pick(other).await,
        "p",
        "the default tag is still there"
    );
}

#[tokio::test]
async fn limited_models_are_picked_only_if_the_strategy_includes_them() {
    let limited = ModelMetadata {
        status: ModelStatus::Limited.into(),
        ..local("m")
    };
    let mut fixture = Fixture::new([limited]).await;
    let kind = RoutingStrategy::RoundRobin;
    fixture.refusal(by(kind)).await;
    let config = StrategyConfig {
        include_limited_models: true,
        ..Default::default()
    };
    fixture.update(kind, true, Some(config)).await.unwrap();
    assert_eq!(fixture.pick(by(kind)).await, "m");
}

#[tokio::test]
async fn models_with_a_high_latency_are_left_out_unless_the_strategy_includes_them() {
    let mut fixture = Fixture::new([local("m")]).await;
    fixture.models.load("m").set_latency(3_000.0);
    let kind = RoutingStrategy::RoundRobin;
    let below = |ms| with_parameters(kind, &[("max_latency_ms", ms)]);
    assert_eq!(fixture.pick(below("3000")).await, "m");
    fixture.models.load("m").set_latency(3_000.0);
    let status = fixture.refusal(below("2999")).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(error_info(&status, "NO_MODEL")["left_out.latency"], "1");
    let config = StrategyConfig {
        include_high_latency_models: true,
        ..Default::default()
    };
    fixture.update(kind, true, Some(config)).await.unwrap();
    assert_eq!(fixture.pick(below("2999")).await, "m");
}

#[tokio::test]
async fn a_change_that_cannot_be_stored_changes_nothing() {
    let mut fixture = Fixture::new([local("m")]).await;
    let before = strategies(&mut fixture.client).await;
    let database = &fixture.router.shared.catalog.database;
    let dropped = database.write(|db| {
        db.execute_batch("DROP TABLE routing_strategies")?;
        Ok::<_, crate::storage::StorageError>(())
    });
    dropped.await.unwrap();
    let status = fixture
        .update(RoutingStrategy::Custom, false, None)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(strategies(&mut fixture.client).await, before);
    fixture.route(by(RoutingStrategy::Custom)).await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn rules_are_worked_on_where_they_hold_up_nothing_else() {
    let mut fixture = Fixture::new([local("m")]).await;
    let router = fixture.router.clone();
    // All places for such work are taken, so none of it is done until they are free.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    for _ in 0..crate::router::limits::READINGS {
        let (shared, ended) = (Arc::clone(&router.shared), Arc::clone(&ended));
        tokio::spawn(async move {
            let wait = move || {
                // Fails when the other end is dropped.
                let _ = ended.lock().unwrap().recv();
            };
            shared.readings.run(wait).await
        });
        tokio::task::yield_now().await;
    }
    let kind = RoutingStrategy::ContentBased;
    let rule = [("rule.1", "hello => t"), ("default_tag", "t")];
    let late = routed(RoutingRequest {
        timeout_ms: 50,
        ..with_parameters(kind, &rule).routing.unwrap()
    });
    let status = promptly(fixture.refusal(late)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    promptly(fixture.route(request())).await.unwrap();

    let mut client = fixture.client.clone();
    let update = pb::UpdateRoutingStrategyRequest {
        context: None,
        r#type: kind.into(),
        config: Some(StrategyConfig {
            parameters: pairs(&[("rule.1", "hello => t")]),
            ..Default::default()
        }),
        enabled: true,
    };
    let updating = tokio::spawn(async move { client.update_routing_strategy(update).await });
    promptly(fixture.update(RoutingStrategy::Custom, true, None))
        .await
        .unwrap();
    assert!(!updating.is_finished());
    drop(end);
    promptly(updating).await.unwrap().unwrap();
}
