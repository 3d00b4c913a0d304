//! The backend's answer on its way to the caller.
//!
//! Drives what is left of the request, so that both directions flow at the same
//! time. Owns the rule that a stream without a clean end never looks like one: a
//! cut, a reset, a missing `grpc-status` or a passed deadline become trailers
//! with the right status (gRPC over HTTP/2, "HTTP2 Transport Mapping"). Its end
//! is told to the endpoint's breaker ([`Report`]).

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use http_body::Frame;
use tonic::Code;

use super::clock::{Clock, Over};
use super::pool::Lease;
use super::report::Report;
use super::request::Upload;
use super::rest::Rest;
use super::status::{broken, no_status};
use crate::body::{Body, BodyError, H2Recv, Kind};
use crate::reply::Reply;

/// The backend's answer, and what is left of the request.
pub(crate) struct UpstreamBody {
    pub(super) pump: Option<(Upload, SendStream<Bytes>)>,
    /// What was read before the answer was let go.
    pub(super) ahead: Option<Frame<Bytes>>,
    /// With the place that the call has; `None` after the end.
    pub(super) open: Option<(H2Recv, Lease)>,
    pub(super) clock: Clock,
    pub(super) report: Report,
    /// Why the call ended otherwise than by its backend.
    pub(super) cut: Option<&'static str>,
}

impl UpstreamBody {
    /// An answer without a message, all of which is there.
    pub(super) fn ended_with(trailers: HeaderMap) -> Self {
        Self {
            pump: None,
            ahead: Some(Frame::trailers(trailers)),
            open: None,
            clock: Clock::new(None),
            report: Report::default(),
            cut: None,
        }
    }

    pub(super) fn into_body(self) -> Body {
        Body::new(Kind::Upstream(Box::new(self)))
    }

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
        let Some((recv, lease)) = &mut self.open else {
            return Poll::Ready(self.ahead.take());
        };
        if let Some((upload, send)) = &mut self.pump {
            match upload.poll(cx, send, &mut None) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => self.pump = None,
                Err(reply) => return self.cut(&reply),
            }
        }
        let polled = match self.ahead.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => recv.poll_next(cx),
        };
        match polled {
            Poll::Pending => {
                while ready!(self.clock.poll(cx)) == Over::Try {
                    self.report.lives(lease.endpoint());
                }
                self.report.waited(lease.endpoint());
                if self.pump.is_none() {
                    self.report.late(lease.endpoint());
                }
                self.cut(&Reply::deadline())
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    self.report.message(lease.endpoint());
                    Poll::Ready(Some(Frame::data(data)))
                }
                Err(frame) => self.ended(frame.into_trailers().unwrap_or_default()),
            },
            Poll::Ready(Some(Err(error))) => {
                let reply = match &error {
                    BodyError::Gone(error) => {
                        let outcome = lease.outcome(error);
                        self.report.record(outcome, lease.endpoint());
                        broken(error)
                    }
                    _ => Reply::unavailable("upstream_cut", "the backend went away"),
                };
                // There is nothing left to reset.
                (self.open, self.pump) = (None, None);
                self.cut(&reply)
            }
            Poll::Ready(None) => self.ended(HeaderMap::new()),
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
            self.report.given_up(lease.endpoint());
            lease.give_up(rest);
        }
    }

    /// The backend has ended the call, though perhaps not read all of it.
    fn ended(&mut self, mut trailers: HeaderMap) -> Poll<Option<Frame<Bytes>>> {
        let code = status_of(&trailers);
        if code.is_none() {
            trailers.extend(no_status().trailers());
        }
        if let Some((lease, rest)) = self.rest() {
            self.report.status(code, lease.endpoint());
            lease.wind_up(rest);
        }
        Poll::Ready(Some(Frame::trailers(trailers)))
    }

    fn rest(&mut self) -> Option<(Lease, Rest)> {
        let (recv, lease) = self.open.take()?;
        let send = self.pump.take().map(|(_, send)| send);
        Some((lease, Rest::answered(recv, send)))
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// What a backend says of the end of a call.
pub(super) fn status_of(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}
