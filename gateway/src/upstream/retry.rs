//! Whether a call that failed is tried again, and when.
//!
//! Tried again is what provably reached no handler, and what may be repeated
//! (`idempotency_level`, or a route's `idempotent`) and failed for a reason that
//! another try may not meet ([`status`](super::status)). Only while all of these
//! hold: nothing of the answer has gone to the caller; the whole request is kept;
//! `max_tries` are not made; the wait ends before the deadline; the backend did
//! not forbid it (`grpc-retry-pushback-ms`); the budget has a retry left. It is
//! taken before the wait, so that retries which wait count.
//!
//! Not from the budget: the first retry of a call after a GOAWAY. Its backend
//! stops and takes nothing new, so no retry makes it worse, and a restart must
//! cost no call.
//!
//! Limits: a wait is at most `backoff_max`, or what a backend asks for, up to
//! [`LONGEST_PUSHBACK`].

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use intellirouter::resilience::Backoff;
use tokio::time::Instant;

use super::balance::Wish;
use super::dial;
use super::endpoint::Endpoint;
use super::shared::Upstream;
use super::status::Cause;
use crate::config::RetryConfig;
use crate::layers::deadline::Limit;
use crate::routes::Route;
use crate::telemetry::CallRecord;

/// A backend that wants a longer wait than this wants none: calls must not
/// gather here.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

/// The share of a call's time that a try gets which another may follow: less
/// than a third, so that two of them leave the most for the last.
const SHARE: f64 = 0.3;

/// See the module's comment.
pub(super) struct Retries<'a> {
    upstream: &'a Upstream,
    limit: Option<Limit>,
    idempotent: bool,
    /// Whether a try may wait as long as the call: it may be a quiet stream.
    patient: bool,
    /// Tries, those included that found no connection.
    made: u32,
    sent: u32,
    /// Since the backend last said itself how long to wait.
    failures: u32,
    /// Whether one was made after a GOAWAY.
    moved: bool,
    failed_at: Vec<Arc<Endpoint>>,
}

/// What a backend says of another try (gRPC, "Retry Design", A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushback {
    Nothing,
    After(Duration),
    Never,
}

impl Pushback {
    /// A negative value forbids it, and so does one that cannot be read.
    pub(super) fn of(trailers: &HeaderMap) -> Self {
        let Some(value) = trailers.get("grpc-retry-pushback-ms") else {
            return Self::Nothing;
        };
        let millis = value.to_str().ok().and_then(|text| text.parse().ok());
        let wait = millis.map(|millis: u32| Duration::from_millis(millis.into()));
        match wait.filter(|wait| *wait <= LONGEST_PUSHBACK) {
            Some(wait) => Self::After(wait),
            None => Self::Never,
        }
    }
}

impl<'a> Retries<'a> {
    pub(super) fn new(upstream: &'a Upstream, route: &Route, limit: Option<Limit>) -> Self {
        Self {
            upstream,
            limit,
            idempotent: route.idempotent,
            patient: route.streams,
            made: 0,
            sent: 0,
            failures: 0,
            moved: false,
            failed_at: Vec::new(),
        }
    }

