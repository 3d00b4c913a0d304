//! The rest of a call that answers with a stream: its deadline, and its end for the breaker.
//!
//! Owns no timer between two messages and no task: the time is looked at when the stream is read, and
//! a reader that waits is woken at the deadline. Queues nothing.

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::error::IpcError;
use crate::resilience::breaker::Permit;
use crate::resilience::verdict::{Outcome, outcome_of_status};

#[cfg(test)]
mod tests;

/// What has not ended yet.
struct Running<S> {
    stream: S,
    deadline: Instant,
    // What its reader is told at the deadline.
    late: String,
    permit: Permit,
}

/// The stream up to its end, its first error, or the deadline.
pub(super) fn until<T, S>(
    deadline: Instant,
    late: String,
    stream: S,
    permit: Permit,
) -> BoxStream<'static, Result<T, Status>>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
{
    let running = Running {
        stream,
        deadline,
        late,
        permit,
    };
    // An unfolded stream must not be asked again after its end; one of a transport may.
    stream::unfold(Some(running), next).fuse().boxed()
}

/// The next item, and what comes after it: nothing after an error.
async fn next<T, S>(running: Option<Running<S>>) -> Option<(Result<T, Status>, Option<Running<S>>)>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    let mut running = running?;
    // A reader that gives up while it waits, or comes back too late, tells nothing of the service.
    running.permit.presume(Outcome::Ignored);
    if Instant::now() >= running.deadline {
        return Some((Err(late(running.late)), None));
    }
    match timeout_at(running.deadline, running.stream.next()).await {
        Ok(Some(Ok(message))) => {
            // One that has what it wants, and leaves, was served.
            running.permit.presume(Outcome::Success);
            Some((Ok(message), Some(running)))
        }
        Ok(Some(Err(status))) => {
            running.permit.record(outcome_of_status(&status));
            Some((Err(status), None))
        }
        Ok(None) => {
            running.permit.record(Outcome::Success);
            None
        }
        Err(_) => {
            running.permit.record(Outcome::Failure);
            Some((Err(late(running.late)), None))
        }
    }
}

fn late(text: String) -> Status {
    IpcError::Timeout(text).into()
}
