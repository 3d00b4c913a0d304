//! `ChainEngineService`: the calls about executions.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use intellirouter_proto::intellirouter::chain_engine::v1::chain_engine_service_server::ChainEngineService;
use intellirouter_proto::intellirouter::chain_engine::v1::{
    CancelChainRequest, CancelChainResponse, ChainExecutionEvent, ChainExecutionRequest,
    ChainExecutionResponse, ChainStatusRequest, ChainStatusResponse,
};
use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::access::Caller;
use super::error::EngineError;
use super::failure::{Failure, Stop};
use super::limits::WAITING_EVENTS;
use super::run::Finished;
use super::start::Started;
use super::table::{self, Record};
use super::{ChainEngine, sink, validate};

/// How long a cancellation waits for what it stopped to be recorded.
const TO_RECORD: Duration = Duration::from_secs(5);

type EventStream = Pin<Box<dyn Stream<Item = Result<ChainExecutionEvent, Status>> + Send>>;

#[tonic::async_trait]
impl ChainEngineService for ChainEngine {
    type StreamChainExecutionStream = EventStream;

    async fn execute_chain(
        &self,
        request: Request<ChainExecutionRequest>,
    ) -> Result<Response<ChainExecutionResponse>, Status> {
        let Started { hold, ended } = self.start(request, None).await?;
        let finished = ended.await.map_err(|_| EngineError::Internal)??;
        drop(hold);
        Ok(Response::new(finished.into()))
    }

    async fn stream_chain_execution(
        &self,
        request: Request<ChainExecutionRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let (reader, events) = mpsc::channel(WAITING_EVENTS);
        let Started { hold, ended } = self.start(request, Some(reader)).await?;
        let last = stream::once(ended).flat_map(|ended| {
            let ended = ended.unwrap_or_else(|_| Err(EngineError::Internal.into()));
            stream::iter(last_items(ended))
        });
        let all = ReceiverStream::new(events).map(Ok).chain(last);
        // The stream goes when the caller does, and the hold with it.
        let held = all.map(move |item| {
            let _ = &hold;
            item
        });
        Ok(Response::new(Box::pin(held)))
    }

    async fn get_chain_status(
        &self,
        request: Request<ChainStatusRequest>,
    ) -> Result<Response<ChainStatusResponse>, Status> {
        let id = request.get_ref().execution_id.clone();
        validate::execution_id(&id)?;
        let record = self.find(&id).await?;
        reachable(&Caller::of(request.extensions()), &record)?;
        Ok(Response::new(record.into()))
    }

    async fn cancel_chain_execution(
        &self,
        request: Request<CancelChainRequest>,
    ) -> Result<Response<CancelChainResponse>, Status> {
        let execution_id = request.get_ref().execution_id.clone();
        validate::execution_id(&execution_id)?;
        let record = self.find(&execution_id).await?;
        reachable(&Caller::of(request.extensions()), &record)?;
        let running = self.parts.running.get(&execution_id);
        let success = match running {
            Some(execution) if execution.stop(Stop::Cancelled) => {
                execution.over(TO_RECORD).await;
                true
            }
            _ => false,
        };
        let error = (!success).then(|| (&Failure::already_ended()).into());
        Ok(Response::new(CancelChainResponse {
            execution_id,
            success,
            error,
        }))
    }
}

impl ChainEngine {
    /// An execution as it is now: from memory while it runs, from the database after.
    async fn find(&self, id: &str) -> Result<Record, EngineError> {
        if let Some(execution) = self.parts.running.get(id) {
            return Ok(execution.record());
        }
        let wanted = id.to_owned();
        let found = self.parts.database.read(move |db| table::find(db, &wanted));
        let mut record = found
            .await?
            .ok_or_else(|| EngineError::NoExecution(id.to_owned()))?;
        if record.status == Ended::InProgress {
            // It is in no list any more, so that it is over.
            let failure = Failure::not_recorded();
            record.status = failure.status;
            record.error = Some((&failure).into());
            record.current_step.clear();
        }
        Ok(record)
    }
}

fn reachable(caller: &Caller<'_>, record: &Record) -> Result<(), EngineError> {
    match caller.may_reach(record.subject.as_deref()) {
        true => Ok(()),
        // That it exists is none of the caller's business.
        false => Err(EngineError::NoExecution(record.id.clone())),
    }
}

fn last_items(ended: Result<Finished, Status>) -> Vec<Result<ChainExecutionEvent, Status>> {
    match ended {
        Ok(finished) => sink::last(finished).into_iter().map(Ok).collect(),
        Err(status) => vec![Err(status)],
    }
}
