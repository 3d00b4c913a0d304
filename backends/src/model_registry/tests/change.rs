use pb::ModelStatus;

use super::super::STATUS_REASON;
use super::*;

#[tokio::test]
async fn an_unknown_model_is_not_found_by_any_method() {
    let mut client = default_client().await;
    let errors = [
        get(&mut client, "no/such").await.unwrap_err(),
        update(&mut client, model("no/such")).await.unwrap_err(),
        remove(&mut client, "no/such").await.unwrap_err(),
        set_status(&mut client, "no/such", 1, "").await.unwrap_err(),
        check(&mut client, "no/such", 0).await.unwrap_err(),
    ];
    for status in errors {
        assert_about_model(&status, Code::NotFound, "no/such");
    }
}

#[tokio::test]
async fn an_id_that_no_model_can_have_is_refused_by_any_method() {
    let mut client = default_client().await;
    for id in ["", "a b", &"x".repeat(129)] {
        let errors = [
            get(&mut client, id).await.unwrap_err(),
            remove(&mut client, id).await.unwrap_err(),
            set_status(&mut client, id, 1, "").await.unwrap_err(),
            check(&mut client, id, 0).await.unwrap_err(),
        ];
        for status in errors {
            assert_eq!(faulty_fields(&status), ["model_id"]);
        }
        let status = update(&mut client, model(id)).await.unwrap_err();
        assert_eq!(faulty_fields(&status), ["metadata.id"]);
    }
}

#[tokio::test]
async fn an_update_replaces_the_model_and_keeps_when_it_was_created() {
    let mut client = default_client().await;
    let tagged = ModelMetadata {
        tags: vec!["old".to_owned()],
        ..model("m")
    };
    let before = register(&mut client, tagged).await.unwrap();
    let change = ModelMetadata {
        name: "New".to_owned(),
        context_window: 8,
        ..model("m")
    };
    let after = update(&mut client, change).await.unwrap();
    assert_eq!((after.name.as_str(), after.context_window), ("New", 8));
    assert!(after.tags.is_empty());
    assert_eq!(after.created_at, before.created_at);
    assert!(after.updated_at.unwrap().seconds > before.updated_at.unwrap().seconds);
    assert_eq!(get(&mut client, "m").await.unwrap(), after);
}

#[tokio::test]
async fn an_update_that_names_no_status_leaves_the_recorded_one() {
    let mut client = default_client().await;
    register(&mut client, model("m")).await.unwrap();
    set_status(&mut client, "m", ModelStatus::Maintenance.into(), "")
        .await
        .unwrap();
    let after = update(&mut client, model("m")).await.unwrap();
    assert_eq!(after.status(), ModelStatus::Maintenance);
    let change = ModelMetadata {
        status: ModelStatus::Deprecated.into(),
        ..model("m")
    };
    assert_eq!(
        update(&mut client, change).await.unwrap().status(),
        ModelStatus::Deprecated
    );
}

#[tokio::test]
async fn an_update_leaves_what_health_checks_found() {
    let mut client = default_client().await;
    let local = with_connector("m", connector("local", "", ""));
    register(&mut client, local.clone()).await.unwrap();
    check(&mut client, "m", 0).await.unwrap();
    let checked = get(&mut client, "m").await.unwrap();
    assert!(checked.last_checked_at.is_some() && checked.avg_latency_ms > 0.0);
    let after = update(&mut client, local).await.unwrap();
    assert_eq!(after.last_checked_at, checked.last_checked_at);
    assert_eq!(after.avg_latency_ms, checked.avg_latency_ms);
}

#[tokio::test]
async fn a_refused_update_changes_nothing() {
    let mut client = default_client().await;
    let before = register(&mut client, model("m")).await.unwrap();
    let bad = ModelMetadata {
        name: "New".to_owned(),
        cost_per_1k_input: -1.0,
        ..model("m")
    };
    let status = update(&mut client, bad).await.unwrap_err();
    assert_eq!(faulty_fields(&status), ["metadata.cost_per_1k_input"]);
    assert_eq!(get(&mut client, "m").await.unwrap(), before);
}

#[tokio::test]
async fn a_removed_model_comes_back_once_and_its_id_is_free() {
    let mut client = default_client().await;
    let registered = register(&mut client, model("m")).await.unwrap();
    assert_eq!(remove(&mut client, "m").await.unwrap(), registered);
    assert_about_model(
        &get(&mut client, "m").await.unwrap_err(),
        Code::NotFound,
        "m",
    );
    assert_about_model(
        &remove(&mut client, "m").await.unwrap_err(),
        Code::NotFound,
        "m",
    );
    register(&mut client, model("m")).await.unwrap();
}

#[tokio::test]
async fn a_status_is_set_with_its_reason_and_the_time() {
    let mut client = default_client().await;
    let before = register(&mut client, model("m")).await.unwrap();
    let status = ModelStatus::Unavailable;
    let after = set_status(&mut client, "m", status.into(), "disk full")
        .await
        .unwrap();
    assert_eq!(after.status(), status);
    assert_eq!(after.metadata.get(STATUS_REASON).unwrap(), "disk full");
    assert!(after.updated_at.unwrap().seconds > before.updated_at.unwrap().seconds);
    assert_eq!(after.created_at, before.created_at);
    assert_eq!(get(&mut client, "m").await.unwrap(), after);
}

#[tokio::test]
async fn a_change_of_status_without_reason_removes_the_old_reason() {
    let mut client = default_client().await;
    register(&mut client, model("m")).await.unwrap();
    set_status(
        &mut client,
        "m",
        ModelStatus::Unavailable.into(),
        "disk full",
    )
    .await
    .unwrap();
    let after = set_status(&mut client, "m", ModelStatus::Available.into(), "")
        .await
        .unwrap();
    assert!(after.metadata.is_empty());
}

#[tokio::test]
async fn a_status_that_says_nothing_is_refused() {
    let mut client = default_client().await;
    let before = register(&mut client, model("m")).await.unwrap();
    for status in [0, 6, -1] {
        let status = set_status(&mut client, "m", status, "").await.unwrap_err();
        assert_eq!(faulty_fields(&status), ["status"]);
    }
    assert_eq!(get(&mut client, "m").await.unwrap(), before);
}

#[tokio::test]
async fn a_reason_that_is_too_long_is_refused() {
    let mut client = default_client().await;
    register(&mut client, model("m")).await.unwrap();
    let status = set_status(&mut client, "m", 1, &"x".repeat(1025))
        .await
        .unwrap_err();
    assert_eq!(faulty_fields(&status), ["reason"]);
    set_status(&mut client, "m", 1, &"x".repeat(1024))
        .await
        .unwrap();
}
