//! A chain engine and a router behind one real server, which fail or stall when told so.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use intellirouter::generated::intellirouter::{chain_engine, common, model_registry};
use std::pin::Pin;
use std::time::Duration;

use chain_engine::v1::chain_engine_server::{ChainEngine, ChainEngineServer};
use chain_engine::v1::chain_execution_request::ChainIdentifier;
use chain_engine::v1::*;
use common::v1::Status as Ending;
use model_registry::v1::router_server::{Router, RouterServer};
use model_registry::v1::*;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An error with everything that an error can carry.
pub(crate) fn rich_error() -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(Duration::from_secs(7)));
    details.set_resource_info("execution", "e-404", "tests", "nobody ran it");
    let mut metadata = MetadataMap::new();
    metadata.insert("x-request-id", "42".parse().unwrap());
    Status::with_error_details_and_metadata(Code::NotFound, "no such execution", details, metadata)
}

/// What the service does with its next calls, and what it has seen.
#[derive(Clone, Default)]
pub(crate) struct Script {
    failures: Arc<Mutex<VecDeque<Status>>>,
    stalls: Arc<Mutex<Option<mpsc::UnboundedSender<()>>>>,
    timeouts: Arc<Mutex<Vec<Option<String>>>>,
}

impl Script {
    pub(crate) fn fail_next(&self, times: usize) {
        let failures = std::iter::repeat_with(|| Status::unavailable("not yet")).take(times);
        self.failures.lock().unwrap().extend(failures);
    }

    /// From now on calls are not answered; tells of each that is given up.
    pub(crate) fn stall(&self) -> mpsc::UnboundedReceiver<()> {
        let (given_up, receiver) = mpsc::unbounded_channel();
        *self.stalls.lock().unwrap() = Some(given_up);
        receiver
    }

    /// The `grpc-timeout` of each call so far.
    pub(crate) fn timeouts(&self) -> Vec<Option<String>> {
        self.timeouts.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.timeouts.lock().unwrap().len()
    }

    async fn play(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let timeout = metadata.get("grpc-timeout");
        let timeout = timeout.map(|value| value.to_str().unwrap().to_owned());
        self.timeouts.lock().unwrap().push(timeout);
        let stalls = self.stalls.lock().unwrap().clone();
        if let Some(given_up) = stalls {
            let _guard = OnDrop(given_up);
            std::future::pending::<()>().await;
        }
        match self.failures.lock().unwrap().pop_front() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

struct OnDrop(mpsc::UnboundedSender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        // Nobody may listen any more.
        let _ = self.0.send(());
    }
}

#[tonic::async_trait]
impl ChainEngine for Script {
    async fn execute_chain(
        &self,
        request: Request<ChainExecutionRequest>,
    ) -> Result<Response<ChainExecutionResponse>, Status> {
        self.play(request.metadata()).await?;
        let request = request.into_inner();
        let chain = match request.chain_identifier {
            Some(ChainIdentifier::ChainId(id)) => format!("stored {id}"),
            Some(ChainIdentifier::Chain(chain)) => format!("given {}", chain.id),
            None => return Err(Status::invalid_argument("no chain")),
        };
        let mut variables: Vec<_> = request.variables.into_iter().collect();
        variables.sort();
        Ok(Response::new(ChainExecutionResponse {
            execution_id: "e-1".to_owned(),
            status: Ending::Success.into(),
            output: format!(
                "{chain}, {}, {variables:?}, {}, {} s",
                request.input, request.stream, request.timeout_seconds
            ),
            ..Default::default()
        }))
    }

    async fn get_chain_status(
        &self,
        request: Request<ChainStatusRequest>,
    ) -> Result<Response<ChainStatusResponse>, Status> {
        self.play(request.metadata()).await?;
        match request.into_inner().execution_id.as_str() {
            "e-404" => Err(rich_error()),
            id => Ok(Response::new(ChainStatusResponse {
                execution_id: id.to_owned(),
                ..Default::default()
            })),
        }
    }

    async fn cancel_chain_execution(
        &self,
        request: Request<CancelChainRequest>,
    ) -> Result<Response<CancelChainResponse>, Status> {
        self.play(request.metadata()).await?;
        Ok(Response::new(CancelChainResponse {
            execution_id: request.into_inner().execution_id,
            success: true,
            error: None,
        }))
    }

    type StreamChainExecutionStream = Items<ChainExecutionEvent>;

    async fn stream_chain_execution(
        &self,
        request: Request<ChainExecutionRequest>,
    ) -> Result<Response<Self::StreamChainExecutionStream>, Status> {
        self.play(request.metadata()).await?;
        let event = |kind: EventType| {
            Ok(ChainExecutionEvent {
                r#type: kind.into(),
                execution_id: "e-1".to_owned(),
                ..Default::default()
            })
        };
        let end = match request.into_inner().input.as_str() {
            "not found" => Err(rich_error()),
            "stall" => {
                let items = stream::iter([event(EventType::StepStarted)]).chain(stream::pending());
                return Ok(Response::new(Box::pin(items)));
            }
            "break" => Err(Status::unavailable("the engine is gone")),
            _ => event(EventType::ChainCompleted),
        };
        let items = vec![event(EventType::StepStarted), end];
        Ok(Response::new(Box::pin(stream::iter(items))))
    }
}

#[tonic::async_trait]
impl Router for Script {
    async fn route_request(
        &self,
        request: Request<RouteRequestRequest>,
    ) -> Result<Response<RouteRequestResponse>, Status> {
        self.play(request.metadata()).await?;
        let model = request.into_inner().request.unwrap_or_default().model;
        Ok(Response::new(RouteRequestResponse {
            response: Some(ChatCompletionResponse {
                model,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    type StreamRouteRequestStream = Items<RouteRequestStreamResponse>;

    async fn stream_route_request(
        &self,
        request: Request<RouteRequestRequest>,
    ) -> Result<Response<Self::StreamRouteRequestStream>, Status> {
        self.play(request.metadata()).await?;
        let piece = |done| {
            Ok(RouteRequestStreamResponse {
                done,
                ..Default::default()
            })
        };
        Ok(Response::new(Box::pin(stream::iter(
            [false, true].map(piece),
        ))))
    }

    async fn get_routing_strategies(
        &self,
        request: Request<GetRoutingStrategiesRequest>,
    ) -> Result<Response<GetRoutingStrategiesResponse>, Status> {
        self.play(request.metadata()).await?;
        Ok(Response::new(GetRoutingStrategiesResponse::default()))
    }

    async fn update_routing_strategy(
        &self,
        request: Request<UpdateRoutingStrategyRequest>,
    ) -> Result<Response<UpdateRoutingStrategyResponse>, Status> {
        self.play(request.metadata()).await?;
        Ok(Response::new(UpdateRoutingStrategyResponse::default()))
    }
}

/// A server that listens since before it was made.
pub(crate) struct Running {
    pub(crate) script: Script,
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        let script = Script::default();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Server::builder()
            .add_service(ChainEngineServer::new(script.clone()))
            .add_service(RouterServer::new(script.clone()))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                let _ = stopped.await;
            });
        Self {
            script,
            address,
            stop,
            serving: tokio::spawn(serving),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.serving.await.unwrap().unwrap();
    }
}
