use std::sync::atomic::AtomicUsize;

use pb::ModelStatus;
use serde_json::json;

use super::super::STATUS_REASON;
use super::super::health::Outcome;
use super::super::metrics::Metrics;
use super::super::record::Record;
use super::super::store::{Capacity, Store};
use super::super::{Ended, RegistryError};
use super::*;
use crate::connectors::test_server::{Reply, TestServer};

/// Answers for its list of models with this status, whatever the test makes it.
async fn endpoint(status: &Arc<AtomicUsize>) -> TestServer {
    let status = Arc::clone(status);
    TestServer::start(move |_| {
        let status = status.load(Ordering::SeqCst) as u16;
        Reply::json(status, &json!({"error": {"message": "as the test says"}}))
    })
    .await
}

fn at(server: &TestServer) -> ModelMetadata {
    with_connector("m", connector("openai", &server.url(), "sk-very-secret"))
}

#[tokio::test]
async fn a_model_in_this_process_is_healthy_and_the_check_is_recorded() {
    let mut client = default_client().await;
    let local = with_connector("m", connector("local", "", ""));
    let before = register(&mut client, local).await.unwrap();
    let answer = check(&mut client, "m", 1000).await.unwrap();
    assert_eq!(answer.status(), Ended::Success);
    let result = answer.result.unwrap();
    assert!(result.healthy && result.latency_ms > 0.0, "{result:?}");
    assert_eq!(result.error_message, "");
    assert_eq!(result.details.get("connector").unwrap(), "local");

    let after = get(&mut client, "m").await.unwrap();
    assert_eq!(after.last_checked_at, result.timestamp);
    assert_eq!(after.avg_latency_ms, result.latency_ms);
    assert_eq!(after.updated_at, before.updated_at);
    assert_eq!(after.status, before.status);
}

