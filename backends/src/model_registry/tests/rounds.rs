use std::sync::atomic::{AtomicUsize, Ordering};

use pb::ModelStatus;
use serde_json::json;

use super::*;
use crate::connectors::test_server::{Reply, TestServer};
use crate::router::candidate::ModelSource;

fn every(interval: Duration) -> RegistrySettings {
    RegistrySettings {
        health_interval: interval,
        ..Default::default()
    }
}

const OFTEN: Duration = Duration::from_millis(20);
/// Longer than any test runs.
const SELDOM: Duration = Duration::from_secs(24 * 3600);

async fn endpoint() -> TestServer {
    counting_endpoint(&Arc::default()).await
}

async fn counting_endpoint(requests: &Arc<AtomicUsize>) -> TestServer {
    let requests = Arc::clone(requests);
    TestServer::start(move |_| {
        requests.fetch_add(1, Ordering::SeqCst);
        Reply::json(200, &json!({"data": []}))
    })
    .await
}

fn at(id: &str, server: &TestServer) -> ModelMetadata {
    with_connector(id, connector("openai", &server.url(), ""))
}

#[tokio::test]
async fn the_health_of_a_model_turns_and_returns_without_a_call_and_only_changes_are_told() {
    let mut world = World::new(every(OFTEN)).await;
    let mut events = world.health_events().await;
    let mut server = endpoint().await;
    let address = server.address();
    register(&mut world.client, at("m", &server)).await.unwrap();
    // Found healthy more than once, which is no news.
    for _ in 0..3 {
        server.request().await;
    }
    server.stop().await;
    let event = events.next().await;
    assert_eq!((event.model_id.as_str(), event.healthy), ("m", false));
    let down = get(&mut world.client, "m").await.unwrap();
    assert_eq!(down.status(), ModelStatus::Unavailable);
    let reason = down.metadata.get(crate::model_registry::STATUS_REASON);
    assert!(reason.unwrap().starts_with("health check failed: "));
    let mut killed = world.after_a_kill(quiet()).await;
    let on_disk = get(&mut killed.client, "m").await.unwrap();
    assert_eq!(on_disk.status(), ModelStatus::Unavailable);

    let answers = |_: &_| Reply::json(200, &json!({"data": []}));
    let _server = TestServer::start_on(address, answers).await;
    assert!(events.next().await.healthy);
    let back = get(&mut world.client, "m").await.unwrap();
    assert_eq!(back.status(), ModelStatus::Available);
}

#[tokio::test]
async fn a_model_that_was_out_at_the_start_returns() {
    let mut world = World::new(quiet()).await;
    let server = endpoint().await;
    let address = server.address();
    register(&mut world.client, at("m", &server)).await.unwrap();
    server.stop().await;
    check(&mut world.client, "m", 0).await.unwrap();

    let answers = |_: &_| Reply::json(200, &json!({"data": []}));
    let mut server = TestServer::start_on(address, answers).await;
    let mut world = world.after_a_kill(every(OFTEN)).await;
    // When the second check begins, the first may still be under way; when the fourth does, not.
    for _ in 0..4 {
        server.request().await;
    }
    let back = get(&mut world.client, "m").await.unwrap();
    assert_eq!(back.status(), ModelStatus::Available);
}

#[tokio::test]
async fn models_that_rest_and_models_without_a_connector_are_left_alone() {
    let mut world = World::new(every(OFTEN)).await;
    let client = &mut world.client;
    let mut resting = endpoint().await;
    for (id, status) in [
        ("a", ModelStatus::Maintenance),
        ("b", ModelStatus::Deprecated),
    ] {
        let rests = ModelMetadata {
            status: status.into(),
            ..at(id, &resting)
        };
        register(client, rests).await.unwrap();
    }
    register(client, model("none")).await.unwrap();
    let mut checked = endpoint().await;
    register(client, at("z", &checked)).await.unwrap();
    // Whole rounds pass.
    for _ in 0..5 {
        checked.request().await;
    }
    assert_eq!(resting.connections(), 0);
    for id in ["a", "b", "none"] {
        assert_eq!(get(client, id).await.unwrap().last_checked_at, None);
    }
    // What comes back to work is checked again.
    set_status(client, "a", ModelStatus::Available.into(), "")
        .await
        .unwrap();
    resting.request().await;
}

