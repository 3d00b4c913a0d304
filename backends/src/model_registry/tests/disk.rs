use pb::ModelStatus;

use super::super::STATUS_REASON;
use super::*;
use crate::router::candidate::ModelSource;
use crate::storage::StorageError;

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut world = World::new(quiet()).await;
    let client = &mut world.client;
    let url = "https://models.example/v1";
    let keyed = with_connector("kept", connector("openai", url, "sk-kept"));
    register(client, keyed).await.unwrap();
    register(client, model("changed")).await.unwrap();
    register(client, model("gone")).await.unwrap();
    let change = ModelMetadata {
        name: "New".to_owned(),
        tags: vec!["new".to_owned()],
        avg_latency_ms: 70.0,
        ..model("changed")
    };
    update(client, change).await.unwrap();
    let status = ModelStatus::Maintenance;
    set_status(client, "changed", status.into(), "disk full")
        .await
        .unwrap();
    remove(client, "gone").await.unwrap();
    let before = list(client).await.unwrap();

    let mut after = world.after_a_kill(quiet()).await;
    assert_eq!(list(&mut after.client).await.unwrap(), before);
    let key = after.registry.candidate("kept").unwrap().api_key;
    assert_eq!(key.expose(), "sk-kept");
}

#[tokio::test]
async fn the_time_of_a_check_by_call_survives_a_kill() {
    let mut world = World::new(quiet()).await;
    let local = with_connector("m", connector("local", "", ""));
    register(&mut world.client, local).await.unwrap();
    let checked = check(&mut world.client, "m", 0).await.unwrap();
    let mut after = world.after_a_kill(quiet()).await;
    let model = get(&mut after.client, "m").await.unwrap();
    assert_eq!(model.last_checked_at, checked.result.unwrap().timestamp);
}

#[tokio::test]
async fn a_registry_opened_again_still_knows_what_is_taken() {
    let settings = || RegistrySettings {
        max_models: 2,
        ..quiet()
    };
    let mut world = World::new(settings()).await;
    register(&mut world.client, model("a")).await.unwrap();
    let mut client = world.after_a_kill(settings()).await.client;
    let status = register(&mut client, model("a")).await.unwrap_err();
    assert_about_model(&status, Code::AlreadyExists, "a");
    register(&mut client, model("b")).await.unwrap();
    let status = register(&mut client, model("c")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

/// Keeps every write out, as long as it is held: another program has the file for itself.
async fn take_the_file(world: &World) -> rusqlite::Connection {
    let impatient = world.database.write(|db| {
        db.busy_timeout(Duration::ZERO)?;
        Ok::<_, StorageError>(())
    });
    impatient.await.unwrap();
    let other = rusqlite::Connection::open(world.directory.path().join(FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

#[tokio::test]
async fn a_change_that_cannot_be_written_is_refused_and_changes_nothing() {
    let mut world = World::new(quiet()).await;
    let local = with_connector("m", connector("local", "", ""));
    register(&mut world.client, local.clone()).await.unwrap();
    let before = list(&mut world.client).await.unwrap();

    let taken = take_the_file(&world).await;
    let client = &mut world.client;
    let renamed = ModelMetadata {
        name: "New".to_owned(),
        avg_latency_ms: 5.0,
        ..local
    };
    let errors = [
        register(client, model("n")).await.unwrap_err(),
        update(client, renamed.clone()).await.unwrap_err(),
        set_status(client, "m", 2, "why").await.unwrap_err(),
        check(client, "m", 0).await.unwrap_err(),
        remove(client, "m").await.unwrap_err(),
    ];
    for status in errors {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.get_error_details().retry_info().is_some());
    }
    assert_eq!(list(client).await.unwrap(), before);

    drop(taken);
    register(client, model("n")).await.unwrap();
    assert_eq!(update(client, renamed).await.unwrap().name, "New");
}

#[tokio::test]
async fn updates_at_once_end_in_the_same_state_in_memory_and_on_disk() {
    let mut world = World::new(quiet()).await;
    register(&mut world.client, model("m")).await.unwrap();
    let updates = (0..100).map(|n: u32| {
        let mut client = world.client.clone();
        let change = ModelMetadata {
            name: format!("name {n}"),
            ..model("m")
        };
        async move {
            if n.is_multiple_of(3) {
                let status = 1 + n as i32 % 5;
                set_status(&mut client, "m", status, &n.to_string()).await
            } else {
                update(&mut client, change).await
            }
        }
    });
    for updated in futures_util::future::join_all(updates).await {
        updated.unwrap();
    }
    let in_memory = get(&mut world.client, "m").await.unwrap();
    let mut after = world.after_a_kill(quiet()).await;
    assert_eq!(get(&mut after.client, "m").await.unwrap(), in_memory);
}

#[tokio::test]
async fn models_added_and_removed_at_once_end_in_the_same_state_in_memory_and_on_disk() {
    let mut world = World::new(quiet()).await;
    let turns = (0..20).map(|n| {
        let mut client = world.client.clone();
        async move {
            for _ in 0..5 {
                // Whether the id is free or taken is a race; both ends are allowed.
                let _ = register(&mut client, model(&format!("m-{}", n % 4))).await;
                let _ = remove(&mut client, &format!("m-{}", (n + 1) % 4)).await;
            }
        }
    });
    futures_util::future::join_all(turns).await;
    let in_memory = list(&mut world.client).await.unwrap();
    let mut after = world.after_a_kill(quiet()).await;
    assert_eq!(list(&mut after.client).await.unwrap(), in_memory);
    // The totals went along: what is full in one is full in the other.
    let settings = RegistrySettings {
        max_models: in_memory.len() + 1,
        ..quiet()
    };
    let mut after = world.after_a_kill(settings).await;
    register(&mut after.client, model("last")).await.unwrap();
    let status = register(&mut after.client, model("more")).await;
    assert_eq!(status.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_the_registry_from_opening() {
    let world = World::new(quiet()).await;
    let broken = world.database.write(|db| {
        let sql = "INSERT INTO models VALUES ('m', 1, 0, '', x'ff')";
        db.execute(sql, [])?;
        Ok::<_, StorageError>(())
    });
    broken.await.unwrap();
    let connectors = Connectors::new(ConnectorSettings::default()).unwrap();
    let events = Events::start(world.log.clone());
    let opened = ModelRegistry::open(world.database.clone(), quiet(), connectors, events);
    assert!(matches!(opened.await, Err(StorageError::Database(_))));
}

#[tokio::test]
async fn a_status_reason_survives_as_it_is_shown() {
    let mut world = World::new(quiet()).await;
    register(&mut world.client, model("m")).await.unwrap();
    set_status(&mut world.client, "m", 2, "disk full")
        .await
        .unwrap();
    let mut after = world.after_a_kill(quiet()).await;
    let model = get(&mut after.client, "m").await.unwrap();
    assert_eq!(model.metadata.get(STATUS_REASON).unwrap(), "disk full");
}
