//! What is told of one try to those who judge its endpoint: to the breaker how
//! it ended, to the balancer how long its answer took. Each once.
//!
//! What nobody tells counts for nothing: so a try that its caller gave up, or
//! that the gateway ended by its own rules, does the endpoint no harm.

use std::sync::Arc;

use intellirouter::resilience::{Outcome, Permit};
use tokio::time::Instant;
use tonic::Code;

use super::endpoint::Endpoint;
use super::status::Codes;

/// See the module's comment. The default one tells nothing.
#[derive(Default)]
pub(super) struct Report {
    permit: Option<Permit>,
    failures: Codes,
    /// When the try began; `None` once its time is known.
    began: Option<Instant>,
    /// Whether it is the endpoint's fault when the call's time is over.
    blames: bool,
}

impl Report {
    /// Of a try that begins now. Statuses in `failures` are the endpoint's.
    pub(super) fn begin(permit: Permit, failures: Codes, blames: bool) -> Self {
        Self {
            permit: Some(permit),
            failures,
            began: Some(Instant::now()),
            blames,
        }
    }

    pub(super) fn record(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            permit.record(outcome);
        }
    }

    pub(super) fn status(&mut self, code: Code) {
        self.record(match self.failures.contains(code) {
            true => Outcome::Failure,
            false => Outcome::Success,
        });
    }

    /// A message came: whoever leaves now was served.
    pub(super) fn message(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.presume(Outcome::Success);
        }
    }

    /// The call's time is over, and the endpoint had the whole request.
    pub(super) fn late(&mut self) {
        if self.blames {
            self.record(Outcome::Failure);
        }
    }

    /// The answer is there, or was waited for in vain.
    pub(super) fn took(&mut self, endpoint: &Arc<Endpoint>) {
        if let Some(began) = self.began.take() {
            let now = Instant::now();
            let load = &endpoint.standing.load;
            load.observe(now.saturating_duration_since(began), now);
        }
    }

    /// Its caller waits no longer. That tells something only of an answer which
    /// takes longer than expected.
    pub(super) fn given_up(&mut self, endpoint: &Arc<Endpoint>) {
        let now = Instant::now();
        let expected = endpoint.standing.load.expected(now);
        let waited = self.began.map(|began| now.saturating_duration_since(began));
        if let (Some(expected), Some(waited)) = (expected, waited)
            && waited.as_secs_f64() * 1e6 > expected
        {
            self.took(endpoint);
        }
    }
}
