use super::super::Ended;
use super::super::store::Store;
use super::*;

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
async fn a_model_without_a_known_connector_cannot_be_checked_and_hears_which_there_are() {
    let mut client = default_client().await;
    register(&mut client, model("none")).await.unwrap();
    let other = with_connector("other", connector("openai", "https://host/v1", ""));
    register(&mut client, other).await.unwrap();
    for id in ["none", "other"] {
        let status = check(&mut client, id, 0).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(
            status.message().ends_with("available: local"),
            "{}",
            status.message()
        );
        let details = status.get_error_details();
        let unmet = &details.precondition_failure().unwrap().violations[0];
        assert_eq!(unmet.subject, "metadata.connector_config.type");
        assert_eq!(get(&mut client, id).await.unwrap().last_checked_at, None);
    }
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

fn store_with(model: ModelMetadata) -> (Store, std::sync::Arc<ModelMetadata>) {
    let store = Store::new(10, 1 << 20);
    let model = store.insert(model, ticking().into()).unwrap();
    (store, model)
}

#[test]
fn the_average_latency_follows_the_newest_measurements() {
    let (store, model) = store_with(model("m"));
    for (measured, average) in [(100.0, 100.0), (200.0, 120.0), (20.0, 100.0)] {
        store
            .record_check(&model, Some(measured), ticking().into())
            .unwrap();
        let recorded = store.get("m").unwrap().avg_latency_ms;
        assert!(
            (recorded - average).abs() < 0.001,
            "{recorded} is not {average}"
        );
    }
}

#[test]
fn a_model_that_did_not_answer_keeps_its_average_latency() {
    let (store, model) = store_with(ModelMetadata {
        avg_latency_ms: 80.0,
        ..model("m")
    });
    let at = ticking().into();
    store.record_check(&model, None, at).unwrap();
    let after = store.get("m").unwrap();
    assert_eq!(
        (after.avg_latency_ms, after.last_checked_at),
        (80.0, Some(at))
    );
}

#[test]
fn the_outcome_of_a_check_is_not_recorded_for_another_endpoint() {
    let (store, checked) = store_with(model("m"));
    let moved = with_connector("m", connector("local", "", ""));
    store.replace(moved, ticking().into()).unwrap();
    let error = store
        .record_check(&checked, Some(1.0), ticking().into())
        .unwrap_err();
    assert_about_model(&Status::from(error), Code::Aborted, "m");
    assert_eq!(store.get("m").unwrap().last_checked_at, None);
}

#[test]
fn the_outcome_of_a_check_is_not_recorded_for_a_new_model_with_the_same_id() {
    let (store, checked) = store_with(model("m"));
    store.remove("m").unwrap();
    let error = store
        .record_check(&checked, Some(1.0), ticking().into())
        .unwrap_err();
    assert_about_model(&Status::from(error), Code::NotFound, "m");
    store.insert(model("m"), ticking().into()).unwrap();
    let error = store
        .record_check(&checked, Some(1.0), ticking().into())
        .unwrap_err();
    assert_about_model(&Status::from(error), Code::Aborted, "m");
}
