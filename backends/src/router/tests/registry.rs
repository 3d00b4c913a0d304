use pb::model_registry_service_server::ModelRegistryService;
use tonic::Request;

use super::*;
use crate::model_registry::{self, ModelRegistry, RegistrySettings};

const KEY: &str = "sk-very-secret";

async fn registry(directory: &TempDir, events: &Events) -> Arc<ModelRegistry> {
    let path = directory.path().join("registry.db");
    let database = Database::open(&path, model_registry::MIGRATIONS).unwrap();
    let connectors = Connectors::new(ConnectorSettings::default()).unwrap();
    let settings = RegistrySettings::default();
    let registry = ModelRegistry::open(database, settings, connectors, events.clone());
    Arc::new(registry.await.unwrap())
}

async fn register(registry: &ModelRegistry, model: ModelMetadata) {
    let request = pb::RegisterModelRequest {
        context: None,
        metadata: Some(ModelMetadata {
            name: "A model".to_owned(),
            provider: "acme".to_owned(),
            ..model
        }),
    };
    registry
        .register_model(Request::new(request))
        .await
        .unwrap();
}

#[tokio::test]
async fn models_of_the_registry_are_called_with_their_keys_until_they_are_taken_out() {
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(MemoryLog::new(LogSettings::default()).unwrap());
    let events = Events::start(log);
    let registry = registry(&directory, &events).await;
    let source = Arc::clone(&registry) as Arc<dyn ModelSource>;
    let router = open(&directory, source, &events, RouterSettings::default()).await;
    let mut client = serve(router).await;

    let mut server = talking().await;
    let mut model = remote("m", &server.url());
    model.connector_config.as_mut().unwrap().api_key = KEY.to_owned();
    register(&registry, model).await;
    let answer = client.route_request(request()).await.unwrap().into_inner();
    assert_eq!(text(&answer), "one two three");
    let seen = promptly(server.request()).await;
    let authorization = seen.header("authorization");
    assert_eq!(authorization, Some(format!("Bearer {KEY}").as_str()));
    assert!(!format!("{answer:?}").contains(KEY));

    let status = pb::UpdateModelStatusRequest {
        model_id: "m".to_owned(),
        status: ModelStatus::Maintenance.into(),
        ..Default::default()
    };
    let changed = registry.update_model_status(Request::new(status)).await;
    changed.unwrap();
    let refused = client.route_request(request()).await.unwrap_err();
    assert_eq!(error_info(&refused, "NO_MODEL")["left_out.status"], "1");
}
