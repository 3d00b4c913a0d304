//! Tells operators and other services what happened: events on channels, metrics and log lines.
//!
//! Never waits and never fails. Inputs and outputs are never logged.

use std::collections::HashMap;
use std::time::Duration;

use intellirouter::events::{
    ChainExecutionCompletedEvent, ChainExecutionFailedEvent, ChainStepCompletedEvent,
};
use intellirouter_proto::intellirouter::chain_engine::v1::StepResult;
use intellirouter_proto::intellirouter::common::v1::Status as Ended;

use super::Parts;
use super::failure::Failure;
use super::limits::EVENT_OUTPUT_BYTES;
use super::moment::Moment;
use super::run::Finished;
use super::table::Record;

/// A step ended as wanted.
pub(super) fn step_completed(parts: &Parts, execution_id: &str, index: u32, result: &StepResult) {
    parts.metrics.step_ended(Ended::Success, result.tokens);
    let (output, metadata) = cut(&result.output);
    parts.events.emit(&ChainStepCompletedEvent {
        execution_id: execution_id.to_owned(),
        step_id: result.step_id.clone(),
        step_index: index,
        output,
        tokens: result.tokens,
        timestamp: Moment::now().into(),
        metadata,
    });
}

/// An execution ended, and that is recorded.
pub(super) fn execution_ended(parts: &Parts, finished: &Finished) {
    let (status, millis) = (finished.status(), finished.millis());
    let took = Duration::from_millis(millis);
    parts.metrics.execution_ended(status, took);
    tracing::info!(
        execution_id = finished.id,
        status = status.as_str_name(),
        code = finished.failure.as_ref().map(|failure| failure.code),
        ?took,
        "execution ended"
    );
    let Some(failure) = &finished.failure else {
        let (output, metadata) = cut(&finished.output);
        return parts.events.emit(&ChainExecutionCompletedEvent {
            execution_id: finished.id.clone(),
            output,
            total_tokens: finished.total_tokens,
            execution_time_ms: millis,
            timestamp: finished.ended.into(),
            metadata,
        });
    };
    if finished.failed_step.is_some() {
        parts.metrics.step_ended(status, 0);
    }
    failed(parts, finished.id.clone(), failure, millis, finished.ended);
}

/// An execution was found that the end of an earlier process interrupted. The time that it took is
/// that until its last record.
pub(super) fn interrupted(parts: &Parts, record: Record, now: Moment) {
    let millis = record.updated.millis_since(record.started);
    let failure = Failure::interrupted();
    let took = Duration::from_millis(millis);
    parts.metrics.execution_ended(failure.status, took);
    tracing::warn!(execution_id = record.id, "execution was interrupted");
    failed(parts, record.id, &failure, millis, now);
}

fn failed(parts: &Parts, execution_id: String, failure: &Failure, millis: u64, at: Moment) {
    parts.events.emit(&ChainExecutionFailedEvent {
        execution_id,
        error: failure.into(),
        execution_time_ms: millis,
        timestamp: at.into(),
        metadata: HashMap::new(),
    });
}

/// An output as an event carries it: a thousand events may wait, and each must fit in the log.
fn cut(output: &str) -> (String, HashMap<String, String>) {
    let end = output.floor_char_boundary(EVENT_OUTPUT_BYTES);
    if end == output.len() {
        return (output.to_owned(), HashMap::new());
    }
    let whole = ("output_bytes".to_owned(), output.len().to_string());
    (
        output.get(..end).unwrap_or_default().to_owned(),
        [whole].into(),
    )
}
