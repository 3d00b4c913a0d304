//! Checks all models again and again, without being asked.
//!
//! Owns the time table. A round takes every model that has a connector and that nobody took out for
//! MAINTENANCE or as DEPRECATED, and spreads them over the interval, each a little late by chance, so
//! that endpoints do not hear of all their models at once. At most 16 checks run at a time, and at
//! most 4 of them at one host and port: a model whose endpoint has that many waits, and those of
//! other endpoints have their turn. A check that is due goes before those that wait; a round leaves
//! out what still waits of an earlier one. So an endpoint that does not answer delays its own models:
//! they are checked 4 at a time, each for at most the settings' `health_timeout`. Between two checks
//! of a round, a model that a call could not reach is checked out of turn: about once a second each,
//! and at most 64 wait to be looked at; what is reported beyond that is left to the round.
//!
//! It fails by a line in the log and no more: the next round tries again. It ends when it is dropped.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use intellirouter_proto::intellirouter::model_registry::v1::ModelStatus;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::error::RegistryError;
use super::health::{By, Checker};
use super::memory::Entry;
use crate::connectors::Connectors;

/// Reports that wait to be looked at.
pub(super) const REPORTS: usize = 64;
const AT_A_TIME: usize = 16;
const PER_ORIGIN: usize = 4;
/// How often it is forgotten which models were checked out of turn.
const PAUSE: Duration = Duration::from_secs(1);

/// The time table.
pub(super) struct Rounds {
    checker: Arc<Checker>,
    interval: Duration,
    /// What is left of this round, soonest first.
    due: VecDeque<(Instant, String)>,
    next_round: Instant,
    /// Models whose endpoint had enough checks when their turn came, each once.
    waiting: VecDeque<Waiting>,
    /// Models that were checked out of turn since `recent_since`.
    recent: HashSet<String>,
    recent_since: Instant,
    running: JoinSet<()>,
    /// Where each of those that run asks; what runs in this process has no origin.
    origins: HashMap<Id, Option<String>>,
}

struct Waiting {
    id: String,
    origin: Option<String>,
}

impl Rounds {
    pub(super) fn new(checker: Arc<Checker>, interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            checker,
            interval,
            due: VecDeque::new(),
            next_round: now,
            waiting: VecDeque::new(),
            recent: HashSet::new(),
            recent_since: now,
            running: JoinSet::new(),
            origins: HashMap::new(),
        }
    }

    /// Goes on until it is dropped; `reports` brings the ids of models that could not be reached.
    pub(super) async fn run(mut self, mut reports: mpsc::Receiver<String>) {
        loop {
            let next = self.due.front().map_or(self.next_round, |(at, _)| *at);
            let free = self.running.len() < AT_A_TIME;
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => self.ended(ended.map(|(id, ())| id)),
                () = sleep_until(next), if free => self.go_on(),
                Some(id) = reports.recv(), if free => self.out_of_turn(id),
            }
        }
    }

    /// Takes note of the end of a check, and gives its place to another.
    fn ended(&mut self, ended: Result<Id, tokio::task::JoinError>) {
        let id = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a health check was given up");
            error.id()
        });
        self.origins.remove(&id);
        self.call_in();
    }

    /// Checks the next model of the round, or begins a round.
    fn go_on(&mut self) {
        if let Some((_, id)) = self.due.pop_front() {
            if let Some((entry, origin)) = self.find(&id) {
                match self.has_place(&origin) {
                    true => self.start(entry, origin),
                    false => self.waiting.push_back(Waiting { id, origin }),
                }
            }
        } else {
            let now = Instant::now();
            self.next_round = now + self.interval;
            self.due = self.spread(now);
        }
        self.call_in();
    }

    /// When which model is due in a round that begins now.
    fn spread(&self, now: Instant) -> VecDeque<(Instant, String)> {
        let late: HashSet<_> = self.waiting.iter().map(|model| model.id.as_str()).collect();
        let models = self.checker.store.memory().all();
        let models = models.into_iter().filter(is_checked);
        let models: Vec<_> = models
            .filter(|entry| !late.contains(entry.record.id()))
            .collect();
        let slot = self.interval.div_f64(models.len().max(1) as f64);
        let mut begins = now;
        let due = models.into_iter().map(|entry| {
            let late = slot.mul_f64(rand::random_range(0.0..0.5));
            let at = begins + late;
            begins += slot;
            (at, entry.record.id().to_owned())
        });
        due.collect()
    }

    fn out_of_turn(&mut self, id: String) {
        let now = Instant::now();
        if now.duration_since(self.recent_since) >= PAUSE {
            self.recent.clear();
            self.recent_since = now;
        }
        if self.recent.contains(&id) {
            return;
        }
        // Where its endpoint has enough checks, they find out what is the matter with it.
        if let Some((entry, origin)) = self.find(&id)
            && self.has_place(&origin)
        {
            self.start(entry, origin);
            self.recent.insert(id);
        }
    }

    /// Begins the checks that wait for which there is a place, unless another is due.
    fn call_in(&mut self) {
        let now = Instant::now();
        let is_due = self.due.front().is_some_and(|(at, _)| *at <= now);
        while !is_due && self.running.len() < AT_A_TIME {
            let mut waiting = self.waiting.iter();
            let Some(first) = waiting.position(|model| self.has_place(&model.origin)) else {
                return;
            };
            let found = self.waiting.remove(first).and_then(|m| self.find(&m.id));
            // It may have moved to an endpoint that has enough; then the next round has it.
            if let Some((entry, origin)) = found.filter(|(_, origin)| self.has_place(origin)) {
                self.start(entry, origin);
            }
        }
    }

    /// The model and its endpoint, unless it is gone or rests.
    fn find(&self, id: &str) -> Option<(Entry, Option<String>)> {
        let entry = self.checker.store.memory().get(id).filter(is_checked)?;
        let config = entry.record.model.connector_config.as_ref();
        let origin = config.and_then(Connectors::origin);
        Some((entry, origin))
    }

    fn has_place(&self, origin: &Option<String>) -> bool {
        let there = self.origins.values().filter(|other| *other == origin);
        origin.is_none() || there.count() < PER_ORIGIN
    }

    fn start(&mut self, entry: Entry, origin: Option<String>) {
        let checker = Arc::clone(&self.checker);
        let task = self.running.spawn(check(checker, entry));
        self.origins.insert(task.id(), origin);
    }
}

async fn check(checker: Arc<Checker>, entry: Entry) {
    match checker.check(&entry, 0, By::Round).await {
        // Whoever changed or removed it meanwhile said so.
        Ok(_) | Err(RegistryError::Changed(_) | RegistryError::NotFound(_)) => {}
        Err(error) => {
            let model_id = entry.record.id();
            tracing::error!(model_id, %error, "the outcome of a health check was not recorded");
        }
    }
}

/// Whether the registry looks after it by itself.
fn is_checked(entry: &Entry) -> bool {
    let model = &entry.record.model;
    let resting = matches!(
        model.status(),
        ModelStatus::Maintenance | ModelStatus::Deprecated
    );
    model.connector_config.is_some() && !resting
}
