use prost::Message;

use super::*;

#[track_caller]
fn assert_exhausted(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "model_registry"
    );
}

/// A model whose name fills most of its size.
fn large(id: &str) -> ModelMetadata {
    ModelMetadata {
        name: "x".repeat(200),
        ..model(id)
    }
}

#[tokio::test]
async fn a_full_registry_takes_no_more_models_until_one_is_removed() {
    let settings = RegistrySettings {
        max_models: 2,
        ..Default::default()
    };
    let mut client = client(settings).await;
    register(&mut client, model("a")).await.unwrap();
    register(&mut client, model("b")).await.unwrap();
    let status = register(&mut client, model("c")).await.unwrap_err();
    assert_exhausted(&status);
    assert!(
        status.message().contains("holds 2 models"),
        "{}",
        status.message()
    );

    // What is there can still be changed, and a taken id is said to be taken.
    update(&mut client, large("a")).await.unwrap();
    let status = register(&mut client, model("a")).await.unwrap_err();
    assert_about_model(&status, Code::AlreadyExists, "a");

    remove(&mut client, "b").await.unwrap();
    register(&mut client, model("c")).await.unwrap();
}

#[tokio::test]
async fn the_models_together_stay_below_the_limit_in_bytes() {
    let settings = RegistrySettings {
        max_total_bytes: 400,
        ..Default::default()
    };
    let mut client = client(settings).await;
    register(&mut client, large("a")).await.unwrap();
    register(&mut client, model("b")).await.unwrap();
    assert_exhausted(&register(&mut client, large("c")).await.unwrap_err());
    assert_eq!(ids(&list(&mut client).await.unwrap()), ["a", "b"]);

    let larger = ModelMetadata {
        provider: "x".repeat(250),
        ..large("b")
    };
    assert_exhausted(&update(&mut client, larger).await.unwrap_err());
    assert_eq!(get(&mut client, "b").await.unwrap().provider, "acme");

    // Both ways of giving room back count.
    update(&mut client, model("a")).await.unwrap();
    register(&mut client, large("c")).await.unwrap();
    remove(&mut client, "c").await.unwrap();
    register(&mut client, large("d")).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_full_in_bytes_can_still_be_operated() {
    let size = with_connector("m", connector("local", "", "")).encoded_len();
    // Room for the model with its status and two times, and no more.
    let settings = RegistrySettings {
        max_total_bytes: size + 20,
        ..Default::default()
    };
    let mut client = client(settings).await;
    register(&mut client, with_connector("m", connector("local", "", "")))
        .await
        .unwrap();
    assert_exhausted(&register(&mut client, model("n")).await.unwrap_err());
    set_status(&mut client, "m", 2, &"x".repeat(1024))
        .await
        .unwrap();
    check(&mut client, "m", 0).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_clients_could_not_take_is_refused_and_a_narrower_question_is_not() {
    let settings = RegistrySettings {
        max_answer_bytes: 600,
        ..Default::default()
    };
    let mut client = client(settings).await;
    for id in ["a", "b"] {
        register(&mut client, large(id)).await.unwrap();
    }
    assert_eq!(ids(&list(&mut client).await.unwrap()), ["a", "b"]);
    register(
        &mut client,
        ModelMetadata {
            provider: "other".to_owned(),
            ..large("c")
        },
    )
    .await
    .unwrap();
    let status = list(&mut client).await.unwrap_err();
    assert_exhausted(&status);
    assert!(
        status.message().contains("600 bytes"),
        "{}",
        status.message()
    );
    let filter = pb::ModelFilter {
        providers: vec!["acme".to_owned()],
        ..Default::default()
    };
    assert_eq!(ids(&find(&mut client, filter).await.unwrap()), ["a", "b"]);
}

#[tokio::test]
async fn the_answer_limit_is_that_of_the_whole_message() {
    let mut probe = default_client().await;
    register(&mut probe, large("a")).await.unwrap();
    let answer = probe
        .list_models(pb::ListModelsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let size = answer.encoded_len();
    for (max_answer_bytes, fits) in [(size, true), (size - 1, false)] {
        let settings = RegistrySettings {
            max_answer_bytes,
            ..Default::default()
        };
        let registry = ModelRegistry::new(settings);
        // The same times as in the probe, so that the sizes are the same.
        let at = answer.models[0].created_at.unwrap();
        registry.store.insert(large("a"), at).unwrap();
        assert_eq!(list(&mut serve(registry).await).await.is_ok(), fits);
    }
}

#[tokio::test]
async fn the_default_settings_hold_and_list_ten_thousand_models() {
    let registry = ModelRegistry::new(RegistrySettings::default());
    for n in 0..10_000 {
        registry
            .store
            .insert(model(&format!("model-{n}")), ticking().into())
            .unwrap();
    }
    let mut client = serve(registry).await;
    assert_eq!(list(&mut client).await.unwrap().len(), 10_000);
    assert_exhausted(&register(&mut client, model("one-more")).await.unwrap_err());
}
