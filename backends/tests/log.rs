//! What the registry logs. A process of its own: the log is the whole process's, and a test beside
//! it would decide by chance which events are seen.

#![allow(clippy::unwrap_used)]

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use intellirouter::events::{LogSettings, MemoryLog};
use intellirouter_backends::connectors::{ConnectorSettings, Connectors};
use intellirouter_backends::events::Events;
use intellirouter_backends::model_registry::{MIGRATIONS, ModelRegistry, RegistrySettings};
use intellirouter_backends::storage::Database;
use intellirouter_proto::intellirouter::model_registry::v1 as pb;
use pb::model_registry_service_client::ModelRegistryServiceClient;
use pb::model_registry_service_server::ModelRegistryServiceServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tracing_subscriber::fmt::MakeWriter;

const KEY: &str = "sk-very-secret";
/// Nothing listens on this port.
const URL: &str = "http://127.0.0.1:1/v1";

#[tokio::test]
async fn every_change_is_logged_and_no_api_key_is() {
    let log = Log::default();
    // All levels and crates: what the transport logs counts too.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .init();

    let directory = tempfile::tempdir().unwrap();
    let mut client = client(directory.path()).await;
    let metadata = Some(keyed_model());
    let request = pb::RegisterModelRequest {
        context: None,
        metadata,
    };
    client.register_model(request.clone()).await.unwrap();
    client.register_model(request.clone()).await.unwrap_err();
    let request = pb::UpdateModelRequest {
        context: None,
        metadata: request.metadata,
    };
    client.update_model(request).await.unwrap();
    let request = pb::CheckModelHealthRequest {
        context: None,
        model_id: "m".to_owned(),
        timeout_ms: 0,
    };
    client.check_model_health(request).await.unwrap();
    let request = pb::UpdateModelStatusRequest {
        context: None,
        model_id: "m".to_owned(),
        status: pb::ModelStatus::Unavailable.into(),
        reason: "disk full".to_owned(),
    };
    client.update_model_status(request).await.unwrap();
    let request = pb::RemoveModelRequest {
        context: None,
        model_id: "m".to_owned(),
    };
    client.remove_model(request).await.unwrap();

    let shown = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for text in [
        "model registered",
        "model updated",
        "model is not healthy",
        "disk full",
        "model removed",
    ] {
        assert!(shown.contains(text), "{text} is missing");
    }
    assert!(!shown.contains(KEY));
}

async fn client(directory: &Path) -> ModelRegistryServiceClient<Channel> {
    let database = Database::open(&directory.join("models.db"), MIGRATIONS).unwrap();
    let connectors = Connectors::new(ConnectorSettings::default()).unwrap();
    let events = Events::start(Arc::new(MemoryLog::new(LogSettings::default()).unwrap()));
    let settings = RegistrySettings::default();
    let registry = ModelRegistry::open(database, settings, connectors, events);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = ModelRegistryServiceServer::new(registry.await.unwrap());
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    ModelRegistryServiceClient::connect(url).await.unwrap()
}

fn keyed_model() -> pb::ModelMetadata {
    pb::ModelMetadata {
        id: "m".to_owned(),
        name: "A model".to_owned(),
        provider: "acme".to_owned(),
        connector_config: Some(pb::ConnectorConfig {
            r#type: "openai".to_owned(),
            endpoint_url: URL.to_owned(),
            api_key: KEY.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A log that stays in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
