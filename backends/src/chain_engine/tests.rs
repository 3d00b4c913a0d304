//! The promises of the engine, each through a real gRPC server and client on loopback, with a
//! double for the router.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad;
mod double;
mod limit;
mod reach;
mod record;
mod run;
mod stop;
mod store;
mod told;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use intellirouter::events::{
    ChannelPattern, Entry, EventLog, LogSettings, LogSubscription, MemoryLog,
};
use intellirouter::security::Claims;
use intellirouter_proto::intellirouter::chain_engine::v1 as pb;
use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use pb::chain_engine_service_client::ChainEngineServiceClient;
use pb::chain_engine_service_server::ChainEngineServiceServer;
use pb::chain_execution_event::Data;
use pb::chain_execution_request::ChainIdentifier;
use pb::chain_store_service_client::ChainStoreServiceClient;
use pb::chain_store_service_server::ChainStoreServiceServer;
use pb::{Chain, ChainExecutionRequest, ChainExecutionResponse, ChainStep};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use self::double::Router;
use super::{ChainEngine, ChainEngineSettings, MIGRATIONS};
use crate::events::Events;
use crate::storage::Database;

/// An engine that serves, and all that it is made of.
struct Bench {
    engine: ChainEngine,
    client: ChainEngineServiceClient<Channel>,
    store: ChainStoreServiceClient<Channel>,
    router: Arc<Router>,
    told: LogSubscription,
    directory: tempfile::TempDir,
}

/// The header that makes a caller known: its name, then its roles.
const CALLER: &str = "x-test-caller";

/// What a server that checks callers does before the engine sees a request.
fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    if let Some(caller) = request.metadata().get(CALLER) {
        let mut words = caller.to_str().unwrap().split(' ').map(str::to_owned);
        let claims = Claims {
            sub: words.next().unwrap(),
            iss: String::new(),
            aud: String::new(),
            exp: 0,
            iat: 0,
            roles: words.collect(),
        };
        request.extensions_mut().insert(claims);
    }
    Ok(request)
}

fn called_by<T>(caller: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let caller = caller.parse().unwrap();
    request.metadata_mut().insert(CALLER, caller);
    request
}

impl Bench {
    async fn new() -> Self {
        Self::with(ChainEngineSettings::default()).await
    }

    async fn with(settings: ChainEngineSettings) -> Self {
        Self::on(tempfile::tempdir().unwrap(), settings).await
    }

    /// On the database in `directory`.
    async fn on(directory: tempfile::TempDir, settings: ChainEngineSettings) -> Self {
        let database = Database::open(&directory.path().join("chains.db"), MIGRATIONS).unwrap();
        let log = Arc::new(MemoryLog::new(LogSettings::default()).unwrap());
        let all = ChannelPattern::parse("intellirouter:chain_engine:*").unwrap();
        let told = log.subscribe(vec![all], None).await.unwrap();
        let router = Arc::new(Router::default());
        let events = Events::start(log);
        let asked = Arc::clone(&router);
        let engine = ChainEngine::open(settings, database, asked, events).await;
        let engine = engine.unwrap();
        let channel = serve(&engine).await;
        Self {
            client: ChainEngineServiceClient::new(channel.clone()),
            store: ChainStoreServiceClient::new(channel),
            engine,
            router,
            told,
            directory,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("chains.db")
    }

    /// A look at the file, past the engine.
    fn sql<T: rusqlite::types::FromSql>(&self, query: &str) -> T {
        let db = rusqlite::Connection::open(self.file()).unwrap();
        db.query_row(query, [], |row| row.get(0)).unwrap()
    }

    async fn execute(
        &mut self,
        request: ChainExecutionRequest,
    ) -> Result<ChainExecutionResponse, Status> {
        Ok(self.client.execute_chain(request).await?.into_inner())
    }

    async fn stream(
        &mut self,
        request: ChainExecutionRequest,
    ) -> Streaming<pb::ChainExecutionEvent> {
        let stream = self.client.stream_chain_execution(request).await;
        stream.unwrap().into_inner()
    }

    async fn status(&mut self, id: &str) -> Result<pb::ChainStatusResponse, Status> {
        let execution_id = id.to_owned();
        let request = pb::ChainStatusRequest { execution_id };
        Ok(self.client.get_chain_status(request).await?.into_inner())
    }

    async fn cancel(&mut self, id: &str) -> Result<pb::CancelChainResponse, Status> {
        let execution_id = id.to_owned();
        let request = pb::CancelChainRequest { execution_id };
        Ok(self
            .client
            .cancel_chain_execution(request)
            .await?
            .into_inner())
    }

    /// The next event on a channel: its type and payload.
    async fn heard(&mut self) -> (String, serde_json::Value) {
        let mut entries = Vec::new();
        // One at a time, so that none is lost here.
        while entries.is_empty() {
            self.told.next_batch(&mut entries).await;
        }
        assert_eq!(entries.len(), 1, "use all_heard");
        event(&entries[0])
    }

    /// The next `count` events.
    async fn all_heard(&mut self, count: usize) -> Vec<(String, serde_json::Value)> {
        let mut entries = Vec::new();
        while entries.len() < count {
            self.told.next_batch(&mut entries).await;
        }
        entries.iter().map(event).collect()
    }
}

/// The files as a crash would leave them.
fn image(bench: &Bench) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["chains.db", "chains.db-wal"] {
        let from = bench.directory.path().join(name);
        std::fs::copy(from, directory.path().join(name)).unwrap();
    }
    directory
}

