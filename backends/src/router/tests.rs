//! The promises of the router, each through a real gRPC server and client on loopback. Models are
//! the built-in connector, or a real HTTP server that answers as the test says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bounds;
mod choice;
mod events;
mod failure;
mod input;
mod registry;
mod settings;
mod stream;
mod time;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use intellirouter::events::{EventLog, LogSettings, MemoryLog};
use intellirouter_proto::intellirouter::common::v1 as common;
use intellirouter_proto::intellirouter::model_registry::v1 as pb;
use pb::router_service_client::RouterServiceClient;
use pb::router_service_server::RouterServiceServer;
use pb::{
    ChatCompletionRequest, ConnectorConfig, ModelMetadata, ModelStatus, RouteRequestRequest,
    RouteRequestResponse, RouteRequestStreamResponse, RoutingMetadata, RoutingRequest,
    RoutingStrategy, StrategyConfig, StrategyInfo,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::candidate::{Candidate, Load, ModelSource};
use super::{MIGRATIONS, Router, RouterSettings};
use crate::connectors::test_server::{Reply, TestServer};
use crate::connectors::{ApiKey, ConnectorSettings, Connectors};
use crate::events::Events;
use crate::storage::Database;

type Client = RouterServiceClient<Channel>;

/// Models that a test puts in, and what the router reports of them.
#[derive(Debug, Default)]
struct Models {
    candidates: Mutex<Vec<Candidate>>,
    unreachable: Mutex<Vec<String>>,
    panics_on_reports: AtomicBool,
}

impl Models {
    fn of(models: impl IntoIterator<Item = ModelMetadata>) -> Arc<Self> {
        let candidates = models.into_iter().map(|model| Candidate {
            load: Arc::new(Load::new(model.avg_latency_ms)),
            model: Arc::new(model),
            api_key: ApiKey::default(),
        });
        let mut candidates: Vec<_> = candidates.collect();
        candidates.sort_by(|a, b| a.model.id.cmp(&b.model.id));
        Arc::new(Self {
            candidates: Mutex::new(candidates),
            ..Self::default()
        })
    }

    fn load(&self, id: &str) -> Arc<Load> {
        self.candidate(id).unwrap().load
    }
}

impl ModelSource for Models {
    fn candidates(&self) -> Vec<Candidate> {
        self.candidates.lock().unwrap().clone()
    }

    fn candidate(&self, id: &str) -> Option<Candidate> {
        let candidates = self.candidates.lock().unwrap();
        candidates.iter().find(|c| c.model.id == id).cloned()
    }

    fn report_unreachable(&self, id: &str, _why: &str) {
        assert!(!self.panics_on_reports.load(Ordering::Relaxed));
        self.unreachable.lock().unwrap().push(id.to_owned());
    }
}

/// A router with what it stands on.
struct Fixture {
    client: Client,
    router: Router,
    models: Arc<Models>,
    log: Arc<MemoryLog>,
    events: Events,
    /// Where its database is.
    _directory: TempDir,
}

impl Fixture {
    async fn new(models: impl IntoIterator<Item = ModelMetadata>) -> Self {
        Self::with(models, RouterSettings::default()).await
    }

    async fn with(
        models: impl IntoIterator<Item = ModelMetadata>,
        settings: RouterSettings,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let models = Models::of(models);
        let log = Arc::new(MemoryLog::new(LogSettings::default()).unwrap());
        let events = Events::start(Arc::clone(&log) as Arc<dyn EventLog>);
        let mut router = open(&directory, models.clone(), &events, settings).await;
        let shared = Arc::get_mut(&mut router.shared).unwrap();
        shared.dice = |_| 0;
        let client = serve(router.clone()).await;
        Self {
            client,
            router,
            models,
            log,
            events,
            _directory: directory,
        }
    }

    /// Which model answers.
    async fn pick(&mut self, request: RouteRequestRequest) -> String {
        self.metadata(request).await.selected_model_id
    }

    async fn metadata(&mut self, request: RouteRequestRequest) -> RoutingMetadata {
        let answer = self.route(request).await.unwrap();
        answer.routing_metadata.unwrap()
    }

    async fn route(
        &mut self,
        request: RouteRequestRequest,
    ) -> Result<RouteRequestResponse, Status> {
        Ok(self.client.route_request(request).await?.into_inner())
    }

    async fn refusal(&mut self, request: RouteRequestRequest) -> Status {
        self.route(request).await.unwrap_err()
    }

    /// The messages of a stream, and the status that it ends with.
    async fn stream(
        &mut self,
        request: RouteRequestRequest,
    ) -> (Vec<RouteRequestStreamResponse>, Result<(), Status>) {
        let mut stream = match self.client.stream_route_request(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return (Vec::new(), Err(status)),
        };
        let mut messages = Vec::new();
        while let Some(message) = stream.next().await {
            match message {
                Ok(message) => messages.push(message),
                Err(status) => return (messages, Err(status)),
            }
        }
        (messages, Ok(()))
    }

    async fn update(
        &mut self,
        kind: RoutingStrategy,
        enabled: bool,
        config: Option<StrategyConfig>,
    ) -> Result<StrategyInfo, Status> {
        let request = pb::UpdateRoutingStrategyRequest {
            context: None,
            r#type: kind.into(),
            config,
            enabled,
        };
        let answer = self.client.update_routing_strategy(request).await?;
        Ok(answer.into_inner().strategy.unwrap())
    }
}

async fn open(
    directory: &TempDir,
    source: Arc<dyn ModelSource>,
    events: &Events,
    settings: RouterSettings,
) -> Router {
    let database = Database::open(&directory.path().join("router.db"), MIGRATIONS).unwrap();
    let connectors = Connectors::new(ConnectorSettings::default()).unwrap();
    let router = Router::open(settings, source, connectors, events.clone(), database);
    router.await.unwrap()
}

async fn serve(router: Router) -> Client {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(RouterServiceServer::new(router));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Client::connect(url).await.unwrap()
}

/// A model that answers in this process.
fn local(id: &str) -> ModelMetadata {
    ModelMetadata {
        id: id.to_owned(),
        status: ModelStatus::Available.into(),
        connector_config: Some(ConnectorConfig {
            r#type: "local".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A model behind an HTTP server.
fn remote(id: &str, url: &str) -> ModelMetadata {
    ModelMetadata {
        connector_config: Some(ConnectorConfig {
            r#type: "openai".to_owned(),
            endpoint_url: url.to_owned(),
            ..Default::default()
        }),
        ..local(id)
    }
}

fn tagged(id: &str, tags: &[&str]) -> ModelMetadata {
    ModelMetadata {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..local(id)
    }
}

/// A server that answers everything in this way.
async fn always(reply: Reply) -> TestServer {
    TestServer::start(move |_| reply.clone()).await
}

/// A server that fails with this status.
async fn failing(status: u16) -> TestServer {
    let body = serde_json::json!({"error": {"message": "as the test wants"}});
    always(Reply::json(status, &body)).await
}

/// A server that answers well.
async fn talking() -> TestServer {
    TestServer::start(|request| Reply::words(request, &["one ", "two ", "three"])).await
}

/// Waits for what should happen at once; far shorter than the time limits of the router and the
/// connectors, which would make it happen too.
async fn promptly<T>(event: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    let happened = tokio::time::timeout(limit, event).await;
    happened.expect("it did not happen promptly")
}

fn chat(text: &str) -> ChatCompletionRequest {
    ChatCompletionRequest {
        messages: vec![common::Message {
            role: "user".to_owned(),
            content: text.to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The least that can be routed.
fn request() -> RouteRequestRequest {
    routed(RoutingRequest::default())
}

fn routed(routing: RoutingRequest) -> RouteRequestRequest {
    RouteRequestRequest {
        context: None,
        request: Some(chat("hello")),
        routing: Some(routing),
    }
}

fn by(kind: RoutingStrategy) -> RouteRequestRequest {
    with_parameters(kind, &[])
}

fn with_parameters(kind: RoutingStrategy, parameters: &[(&str, &str)]) -> RouteRequestRequest {
    routed(RoutingRequest {
        strategy: kind.into(),
        strategy_parameters: pairs(parameters),
        ..Default::default()
    })
}

fn pairs(entries: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    entries.iter().map(owned).collect()
}

/// The text of an answer.
fn text(answer: &RouteRequestResponse) -> &str {
    let choice = &answer.response.as_ref().unwrap().choices[0];
    &choice.message.as_ref().unwrap().content
}

/// The metadata of the `google.rpc.ErrorInfo`.
#[track_caller]
fn error_info(status: &Status, reason: &str) -> HashMap<String, String> {
    let details = status.get_error_details();
    let info = details.error_info().expect("no ErrorInfo").clone();
    assert_eq!(info.reason, reason, "{status:?}");
    info.metadata
}

#[track_caller]
fn retry_delay(status: &Status) -> Duration {
    let details = status.get_error_details();
    let info = details.retry_info().expect("no RetryInfo").clone();
    info.retry_delay.unwrap()
}

/// The fields that an INVALID_ARGUMENT names, in the order of the alphabet.
#[track_caller]
fn faulty_fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let faults = &details.bad_request().unwrap().field_violations;
    let mut fields: Vec<_> = faults.iter().map(|fault| fault.field.clone()).collect();
    fields.sort();
    fields
}
