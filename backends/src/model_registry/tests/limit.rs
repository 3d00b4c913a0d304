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
        ..quiet()
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
        ..quiet()
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
        ..quiet()
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
        ..quiet()
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
            ..quiet()
        };
        let mut world = World::new(settings).await;
        // The same times as in the probe, so that the sizes are the same.
        let at = answer.models[0].created_at.unwrap();
        let store = &world.registry.store;
        store.insert(large("a"), at).await.unwrap();
        assert_eq!(list(&mut world.client).await.is_ok(), fits);
    }
}

#[tokio::test]
async fn the_default_settings_hold_and_list_ten_thousand_models() {
    let mut world = World::new(quiet()).await;
    let store = &world.registry.store;
    let added = (0..10_000).map(|n| store.insert(model(&format!("model-{n}")), ticking().into()));
    futures_util::future::try_join_all(added).await.unwrap();
    let client = &mut world.client;
    assert_eq!(list(client).await.unwrap().len(), 10_000);
    assert_exhausted(&register(client, model("one-more")).await.unwrap_err());
}

/// Registers models all at once and says how many were taken.
async fn register_at_once(world: &World, models: impl Iterator<Item = ModelMetadata>) -> usize {
    let registered = models.map(|model| {
        let mut client = world.client.clone();
        async move { register(&mut client, model).await }
    });
    let registered = futures_util::future::join_all(registered).await;
    registered.into_iter().filter(Result::is_ok).count()
}

#[tokio::test]
async fn the_limits_of_the_whole_hold_when_many_register_at_once() {
    let settings = RegistrySettings {
        max_models: 10,
        ..quiet()
    };
    let mut world = World::new(settings).await;
    let models = (0..50).map(|n| model(&format!("model-{n}")));
    assert_eq!(register_at_once(&world, models).await, 10);
    assert_eq!(list(&mut world.client).await.unwrap().len(), 10);

    let size = register(&mut default_client().await, large("large-00"))
        .await
        .unwrap()
        .encoded_len();
    let settings = RegistrySettings {
        // The times take more or fewer bytes, a few.
        max_total_bytes: 4 * size + size / 2,
        ..quiet()
    };
    let world = World::new(settings).await;
    let models = (10..60).map(|n| large(&format!("large-{n}")));
    assert_eq!(register_at_once(&world, models).await, 4);
}

#[tokio::test]
async fn of_many_that_register_one_id_at_once_one_is_taken() {
    let world = World::new(quiet()).await;
    let models = (0..50).map(|_| model("m"));
    assert_eq!(register_at_once(&world, models).await, 1);
}

#[tokio::test]
async fn a_registry_that_holds_more_than_it_may_can_still_shrink() {
    let world = World::new(quiet()).await;
    let mut client = world.client.clone();
    for id in ["a", "b", "c"] {
        register(&mut client, large(id)).await.unwrap();
    }
    let settings = RegistrySettings {
        max_models: 1,
        max_total_bytes: 300,
        ..quiet()
    };
    let mut client = world.after_a_kill(settings).await.client;
    assert_eq!(ids(&list(&mut client).await.unwrap()), ["a", "b", "c"]);
    assert_exhausted(&register(&mut client, model("d")).await.unwrap_err());
    update(&mut client, model("a")).await.unwrap();
    remove(&mut client, "b").await.unwrap();
}
