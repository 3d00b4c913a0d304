//! A router that does what the name of the preferred model says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use intellirouter::clients::{ResponseStream, RouterClient};
use intellirouter::{IpcError, IpcResult};
use intellirouter_proto::intellirouter::common::v1::{ErrorDetails, Status as Ended};
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionChunk, ChatCompletionChunkChoice, ChatCompletionChunkDelta,
    GetRoutingStrategiesRequest, GetRoutingStrategiesResponse, RouteRequestRequest,
    RouteRequestResponse, RouteRequestStreamResponse, RoutingMetadata,
    UpdateRoutingStrategyRequest, UpdateRoutingStrategyResponse,
};
use tokio::sync::{Semaphore, watch};
use tonic::Status;

type Piece = Result<RouteRequestStreamResponse, Status>;

/// Tokens that the double says each of its answers took.
pub(super) const TOKENS: u32 = 7;

pub(super) struct Router {
    asked: Mutex<Vec<RouteRequestRequest>>,
    /// Calls that are open.
    open: watch::Sender<usize>,
    /// The most that were open at a time.
    peak: AtomicUsize,
    /// Lets `waits` go on.
    pub(super) gate: Arc<Semaphore>,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            asked: Mutex::default(),
            open: watch::Sender::new(0),
            peak: AtomicUsize::new(0),
            gate: Arc::new(Semaphore::new(0)),
        }
    }
}

/// A call, until it is dropped.
struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Router {
    pub(super) fn asked(&self) -> Vec<RouteRequestRequest> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// Waits until so many calls are open.
    pub(super) async fn has_open(&self, wanted: usize) {
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open == wanted).await.unwrap();
    }
}

#[async_trait]
impl RouterClient for Router {
    async fn stream_route_request(
        &self,
        request: RouteRequestRequest,
    ) -> IpcResult<ResponseStream<RouteRequestStreamResponse>> {
        self.open.send_modify(|open| {
            *open += 1;
            self.peak.fetch_max(*open, Ordering::SeqCst);
        });
        let open = Open(self.open.clone());
        self.asked.lock().unwrap().push(request.clone());
        let completion = request.request.unwrap();
        let said = completion.messages.last().unwrap().content.clone();
        let answer: Vec<Piece> = match completion.model.as_str() {
            "" | "echoes" => whole(&format!("({said})")),
            "gives_json" => whole("{\"a\": [1]}"),
            "gives_nothing" => vec![Ok(last())],
            "stalls" => vec![Ok(text("first "))],
            "cuts" => vec![Ok(text("first "))],
            "breaks" => vec![
                Ok(text("first ")),
                Err(Status::unavailable("the model broke")),
            ],
            "fails_in_band" => vec![Ok(in_band())],
            "floods" => vec![Ok(text(&"x".repeat(1024))); 1025],
            "gives_700_kib" => whole(&"x".repeat(700 << 10)),
            "waits" => {
                let _ = self.gate.acquire().await.unwrap();
                whole("at last")
            }
            "never_answers" => std::future::pending().await,
            "refuses" => return Err(IpcError::Status(Status::not_found("no such model"))),
            "cannot_be_reached" => return Err(IpcError::Connection("refused".to_owned())),
            "panics" => panic!("a fault of the double"),
            other => panic!("the double knows no {other}"),
        };
        let stalls = completion.model == "stalls";
        let all = stream::iter(answer).chain(
            stream::once(async move {
                if stalls {
                    std::future::pending::<()>().await;
                }
                drop(open);
            })
            .filter_map(|()| async { None }),
        );
        Ok(Box::pin(all))
    }

    async fn route_request(&self, _: RouteRequestRequest) -> IpcResult<RouteRequestResponse> {
        panic!("the engine streams");
    }

    async fn get_routing_strategies(
        &self,
        _: GetRoutingStrategiesRequest,
    ) -> IpcResult<GetRoutingStrategiesResponse> {
        panic!("the engine does not ask for strategies");
    }

    async fn update_routing_strategy(
        &self,
        _: UpdateRoutingStrategyRequest,
    ) -> IpcResult<UpdateRoutingStrategyResponse> {
        panic!("the engine does not change strategies");
    }
}

/// In two pieces, and the last word of the router.
fn whole(said: &str) -> Vec<Piece> {
    let (first, second) = said.split_at(said.len() / 2);
    vec![Ok(text(first)), Ok(text(second)), Ok(last())]
}

fn text(content: &str) -> RouteRequestStreamResponse {
    let delta = ChatCompletionChunkDelta {
        content: content.to_owned(),
        ..Default::default()
    };
    choice(ChatCompletionChunkChoice {
        delta: Some(delta),
        ..Default::default()
    })
}

fn choice(choice: ChatCompletionChunkChoice) -> RouteRequestStreamResponse {
    RouteRequestStreamResponse {
        chunk: Some(ChatCompletionChunk {
            choices: vec![choice],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn last() -> RouteRequestStreamResponse {
    let total = ("total_tokens".to_owned(), TOKENS.to_string());
    RouteRequestStreamResponse {
        status: Ended::Success.into(),
        routing_metadata: Some(RoutingMetadata {
            selected_model_id: "picked".to_owned(),
            additional_metadata: [total].into(),
            ..Default::default()
        }),
        done: true,
        ..choice(ChatCompletionChunkChoice {
            finish_reason: "stop".to_owned(),
            ..Default::default()
        })
    }
}

fn in_band() -> RouteRequestStreamResponse {
    RouteRequestStreamResponse {
        status: Ended::Error.into(),
        error: Some(ErrorDetails {
            code: "ALL_DOWN".to_owned(),
            message: "no model answers".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