#[tokio::test]
async fn a_model_without_a_connector_cannot_be_checked_and_hears_which_there_are() {
    let mut client = default_client().await;
    register(&mut client, model("m")).await.unwrap();
    let status = check(&mut client, "m", 0).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let text = status.message();
    assert!(text.ends_with("available: local, openai"), "{text}");
    let details = status.get_error_details();
    let unmet = &details.precondition_failure().unwrap().violations[0];
    assert_eq!(unmet.subject, "metadata.connector_config.type");
    assert_eq!(get(&mut client, "m").await.unwrap().last_checked_at, None);
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_refused() {
    let mut client = default_client().await;
    register(&mut client, with_connector("m", connector("local", "", "")))
        .await
        .unwrap();
    let status = check(&mut client, "m", 30_001).await.unwrap_err();
    assert_eq!(faulty_fields(&status), ["timeout_ms"]);
    check(&mut client, "m", 30_000).await.unwrap();
}

#[tokio::test]
async fn a_check_asks_the_endpoint_with_the_models_key() {
    let mut client = default_client().await;
    let status = Arc::new(AtomicUsize::new(200));
    let mut server = endpoint(&status).await;
    register(&mut client, at(&server)).await.unwrap();
    let answer = check(&mut client, "m", 0).await.unwrap();
    assert!(answer.result.unwrap().healthy);
    let asked = server.request().await;
    assert_eq!(asked.path, "/v1/models");
    assert_eq!(asked.header("authorization"), Some("Bearer sk-very-secret"));
}

#[tokio::test]
async fn a_model_that_fails_its_check_is_unavailable_until_it_answers_again() {
    let mut world = World::new(quiet()).await;
    let mut events = world.health_events().await;
    let client = &mut world.client;
    let server = endpoint(&Arc::new(AtomicUsize::new(200))).await;
    let address = server.address();
    register(client, at(&server)).await.unwrap();
    assert!(check(client, "m", 0).await.unwrap().result.unwrap().healthy);
    let up = get(client, "m").await.unwrap();
    assert_eq!(up.status(), ModelStatus::Available);

    server.stop().await;
    let answer = check(client, "m", 0).await.unwrap();
    assert_eq!(answer.status(), Ended::Success);
    let result = answer.result.unwrap();
    assert!(!result.healthy && !result.error_message.is_empty());
    let down = get(client, "m").await.unwrap();
    assert_eq!(down.status(), ModelStatus::Unavailable);
    let reason = down.metadata.get(STATUS_REASON).unwrap();
    assert_eq!(
        *reason,
        format!("health check failed: {}", result.error_message)
    );
    assert!(down.updated_at.unwrap().seconds > up.updated_at.unwrap().seconds);
    assert_eq!(down.avg_latency_ms, up.avg_latency_ms);

    let answers = |_: &_| Reply::json(200, &json!({"data": []}));
    let _server = TestServer::start_on(address, answers).await;
    assert!(check(client, "m", 0).await.unwrap().result.unwrap().healthy);
    let back = get(client, "m").await.unwrap();
    assert_eq!(back.status(), ModelStatus::Available);
    assert!(!back.metadata.contains_key(STATUS_REASON));

    for healthy in [true, false, true] {
        let event = events.next().await;
        assert_eq!((event.model_id.as_str(), event.healthy), ("m", healthy));
        assert_eq!(event.metadata.contains_key("error"), !healthy);
        assert!(!format!("{event:?}").contains("sk-very-secret"));
    }
}

#[tokio::test]
async fn a_refused_key_and_a_failing_endpoint_are_not_healthy_and_say_why() {
    let mut client = default_client().await;
    let status = Arc::new(AtomicUsize::new(200));
    let server = endpoint(&status).await;
    register(&mut client, at(&server)).await.unwrap();
    for code in [401, 403, 500, 503] {
        status.store(code, Ordering::SeqCst);
        let answer = check(&mut client, "m", 0).await.unwrap();
        assert_eq!(answer.status(), Ended::Success);
        let result = answer.result.unwrap();
        assert!(!result.healthy);
        let why = result.error_message;
        assert!(why.contains(&code.to_string()), "{why}");
        assert!(!why.contains("sk-very-secret"));
    }
}

#[tokio::test]
async fn a_model_that_stays_silent_is_a_timeout_and_unavailable() {
    let mut client = default_client().await;
    let server = TestServer::start(|_| Reply::Silence).await;
    register(&mut client, at(&server)).await.unwrap();
    let answer = check(&mut client, "m", 30).await.unwrap();
    assert_eq!(answer.status(), Ended::Timeout);
    let result = answer.result.unwrap();
    assert!(!result.healthy);
    assert_eq!(result.latency_ms, 30.0);
    assert_eq!(result.error_message, "no answer within 30 ms");
    let after = get(&mut client, "m").await.unwrap();
    assert_eq!(after.status(), ModelStatus::Unavailable);
    assert_eq!(after.last_checked_at, result.timestamp);
}

#[tokio::test]
async fn no_check_changes_the_status_that_an_operator_set() {
    let mut client = default_client().await;
    let code = Arc::new(AtomicUsize::new(500));
    let server = endpoint(&code).await;
    register(&mut client, at(&server)).await.unwrap();
    for status in [
        ModelStatus::Unavailable,
        ModelStatus::Maintenance,
        ModelStatus::Deprecated,
        ModelStatus::Limited,
    ] {
        let set = set_status(&mut client, "m", status.into(), "my reason");
        let set = set.await.unwrap();
        for answer in [500, 200] {
            code.store(answer, Ordering::SeqCst);
            check(&mut client, "m", 0).await.unwrap();
            let after = get(&mut client, "m").await.unwrap();
            assert_eq!(after.status(), status);
            assert_eq!(after.metadata, set.metadata);
            assert_eq!(after.updated_at, set.updated_at);
        }
    }
}

#[tokio::test]
async fn what_a_check_took_out_an_operator_can_keep_out() {
    let mut client = default_client().await;
    let code = Arc::new(AtomicUsize::new(500));
    let server = endpoint(&code).await;
    register(&mut client, at(&server)).await.unwrap();
    check(&mut client, "m", 0).await.unwrap();
    let out = ModelStatus::Unavailable;
    set_status(&mut client, "m", out.into(), "and stays so")
        .await
        .unwrap();
    code.store(200, Ordering::SeqCst);
    check(&mut client, "m", 0).await.unwrap();
    assert_eq!(get(&mut client, "m").await.unwrap().status(), out);
}

#[tokio::test]
async fn who_made_a_model_unavailable_survives_a_kill_and_an_update() {
    let mut world = World::new(quiet()).await;
    let code = Arc::new(AtomicUsize::new(500));
    let server = endpoint(&code).await;
    register(&mut world.client, at(&server)).await.unwrap();
    check(&mut world.client, "m", 0).await.unwrap();
    // Read, changed, written back: the status is in it, but nobody decided on it.
    let read = get(&mut world.client, "m").await.unwrap();
    assert_eq!(read.status(), ModelStatus::Unavailable);
    let renamed = ModelMetadata {
        name: "New".to_owned(),
        ..read
    };
    update(&mut world.client, renamed).await.unwrap();

    let mut after = world.after_a_kill(quiet()).await;
    let out = get(&mut after.client, "m").await.unwrap();
    assert_eq!(out.status(), ModelStatus::Unavailable);
    code.store(200, Ordering::SeqCst);
    check(&mut after.client, "m", 0).await.unwrap();
    let back = get(&mut after.client, "m").await.unwrap();
    assert_eq!(back.status(), ModelStatus::Available);
}

struct Stored {
    store: Store,
    model: Record,
    _directory: tempfile::TempDir,
}

impl Stored {
    async fn new(model: ModelMetadata) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join(FILE), MIGRATIONS).unwrap();
        let capacity = Capacity {
            models: 10,
            bytes: 1 << 20,
        };
        let metrics = Arc::new(Metrics::default());
        let store = Store::open(database, capacity, metrics).await.unwrap();
        store.insert(model, ticking().into()).await.unwrap();
        let model = store.get("m").unwrap().record;
        Self {
            store,
            model,
            _directory: directory,
        }
    }

    async fn record(&self, outcome: &Outcome) -> Result<bool, RegistryError> {
        let at = ticking().into();
        let durable = self.store.record_check(&self.model, outcome, at, true);
        let durable = durable.await.map_err(|error| error.to_string());
        let quick = self.store.record_check(&self.model, outcome, at, false);
        let quick = quick.await;
        // Whether it goes to disk makes no difference to what is refused.
        let refused = quick.as_ref().err().map(ToString::to_string);
        assert_eq!(durable.err(), refused);
        quick
    }

    fn shown(&self) -> ModelMetadata {
        self.store.get("m").unwrap().shown()
    }
}

