//! What is told of one try to those who judge its endpoint: to the breaker how
//! it ended, to the balancer how long its answer took. Each once.
//!
//! What nobody tells counts for nothing: so a try that its caller gave up, or
//! that the gateway ended by its own rules, does the endpoint no harm.
//!
//! A stream may last for hours, and be quiet. That it began is taken as a sign
//! that its host works: one that is the breaker's probe succeeded, and its time
//! is known. Of a call that is known to have one message each way its headers
//! say neither: it is judged by its status. Of a method that nothing is known of,
//! the probe succeeds with its first message, or once it goes on for [`LIFE`]
//! after its headers: a host may send headers for whatever fails behind them.

use std::time::Duration;

use intellirouter::resilience::{Outcome, Permit};
use tokio::time::Instant;
use tonic::Code;

use super::endpoint::Endpoint;
use super::status::Codes;
use crate::routes::Route;

/// A quiet answer that lasts so long is a stream's.
const LIFE: Duration = Duration::from_secs(1);

/// See the module's comment. The default one tells nothing.
#[derive(Default)]
pub(super) struct Report {
    permit: Option<Permit>,
    failures: Codes,
    /// When the try began; `None` once the balancer knows its time.
    began: Option<Instant>,
    /// How long the headers took, if they came.
    took: Option<Duration>,
    /// Whether it is the endpoint's fault when the call's time is over.
    blames: bool,
    /// Whether the call is known to have one message each way, or to be a stream.
    unary: bool,
    streams: bool,
}

impl Report {
    /// Of a try that begins now. Statuses in `failures` are the endpoint's.
    pub(super) fn begin(permit: Permit, failures: Codes, blames: bool, route: &Route) -> Self {
        Self {
            permit: Some(permit),
            failures,
            began: Some(Instant::now()),
            took: None,
            blames,
            unary: route.unary,
            streams: route.streams,
        }
    }

    pub(super) fn record(&mut self, outcome: Outcome, endpoint: &Endpoint) {
        if outcome == Outcome::Failure {
            self.failed(endpoint);
        }
        if let Some(permit) = self.permit.take() {
            permit.record(outcome);
        }
    }

    /// The headers of an answer came, and more will.
    pub(super) fn head(&mut self, endpoint: &Endpoint) {
        self.took = self.began.map(|began| began.elapsed());
        if !self.unary {
            self.served(endpoint);
        }
        if self.streams {
            self.lives(endpoint);
        }
    }

    /// How long after its headers a probe that nothing is known of has to go on.
    pub(super) fn life(&self) -> Option<Duration> {
        (!self.unary && self.is_probe()).then_some(LIFE)
    }

    /// A stream goes on, so its host works.
    pub(super) fn lives(&mut self, endpoint: &Endpoint) {
        if self.is_probe() {
            self.record(Outcome::Success, endpoint);
        }
    }

    fn is_probe(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_probe)
    }

    /// A message came: whoever leaves now was served. What is late from now on
    /// may wait for its caller to take it.
    pub(super) fn message(&mut self, endpoint: &Endpoint) {
        self.served(endpoint);
        if !self.unary {
            self.lives(endpoint);
        }
        if let Some(permit) = &mut self.permit {
            permit.presume(Outcome::Success);
        }
    }

    fn served(&mut self, endpoint: &Endpoint) {
        self.blames = false;
        if let Some((took, now)) = self.time() {
            endpoint.standing.load.observe(took, now);
        }
    }

    /// It ended with this status. Without one the endpoint broke its promise.
    pub(super) fn status(&mut self, code: Option<Code>, endpoint: &Endpoint) {
        match code {
            Some(Code::Ok) => self.served(endpoint),
            // Whoever's fault it is: to fail is quicker than to serve.
            _ => self.failed(endpoint),
        }
        let failed = code.is_none_or(|code| self.failures.contains(code));
        let outcome = match failed {
            true => Outcome::Failure,
            false => Outcome::Success,
        };
        self.record(outcome, endpoint);
    }

    /// It was not served.
    pub(super) fn failed(&mut self, endpoint: &Endpoint) {
        if let Some((took, now)) = self.time() {
            endpoint.standing.load.failed(took, now);
        }
    }

    /// It was waited for in vain.
    pub(super) fn waited(&mut self, endpoint: &Endpoint) {
        if let Some(began) = self.began.take() {
            let now = Instant::now();
            let waited = now.saturating_duration_since(began);
            endpoint.standing.load.waited(waited, now);
        }
    }

    /// The call's time is over, and the endpoint had the whole request.
    pub(super) fn late(&mut self, endpoint: &Endpoint) {
        if self.blames {
            self.record(Outcome::Failure, endpoint);
        }
    }

    /// Its caller waits no longer. That tells something only of an answer which
    /// takes longer than expected.
    pub(super) fn given_up(&mut self, endpoint: &Endpoint) {
        let load = &endpoint.standing.load;
        if self.began.is_some() && load.expected(Instant::now()).is_some() {
            self.waited(endpoint);
        }
    }

    /// How long the answer took, once, and what time it is.
    fn time(&mut self) -> Option<(Duration, Instant)> {
        let began = self.began.take()?;
        let now = Instant::now();
        let took = self.took;
        Some((
            took.unwrap_or_else(|| now.saturating_duration_since(began)),
            now,
        ))
    }
}
