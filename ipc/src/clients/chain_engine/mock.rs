//! A chain engine that knows the executions it was given, and nothing else.
//!
//! Limits: [`MAX_MOCK_ANSWERS`](crate::clients::MAX_MOCK_ANSWERS) executions; those beyond are not
//! known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use intellirouter_proto::intellirouter::chain_engine::v1::{
    CancelChainResponse, ChainCompletedEvent, ChainExecutionEvent, ChainExecutionResponse,
    ChainFailedEvent, ChainStatusResponse, EventType, StepCompletedEvent, StepFailedEvent,
    StepResult, StepStartedEvent, chain_execution_event::Data,
};
use intellirouter_proto::intellirouter::common::v1::Status as Ending;
use prost_types::Timestamp;
use tonic::Status;

use super::MockChainEngineClient;
use crate::clients::MAX_MOCK_ANSWERS;
use crate::error::IpcResult;

/// The executions that a mock was given. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Executions(Arc<Mutex<Vec<ChainExecutionResponse>>>);

impl MockChainEngineClient {
    /// Lets the mock know an execution, which then shows everywhere:
    ///
    /// - `execute_chain` returns the executions in the order in which they were added, each once;
    /// - `stream_chain_execution` does so too, for itself: a stream of the events that lead to it;
    /// - `get_chain_status` and `cancel_chain_execution` find it by its id, and answer `NOT_FOUND`
    ///   for others. What is in progress can be cancelled; what has ended cannot.
    pub fn add_execution(&self, execution: ChainExecutionResponse) -> &Self {
        self.executions.add(&execution);
        self.stream_chain_execution.respond(events(&execution));
        self.execute_chain.respond(execution);
        let known = self.executions.clone();
        self.get_chain_status
            .respond_with(move |request| known.status(&request.execution_id));
        let known = self.executions.clone();
        self.cancel_chain_execution
            .respond_with(move |request| known.cancel(&request.execution_id));
        self
    }
}

impl Executions {
    fn add(&self, execution: &ChainExecutionResponse) {
        let mut executions = self.lock();
        if executions.len() < MAX_MOCK_ANSWERS {
            executions.push(execution.clone());
        }
    }

    fn status(&self, id: &str) -> IpcResult<ChainStatusResponse> {
        self.find(id, |execution| {
            let ended = |step: &&StepResult| step.status() != Ending::InProgress;
            let running = execution.step_results.iter().find(|step| !ended(step));
            ChainStatusResponse {
                execution_id: id.to_owned(),
                status: execution.status,
                current_step_id: running.map(|step| step.step_id.clone()).unwrap_or_default(),
                completed_steps: count(execution.step_results.iter().filter(ended)),
                total_steps: count(execution.step_results.iter()),
                error: execution.error.clone(),
                start_time: execution.start_time,
                update_time: execution.end_time.or(execution.start_time),
            }
        })
    }

    fn cancel(&self, id: &str) -> IpcResult<CancelChainResponse> {
        self.find(id, |execution| {
            let running = execution.status() == Ending::InProgress;
            if running {
                execution.set_status(Ending::Cancelled);
            }
            CancelChainResponse {
                execution_id: id.to_owned(),
                success: running,
                error: None,
            }
        })
    }

    fn find<T>(
        &self,
        id: &str,
        found: impl FnOnce(&mut ChainExecutionResponse) -> T,
    ) -> IpcResult<T> {
        let mut executions = self.lock();
        match executions.iter_mut().find(|known| known.execution_id == id) {
            Some(execution) => Ok(found(execution)),
            None => Err(Status::not_found(format!("no execution {id:?}")).into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ChainExecutionResponse>> {
        // Each execution in there is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stream says about an execution that ended, or has come, as `execution` tells.
fn events(execution: &ChainExecutionResponse) -> Vec<Result<ChainExecutionEvent, Status>> {
    let steps = (0..).zip(&execution.step_results);
    let steps = steps.flat_map(|(index, step)| {
        [
            Some((started(step, index), step.start_time)),
            step_ended(step, index).map(|event| (event, step.end_time)),
        ]
    });
    let end = chain_ended(execution).map(|event| (event, execution.end_time));
    let event = |(data, timestamp)| {
        Ok(ChainExecutionEvent {
            r#type: event_type(&data).into(),
            execution_id: execution.execution_id.clone(),
            timestamp,
            data: Some(data),
        })
    };
    steps.chain([end]).flatten().map(event).collect()
}

fn started(step: &StepResult, step_index: u32) -> Data {
    Data::StepStarted(StepStartedEvent {
        step_id: step.step_id.clone(),
        step_index,
        input: step.input.clone(),
    })
}

fn step_ended(step: &StepResult, step_index: u32) -> Option<Data> {
    match step.status() {
        Ending::InProgress => None,
        Ending::Success => Some(Data::StepCompleted(StepCompletedEvent {
            step_id: step.step_id.clone(),
            step_index,
            output: step.output.clone(),
            tokens: step.tokens,
        })),
        Ending::Unspecified | Ending::Error | Ending::Timeout | Ending::Cancelled => {
            Some(Data::StepFailed(StepFailedEvent {
                step_id: step.step_id.clone(),
                step_index,
                error: step.error.clone(),
            }))
        }
    }
}

fn chain_ended(execution: &ChainExecutionResponse) -> Option<Data> {
    let execution_time_ms = elapsed_ms(execution.start_time, execution.end_time);
    match execution.status() {
        Ending::InProgress => None,
        Ending::Success => Some(Data::ChainCompleted(ChainCompletedEvent {
            output: execution.output.clone(),
            total_tokens: execution.total_tokens,
            execution_time_ms,
        })),
        Ending::Unspecified | Ending::Error | Ending::Timeout | Ending::Cancelled => {
            Some(Data::ChainFailed(ChainFailedEvent {
                error: execution.error.clone(),
                execution_time_ms,
            }))
        }
    }
}

fn event_type(data: &Data) -> EventType {
    match data {
        Data::StepStarted(_) => EventType::StepStarted,
        Data::StepCompleted(_) => EventType::StepCompleted,
        Data::StepFailed(_) => EventType::StepFailed,
        Data::ChainCompleted(_) => EventType::ChainCompleted,
        Data::ChainFailed(_) => EventType::ChainFailed,
        Data::TokenGenerated(_) => EventType::TokenGenerated,
    }
}

/// 0 where a time is missing, or they are in the wrong order.
fn elapsed_ms(start: Option<Timestamp>, end: Option<Timestamp>) -> u64 {
    let (Some(start), Some(end)) = (start, end) else {
        return 0;
    };
    let nanos = |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let passed = u64::try_from(nanos(end) - nanos(start)).unwrap_or(0);
    Duration::from_nanos(passed).as_millis() as u64
}

// At most MAX_MOCK_ANSWERS executions, but the steps of one are the test's own.
fn count<'a>(steps: impl Iterator<Item = &'a StepResult>) -> u32 {
    u32::try_from(steps.count()).unwrap_or(u32::MAX)
}
