//! The way to a backend and back: one call on a pooled HTTP/2 connection.
//!
//! Request and response flow at the same time and in one task: the response
//! body drives what is left of the request, so a bidirectional stream works
//! and dropping the body is the whole of cancellation (RST_STREAM CANCEL).
//! Response headers go on at once; nothing waits for a message.
//!
//! Owns the rule that a stream without a clean end never looks like one: a
//! cut, a reset, a missing `grpc-status` or a passed deadline become trailers
//! with the right status (gRPC over HTTP/2, "HTTP2 Transport Mapping").

mod connect;
mod pool;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep};
use tonic::Code;

use crate::body::{Body, BodyError, H2Recv, Kind};
use crate::relay::{Relay, RelayError};
use crate::reply::Reply;

pub(crate) use connect::{Upstream, UpstreamError};
pub(crate) use pool::{Lease, Pool};

/// Sends a call to a backend; ready when its response headers are there.
pub(crate) async fn call(
    pool: &Arc<Pool>,
    request: Request<Body>,
    timeout: Option<Duration>,
) -> Result<Response<Body>, Reply> {
    let mut deadline = Deadline::after(timeout);
    let lease = tokio::select! {
        biased;
        lease = pool.lease() => lease?,
        () = deadline.passed() => return Err(Reply::deadline()),
    };
    let (mut head, body) = request.into_parts();
    lease.address(&mut head)?;
    let ends = body.is_end_stream();
    let (response, send) = lease
        .send(Request::from_parts(head, ()), ends)
        .map_err(|error| broken(&error))?;
    let pump = (!ends).then(|| Pump {
        body,
        send,
        relay: Relay::default(),
    });
    let mut call = Call { pump, response };
    let response = std::future::poll_fn(|cx| match call.poll(cx) {
        Poll::Pending if deadline.poll(cx).is_ready() => Poll::Ready(Err(Reply::deadline())),
        polled => polled,
    })
    .await?;
    answer(response, call.pump, deadline, lease)
}

/// A call that waits for its response headers.
struct Call {
    pump: Option<Pump>,
    response: h2::client::ResponseFuture,
}

impl Call {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<h2::RecvStream>, Reply>> {
        if let Err(reply) = drive(&mut self.pump, cx) {
            return Poll::Ready(Err(*reply));
        }
        Pin::new(&mut self.response)
            .poll(cx)
            .map_err(|error| broken(&error))
    }
}

/// Checks what came back and makes it the caller's answer.
fn answer(
    response: Response<h2::RecvStream>,
    pump: Option<Pump>,
    deadline: Deadline,
    lease: Lease,
) -> Result<Response<Body>, Reply> {
    let (head, recv) = response.into_parts();
    let is_grpc = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if head.status != StatusCode::OK || !is_grpc {
        return Err(not_grpc(head.status));
    }
    if recv.is_end_stream() {
        // Trailers-only. Without a status the backend broke its promise.
        if !head.headers.contains_key("grpc-status") {
            return Err(no_status());
        }
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let body = UpstreamBody {
        pump,
        recv: Some(H2Recv::new(recv)),
        deadline,
        _lease: lease,
        cut: false,
    };
    Ok(Response::from_parts(
        head,
        Body::new(Kind::Upstream(Box::new(body))),
    ))
}

/// What is left of a request on its way to the backend.
struct Pump {
    body: Body,
    send: SendStream<Bytes>,
    relay: Relay,
}

/// Moves the request on. `Err` is a request that breaks a rule.
fn drive(pump: &mut Option<Pump>, cx: &mut Context<'_>) -> Result<(), Box<Reply>> {
    let Some(Pump { body, send, relay }) = pump else {
        return Ok(());
    };
    match relay.poll(cx, body, send) {
        Poll::Pending => Ok(()),
        // A backend may answer without reading the request to its end.
        Poll::Ready(Ok(()) | Err(RelayError::Sink | RelayError::Stalled)) => {
            *pump = None;
            Ok(())
        }
        Poll::Ready(Err(RelayError::Source(error))) => {
            send.send_reset(Reason::CANCEL);
            *pump = None;
            Err(match error {
                BodyError::Refused(reply) => reply,
                _ => Box::new(Reply::new(
                    Code::Cancelled,
                    "client_gone",
                    "the caller went away",
                )),
            })
        }
    }
}

/// The backend's answer, and what is left of the request.
pub(crate) struct UpstreamBody {
    pump: Option<Pump>,
    /// `None` after the end.
    recv: Option<H2Recv>,
    deadline: Deadline,
    /// Counts the call as in flight until the body is gone.
    _lease: Lease,
    cut: bool,
}

impl UpstreamBody {
    pub(crate) fn release(&mut self, bytes: usize) {
        if let Some(recv) = &mut self.recv {
            recv.release(bytes);
        }
    }

    /// Whether the call ended otherwise than by its backend.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some(recv) = &mut self.recv else {
            return Poll::Ready(None);
        };
        if let Err(reply) = drive(&mut self.pump, cx) {
            return self.cut(&reply);
        }
        match recv.poll_next(cx) {
            Poll::Pending if self.deadline.poll(cx).is_ready() => self.cut(&Reply::deadline()),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(Frame::data(data))),
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    if !trailers.contains_key("grpc-status") {
                        trailers.extend(no_status().trailers());
                    }
                    self.end(trailers)
                }
            },
            Poll::Ready(Some(Err(error))) => {
                let reply = match &error {
                    BodyError::Gone(error) => broken(error),
                    _ => Reply::unavailable("upstream_cut", "the backend went away"),
                };
                self.cut(&reply)
            }
            Poll::Ready(None) => self.end(no_status().trailers()),
        }
    }

    fn cut(&mut self, reply: &Reply) -> Poll<Option<Frame<Bytes>>> {
        self.cut = true;
        self.end(reply.trailers())
    }

    /// The end of the call: what is left of it upstream is reset.
    fn end(&mut self, trailers: HeaderMap) -> Poll<Option<Frame<Bytes>>> {
        self.recv = None;
        self.pump = None;
        Poll::Ready(Some(Frame::trailers(trailers)))
    }
}

/// When a call must be over, if ever.
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn after(timeout: Option<Duration>) -> Self {
        let at = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self(at.map(|at| Box::pin(tokio::time::sleep_until(at))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0
            .as_mut()
            .map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
    }

    async fn passed(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

/// The status for a stream or connection that broke (gRPC over HTTP/2,
/// "Errors"). A lost connection is UNAVAILABLE, whatever h2 calls it.
fn broken(error: &h2::Error) -> Reply {
    let reset = error.is_reset().then(|| error.reason()).flatten();
    let code = match reset {
        None | Some(Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(Reason::CANCEL) => Code::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(_) => Code::Internal,
    };
    if code == Code::Unavailable {
        return Reply::unavailable("upstream_cut", "the backend went away");
    }
    Reply::new(code, "upstream_reset", "the backend reset the stream")
}

fn no_status() -> Reply {
    Reply::new(
        Code::Unknown,
        "no_status",
        "the backend ended the stream without a status",
    )
}

/// The status for an answer that is not gRPC, such as a proxy's error page
/// (gRPC, "HTTP to gRPC Status Code Mapping").
fn not_grpc(status: StatusCode) -> Reply {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Reply::new(code, "not_grpc", "the backend's answer was not gRPC")
}

#[cfg(test)]
mod tests;
