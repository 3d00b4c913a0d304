//! Runs one execution, from its first record to its last.
//!
//! Owns the order of things: the execution is recorded as begun before anybody hears of it, and as
//! ended before anybody hears how; then its events go out. Its time, and a wish to stop it, end it
//! wherever it stands: what it waits for (a call to the router, a reader, the database) is dropped.
//! A panic in it is its own failure and nobody else's.

use std::collections::HashMap;
use std::mem::take;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use intellirouter_proto::intellirouter::chain_engine::v1::{
    ChainExecutionResponse, ChainStep, StepResult,
};
use intellirouter_proto::intellirouter::common::v1::{Metadata, RequestContext, Status as Ended};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::Parts;
use super::error::EngineError;
use super::execution::{Execution, Place};
use super::failure::Failure;
use super::limits::{EXECUTION_BYTES, STEP_OUTPUT_BYTES};
use super::moment::Moment;
use super::notify;
use super::sink::Sink;
use super::step::{self, Answer};
use super::table;
use super::template::{Scope, Templates};
use crate::storage::StorageError;

/// What is to be run.
pub(super) struct Job {
    pub(super) id: String,
    /// Empty for a chain that came along without one.
    pub(super) chain_id: String,
    pub(super) steps: Vec<ChainStep>,
    pub(super) templates: Arc<Templates>,
    pub(super) input: String,
    pub(super) variables: HashMap<String, String>,
    /// Who it is for, as the router is told.
    pub(super) context: RequestContext,
    pub(super) limit: Duration,
    pub(super) deadline: Instant,
}

/// How it ended.
pub(super) struct Finished {
    pub(super) id: String,
    chain_id: String,
    /// None: as wanted.
    pub(super) failure: Option<Failure>,
    /// The step that the failure ended: place and id.
    pub(super) failed_step: Option<(u32, String)>,
    pub(super) output: String,
    results: Vec<StepResult>,
    pub(super) total_tokens: u32,
    started: Moment,
    pub(super) ended: Moment,
}

/// Whom to tell.
pub(super) struct Tell {
    /// That it is recorded as begun, or why it can't begin.
    pub(super) begun: oneshot::Sender<Result<(), Status>>,
    /// How it ended, once that is recorded.
    pub(super) ended: oneshot::Sender<Result<Finished, Status>>,
}

/// Runs `job` to its end. Whoever waits for it may go away.
pub(super) async fn run(parts: Arc<Parts>, place: Place, mut job: Job, sink: Sink, tell: Tell) {
    let execution = Arc::clone(&place.execution);
    if let Err(error) = begin(&parts, &execution).await {
        drop(place);
        let _ = tell.begun.send(Err(EngineError::from(error).into()));
        return;
    }
    let _ = tell.begun.send(Ok(()));
    let mut progress = Progress::new(&mut job);
    let mut outcome = {
        let work = Work {
            parts: &parts,
            job: &job,
            execution: &execution,
            sink: &sink,
        };
        work.within_its_time(&mut progress).await
    };
    // Who was told that it stops must find it stopped.
    if let Some(stop) = execution.seal() {
        outcome = Err(stop.into());
    }
    drop(sink);
    let finished = progress.finish(job, outcome.err(), execution.record().started);
    let recorded = end(&parts, &execution, &finished).await;
    if recorded.is_ok() {
        notify::execution_ended(&parts, &finished);
    }
    drop(place);
    let told = match recorded {
        Ok(()) => Ok(finished),
        Err(error) => Err(EngineError::from(error).into()),
    };
    let _ = tell.ended.send(told);
}

async fn begin(parts: &Parts, execution: &Execution) -> Result<(), StorageError> {
    let (record, keep) = (execution.record(), parts.keep());
    let write = move |db: &_| table::begin(db, &record, keep);
    parts.database.write(write).await
}

async fn end(
    parts: &Parts,
    execution: &Execution,
    finished: &Finished,
) -> Result<(), StorageError> {
    let mut record = execution.record();
    record.status = finished.status();
    record.error = finished.failure.as_ref().map(Into::into);
    record.current_step.clear();
    record.updated = finished.ended;
    parts
        .database
        .write(move |db| table::update(db, &record))
        .await
}

/// The steps that are done, and the one that is not.
struct Progress {
    /// Away while a template is rendered.
    scope: Option<Scope>,
    results: Vec<StepResult>,
    current: Option<StepResult>,
    /// Bytes that inputs and outputs may still take.
    room: usize,
    tokens: u32,
}

impl Progress {
    /// Takes the input and the variables.
    fn new(job: &mut Job) -> Self {
        let (input, variables) = (take(&mut job.input), take(&mut job.variables));
        Self {
            scope: Some(Scope::new(input, variables)),
            results: Vec::new(),
            current: None,
            room: EXECUTION_BYTES,
            tokens: 0,
        }
    }

    fn take_room(&mut self, bytes: usize) -> Result<(), Failure> {
        let left = self.room.checked_sub(bytes);
        self.room = left.ok_or_else(|| {
            Failure::too_large("inputs and outputs of all steps", EXECUTION_BYTES)
        })?;
        Ok(())
    }

