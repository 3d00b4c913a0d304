use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::*;
use crate::storage::StorageError;

fn scrape(registry: &Registry) -> String {
    let mut shown = String::new();
    text::encode(&mut shown, registry).unwrap();
    shown
}

#[tokio::test]
async fn operators_see_models_by_status_checks_and_writes() {
    let mut world = World::new(quiet()).await;
    let mut registry = Registry::with_prefix("intellirouter");
    world.registry.register(&mut registry);
    let client = &mut world.client;
    register(client, with_connector("a", connector("local", "", "")))
        .await
        .unwrap();
    register(client, model("b")).await.unwrap();
    register(client, model("b")).await.unwrap_err();
    set_status(client, "b", 3, "").await.unwrap();
    check(client, "a", 0).await.unwrap();
    let refuse = world.database.write(|db| {
        db.pragma_update(None, "query_only", true)?;
        Ok::<_, StorageError>(())
    });
    refuse.await.unwrap();
    register(client, model("c")).await.unwrap_err();

    let shown = scrape(&registry);
    for line in [
        r#"intellirouter_model_registry_models{status="MODEL_STATUS_AVAILABLE"} 1"#,
        r#"intellirouter_model_registry_models{status="MODEL_STATUS_MAINTENANCE"} 1"#,
        r#"intellirouter_model_registry_health_checks_total{outcome="healthy"} 1"#,
        r#"intellirouter_model_registry_writes_total{outcome="committed"} 4"#,
        r#"intellirouter_model_registry_writes_total{outcome="failed"} 1"#,
    ] {
        assert!(shown.contains(line), "{line} is missing in {shown}");
    }
}
