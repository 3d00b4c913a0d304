//! Starts an execution: from a request to a task that runs by itself.
//!
//! Owns what stands before the first step (the chain, its templates, a place among those that run,
//! the time) and the caller's hold on the execution: when the caller goes, it is stopped.

use std::sync::Arc;
use std::time::Duration;

use intellirouter_proto::intellirouter::chain_engine::v1::chain_execution_request::ChainIdentifier;
use intellirouter_proto::intellirouter::chain_engine::v1::{
    Chain, ChainExecutionEvent, ChainExecutionRequest,
};
use intellirouter_proto::intellirouter::common::v1::{RequestContext, Status as Ended};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Status};
use uuid::Uuid;

use super::access::Caller;
use super::compile::Compiled;
use super::error::EngineError;
use super::execution::{Execution, Place};
use super::failure::Stop;
use super::limits::{NAME_BYTES, TIMEOUT_SECONDS};
use super::moment::Moment;
use super::run::{self, Finished, Job, Tell};
use super::sink::Sink;
use super::table::{self, Record};
use super::{ChainEngine, Parts, deadline, validate};

/// The server measures the caller's time too, and drops the call when it is over. A call that is
/// dropped so shortly before was dropped for that.
const CLOCKS_DIFFER: Duration = Duration::from_millis(100);

/// An execution that is recorded as begun.
pub(super) struct Started {
    pub(super) hold: Hold,
    pub(super) ended: oneshot::Receiver<Result<Finished, Status>>,
}

/// The caller's hold on its execution.
pub(super) struct Hold {
    execution: Arc<Execution>,
    /// When the caller's own time is over.
    until: Option<Instant>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let late = |until: Instant| Instant::now() + CLOCKS_DIFFER >= until;
        let why = match self.until.is_some_and(late) {
            true => Stop::CallerTimedOut,
            false => Stop::CallerGone,
        };
        // One that has ended does not care.
        self.execution.stop(why);
    }
}

impl ChainEngine {
    /// Starts what `request` asks for. What happens goes to `reader`, if there is one.
    pub(super) async fn start(
        &self,
        request: Request<ChainExecutionRequest>,
        reader: Option<mpsc::Sender<ChainExecutionEvent>>,
    ) -> Result<Started, Status> {
        let arrived = Instant::now();
        let caller = Caller::of(request.extensions());
        let (subject, share) = (caller.subject(), caller.share());
        let callers = deadline::of_caller(request.metadata());
        let request = request.into_inner();
        validate::execution(&request)?;
        let limit = limit(&request, callers, self.parts.settings.timeout);
        let deadline = arrived + limit;
        let id = Uuid::new_v4().to_string();
        // Before the chain is read and compiled, so that only so many are at a time.
        let record = record(&id, subject.clone());
        let place = self.parts.running.enter(record, share);
        let place = place.inspect_err(|_| {
            self.parts.metrics.refused.inc();
        })?;
        let execution = Arc::clone(&place.execution);
        let (chain_id, compiled) = tokio::select! {
            biased;
            // Nobody knows its id yet, so that only the engine's end can stop it.
            _ = execution.stopped() => Err(EngineError::Stopping.into()),
            () = sleep_until(deadline) => Err(EngineError::NoTimeLeft(limit).into()),
            ready = prepare(&self.parts, request.chain_identifier, place) => ready,
        }?;
        let Compiled {
            steps,
            templates,
            held: place,
        } = compiled;
        execution.plan(&chain_id, steps.len());
        let hold = Hold {
            execution,
            until: callers.and_then(|callers| arrived.checked_add(callers)),
        };
        let job = Job {
            id: id.clone(),
            chain_id,
            steps,
            templates: Arc::new(templates),
            input: request.input,
            variables: request.variables,
            context: context(request.context, subject),
            limit,
            deadline,
        };
        let ((begun, has_begun), (tell_end, ended)) = (oneshot::channel(), oneshot::channel());
        let tell = Tell {
            begun,
            ended: tell_end,
        };
        let sink = Sink::new(id, reader);
        tokio::spawn(run::run(Arc::clone(&self.parts), place, job, sink, tell));
        has_begun.await.map_err(|_| EngineError::Internal)??;
        Ok(Started { hold, ended })
    }
}

/// Of the times that are given, the shortest.
fn limit(
    request: &ChainExecutionRequest,
    callers: Option<Duration>,
    default: Duration,
) -> Duration {
    let longest = Duration::from_secs(TIMEOUT_SECONDS.into());
    let asked = match request.timeout_seconds {
        0 => default.min(longest),
        seconds => Duration::from_secs(seconds.into()),
    };
    callers.map_or(asked, |callers| asked.min(callers))
}

/// The chain that a request names or brings, ready to run: its id and steps. Dropped, it keeps the
/// place until the templates are compiled: what still works counts as running.
async fn prepare(
    parts: &Parts,
    identifier: Option<ChainIdentifier>,
    place: Place,
) -> Result<(String, Compiled<Place>), Status> {
    let chain = chain(parts, identifier).await?;
    let compiled = parts.compiler.compile(chain.steps, place).await?;
    Ok((chain.id, compiled))
}

/// The chain that a request names or brings.
async fn chain(parts: &Parts, identifier: Option<ChainIdentifier>) -> Result<Chain, EngineError> {
    match identifier {
        Some(ChainIdentifier::Chain(chain)) => Ok(chain),
        Some(ChainIdentifier::ChainId(id)) => {
            parts.database.read(move |db| table::chain(db, &id)).await
        }
        // Refused before.
        None => Err(EngineError::Internal),
    }
}

/// Of an execution that has not begun.
fn record(id: &str, subject: Option<String>) -> Record {
    let now = Moment::now();
    Record {
        id: id.to_owned(),
        subject,
        chain_id: String::new(),
        status: Ended::InProgress,
        current_step: String::new(),
        completed: 0,
        total: 0,
        error: None,
        started: now,
        updated: now,
    }
}

/// Who the router is told that it is for: the caller as it was checked, else as it says. The router
/// takes no longer name.
fn context(given: Option<RequestContext>, subject: Option<String>) -> RequestContext {
    let mut context = given.unwrap_or_default();
    if let Some(mut subject) = subject {
        subject.truncate(subject.floor_char_boundary(NAME_BYTES));
        context.user_id = subject;
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_callers_name_the_router_is_told_as_much_as_it_takes_in_whole_characters() {
        for (name, told) in [
            ("alice".to_owned(), "alice".to_owned()),
            ("x".repeat(300), "x".repeat(NAME_BYTES)),
            (
                format!("x{}", "ü".repeat(150)),
                format!("x{}", "ü".repeat(127)),
            ),
        ] {
            assert_eq!(context(None, Some(name)).user_id, told);
        }
    }
}