    pub(super) fn upstream(&self) -> &'a Upstream {
        self.upstream
    }

    pub(super) fn limit(&self) -> Option<&Limit> {
        self.limit.as_ref()
    }

    fn config(&self) -> &'a RetryConfig {
        &self.upstream.config.retries
    }

    /// What is kept of a request, in bytes; nothing where no retry is made.
    pub(super) fn replay_bytes(&self) -> usize {
        match self.config().max_tries {
            0 | 1 => 0,
            _ => self.config().replay_bytes,
        }
    }

    /// What the next try asks for, of a caller with so many calls in progress.
    pub(super) fn wish(&mut self, calls: usize) -> Wish<'_> {
        self.made += 1;
        Wish {
            calls,
            repeatable: self.may_follow(),
            failed_at: &self.failed_at,
        }
    }

    /// The try has a place; tells how many had one before.
    pub(super) fn placed(&mut self) -> u32 {
        let before = self.sent;
        if before == 0 {
            self.upstream.budget.deposit();
        }
        self.sent += 1;
        before
    }

    /// Whether another try may follow this one though it reaches a handler.
    pub(super) fn may_follow(&self) -> bool {
        self.idempotent && self.made < self.config().max_tries
    }

    /// How long this try may take, where another may follow.
    pub(super) fn try_time(&self) -> Option<Duration> {
        let most = self.config().try_timeout;
        let time = self.share().map_or(most, |share| share.min(most));
        (self.may_follow() && !self.patient).then_some(time)
    }

    fn share(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.whole.mul_f64(SHARE))
    }

    /// Whether it is the fault of an endpoint that a try takes longer than that:
    /// not if it is so short because of a caller, who could shut the endpoint to
    /// all others by asking for too little.
    pub(super) fn blames_try(&self) -> bool {
        let of_route = self.limit.is_some_and(|limit| limit.of_route);
        let most = self.config().try_timeout;
        of_route || self.share().is_none_or(|share| share >= most)
    }

    /// Whether it is the fault of an endpoint that gets this try now when the
    /// call's time is over: not if a caller chose the time, or little is left.
    pub(super) fn blames(&self) -> bool {
        self.limit
            .is_some_and(|limit| limit.of_route && limit.left() >= limit.whole.mul_f64(SHARE))
    }

    /// How long to wait before the next try, if one follows. Whether `whole`:
    /// the request can be sent again, from its beginning to its end.
    pub(super) fn next(
        &mut self,
        cause: Cause,
        pushback: Pushback,
        whole: bool,
        record: &mut CallRecord,
    ) -> Option<Duration> {
        let repeatable = self.idempotent || cause.is_untouched();
        if !repeatable || self.config().max_tries == 1 {
            return None;
        }
        let decided = self.decide(cause, pushback, whole);
        let outcome = decided.err().unwrap_or("retried");
        record.retry(&self.upstream.name, cause.label(), outcome);
        decided.ok()
    }

    /// `Err` says why none follows.
    fn decide(
        &mut self,
        cause: Cause,
        pushback: Pushback,
        whole: bool,
    ) -> Result<Duration, &'static str> {
        if !whole {
            return Err("committed");
        }
        if self.made >= self.config().max_tries {
            return Err("tries");
        }
        let wait = match pushback {
            Pushback::Nothing => self.wait(cause),
            Pushback::After(wait) => wait,
            Pushback::Never => return Err("pushback"),
        };
        let at = Instant::now().checked_add(wait);
        if let Some(limit) = &self.limit
            && at.is_none_or(|at| at >= limit.ends)
        {
            return Err("deadline");
        }
        let free = cause == Cause::GoAway && !self.moved;
        if !free && !self.upstream.budget.withdraw() {
            return Err("budget");
        }
        self.moved |= cause == Cause::GoAway;
        // What a backend says replaces the steps; they begin anew after it.
        self.failures = match pushback {
            Pushback::Nothing => self.failures + 1,
            _ => 0,
        };
        Ok(wait)
    }

    /// A refused call goes elsewhere at once, if there is an elsewhere; and one
    /// whose connection is going away to another one.
    fn wait(&self, cause: Cause) -> Duration {
        let at_once = match cause {
            Cause::GoAway => !self.moved,
            Cause::Refused => self.failures == 0 && self.upstream.endpoints().len() > 1,
            _ => false,
        };
        if at_once {
            return Duration::ZERO;
        }
        let config = self.config();
        let step = Backoff::new(config.backoff_min, config.backoff_max).delay(self.failures + 1);
        match cause {
            // Sooner, no attempt to connect is made.
            Cause::Connect => step.max(dial::APART),
            _ => step,
        }
    }

    /// Other endpoints come first from now on.
    pub(super) fn failed_at(&mut self, endpoint: &Arc<Endpoint>) {
        self.failed_at.push(endpoint.clone());
    }
}
