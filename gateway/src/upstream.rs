//! The way to a backend and back: one call on a pooled HTTP/2 connection.
//!
//! Request and response flow at the same time and in one task: the response
//! body drives what is left of the request, so a bidirectional stream works
//! and dropping the body is the whole of cancellation (RST_STREAM CANCEL, at
//! the pace that the connection can bear: [`pace`]).
//! Response headers go on at once; nothing waits for a message.
//!
//! Owns the rule that a stream without a clean end never looks like one: a
//! cut, a reset, a missing `grpc-status` or a passed deadline become trailers
//! with the right status (gRPC over HTTP/2, "HTTP2 Transport Mapping").

mod connect;
mod pace;
mod pool;
mod rest;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep};
use tonic::Code;

use crate::body::{Body, BodyError, H2Recv, Kind};
use crate::layers::conduct::Caller;
use crate::relay::{Relay, RelayError};
use crate::reply::Reply;
use crate::telemetry::CallRecord;

pub(crate) use connect::{Endpoint, Upstream};
pub(crate) use pool::{Lease, Pool};
use rest::Rest;

/// Sends a call to a backend; ready when its response headers are there.
pub(crate) async fn call(
    pool: &Arc<Pool>,
    request: Request<Body>,
    timeout: Option<Duration>,
    record: &mut CallRecord,
) -> Result<Response<Body>, Reply> {
    let mut deadline = Deadline::after(timeout);
    let caller = Caller::of(record.call());
    let calls = caller.as_ref().map_or(0, Caller::calls);
    let mut lease = tokio::select! {
        biased;
        lease = pool.lease(calls) => lease?,
        () = deadline.passed() => return Err(Reply::deadline()),
    };
    lease.charge(caller);
    record.connected(lease.endpoint_name());
    let (mut head, body) = request.into_parts();
    lease.address(&mut head)?;
    let ends = body.is_end_stream();
    let (response, send) = lease
        .send(Request::from_parts(head, ()), ends)
        .map_err(|error| not_sent(&error))?;
    let pump = (!ends).then(|| Pump {
        body,
        send,
        relay: Relay::default(),
    });
    let mut call = Call {
        pump,
        waiting: Some((response, lease)),
    };
    let (response, lease) = std::future::poll_fn(|cx| match call.poll(cx) {
        Poll::Pending if deadline.poll(cx).is_ready() => Poll::Ready(Err(Reply::deadline())),
        polled => polled,
    })
    .await?;
    record.trace.event("headers");
    answer(response, call.pump.take(), deadline, lease)
}

/// A call that waits for its response headers.
struct Call {
    pump: Option<Pump>,
    /// `None` once they are there, or never will be.
    waiting: Option<(ResponseFuture, Lease)>,
}

impl Call {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<h2::RecvStream>, Lease), Reply>> {
        if let Err(reply) = drive(&mut self.pump, cx) {
            return Poll::Ready(Err(*reply));
        }
        let Some((response, _)) = &mut self.waiting else {
            return Poll::Pending;
        };
        let answered = ready!(Pin::new(response).poll(cx)).map_err(|error| broken(&error));
        let Some((_, lease)) = self.waiting.take() else {
            return Poll::Pending;
        };
        Poll::Ready(answered.map(|response| (response, lease)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some((response, lease)) = self.waiting.take() {
            let send = self.pump.take().map(|pump| pump.send);
            lease.give_up(Rest::unanswered(response, send));
        }
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
    let recv = H2Recv::new(recv);
    let ends = recv.is_end_stream();
    let is_answer = head.status == StatusCode::OK && is_grpc;
    if ends || !is_answer {
        lease.wind_up(Rest::answered(recv, pump.map(|pump| pump.send)));
        if !is_answer {
            return Err(not_grpc(head.status));
        }
        // Trailers-only. Without a status the backend broke its promise.
        if !head.headers.contains_key("grpc-status") {
            return Err(no_status());
        }
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let body = UpstreamBody {
        pump,
        open: Some((recv, lease)),
        deadline,
        cut: None,
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
        // The stream is reset by being dropped, at its time.
        Poll::Ready(Err(RelayError::Source(error))) => Err(match error {
            BodyError::Refused(reply) => reply,
            _ => Box::new(Reply::new(
                Code::Cancelled,
                "client_gone",
                "the caller went away",
            )),
        }),
    }
}

/// The backend's answer, and what is left of the request.
pub(crate) struct UpstreamBody {
    pump: Option<Pump>,
    /// With the place that the call has; `None` after the end.
    open: Option<(H2Recv, Lease)>,
    deadline: Deadline,
    /// Why the call ended otherwise than by its backend.
    cut: Option<&'static str>,
}

impl UpstreamBody {
    pub(crate) fn release(&mut self, bytes: usize) {
        if let Some((recv, _)) = &mut self.open {
            recv.release(bytes);
        }
    }

    /// Why the call ended otherwise than by its backend, if it did.
    pub(crate) fn cut_reason(&self) -> Option<&'static str> {
        self.cut
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some((recv, _)) = &mut self.open else {
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
                    self.ended(trailers)
                }
            },
            Poll::Ready(Some(Err(error))) => {
                let reply = match &error {
                    BodyError::Gone(error) => broken(error),
                    _ => Reply::unavailable("upstream_cut", "the backend went away"),
                };
                // There is nothing left to reset.
                (self.open, self.pump) = (None, None);
                self.cut(&reply)
            }
            Poll::Ready(None) => self.ended(no_status().trailers()),
        }
    }

    /// The call ends here and now, whatever its backend does.
    fn cut(&mut self, reply: &Reply) -> Poll<Option<Frame<Bytes>>> {
        self.cut = Some(reply.label);
        self.give_up();
        Poll::Ready(Some(Frame::trailers(reply.trailers())))
    }

    fn give_up(&mut self) {
        if let Some((lease, rest)) = self.rest() {
            lease.give_up(rest);
        }
    }

    /// The backend has ended the call, though perhaps not read all of it.
    fn ended(&mut self, trailers: HeaderMap) -> Poll<Option<Frame<Bytes>>> {
        if let Some((lease, rest)) = self.rest() {
            lease.wind_up(rest);
        }
        Poll::Ready(Some(Frame::trailers(trailers)))
    }

    fn rest(&mut self) -> Option<(Lease, Rest)> {
        let (recv, lease) = self.open.take()?;
        let send = self.pump.take().map(|pump| pump.send);
        Some((lease, Rest::answered(recv, send)))
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        self.give_up();
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
        None => return Reply::unavailable("upstream_cut", "the backend went away"),
        Some(Reason::REFUSED_STREAM) => {
            return Reply::unavailable("upstream_refused", "the backend refused the call");
        }
        Some(Reason::CANCEL) => Code::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(_) => Code::Internal,
    };
    Reply::new(code, "upstream_reset", "the backend reset the stream")
}

/// The status for a request that could not be sent: a lost connection is the
/// backend's fault, a request that HTTP/2 does not know is the gateway's.
fn not_sent(error: &h2::Error) -> Reply {
    if error.is_io() || error.is_go_away() || error.is_reset() {
        return broken(error);
    }
    tracing::warn!(%error, "a request cannot be sent");
    Reply::internal()
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
