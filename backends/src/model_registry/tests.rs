//! The promises of the registry, each through a real gRPC server and client on loopback, and a real
//! database.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod change;
mod disk;
mod find;
mod health;
mod limit;
mod metrics;
mod register;
mod rounds;
mod secret;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use intellirouter::events::{
    ChannelPattern, Entry, EventLog, EventPayload, LogSettings, LogSubscription, MemoryLog,
    ModelHealthCheckEvent, TypedEvent,
};
use intellirouter_proto::intellirouter::model_registry::v1 as pb;
use pb::model_registry_service_client::ModelRegistryServiceClient;
use pb::model_registry_service_server::ModelRegistryServiceServer;
use pb::{ConnectorConfig, ModelMetadata};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{MIGRATIONS, ModelRegistry, RegistrySettings};
use crate::connectors::{ConnectorSettings, Connectors};
use crate::events::Events;
use crate::storage::Database;

type Client = ModelRegistryServiceClient<Channel>;

/// A clock that never shows the same time twice.
fn ticking() -> SystemTime {
    static TICKS: AtomicU64 = AtomicU64::new(1);
    SystemTime::UNIX_EPOCH + Duration::from_secs(TICKS.fetch_add(1, Ordering::Relaxed))
}

/// A registry and all that it stands on.
struct World {
    client: Client,
    registry: Arc<ModelRegistry>,
    database: Database,
    log: Arc<MemoryLog>,
    directory: Arc<tempfile::TempDir>,
}

impl World {
    /// With the models that the database in `directory` holds, if it holds any.
    async fn open(directory: tempfile::TempDir, settings: RegistrySettings) -> Self {
        let database = Database::open(&directory.path().join(FILE), MIGRATIONS).unwrap();
        let log = Arc::new(MemoryLog::new(LogSettings::default()).unwrap());
        let connectors = Connectors::new(ConnectorSettings::default()).unwrap();
        let events = Events::start(log.clone());
        let registry =
            ModelRegistry::open_at(database.clone(), settings, connectors, events, ticking);
        let registry = Arc::new(registry.await.unwrap());
        let directory = Arc::new(directory);
        Self {
            client: serve(Arc::clone(&registry), Arc::clone(&directory)).await,
            registry,
            database,
            log,
            directory,
        }
    }

    async fn new(settings: RegistrySettings) -> Self {
        Self::open(tempfile::tempdir().unwrap(), settings).await
    }

    /// The checks that are told from now on.
    async fn health_events(&self) -> HealthEvents {
        let channel = ModelHealthCheckEvent::channel().to_string();
        let pattern = ChannelPattern::parse(&channel).unwrap();
        HealthEvents {
            log: self.log.subscribe(vec![pattern], None).await.unwrap(),
            read: VecDeque::new(),
        }
    }

    /// A registry on what a process that is killed now leaves behind: nothing was closed.
    async fn after_a_kill(&self, settings: RegistrySettings) -> Self {
        let left = tempfile::tempdir().unwrap();
        for name in [FILE, &format!("{FILE}-wal")] {
            std::fs::copy(self.directory.path().join(name), left.path().join(name)).unwrap();
        }
        Self::open(left, settings).await
    }
}

/// Checks of models, as they are told.
struct HealthEvents {
    log: LogSubscription,
    read: VecDeque<ModelHealthCheckEvent>,
}

impl HealthEvents {
    async fn next(&mut self) -> ModelHealthCheckEvent {
        loop {
            if let Some(event) = self.read.pop_front() {
                return event;
            }
            let mut entries = Vec::new();
            self.log.next_batch(&mut entries).await;
            self.read.extend(entries.iter().map(read));
        }
    }
}

fn read(entry: &Entry) -> ModelHealthCheckEvent {
    let Entry::Event(event) = entry else {
        panic!("{entry:?}")
    };
    let payload = std::str::from_utf8(event.payload()).unwrap();
    ModelHealthCheckEvent::deserialize(payload).unwrap()
}

const FILE: &str = "models.db";

/// No health checks but those that are called for.
fn quiet() -> RegistrySettings {
    RegistrySettings {
        health_interval: Duration::ZERO,
        ..Default::default()
    }
}

/// A client of an empty registry of its own.
async fn client(settings: RegistrySettings) -> Client {
    World::new(settings).await.client
}

