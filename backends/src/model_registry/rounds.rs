//! Checks all models again and again, without being asked.
//!
//! Owns the time table. A round takes every model that has a connector and that nobody took out for
//! MAINTENANCE or as DEPRECATED, and spreads them over the interval, each a little late by chance, so
//! that endpoints do not hear of all their models at once. At most 16 checks run at a time; a round
//! that gets late by that is finished before the next one begins. Between two checks of a round, a
//! model that a call could not reach is checked out of turn: about once a second each, and at most 64
//! wait for it; what is reported beyond that is left to the round.
//!
//! It fails by a line in the log and no more: the next round tries again. It ends when it is dropped.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use intellirouter_proto::intellirouter::model_registry::v1::ModelStatus;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::error::RegistryError;
use super::health::{By, Checker};
use super::memory::Entry;

/// Reports that wait to be looked at.
pub(super) const REPORTS: usize = 64;
const AT_A_TIME: usize = 16;
/// How often it is forgotten which models were checked out of turn.
const PAUSE: Duration = Duration::from_secs(1);

/// The time table.
pub(super) struct Rounds {
    checker: Arc<Checker>,
    interval: Duration,
    /// What is left of this round, soonest first.
    due: VecDeque<(Instant, String)>,
    next_round: Instant,
    /// Models that were checked out of turn since `recent_since`.
    recent: HashSet<String>,
    recent_since: Instant,
    running: JoinSet<()>,
}

impl Rounds {
    pub(super) fn new(checker: Arc<Checker>, interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            checker,
            interval,
            due: VecDeque::new(),
            next_round: now,
            recent: HashSet::new(),
            recent_since: now,
            running: JoinSet::new(),
        }
    }

    /// Goes on until it is dropped; `reports` brings the ids of models that could not be reached.
    pub(super) async fn run(mut self, mut reports: mpsc::Receiver<String>) {
        loop {
            let next = self.due.front().map_or(self.next_round, |(at, _)| *at);
            let free = self.running.len() < AT_A_TIME;
            tokio::select! {
                Some(ended) = self.running.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a health check was given up");
                    }
                }
                () = sleep_until(next), if free => self.go_on(),
                Some(id) = reports.recv(), if free => self.out_of_turn(id),
            }
        }
    }

    /// Checks the next model of the round, or begins a round.
    fn go_on(&mut self) {
        if let Some((_, id)) = self.due.pop_front() {
            self.start(&id);
        } else {
            let now = Instant::now();
            self.next_round = now + self.interval;
            self.due = self.spread(now);
        }
    }

    /// When which model is due in a round that begins now.
    fn spread(&self, now: Instant) -> VecDeque<(Instant, String)> {
        let models = self.checker.store.memory().all();
        let models: Vec<_> = models.into_iter().filter(is_checked).collect();
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
        if !self.recent.contains(&id) && self.start(&id) {
            self.recent.insert(id);
        }
    }

    /// Begins a check, unless the model is gone or rests.
    fn start(&mut self, id: &str) -> bool {
        let Some(entry) = self.checker.store.memory().get(id).filter(is_checked) else {
            return false;
        };
        let checker = Arc::clone(&self.checker);
        self.running.spawn(async move {
            match checker.check(&entry, 0, By::Round).await {
                // Whoever changed or removed it meanwhile said so.
                Ok(_) | Err(RegistryError::Changed(_) | RegistryError::NotFound(_)) => {}
                Err(error) => {
                    let model_id = entry.record.id();
                    tracing::error!(model_id, %error, "the outcome of a health check was not recorded");
                }
            }
        });
        true
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
