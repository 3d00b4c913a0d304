//! The parts put together around a call: breaker, then a try with its timeout, then maybe another try.
//!
//! Owns the order and the waiting. Whether a call may be repeated is told by its caller, what an error
//! means by the tables in [`resilience`](super). A policy stands for one destination; all who call it
//! share the policy, and with it the breaker and the retry budget.
//!
//! Fails with the error of the last try, unchanged; with [`IpcError::Timeout`] when the time is over;
//! and with `UNAVAILABLE` and `google.rpc.RetryInfo` when the breaker lets nothing through. Holds no
//! queue: a call waits in the future of its caller for at most its total time, and dropping that
//! future cancels the try. A stream is under the policy to its end ([`ResiliencePolicy::stream`]).

mod stream;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::backoff::{Backoff, Random};
use super::breaker::{Breaker, BreakerOpen, Permit};
use super::budget::RetryBudget;
use super::deadline;
use super::settings::Resilience;
use super::verdict::{self, Again, Outcome, outcome_of_error};
use crate::error::{IpcError, IpcResult};

/// What a call may cost, and whether it may happen twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Happening twice does no harm (`idempotency_level` in the `.proto`).
    Repeatable,
    /// Happening twice may do harm.
    Once,
    /// As `Once`, and it runs models, so that it may take long.
    Work,
}

/// Timeouts, retries and a breaker for the calls to one destination.
#[derive(Debug)]
pub struct ResiliencePolicy {
    name: String,
    settings: Resilience,
    breaker: Arc<Breaker>,
    budget: RetryBudget,
    backoff: Backoff,
}

impl ResiliencePolicy {
    /// A policy for the destination `name`, which stands in logs and errors.
    ///
    /// # Errors
    /// What [`Resilience::validate`] says.
    pub fn new(name: impl Into<String>, settings: Resilience) -> IpcResult<Self> {
        Self::with_random(name, settings, rand::random::<f64>)
    }

    /// As [`new`](Self::new), with a given randomness for waits and for the breaker.
    ///
    /// # Errors
    /// What [`Resilience::validate`] says.
    pub fn with_random(
        name: impl Into<String>,
        settings: Resilience,
        random: Random,
    ) -> IpcResult<Self> {
        settings.validate()?;
        let name = name.into();
        let breaker = Breaker::new(&name, settings.breaker.clone())?.with_random(random);
        Ok(Self {
            breaker: Arc::new(breaker),
            budget: RetryBudget::new(settings.retry_ratio, settings.retries_per_second),
            backoff: Backoff::new(settings.backoff_min, settings.backoff_max).with_random(random),
            name,
            settings,
        })
    }

    /// Its breaker, to look at or to share.
    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// Makes a call: `attempt` once, and again as far as the policy allows. `idempotent`: the call
    /// may happen twice.
    ///
    /// # Errors
    /// See the module.
    pub async fn call<T, F, A>(&self, idempotent: bool, attempt: F) -> IpcResult<T>
    where
        F: FnMut() -> A,
        A: Future<Output = IpcResult<T>>,
    {
        let kind = if idempotent {
            CallKind::Repeatable
        } else {
            CallKind::Once
        };
        self.call_as(kind, attempt).await
    }

    /// As [`call`](Self::call), with all that can be said about the call. For one that answers with a
    /// stream see [`stream`](Self::stream).
    ///
    /// # Errors
    /// See the module.
    pub async fn call_as<T, F, A>(&self, kind: CallKind, attempt: F) -> IpcResult<T>
    where
        F: FnMut() -> A,
        A: Future<Output = IpcResult<T>>,
    {
        let deadline = Instant::now() + self.total(kind);
        let told = |until| until;
        let (answer, permit) = self.begin(kind, deadline, told, attempt).await?;
        permit.record(Outcome::Success);
        Ok(answer)
    }