/// Serves for as long as the test runs; `directory` stays as long.
async fn serve(registry: Arc<ModelRegistry>, directory: Arc<tempfile::TempDir>) -> Client {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(ModelRegistryServiceServer::from_arc(registry));
    tokio::spawn(async move {
        let served = server.serve_with_incoming(TcpListenerStream::new(listener));
        served.await.unwrap();
        drop(directory);
    });
    Client::connect(url).await.unwrap()
}

async fn default_client() -> Client {
    client(quiet()).await
}

/// The least that can be registered.
fn model(id: &str) -> ModelMetadata {
    ModelMetadata {
        id: id.to_owned(),
        name: "A model".to_owned(),
        provider: "acme".to_owned(),
        ..Default::default()
    }
}

fn with_connector(id: &str, connector: ConnectorConfig) -> ModelMetadata {
    ModelMetadata {
        connector_config: Some(connector),
        ..model(id)
    }
}

fn connector(kind: &str, url: &str, key: &str) -> ConnectorConfig {
    ConnectorConfig {
        r#type: kind.to_owned(),
        endpoint_url: url.to_owned(),
        api_key: key.to_owned(),
        ..Default::default()
    }
}

async fn register(client: &mut Client, model: ModelMetadata) -> Result<ModelMetadata, Status> {
    let request = pb::RegisterModelRequest {
        context: None,
        metadata: Some(model),
    };
    Ok(client
        .register_model(request)
        .await?
        .into_inner()
        .metadata
        .unwrap())
}

async fn update(client: &mut Client, model: ModelMetadata) -> Result<ModelMetadata, Status> {
    let request = pb::UpdateModelRequest {
        context: None,
        metadata: Some(model),
    };
    Ok(client
        .update_model(request)
        .await?
        .into_inner()
        .metadata
        .unwrap())
}

async fn get(client: &mut Client, id: &str) -> Result<ModelMetadata, Status> {
    let request = pb::GetModelRequest {
        context: None,
        model_id: id.to_owned(),
    };
    Ok(client
        .get_model(request)
        .await?
        .into_inner()
        .metadata
        .unwrap())
}

async fn remove(client: &mut Client, id: &str) -> Result<ModelMetadata, Status> {
    let request = pb::RemoveModelRequest {
        context: None,
        model_id: id.to_owned(),
    };
    Ok(client
        .remove_model(request)
        .await?
        .into_inner()
        .metadata
        .unwrap())
}

async fn list(client: &mut Client) -> Result<Vec<ModelMetadata>, Status> {
    let request = pb::ListModelsRequest { context: None };
    Ok(client.list_models(request).await?.into_inner().models)
}

async fn find(client: &mut Client, filter: pb::ModelFilter) -> Result<Vec<ModelMetadata>, Status> {
    let request = pb::FindModelsRequest {
        context: None,
        filter: Some(filter),
    };
    Ok(client.find_models(request).await?.into_inner().models)
}

async fn set_status(
    client: &mut Client,
    id: &str,
    status: i32,
    reason: &str,
) -> Result<ModelMetadata, Status> {
    let request = pb::UpdateModelStatusRequest {
        context: None,
        model_id: id.to_owned(),
        status,
        reason: reason.to_owned(),
    };
    Ok(client
        .update_model_status(request)
        .await?
        .into_inner()
        .metadata
        .unwrap())
}

async fn check(
    client: &mut Client,
    id: &str,
    timeout_ms: u32,
) -> Result<pb::CheckModelHealthResponse, Status> {
    let model_id = id.to_owned();
    let request = pb::CheckModelHealthRequest {
        context: None,
        model_id,
        timeout_ms,
    };
    Ok(client.check_model_health(request).await?.into_inner())
}

fn ids(models: &[ModelMetadata]) -> Vec<&str> {
    models.iter().map(|model| model.id.as_str()).collect()
}

/// The fields that an INVALID_ARGUMENT names.
#[track_caller]
fn faulty_fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let faults = &details.bad_request().unwrap().field_violations;
    faults
        .iter()
        .for_each(|fault| assert!(!fault.description.is_empty()));
    faults.iter().map(|fault| fault.field.clone()).collect()
}

/// The error is about this model, and says so in its details.
#[track_caller]
fn assert_about_model(status: &Status, code: Code, id: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let resource = details.resource_info().unwrap();
    assert_eq!(resource.resource_name, id);
    assert_eq!(
        resource.resource_type,
        "intellirouter.model_registry.v1.Model"
    );
}
