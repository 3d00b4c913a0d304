//! A request that is answered piece by piece: StreamRouteRequest.
//!
//! Owns the messages of the stream and the task that forwards the pieces. Until a model's first
//! piece is there, failures lead to another model; from then on a failure ends the stream with a
//! gRPC status, never as if the answer were whole. One piece waits for a slow reader, and then the
//! model's endpoint does. The request's time holds for the whole stream, whether it is read or not.
//! A reader that goes away ends the call to the model.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionChunk, ChatCompletionRequest, RouteRequestStreamResponse, RoutingMetadata,
    UsageInfo,
};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::attempts::{self, Answered, Ask};
use super::error::{RouteError, Tried};
use super::limits::ANSWER_BYTES;
use super::metrics::Record;
use super::places::Place;
use super::plan::Plan;
use super::{Shared, report};
use crate::connectors::{ConnectorError, Connectors, Endpoint, Part, Parts};

/// Pieces that wait for the reader.
const WAITING: usize = 1;

/// The messages of an answer.
pub(super) type Messages =
    Pin<Box<dyn Stream<Item = Result<RouteRequestStreamResponse, Status>> + Send>>;

/// Asks for an answer piece by piece, and waits for the first.
struct Piecewise;

/// An answer that has begun.
struct Begun {
    first: Option<ChatCompletionChunk>,
    rest: Parts,
    usage: Option<UsageInfo>,
}

impl Ask for Piecewise {
    type Answer = Begun;

    async fn ask(
        connectors: &Connectors,
        endpoint: &Endpoint,
        request: &ChatCompletionRequest,
        limit: Duration,
    ) -> Result<Begun, ConnectorError> {
        let mut rest = connectors.stream(endpoint, request, limit).await?;
        let mut usage = None;
        while let Some(part) = rest.next().await {
            match part? {
                Part::Usage(told) => usage = Some(told),
                Part::Chunk(chunk) => {
                    let first = Some(readable(chunk)?);
                    return Ok(Begun { first, rest, usage });
                }
            }
        }
        Err(ConnectorError::Unusable("it has no pieces".to_owned()))
    }
}

/// Gets the beginning of the answer, and has the rest forwarded by a task of its own.
pub(super) async fn route(
    shared: &Arc<Shared>,
    mut plan: Plan,
    mut record: Record,
    mut place: Place,
) -> Result<Messages, RouteError> {
    let answered = attempts::answer::<Piecewise>(shared, &plan)
        .await
        .inspect_err(|error| record.ends(error.outcome()))?;
    // The model has it; the stream may take minutes.
    plan.completion = ChatCompletionRequest::default();
    place.let_go();
    report::decided(shared, &plan, &answered);
    if report::is_fallback(&plan, &answered) {
        record.fell_back();
    }
    let (pieces, read) = mpsc::channel(WAITING);
    let (end, ended) = oneshot::channel();
    let answering = Answering {
        shared: Arc::clone(shared),
        metadata: report::metadata(&plan, &answered),
        plan,
        answered,
        record,
    };
    tokio::spawn(async move {
        if let Some(outcome) = answering.run(&pieces).await {
            // The reader may be gone.
            let _ = end.send(outcome);
        }
        drop(place);
    });
    // The end has a way of its own, so that a reader who is slow still learns of it.
    let last = async {
        ended
            .await
            .unwrap_or_else(|_| Err(RouteError::Forwarding.into()))
    };
    let messages = ReceiverStream::new(read).map(Ok);
    Ok(Box::pin(messages.chain(stream::once(last))))
}

/// An answer on its way to the reader.
struct Answering {
    shared: Arc<Shared>,
    plan: Plan,
    answered: Answered<Begun>,
    metadata: RoutingMetadata,
    record: Record,
}

type Pieces = mpsc::Sender<RouteRequestStreamResponse>;

impl Answering {
    /// Forwards the answer and returns the last message, or the status that it ends with; nothing
    /// if the reader went away.
    async fn run(mut self, pieces: &Pieces) -> Option<Result<RouteRequestStreamResponse, Status>> {
        let deadline = self.plan.deadline();
        let ended = tokio::select! {
            // Awaited beside the pieces: a model that is silent must not hide that nobody reads.
            () = pieces.closed() => return None,
            ended = timeout_at(deadline, self.forward(pieces)) => ended,
        };
        let error = match ended {
            Ok(Ok(())) => return Some(Ok(self.finish())),
            Ok(Err(error)) => self.cut(error),
            Err(_) => self.late(),
        };
        self.record.ends(error.outcome());
        Some(Err(error.into()))
    }

    async fn forward(&mut self, pieces: &Pieces) -> Result<(), ConnectorError> {
        let first = RouteRequestStreamResponse {
            routing_metadata: Some(self.metadata.clone()),
            ..piece(self.answered.answer.first.take())
        };
        // A reader that is gone is seen by `run`.
        let _ = pieces.send(first).await;
        while let Some(part) = self.answered.answer.rest.next().await {
            match part? {
                Part::Usage(told) => self.answered.answer.usage = Some(told),
                Part::Chunk(chunk) => {
                    let _ = pieces.send(piece(Some(readable(chunk)?))).await;
                }
            }
        }
        Ok(())
    }

    /// The answer is whole.
    fn finish(mut self) -> RouteRequestStreamResponse {
        let usage = self.answered.answer.usage;
        report::used(&self.shared, &self.plan, &self.answered, usage);
        let tokens = usage.map(report::tokens).into_iter().flatten();
        self.metadata.additional_metadata.extend(tokens);
        self.record.ends("ok");
        RouteRequestStreamResponse {
            status: Ended::Success.into(),
            routing_metadata: Some(self.metadata),
            done: true,
            ..Default::default()
        }
    }

    fn cut(&self, error: ConnectorError) -> RouteError {
        let model_id = self.metadata.selected_model_id.clone();
        let request_id = &self.plan.request_id;
        tracing::warn!(model_id, request_id, %error, "the answer of a model broke off");
        if let ConnectorError::Connection(why) = &error {
            self.shared.source.report_unreachable(&model_id, why);
        }
        match error {
            // The connector's own clock ran out together with the request's.
            ConnectorError::TimedOut(_) if tokio::time::Instant::now() >= self.plan.deadline() => {
                self.late()
            }
            error => RouteError::Cut(Tried { model_id, error }),
        }
    }

    fn late(&self) -> RouteError {
        RouteError::Deadline {
            limit: self.plan.limit,
            tried: self.answered.tried.clone(),
        }
    }
}

/// A piece that the caller's side can read. An event of an endpoint is small, but few bytes of it may
/// stand for much: every piece of a tool call has its whole id.
fn readable(chunk: ChatCompletionChunk) -> Result<ChatCompletionChunk, ConnectorError> {
    match chunk.encoded_len() > ANSWER_BYTES {
        true => Err(ConnectorError::TooLarge(ANSWER_BYTES)),
        false => Ok(chunk),
    }
}

fn piece(chunk: Option<ChatCompletionChunk>) -> RouteRequestStreamResponse {
    RouteRequestStreamResponse {
        status: Ended::InProgress.into(),
        chunk,
        ..Default::default()
    }
}
