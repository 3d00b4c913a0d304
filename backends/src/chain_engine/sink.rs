//! What StreamChainExecution tells while a chain runs, and at its end.
//!
//! Owns the shapes of the events and the way to the reader: at most
//! [`WAITING_EVENTS`](super::limits::WAITING_EVENTS) wait there, then the execution waits. The last
//! events don't go that way, so that the end of an execution never waits for a reader.

use intellirouter_proto::intellirouter::chain_engine::v1::chain_execution_event::Data;
use intellirouter_proto::intellirouter::chain_engine::v1::{
    ChainCompletedEvent, ChainExecutionEvent, ChainFailedEvent, EventType, StepCompletedEvent,
    StepFailedEvent, StepStartedEvent, TokenGeneratedEvent,
};
use tokio::sync::mpsc;

use super::moment::Moment;
use super::run::Finished;

/// The way to the reader, if there is one.
pub(super) struct Sink {
    execution_id: String,
    reader: Option<mpsc::Sender<ChainExecutionEvent>>,
}

impl Sink {
    pub(super) fn new(
        execution_id: String,
        reader: Option<mpsc::Sender<ChainExecutionEvent>>,
    ) -> Self {
        Self {
            execution_id,
            reader,
        }
    }

    pub(super) async fn step_started(&self, step_id: &str, step_index: u32, input: &str) {
        let data = || {
            Data::StepStarted(StepStartedEvent {
                step_id: step_id.to_owned(),
                step_index,
                input: input.to_owned(),
            })
        };
        self.send(data).await;
    }

    pub(super) async fn token(&self, step_id: &str, token: String) {
        let data = || {
            Data::TokenGenerated(TokenGeneratedEvent {
                step_id: step_id.to_owned(),
                token,
            })
        };
        self.send(data).await;
    }

    pub(super) async fn step_completed(
        &self,
        step_id: &str,
        step_index: u32,
        output: &str,
        tokens: u32,
    ) {
        let data = || {
            Data::StepCompleted(StepCompletedEvent {
                step_id: step_id.to_owned(),
                step_index,
                output: output.to_owned(),
                tokens,
            })
        };
        self.send(data).await;
    }

    async fn send(&self, data: impl FnOnce() -> Data) {
        if let Some(reader) = &self.reader {
            // A reader that is gone stops the execution in another way.
            let _ = reader
                .send(event(&self.execution_id, Moment::now(), data()))
                .await;
        }
    }
}

/// The events that end a stream.
pub(super) fn last(finished: Finished) -> Vec<ChainExecutionEvent> {
    let (id, ended) = (finished.id.clone(), finished.ended);
    let execution_time_ms = finished.millis();
    let Some(failure) = &finished.failure else {
        let completed = ChainCompletedEvent {
            output: finished.output,
            total_tokens: finished.total_tokens,
            execution_time_ms,
        };
        return vec![event(&id, ended, Data::ChainCompleted(completed))];
    };
    let step_failed = finished.failed_step.map(|(step_index, step_id)| {
        Data::StepFailed(StepFailedEvent {
            step_id,
            step_index,
            error: Some(failure.into()),
        })
    });
    let chain_failed = Data::ChainFailed(ChainFailedEvent {
        error: Some(failure.into()),
        execution_time_ms,
    });
    let both = step_failed.into_iter().chain([chain_failed]);
    both.map(|data| event(&id, ended, data)).collect()
}

fn event(execution_id: &str, at: Moment, data: Data) -> ChainExecutionEvent {
    let kind = match data {
        Data::StepStarted(_) => EventType::StepStarted,
        Data::StepCompleted(_) => EventType::StepCompleted,
        Data::StepFailed(_) => EventType::StepFailed,
        Data::ChainCompleted(_) => EventType::ChainCompleted,
        Data::ChainFailed(_) => EventType::ChainFailed,
        Data::TokenGenerated(_) => EventType::TokenGenerated,
    };
    ChainExecutionEvent {
        r#type: kind.into(),
        execution_id: execution_id.to_owned(),
        timestamp: Some(at.into()),
        data: Some(data),
    }
}
