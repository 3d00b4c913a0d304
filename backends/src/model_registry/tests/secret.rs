use super::*;
use crate::router::candidate::ModelSource;

const KEY: &str = "sk-very-secret";
const URL: &str = "https://models.example/v1";

fn keyed() -> ModelMetadata {
    with_connector("m", connector("openai", URL, KEY))
}

async fn world_with_key() -> World {
    let mut world = World::new(quiet()).await;
    register(&mut world.client, keyed()).await.unwrap();
    world
}

/// The key as a connector would get it.
fn key(world: &World) -> String {
    let candidate = world.registry.candidate("m").unwrap();
    candidate.api_key.expose().to_owned()
}

#[track_caller]
fn assert_blank(model: &ModelMetadata) {
    let connector = model.connector_config.as_ref().unwrap();
    assert_eq!(
        (connector.r#type.as_str(), connector.api_key.as_str()),
        ("openai", "")
    );
}

#[tokio::test]
async fn no_answer_carries_an_api_key() {
    let mut client = default_client().await;
    assert_blank(&register(&mut client, keyed()).await.unwrap());
    assert_blank(&get(&mut client, "m").await.unwrap());
    assert_blank(&update(&mut client, keyed()).await.unwrap());
    assert_blank(&set_status(&mut client, "m", 2, "").await.unwrap());
    assert_blank(&list(&mut client).await.unwrap()[0]);
    assert_blank(&find(&mut client, pb::ModelFilter::default()).await.unwrap()[0]);
    assert_blank(&remove(&mut client, "m").await.unwrap());
}

#[tokio::test]
async fn a_key_is_kept_apart_from_the_model() {
    let world = world_with_key().await;
    assert_eq!(key(&world), KEY);
    assert_blank(&world.registry.candidate("m").unwrap().model);
}

#[tokio::test]
async fn an_update_with_an_empty_key_keeps_the_recorded_one() {
    let mut world = world_with_key().await;
    let read = get(&mut world.client, "m").await.unwrap();
    let renamed = ModelMetadata {
        name: "New".to_owned(),
        ..read
    };
    assert_blank(&update(&mut world.client, renamed).await.unwrap());
    assert_eq!(key(&world), KEY);
}

#[tokio::test]
async fn an_update_with_a_key_replaces_the_recorded_one() {
    let mut world = world_with_key().await;
    let change = with_connector("m", connector("openai", URL, "another"));
    update(&mut world.client, change).await.unwrap();
    assert_eq!(key(&world), "another");
}

#[tokio::test]
async fn an_update_without_a_connector_drops_the_key() {
    let mut world = world_with_key().await;
    update(&mut world.client, model("m")).await.unwrap();
    assert_eq!(key(&world), "");
}

#[tokio::test]
async fn a_change_of_status_keeps_the_key() {
    let mut world = world_with_key().await;
    set_status(&mut world.client, "m", 3, "").await.unwrap();
    assert_eq!(key(&world), KEY);
}

#[tokio::test]
async fn a_key_does_not_follow_to_another_endpoint() {
    let mut client = default_client().await;
    let before = register(&mut client, keyed()).await.unwrap();
    for moved in [
        connector("openai", "https://elsewhere.example", ""),
        connector("local", URL, ""),
    ] {
        let status = update(&mut client, with_connector("m", moved))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        let details = status.get_error_details();
        let unmet = &details.precondition_failure().unwrap().violations[0];
        assert_eq!(unmet.subject, "metadata.connector_config.api_key");
        assert_eq!(get(&mut client, "m").await.unwrap(), before);
    }
    let with_key = connector("openai", "https://elsewhere.example", KEY);
    update(&mut client, with_connector("m", with_key))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_model_that_has_no_key_may_move_without_one() {
    let mut client = default_client().await;
    register(
        &mut client,
        with_connector("m", connector("openai", URL, "")),
    )
    .await
    .unwrap();
    let moved = connector("openai", "https://elsewhere.example", "");
    update(&mut client, with_connector("m", moved))
        .await
        .unwrap();
}

#[tokio::test]
async fn debug_output_shows_no_key() {
    let world = world_with_key().await;
    let registry = &world.registry;
    let shown = [
        format!("{registry:?}"),
        format!("{:?}", registry.candidates()),
        format!("{:?}", registry.store),
        format!("{:?}", registry.checker),
        format!("{:?}", registry.store.get("m").unwrap()),
    ];
    assert!(shown[0].contains("models: 1"), "{}", shown[0]);
    for shown in shown {
        assert!(!shown.contains(KEY), "{shown}");
    }
}

#[tokio::test]
async fn errors_show_no_key() {
    let mut client = default_client().await;
    register(&mut client, keyed()).await.unwrap();
    let bad = connector(&"x".repeat(65), "not a url", KEY);
    let errors = [
        register(&mut client, keyed()).await.unwrap_err(),
        update(&mut client, with_connector("m", bad))
            .await
            .unwrap_err(),
        update(
            &mut client,
            with_connector("n", connector("local", "", KEY)),
        )
        .await
        .unwrap_err(),
    ];
    for status in errors {
        assert!(!format!("{status:?}").contains(KEY));
        assert!(!String::from_utf8_lossy(status.details()).contains(KEY));
    }
}

/// Whether one of the files of the registry holds this text.
fn is_on_disk(world: &World, text: &str) -> bool {
    let mut files = world.directory.path().read_dir().unwrap();
    files.any(|file| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn a_key_that_is_replaced_or_removed_leaves_the_disk() {
    let mut world = world_with_key().await;
    // Written again, the row has old copies.
    set_status(&mut world.client, "m", 3, "why").await.unwrap();
    assert!(is_on_disk(&world, KEY));
    let change = with_connector("m", connector("openai", URL, "sk-another"));
    update(&mut world.client, change).await.unwrap();
    assert!(is_on_disk(&world, "sk-another") && !is_on_disk(&world, KEY));
    remove(&mut world.client, "m").await.unwrap();
    assert!(!is_on_disk(&world, "sk-another"));
}

#[tokio::test]
async fn a_key_that_no_header_can_carry_is_refused() {
    let mut client = default_client().await;
    for key in ["sk-a\r\nX-Evil: 1", "sk a", "sk-\u{e9}", "sk-a\0"] {
        let bad = with_connector("m", connector("openai", URL, key));
        let status = register(&mut client, bad).await.unwrap_err();
        let field = "metadata.connector_config.api_key";
        assert_eq!(faulty_fields(&status), [field], "{key:?}");
    }
}