    fn complete(&mut self, answer: Answer) -> Option<&StepResult> {
        let mut result = self.current.take()?;
        if let Some(scope) = &mut self.scope {
            scope.add(
                &result.step_id,
                &result.input,
                &answer.output,
                &answer.model,
            );
        }
        self.tokens = self.tokens.saturating_add(answer.tokens);
        result.status = Ended::Success.into();
        result.end_time = Some(Moment::now().into());
        result.tokens = answer.tokens;
        result.model = answer.model;
        result.output = answer.output;
        if !answer.finish_reason.is_empty() {
            let reason = ("finish_reason".to_owned(), answer.finish_reason);
            result.metadata = Some(Metadata {
                values: [reason].into(),
            });
        }
        self.results.push(result);
        self.results.last()
    }

    fn finish(mut self, job: Job, failure: Option<Failure>, started: Moment) -> Finished {
        let ended = Moment::now();
        let mut failed_step = None;
        let mut output = String::new();
        if let Some(failure) = &failure {
            // At most 64 steps.
            let index = self.results.len() as u32;
            if let Some(mut result) = self.current.take() {
                result.status = failure.status.into();
                result.error = Some(failure.into());
                result.end_time = Some(ended.into());
                failed_step = Some((index, result.step_id.clone()));
                self.results.push(result);
            }
        } else if let Some(last) = self.results.last() {
            output.clone_from(&last.output);
        }
        Finished {
            id: job.id,
            chain_id: job.chain_id,
            failure,
            failed_step,
            output,
            results: self.results,
            total_tokens: self.tokens,
            started,
            ended,
        }
    }
}

struct Work<'a> {
    parts: &'a Parts,
    job: &'a Job,
    execution: &'a Execution,
    sink: &'a Sink,
}

impl Work<'_> {
    async fn within_its_time(&self, progress: &mut Progress) -> Result<(), Failure> {
        let work = AssertUnwindSafe(self.all_steps(progress)).catch_unwind();
        tokio::select! {
            biased;
            stop = self.execution.stopped() => Err(stop.into()),
            () = sleep_until(self.job.deadline) => Err(Failure::timed_out(self.job.limit)),
            outcome = work => outcome.unwrap_or_else(|_| Err(Failure::internal())),
        }
    }

    async fn all_steps(&self, progress: &mut Progress) -> Result<(), Failure> {
        for (index, step) in (0..).zip(&self.job.steps) {
            self.execution.advance(&step.id, index);
            progress.current = Some(StepResult {
                step_id: step.id.clone(),
                status: Ended::InProgress.into(),
                start_time: Some(Moment::now().into()),
                ..Default::default()
            });
            let answer = self.one_step(index, step, progress).await?;
            self.completed(index, answer, progress).await?;
        }
        Ok(())
    }

    async fn one_step(
        &self,
        index: u32,
        step: &ChainStep,
        progress: &mut Progress,
    ) -> Result<Answer, Failure> {
        let input = self.render(index, progress).await?;
        progress.take_room(input.len())?;
        if let Some(current) = &mut progress.current {
            current.input.clone_from(&input);
        }
        self.sink.step_started(&step.id, index, &input).await;
        let mut context = self.job.context.clone();
        context.request_id = format!("{}/{}", self.job.id, step.id);
        context.timestamp = Some(Moment::now().into());
        let left = self.job.deadline.saturating_duration_since(Instant::now());
        let request = step::request(step, input, context, left);
        let max = STEP_OUTPUT_BYTES.min(progress.room);
        let router = self.parts.router.as_ref();
        let answer = step::ask(router, request, max, &step.id, self.sink).await?;
        step::check_format(step, &answer.output)?;
        progress.take_room(answer.output.len())?;
        Ok(answer)
    }

    async fn render(&self, index: u32, progress: &mut Progress) -> Result<String, Failure> {
        let templates = Arc::clone(&self.job.templates);
        let scope = progress.scope.take().ok_or_else(Failure::internal)?;
        let rendering = tokio::task::spawn_blocking(move || {
            let input = templates.render(index as usize, &scope);
            (input, scope)
        });
        // A panic of the library: it was logged by the panic itself.
        let (input, scope) = rendering.await.map_err(|_| Failure::internal())?;
        progress.scope = Some(scope);
        input.map_err(|fault| Failure::template(&fault))
    }

    async fn completed(
        &self,
        index: u32,
        answer: Answer,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let record = self.execution.advance("", index + 1);
        let Some(result) = progress.complete(answer) else {
            return Err(Failure::internal());
        };
        let recorded = self
            .parts
            .database
            .write(move |db| table::update(db, &record));
        recorded.await.map_err(|error: StorageError| {
            tracing::error!(%error, "the progress of an execution could not be recorded");
            Failure::storage()
        })?;
        notify::step_completed(self.parts, &self.job.id, index, result);
        self.sink
            .step_completed(&result.step_id, index, &result.output, result.tokens)
            .await;
        Ok(())
    }
}

impl Finished {
    pub(super) fn status(&self) -> Ended {
        let failure = self.failure.as_ref();
        failure.map_or(Ended::Success, |failure| failure.status)
    }

    /// How long it took, in milliseconds.
    pub(super) fn millis(&self) -> u64 {
        self.ended.millis_since(self.started)
    }
}

impl From<Finished> for ChainExecutionResponse {
    fn from(finished: Finished) -> Self {
        let chain = ("chain_id".to_owned(), finished.chain_id.clone());
        Self {
            status: finished.status().into(),
            error: finished.failure.as_ref().map(Into::into),
            start_time: Some(finished.started.into()),
            end_time: Some(finished.ended.into()),
            step_results: finished.results,
            total_tokens: finished.total_tokens,
            metadata: (!chain.1.is_empty()).then(|| Metadata {
                values: [chain].into(),
            }),
            output: finished.output,
            execution_id: finished.id,
        }
    }
}