fn answered() -> Outcome {
    Outcome::Answered(Duration::from_millis(20))
}

#[tokio::test]
async fn a_model_that_did_not_answer_keeps_its_average_latency() {
    let stored = Stored::new(ModelMetadata {
        avg_latency_ms: 80.0,
        ..model("m")
    })
    .await;
    let silent = Outcome::Silent(Duration::from_millis(20));
    stored.record(&silent).await.unwrap();
    let after = stored.shown();
    assert_eq!(after.avg_latency_ms, 80.0);
    assert!(after.last_checked_at.is_some());
}

#[tokio::test]
async fn the_average_latency_follows_the_newest_checks_of_a_model_that_was_never_called() {
    let stored = Stored::new(model("m")).await;
    for (measured, average) in [(100, 100.0), (200, 120.0), (20, 100.0)] {
        let outcome = Outcome::Answered(Duration::from_millis(measured));
        let at = ticking().into();
        let recorded = stored.store.record_check(&stored.model, &outcome, at, true);
        recorded.await.unwrap();
        let shown = stored.shown().avg_latency_ms;
        assert!((shown - average).abs() < 0.001, "{shown} is not {average}");
    }
}

#[tokio::test]
async fn the_outcome_of_a_check_is_not_recorded_for_another_endpoint() {
    let stored = Stored::new(model("m")).await;
    let moved = with_connector("m", connector("local", "", ""));
    stored.store.replace(moved, ticking().into()).await.unwrap();
    let error = stored.record(&answered()).await.unwrap_err();
    assert_about_model(&Status::from(error), Code::Aborted, "m");
    assert_eq!(stored.shown().last_checked_at, None);
}

#[tokio::test]
async fn the_outcome_of_a_check_is_not_recorded_for_another_key() {
    let keyed = |key| with_connector("m", connector("openai", "https://host/v1", key));
    let stored = Stored::new(keyed("old")).await;
    let changed = stored.store.replace(keyed("new"), ticking().into());
    changed.await.unwrap();
    let error = stored.record(&answered()).await.unwrap_err();
    assert_about_model(&Status::from(error), Code::Aborted, "m");
}

#[tokio::test]
async fn the_outcome_of_a_check_is_not_recorded_for_a_new_model_with_the_same_id() {
    let stored = Stored::new(model("m")).await;
    stored.store.remove("m").await.unwrap();
    let error = stored.record(&answered()).await.unwrap_err();
    assert_about_model(&Status::from(error), Code::NotFound, "m");
    stored
        .store
        .insert(model("m"), ticking().into())
        .await
        .unwrap();
    let error = stored.record(&answered()).await.unwrap_err();
    assert_about_model(&Status::from(error), Code::Aborted, "m");
}