#[tokio::test]
async fn no_more_than_sixteen_checks_run_at_a_time() {
    let running = Arc::new(AtomicUsize::new(0));
    let mut world = World::new(patient()).await;
    let mut servers = Vec::new();
    for n in 0..6 {
        servers.push(silent_endpoint(&running).await);
        register_ten(&mut world, n, &servers[n]).await;
    }
    while running.load(Ordering::SeqCst) < 16 {
        tokio::task::yield_now().await;
    }
    // Many rounds later there are still no more.
    tokio::time::sleep(10 * OFTEN).await;
    assert_eq!(running.load(Ordering::SeqCst), 16);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_keeps_no_other_from_its_turn() {
    let running = Arc::new(AtomicUsize::new(0));
    let mut world = World::new(patient()).await;
    let silent = [
        silent_endpoint(&running).await,
        silent_endpoint(&running).await,
    ];
    for (n, server) in silent.iter().enumerate() {
        register_ten(&mut world, n, server).await;
    }
    while running.load(Ordering::SeqCst) < 8 {
        tokio::task::yield_now().await;
    }
    let mut good = endpoint().await;
    register(&mut world.client, at("z", &good)).await.unwrap();
    // Round after round, while each of the others is asked four times and no more.
    for _ in 0..5 {
        good.request().await;
    }
    assert_eq!(running.load(Ordering::SeqCst), 8);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_nobody_called_for_takes_no_longer_than_the_settings_say() {
    let mut world = World::new(every(SELDOM)).await;
    let mut events = world.health_events().await;
    let server = silent_endpoint(&Arc::default()).await;
    let mut slow = at("m", &server);
    slow.connector_config.as_mut().unwrap().timeout_ms = 600_000;
    register(&mut world.client, slow).await.unwrap();
    world.registry.report_unreachable("m", "reset");
    let event = events.next().await;
    assert_eq!((event.healthy, event.latency_ms), (false, 5_000.0));
}

/// Takes requests, counts them, and never answers.
async fn silent_endpoint(requests: &Arc<AtomicUsize>) -> TestServer {
    let requests = Arc::clone(requests);
    TestServer::start(move |_| {
        requests.fetch_add(1, Ordering::SeqCst);
        Reply::Silence
    })
    .await
}

/// Rounds often, and checks that last.
fn patient() -> RegistrySettings {
    RegistrySettings {
        health_timeout: Duration::from_secs(30),
        ..every(OFTEN)
    }
}

async fn register_ten(world: &mut World, group: usize, server: &TestServer) {
    for n in 0..10 {
        let model = at(&format!("m-{group}-{n}"), server);
        register(&mut world.client, model).await.unwrap();
    }
}

#[tokio::test]
async fn a_model_that_a_call_could_not_reach_is_checked_at_once() {
    let mut world = World::new(every(SELDOM)).await;
    let mut events = world.health_events().await;
    let server = endpoint().await;
    register(&mut world.client, at("m", &server)).await.unwrap();
    server.stop().await;
    for id in ["m", "no-such-model"] {
        world.registry.report_unreachable(id, "connection refused");
    }
    let event = events.next().await;
    assert_eq!((event.model_id.as_str(), event.healthy), ("m", false));
    let down = get(&mut world.client, "m").await.unwrap();
    assert_eq!(down.status(), ModelStatus::Unavailable);
}

#[tokio::test]
async fn many_reports_of_a_model_lead_to_few_checks() {
    let mut world = World::new(every(SELDOM)).await;
    let requests = Arc::default();
    let mut server = counting_endpoint(&requests).await;
    register(&mut world.client, at("m", &server)).await.unwrap();
    let other = endpoint().await;
    register(&mut world.client, at("other", &other))
        .await
        .unwrap();
    for _ in 0..50 {
        world.registry.report_unreachable("m", "connection reset");
    }
    let mut events = world.health_events().await;
    other.stop().await;
    world.registry.report_unreachable("other", "refused");
    // Reports are looked at in order, so those before are done with.
    assert!(!events.next().await.healthy);
    server.request().await;
    // One, or two if a second ended meanwhile.
    assert!(requests.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn without_an_interval_nothing_is_checked_unless_it_is_called_for() {
    let mut world = World::new(quiet()).await;
    let requests = Arc::default();
    let server = counting_endpoint(&requests).await;
    register(&mut world.client, at("m", &server)).await.unwrap();
    world.registry.report_unreachable("m", "refused");
    check(&mut world.client, "m", 0).await.unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_rounds_end_with_the_registry() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join(FILE), MIGRATIONS).unwrap();
    let log = Arc::new(MemoryLog::new(LogSettings::default()).unwrap());
    let connectors = Connectors::new(ConnectorSettings::default()).unwrap();
    let events = Events::start(log);
    let registry = ModelRegistry::open(database, every(OFTEN), connectors, events);
    let registry = registry.await.unwrap();
    let checker = Arc::downgrade(&registry.checker);
    drop(registry);
    // The task is gone as soon as the runtime gets round to it.
    while checker.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_model_that_an_operator_makes_available_while_it_fails_goes_out_again_and_that_is_told() {
    let mut world = World::new(every(OFTEN)).await;
    let mut events = world.health_events().await;
    let server = endpoint().await;
    register(&mut world.client, at("m", &server)).await.unwrap();
    server.stop().await;
    assert!(!events.next().await.healthy);
    set_status(&mut world.client, "m", ModelStatus::Available.into(), "")
        .await
        .unwrap();
    assert!(!events.next().await.healthy);
    let down = get(&mut world.client, "m").await.unwrap();
    assert_eq!(down.status(), ModelStatus::Unavailable);
}