fn event(entry: &Entry) -> (String, serde_json::Value) {
    let Entry::Event(event) = entry else {
        panic!("a gap");
    };
    let payload = serde_json::from_slice(event.payload()).unwrap();
    (event.event_type().to_owned(), payload)
}

async fn serve(engine: &ChainEngine) -> Channel {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder()
        .add_service(ChainEngineServiceServer::with_interceptor(
            engine.clone(),
            identify,
        ))
        .add_service(ChainStoreServiceServer::with_interceptor(
            engine.clone(),
            identify,
        ));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    // Small, so that a reader that takes nothing is felt soon.
    let endpoint = Channel::from_shared(url).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535);
    endpoint.connect().await.unwrap()
}

/// A step for a model, which is the behaviour of the double.
fn step(id: &str, model: &str, template: &str) -> ChainStep {
    ChainStep {
        id: id.to_owned(),
        model: model.to_owned(),
        input_template: template.to_owned(),
        ..Default::default()
    }
}

fn chain(steps: impl Into<Vec<ChainStep>>) -> Chain {
    Chain {
        steps: steps.into(),
        ..Default::default()
    }
}

fn to_run(chain: Chain, input: &str) -> ChainExecutionRequest {
    ChainExecutionRequest {
        chain_identifier: Some(ChainIdentifier::Chain(chain)),
        input: input.to_owned(),
        ..Default::default()
    }
}

/// One step of a model.
fn one(model: &str) -> ChainExecutionRequest {
    to_run(chain([step("only", model, "")]), "in")
}

fn by_id(id: &str) -> ChainExecutionRequest {
    ChainExecutionRequest {
        chain_identifier: Some(ChainIdentifier::ChainId(id.to_owned())),
        ..Default::default()
    }
}

/// A stream's next event.
async fn next(stream: &mut Streaming<pb::ChainExecutionEvent>) -> Data {
    stream.message().await.unwrap().unwrap().data.unwrap()
}

async fn rest(stream: &mut Streaming<pb::ChainExecutionEvent>) -> Vec<pb::ChainExecutionEvent> {
    let mut all = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        all.push(event);
    }
    all
}

/// Its first token was given, and no more come.
async fn until_it_stalls(stream: &mut Streaming<pb::ChainExecutionEvent>) -> String {
    loop {
        let event = stream.message().await.unwrap().unwrap();
        if matches!(event.data, Some(Data::TokenGenerated(_))) {
            return event.execution_id;
        }
    }
}

#[track_caller]
fn failed(response: &ChainExecutionResponse, status: Ended, code: &str) -> String {
    let error = response.error.clone().unwrap();
    assert_eq!(
        (response.status(), error.code.as_str()),
        (status, code),
        "{error:?}"
    );
    error.message
}

/// The fields that an INVALID_ARGUMENT names.
#[track_caller]
fn faulty_fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let faults = &details.bad_request().unwrap().field_violations;
    faults.iter().map(|fault| fault.field.clone()).collect()
}

#[track_caller]
fn assert_unknown(status: &Status, kind: &str, id: &str) {
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let details = status.get_error_details();
    let resource = details.resource_info().unwrap();
    assert_eq!(resource.resource_name, id);
    assert_eq!(
        resource.resource_type,
        format!("intellirouter.chain_engine.v1.{kind}")
    );
}
