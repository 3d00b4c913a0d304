//! What all tries of one call share, and what each of them leads to.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tonic::Code;

use super::clock::Clock;
use super::pool::Pool;
use super::request::Outgoing;
use super::retry::{Pushback, Retries};
use super::status::Cause;
use crate::body::Body;
use crate::reply::Reply;
use crate::telemetry::CallRecord;

/// What its caller gets of a call.
pub(super) type End = Result<Response<Body>, Reply>;

/// What a try leads to.
pub(super) enum Tried {
    Over(End),
    /// Another try follows, after so long.
    Again(Duration),
}

/// What all tries of a call share.
pub(super) struct Call<'a> {
    pub(super) pool: &'a Arc<Pool>,
    pub(super) request: Outgoing,
    pub(super) retries: Retries<'a>,
    pub(super) clock: Clock,
    pub(super) record: &'a mut CallRecord,
    /// Whether it is known to have one message each way.
    pub(super) unary: bool,
    /// What a backend said of an earlier try: the caller gets it if the next one
    /// finds no place.
    pub(super) said: Option<Box<End>>,
}

impl Call<'_> {
    pub(super) fn again(&mut self, cause: Cause, pushback: Pushback) -> Option<Duration> {
        let whole = self.request.is_whole();
        self.retries.next(cause, pushback, whole, self.record)
    }

    /// What the caller gets when there is no place for another try.
    pub(super) fn instead(&mut self, reply: Reply) -> End {
        self.said.take().map_or(Err(reply), |said| *said)
    }

    /// Whether another try follows one that ended with this status.
    pub(super) fn retried(&mut self, code: Code, pushback: Pushback) -> Option<Duration> {
        let named = self.retries.upstream().config.retries.codes.contains(&code);
        named.then(|| self.again(Cause::Status, pushback)).flatten()
    }

    /// The request is sent. From now on another may take over.
    pub(super) fn begin_try(&mut self) {
        if self.request.is_whole()
            && let Some(time) = self.retries.try_time()
        {
            self.clock.begin_try(time);
        }
    }

    /// A try ended so; another follows if there is a `wait`.
    pub(super) fn settle(&mut self, wait: Option<Duration>, end: End) -> Tried {
        match wait {
            None => Tried::Over(end),
            Some(wait) => {
                self.said = Some(Box::new(end));
                Tried::Again(wait)
            }
        }
    }
}