    /// As [`call_as`](Self::call_as), for a call that answers with a stream of messages: tries are
    /// made until it has begun, and the rest is under the policy as well.
    ///
    /// The breaker counts the stream when it ends: as a success when it ends well, or when its reader
    /// drops it after a message; else by its status. Dropped unread, or while its reader waits, it
    /// counts for nothing. It must end within the total time of the call, its beginning and the
    /// pauses of its reader included; then comes DEADLINE_EXCEEDED, a failure of the service if the
    /// reader was waiting for it, and the stream below is dropped. After an error it is over.
    ///
    /// # Errors
    /// See the module; for the time until the stream has begun.
    pub async fn stream<T, S, F, A>(
        &self,
        kind: CallKind,
        attempt: F,
    ) -> IpcResult<BoxStream<'static, Result<T, Status>>>
    where
        T: Send + 'static,
        S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
        F: FnMut() -> A,
        A: Future<Output = IpcResult<S>>,
    {
        let limit = self.total(kind);
        let deadline = Instant::now() + limit;
        // What is told ends the whole stream, so it is not the time of the try.
        let told = |_| deadline;
        let (stream, permit) = self.begin(kind, deadline, told, attempt).await?;
        let late = format!("{}: the stream did not end within {limit:?}", self.name);
        Ok(stream::until(deadline, late, stream, permit))
    }

    /// Tries until there is an answer; how it ends for the breaker is up to the caller.
    ///
    /// `told`: the deadline of which the transport is told, given that of the try.
    async fn begin<T, F, A>(
        &self,
        kind: CallKind,
        deadline: Instant,
        told: impl Fn(Instant) -> Instant,
        mut attempt: F,
    ) -> IpcResult<(T, Permit)>
    where
        F: FnMut() -> A,
        A: Future<Output = IpcResult<T>>,
    {
        let mut permit = self.breaker.try_acquire().map_err(|open| refuse(&open))?;
        self.budget.deposit();
        let mut tries = 0;
        loop {
            let until = self.until(kind, deadline);
            let work = deadline::scope(told(until), attempt());
            let error = match self.attempt(until, work).await {
                Ok(answer) => return Ok((answer, permit)),
                Err(error) => error,
            };
            permit.record(outcome_of_error(&error));
            tries += 1;
            let Some(wait) = self.wait(kind, tries, &error, deadline) else {
                return Err(error);
            };
            tracing::debug!(policy = self.name, tries, ?wait, %error, "trying again");
            sleep(wait).await;
            permit = match self.breaker.try_acquire() {
                Ok(permit) => permit,
                // It opened while this call waited; why its own try failed says more.
                Err(_) => return Err(error),
            };
        }
    }

    /// When a try that begins now must have ended.
    fn until(&self, kind: CallKind, deadline: Instant) -> Instant {
        match kind {
            CallKind::Repeatable => deadline.min(Instant::now() + self.settings.try_timeout),
            CallKind::Once | CallKind::Work => deadline,
        }
    }

    async fn attempt<T>(
        &self,
        until: Instant,
        work: impl Future<Output = IpcResult<T>>,
    ) -> IpcResult<T> {
        let start = Instant::now();
        match timeout_at(until, work).await {
            Ok(Err(error)) if verdict::is_expired(&error) => {}
            Ok(result) => return result,
            Err(_) => {}
        }
        Err(IpcError::Timeout(format!(
            "{}: no answer within {:?}",
            self.name,
            until - start
        )))
    }

    /// How long to wait before another try; nothing if there is to be none.
    fn wait(
        &self,
        kind: CallKind,
        tries: u32,
        error: &IpcError,
        deadline: Instant,
    ) -> Option<Duration> {
        let allowed = match verdict::again(error) {
            Again::Never => false,
            Again::Repeatable => kind == CallKind::Repeatable,
            Again::Any => true,
        };
        if !allowed || tries >= self.settings.max_tries {
            return None;
        }
        // On top of what the server asks for, or all whom it told the same would come back at once.
        let pushback = verdict::pushback(error).unwrap_or_default();
        let wait = pushback.saturating_add(self.backoff.delay(tries));
        if Instant::now().checked_add(wait)? >= deadline {
            return None;
        }
        // Last, so that only a retry that happens is paid for.
        self.budget.withdraw().then_some(wait)
    }

    fn total(&self, kind: CallKind) -> Duration {
        match kind {
            CallKind::Work => self.settings.work_timeout,
            CallKind::Repeatable | CallKind::Once => self.settings.total_timeout,
        }
    }
}

fn refuse(refusal: &BreakerOpen) -> IpcError {
    let details = ErrorDetails::with_retry_info(Some(refusal.retry_after));
    Status::with_error_details(Code::Unavailable, refusal.to_string(), details).into()
}
