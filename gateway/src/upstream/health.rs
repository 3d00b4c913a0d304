//! Whether an endpoint says that it serves (`grpc.health.v1.Health/Check`).
//!
//! Each endpoint of an upstream with `[upstreams.health]` is asked at once, and
//! then again and again, over a connection of its own, by the whole process once
//! and not by each worker. One that is not healthy gets no calls; what is in
//! progress there goes on. Until the first answer, and without checks, an endpoint
//! counts as healthy.
//!
//! A check is good when the answer is SERVING. It is good as well when the server
//! has no health service (UNIMPLEMENTED) or does not tell the gateway, which asks
//! without an identity token (UNAUTHENTICATED, PERMISSION_DENIED): such a server is
//! there. Everything else is a failed check: another answer, no connection, none in
//! time. Owns neither what calls tell of an endpoint (the breaker's concern) nor
//! who is asked when endpoints come and go ([`super::keeper`]).
//!
//! Limits: one check of an endpoint at a time, each with the timeout of the
//! configuration, connecting included; [`ANSWER_BYTES`] of an answer.

mod check;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use intellirouter::resilience::Random;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use crate::config::HealthConfig;
use check::{Check, CheckError};

/// See the module's comment.
const ANSWER_BYTES: usize = 1024;

/// What the checks of an endpoint have told.
#[derive(Debug, Default)]
pub(super) struct Health {
    is_down: AtomicBool,
    checks: Mutex<Checks>,
}

#[derive(Debug, Default)]
struct Checks {
    /// Who checks now: what an earlier one still has to say does not count.
    checker: u64,
    good_in_a_row: u32,
    failed_in_a_row: u32,
    last_fault: Option<String>,
}

/// What operators are told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HealthReport {
    /// `None` while nothing is known.
    pub(super) is_up: Option<bool>,
    pub(super) failed_in_a_row: u32,
    pub(super) last_fault: Option<String>,
}

impl Health {
    /// Whether it may have calls.
    pub(super) fn is_up(&self) -> bool {
        !self.is_down.load(Relaxed)
    }

    pub(super) fn report(&self) -> HealthReport {
        let checks = self.lock();
        let known = checks.good_in_a_row > 0 || checks.failed_in_a_row > 0;
        HealthReport {
            is_up: known.then(|| self.is_up()),
            failed_in_a_row: checks.failed_in_a_row,
            last_fault: checks.last_fault.clone(),
        }
    }

    /// From now on nobody asks.
    pub(super) fn forget(&self) {
        let mut checks = self.lock();
        *checks = Checks {
            checker: checks.checker + 1,
            ..Checks::default()
        };
        self.is_down.store(false, Relaxed);
    }

    /// As after checks that failed.
    #[cfg(test)]
    pub(super) fn fail_for_good(&self) {
        self.is_down.store(true, Relaxed);
    }

    /// From now on only the one who has this number tells. What is known stays.
    fn hand_over(&self) -> u64 {
        let mut checks = self.lock();
        checks.checker += 1;
        checks.checker
    }

    /// Counts a check; tells whether the endpoint comes or goes by it.
    fn record(&self, checker: u64, fault: Option<String>, config: &HealthConfig) -> Option<Change> {
        let mut checks = self.lock();
        if checks.checker != checker {
            return None;
        }
        let good = fault.is_none();
        (checks.good_in_a_row, checks.failed_in_a_row) = match good {
            true => (checks.good_in_a_row.saturating_add(1), 0),
            false => (0, checks.failed_in_a_row.saturating_add(1)),
        };
        checks.last_fault = fault;
        let change = match self.is_up() {
            true if checks.failed_in_a_row >= config.unhealthy_after => Change::Down,
            false if checks.good_in_a_row >= config.healthy_after => Change::Up,
            _ => return None,
        };
        self.is_down.store(change == Change::Down, Relaxed);
        Some(change)
    }

    fn lock(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Up,
    Down,
}

/// Asks an endpoint again and again, for as long as it is polled.
pub(super) async fn follow(upstream: String, endpoint: Arc<Endpoint>, config: HealthConfig) {
    let check = Check::new(endpoint.clone(), &config);
    let following = Following {
        upstream,
        endpoint,
        config,
        random: rand::random::<f64>,
    };
    following.run(check).await;
}

/// Asks an endpoint once.
trait Ask {
    fn ask(&mut self) -> impl Future<Output = Result<(), CheckError>> + Send;
}

struct Following {
    upstream: String,
    endpoint: Arc<Endpoint>,
    config: HealthConfig,
    random: Random,
}

impl Following {
    async fn run(self, mut check: impl Ask) {
        let health = &self.endpoint.standing.health;
        let checker = health.hand_over();
        loop {
            let began = Instant::now();
            let answer = tokio::time::timeout(self.config.timeout, check.ask()).await;
            let fault = match answer {
                Ok(answer) => answer.err().map(|error| error.to_string()),
                Err(_) => Some(format!("no answer within {:?}", self.config.timeout)),
            };
            let change = health.record(checker, fault, &self.config);
            self.say(change);
            tokio::time::sleep_until(began + self.pause()).await;
        }
    }

    /// The interval, up to a tenth shorter by chance: gateways that began
    /// together do not go on asking together.
    fn pause(&self) -> Duration {
        let share = (self.random)().clamp(0.0, 1.0).max(0.0);
        self.config.interval - self.config.interval.mul_f64(share / 10.0)
    }

    fn say(&self, change: Option<Change>) {
        let (upstream, endpoint) = (&self.upstream, &self.endpoint.name);
        match change {
            None => {}
            Some(Change::Down) => {
                let fault = self.endpoint.standing.health.report().last_fault;
                let message = "endpoint unhealthy: it gets no calls";
                tracing::warn!(upstream, %endpoint, fault, "{message}");
            }
            Some(Change::Up) => {
                // What it was like before it was away must not keep it out.
                self.endpoint.standing.load.forget();
                tracing::info!(upstream, %endpoint, "endpoint healthy again");
            }
        }
    }
}

#[cfg(test)]
mod tests;
