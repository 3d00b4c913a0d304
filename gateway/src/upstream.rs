//! The way to a backend and back.
//!
//! ```text
//!  call -> place: the better of two endpoints,  (pool, balance)
//!     ^    leave of its breaker, a connection
//!     |      -> try: head, body as it comes,    (attempt, request)
//!     |         kept while it may be needed      (replay)
//!     |            -> answer, as it comes       (answer)
//!     +-- wait <- failure that may be tried again (status, retry)
//! ```
//!
//! Request and response flow at the same time and in one task: the response
//! body drives what is left of the request, so a bidirectional stream works
//! and dropping the body is the whole of cancellation (RST_STREAM CANCEL, at
//! the pace that the connection can bear: [`pace`]). A call that is dropped
//! while it waits for its next try has nothing to cancel.
//!
//! Owns the loop of tries, and none of its rules. Nothing is waited for beyond
//! the call's deadline; without one, a call that no backend answers lasts until
//! its caller leaves.

mod answer;
mod attempt;
mod balance;
mod call;
mod choice;
mod clock;
mod connect;
mod connection;
mod dial;
mod discover;
mod ejection;
mod endpoint;
mod health;
mod keeper;
mod load;
mod pace;
mod pool;
mod replay;
mod report;
mod request;
mod rest;
mod retry;
mod shared;
mod slot;
mod status;

use std::future::Future;
use std::sync::Arc;

use http::{Request, Response};

use crate::body::Body;
use crate::layers::conduct::Caller;
use crate::layers::deadline::Limit;
use crate::reply::Reply;
use crate::telemetry::CallRecord;

pub(crate) use answer::UpstreamBody;
use attempt::Attempt;
use balance::{NoPlace, Place};
use call::{Call, End, Tried};
use clock::Clock;
pub(crate) use endpoint::Figures;
pub(crate) use pool::Pool;
pub(crate) use replay::Replay;
use request::Outgoing;
use retry::{Pushback, Retries};
pub(crate) use shared::Upstream;
use status::Cause;

/// Sends a call to a backend, and to another if that helps; ready when there is
/// an answer that stands.
pub(crate) fn call<'a>(
    pool: &'a Arc<Pool>,
    request: Request<Body>,
    limit: Option<Limit>,
    record: &'a mut CallRecord,
) -> impl Future<Output = Result<Response<Body>, Reply>> + 'a {
    let caller = Caller::of(record.call());
    let mut call = Call {
        pool,
        request: Outgoing::new(request, caller),
        retries: Retries::new(pool.upstream(), &record.call().route, limit),
        clock: Clock::new(limit.map(|limit| limit.ends)),
        unary: record.call().route.unary,
        said: None,
        record,
    };
    // No `async fn`, whose arguments would be kept twice.
    async move { tries(&mut call).await }
}

async fn tries(call: &mut Call<'_>) -> End {
    loop {
        match one_try(call).await {
            Tried::Over(end) => return end,
            Tried::Again(wait) if wait.is_zero() => {}
            // Boxed, so that calls that succeed at once do not carry it. It ends
            // before the deadline.
            Tried::Again(wait) => Box::pin(tokio::time::sleep(wait)).await,
        }
    }
}

async fn one_try(call: &mut Call<'_>) -> Tried {
    // A block, so that what it ends with is not carried along twice.
    let mut attempt = {
        let begun = match place(call).await {
            Some(Ok(place)) => Attempt::begin(place, call),
            Some(Err(no_place)) => return unplaced(no_place, call),
            None => return Tried::Over(Err(Reply::deadline())),
        };
        match begun {
            Ok(attempt) => attempt,
            Err(tried) => return *tried,
        }
    };
    attempt.finish(call).await
}

fn unplaced(no_place: NoPlace, call: &mut Call<'_>) -> Tried {
    let (reply, wait) = match no_place {
        NoPlace::Refused(reply) => (reply, None),
        NoPlace::Unreachable(reply) => (reply, call.again(Cause::Connect, Pushback::Nothing)),
    };
    match wait {
        Some(wait) => Tried::Again(wait),
        None => Tried::Over(call.instead(reply)),
    }
}

/// Where the next try goes; `None` if the call is over before that is known.
async fn place(call: &mut Call<'_>) -> Option<Result<Place, NoPlace>> {
    let caller = Caller::of(call.record.call());
    let wish = call.retries.wish(caller.as_ref().map_or(0, Caller::calls));
    let mut placed = tokio::select! {
        biased;
        placed = call.pool.place(&wish) => placed,
        () = call.clock.over() => return None,
    };
    if let Ok(Place { lease, .. }) = &mut placed {
        lease.charge(caller);
        call.record.connected(lease.endpoint_name());
    }
    Some(placed)
}

#[cfg(test)]
mod tests;
