//! The executions that run now: how far each has come, and the way to stop it.
//!
//! Owns their list, its limits, and the one decision of how an execution ends: whoever comes first,
//! a stop or the end of the work, has it. It does not own the work (`run`'s).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::EngineError;
use super::failure::Stop;
use super::moment::Moment;
use super::table::Record;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping(Stop),
    /// It is decided how it ended; that is not recorded yet.
    Sealed,
    Over,
}

/// One that runs.
pub(super) struct Execution {
    phase: watch::Sender<Phase>,
    record: Mutex<Record>,
}

impl Execution {
    pub(super) fn new(record: Record) -> Self {
        Self {
            phase: watch::Sender::new(Phase::Running),
            record: Mutex::new(record),
        }
    }

    /// How far it has come.
    pub(super) fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Writes down what it will do.
    pub(super) fn plan(&self, chain_id: &str, steps: usize) {
        let mut record = self.lock();
        record.chain_id = chain_id.to_owned();
        // At most 64.
        record.total = steps as u32;
    }

    /// Writes down how far it has come, and returns that.
    pub(super) fn advance(&self, current_step: &str, completed: u32) -> Record {
        let mut record = self.lock();
        record.current_step.clear();
        record.current_step.push_str(current_step);
        record.completed = completed;
        record.updated = Moment::now();
        record.clone()
    }

    /// Asks it to stop. Says whether it does, for this reason or an earlier one.
    pub(super) fn stop(&self, why: Stop) -> bool {
        self.phase.send_if_modified(|phase| {
            let runs = *phase == Phase::Running;
            if runs {
                *phase = Phase::Stopping(why);
            }
            runs
        });
        matches!(*self.phase.borrow(), Phase::Stopping(_))
    }

    /// Completes when it shall stop.
    pub(super) async fn stopped(&self) -> Stop {
        let mut phase = self.phase.subscribe();
        loop {
            if let Phase::Stopping(why) = *phase.borrow_and_update() {
                return why;
            }
            // The sender lives in `self`, so that this can't fail.
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// From here on nothing can stop it; returns what was to stop it before.
    pub(super) fn seal(&self) -> Option<Stop> {
        match self.phase.send_replace(Phase::Sealed) {
            Phase::Stopping(why) => Some(why),
            _ => None,
        }
    }

    /// Waits until how it ended is recorded, at most `limit`.
    pub(super) async fn over(&self, limit: Duration) {
        let mut phase = self.phase.subscribe();
        let over = phase.wait_for(|phase| *phase == Phase::Over);
        // It stops in any case; whoever waits here is told a little early.
        let _ = timeout(limit, over).await;
    }

    // A record is changed in steps that cannot panic, so that it is whole after a panic elsewhere.
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that run.
pub(super) struct Running {
    max: usize,
    /// Of one caller.
    max_of_one: usize,
    state: Mutex<State>,
    count: watch::Sender<usize>,
    shown: Gauge,
}

#[derive(Default)]
struct State {
    executions: HashMap<String, Entry>,
    /// No further ones are taken.
    closed: bool,
}

struct Entry {
    execution: Arc<Execution>,
    /// Whose share it takes, if anybody's.
    share: Option<String>,
}

impl Running {
    /// None, of at most `max`, and `max_of_one` of one caller; `shown` tells how many there are.
    pub(super) fn new(max: usize, max_of_one: usize, shown: Gauge) -> Self {
        Self {
            max,
            max_of_one,
            state: Mutex::default(),
            count: watch::Sender::new(0),
            shown,
        }
    }

    /// Adds one, in the share of a caller if one is given; it is there until the place is dropped.
    pub(super) fn enter(
        self: &Arc<Self>,
        record: Record,
        share: Option<String>,
    ) -> Result<Place, EngineError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EngineError::Stopping);
        }
        if state.executions.len() >= self.max {
            return Err(EngineError::TooManyExecutions { max: self.max });
        }
        if let Some(subject) = &share
            && state.taken_by(subject) >= self.max_of_one
        {
            return Err(EngineError::TooManyOfOne {
                subject: subject.clone(),
                max: self.max_of_one,
            });
        }
        let id = record.id.clone();
        let execution = Arc::new(Execution::new(record));
        let entry = Entry {
            execution: Arc::clone(&execution),
            share,
        };
        state.executions.insert(id.clone(), entry);
        self.counted(&state);
        Ok(Place {
            id,
            execution,
            running: Arc::clone(self),
        })
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Execution>> {
        let state = self.lock();
        let entry = state.executions.get(id)?;
        Some(Arc::clone(&entry.execution))
    }

    /// Takes no further ones, waits for those that run, at most `limit`, and stops the rest.
    pub(super) async fn drain(&self, limit: Duration, to_record: Duration) {
        self.lock().closed = true;
        if self.empty(limit).await {
            return;
        }
        for entry in self.lock().executions.values() {
            entry.execution.stop(Stop::Interrupted);
        }
        if !self.empty(to_record).await {
            tracing::warn!("executions that were interrupted could not be recorded in time");
        }
    }

    async fn empty(&self, limit: Duration) -> bool {
        let mut count = self.count.subscribe();
        let empty = timeout(limit, count.wait_for(|count| *count == 0)).await;
        empty.is_ok()
    }

    fn counted(&self, state: &State) {
        let count = state.executions.len();
        self.count.send_replace(count);
        self.shown.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn taken_by(&self, subject: &str) -> usize {
        let taken = |entry: &&Entry| entry.share.as_deref() == Some(subject);
        self.executions.values().filter(taken).count()
    }
}

/// A place among those that run.
pub(super) struct Place {
    id: String,
    pub(super) execution: Arc<Execution>,
    running: Arc<Running>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.running.lock();
        state.executions.remove(&self.id);
        self.running.counted(&state);
        self.execution.phase.send_replace(Phase::Over);
    }
}
