//! A request body over HTTP/1.1 that must come in time.
//!
//! The time that a client may keep its call waiting for the body is the stall
//! timeout, and one second more for each [`LEAST_RATE`] bytes that came. Only
//! waiting counts: while a backend takes nothing, or the call waits for
//! something else, no time passes. Too late, the call is refused with
//! DEADLINE_EXCEEDED (HTTP 408) and the connection closed.
//!
//! HTTP/2 has no such limit: a gRPC call may send nothing for as long as its
//! deadline lets it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Code;

use crate::body::BodyError;
use crate::io::Verdict;
use crate::reply::Reply;

/// How fast a body must come on average, in bytes per second.
const LEAST_RATE: u64 = 240;

/// See the module's comment.
pub(crate) struct Http1Body {
    incoming: Incoming,
    verdict: Verdict,
    /// How long the client may still be waited for.
    left: Duration,
    waiting: Option<Waiting>,
}

struct Waiting {
    since: Instant,
    limit: Pin<Box<Sleep>>,
}

impl Http1Body {
    pub(super) fn new(incoming: Incoming, stall_timeout: Duration, verdict: Verdict) -> Self {
        Self {
            incoming,
            verdict,
            left: stall_timeout,
            waiting: None,
        }
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.poll_late(cx));
            self.verdict.condemn("body_timeout");
            let reply = Reply::new(
                Code::DeadlineExceeded,
                "body_timeout",
                "the request's body did not come in time",
            );
            let reply = reply.status(StatusCode::REQUEST_TIMEOUT);
            return Poll::Ready(Some(Err(BodyError::Refused(Box::new(reply)))));
        };
        if let Some(waiting) = self.waiting.take() {
            self.left = self.left.saturating_sub(waiting.since.elapsed());
        }
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.left += Duration::from_micros(data.len() as u64 * 1_000_000 / LEAST_RATE);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            limit: Box::pin(tokio::time::sleep(left)),
        });
        waiting.limit.as_mut().poll(cx)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
}
