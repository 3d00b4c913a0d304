//! One try of a call: from its place on a connection to the moment from which
//! no other can follow.
//!
//! That moment is the response headers. Where the call is known to have one
//! message each way and may be tried again, headers wait for the first DATA or
//! for the trailers, so that a status which comes in trailers can be tried again;
//! the request flows meanwhile. Never so for streams.
//!
//! A try that another may follow gives way when it takes too long, but only for
//! another try: without one it goes on. Its time begins when the request was
//! sent as a whole: a backend has not to answer for a slow caller.
//!
//! Whoever drops a try gives it up: its stream is reset, in its turn.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use intellirouter::resilience::Outcome;
use tonic::Code;

use super::answer::{UpstreamBody, status_of};
use super::balance::Place;
use super::call::{Call, End, Tried};
use super::clock::{Clock, Over};
use super::endpoint::Endpoint;
use super::pool::Lease;
use super::report::Report;
use super::rest::Rest;
use super::retry::Pushback;
use super::status::{Cause, broken, is_lost, no_status, not_grpc};
use crate::body::{Body, BodyError, H2Recv};
use crate::reply::Reply;

/// See the module's comment.
pub(super) struct Attempt {
    /// `None` once nothing is left to be reset.
    lease: Option<Lease>,
    stage: Stage,
    /// `None` if the request is at its end.
    send: Option<SendStream<Bytes>>,
    report: Report,
    /// Whether its time runs: from the end of the request on.
    timed: bool,
}

enum Stage {
    Waiting(ResponseFuture),
    Answered(H2Recv),
    Over,
}

enum Event {
    Headers(Parts),
    /// After the headers; `None` is an end without trailers.
    Frame(Option<Frame<Bytes>>),
    /// The request is too large to be sent again.
    Committed,
    Broken(BodyError),
}

/// Why there is no try.
enum NotSent {
    /// The connection is going away.
    Lost(h2::Error),
    Refused(Reply),
}

impl From<Reply> for NotSent {
    fn from(reply: Reply) -> Self {
        Self::Refused(reply)
    }
}

/// Why nothing is waited for any more.
enum Stop {
    Request(Box<Reply>),
    Deadline,
    /// It takes too long, and another try follows.
    Late(Duration),
}

impl Attempt {
    /// Sends the request's head. `Err` is what the try leads to, if it can not be
    /// sent.
    pub(super) fn begin(place: Place, call: &mut Call<'_>) -> Result<Self, Box<Tried>> {
        Self::send(place, call).map_err(|not_sent| {
            Box::new(match not_sent {
                NotSent::Lost(error) => {
                    let wait = call.again(Cause::GoAway, Pushback::Nothing);
                    call.settle(wait, Err(broken(&error)))
                }
                NotSent::Refused(reply) => Tried::Over(Err(reply)),
            })
        })
    }

    fn send(place: Place, call: &mut Call<'_>) -> Result<Self, NotSent> {
        let Place { lease, permit } = place;
        let route = &call.record.call().route;
        let (retries, request) = (&mut call.retries, &mut call.request);
        let before = retries.placed();
        let upstream = retries.upstream();
        let head = request.next(before, retries.replay_bytes(), &upstream.replays);
        // Nobody asks for another try of what is not whole.
        let mut head = head.ok_or_else(Reply::internal)?;
        if let Some(limit) = retries.limit() {
            limit.tell(&mut head.headers);
        }
        lease.address(&mut head)?;
        match lease.send(Request::from_parts(head, ()), !request.has_body()) {
            Ok((response, send)) => Ok(Self {
                send: request.has_body().then_some(send),
                stage: Stage::Waiting(response),
                report: Report::begin(permit, upstream.failures(), retries.blames(), route),
                timed: false,
                lease: Some(lease),
            }),
            Err(error) if is_lost(&error) => {
                retries.failed_at(lease.endpoint());
                Err(NotSent::Lost(error))
            }
            Err(error) => {
                tracing::warn!(%error, "a request cannot be sent");
                Err(NotSent::Refused(Reply::internal()))
            }
        }
    }

    /// Waits until there is an answer that stands, or until another try follows.
    pub(super) async fn finish(&mut self, call: &mut Call<'_>) -> Tried {
        let head = match self.next(call).await {
            Ok(Event::Headers(head)) => head,
            Ok(Event::Broken(error)) => return self.broke(call, &error, Cause::unanswered),
            // Nothing comes before them.
            Ok(_) => return Tried::Over(Err(Reply::internal())),
            Err(stop) => return self.stopped(call, stop),
        };
        if head.status != StatusCode::OK || !is_grpc(&head.headers) {
            return self.not_an_answer(call, head.status);
        }
        if self.is_at_its_end() {
            return self.ended(call, head, None);
        }
        self.tell(Report::head);
        let holds = call.unary && call.request.is_whole() && call.retries.may_follow();
        if !holds {
            return Tried::Over(self.commit(call, head, None));
        }
        match self.next(call).await {
            Ok(Event::Frame(Some(frame))) if frame.is_data() => {
                Tried::Over(self.commit(call, head, Some(frame)))
            }
            Ok(Event::Frame(frame)) => {
                let trailers = frame.and_then(|frame| frame.into_trailers().ok());
                self.ended(call, head, Some(trailers.unwrap_or_default()))
            }
            Ok(Event::Broken(error)) => self.broke(call, &error, Cause::answered),
            Ok(_) => Tried::Over(self.commit(call, head, None)),
            Err(stop) => self.stopped(call, stop),
        }
    }

    fn next(&mut self, call: &mut Call<'_>) -> impl Future<Output = Result<Event, Stop>> {
        std::future::poll_fn(|cx| self.poll(cx, call))
    }

    fn poll(&mut self, cx: &mut Context<'_>, call: &mut Call<'_>) -> Poll<Result<Event, Stop>> {
        if let Err(reply) = call.request.poll(cx, &mut self.send) {
            return Poll::Ready(Err(Stop::Request(reply)));
        }
        if let Poll::Ready(event) = self.poll_event(cx, call) {
            return Poll::Ready(Ok(event));
        }
        if self.send.is_none() && !std::mem::replace(&mut self.timed, true) {
            call.begin_try();
        }
        loop {
            match ready!(call.clock.poll(cx)) {
                Over::Call => return Poll::Ready(Err(Stop::Deadline)),
                Over::Try => {
                    self.tell(Report::waited);
                    if call.retries.blames_try() {
                        self.tell(|report, endpoint| report.record(Outcome::Failure, endpoint));
                    }
                    if let Some(wait) = call.again(Cause::Timeout, Pushback::Nothing) {
                        return Poll::Ready(Err(Stop::Late(wait)));
                    }
                }
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, call: &Call<'_>) -> Poll<Event> {
        let (event, next) = match &mut self.stage {
            Stage::Waiting(response) => match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => {
                    let (head, recv) = response.into_parts();
                    let next = Stage::Answered(H2Recv::new(recv));
                    (Event::Headers(head), next)
                }
                Err(error) => (Event::Broken(error.into()), Stage::Over),
            },
            Stage::Answered(_) if !call.request.is_whole() => {
                return Poll::Ready(Event::Committed);
            }
            Stage::Answered(recv) => match ready!(recv.poll_next(cx)) {
                Some(Err(error)) => (Event::Broken(error), Stage::Over),
                frame => return Poll::Ready(Event::Frame(frame.and_then(Result::ok))),
            },
            Stage::Over => return Poll::Pending,
        };
        self.stage = next;
        Poll::Ready(event)
    }

    fn is_at_its_end(&self) -> bool {
        matches!(&self.stage, Stage::Answered(recv) if recv.is_end_stream())
    }

    /// The answer goes to the caller as it comes.
    fn commit(&mut self, call: &mut Call<'_>, head: Parts, ahead: Option<Frame<Bytes>>) -> End {
        let (Stage::Answered(recv), Some(lease)) = (
            std::mem::replace(&mut self.stage, Stage::Over),
            self.lease.take(),
        ) else {
            return Err(Reply::internal());
        };
        call.record.trace.event("headers");
        match self.report.life() {
            Some(life) => call.clock.begin_try(life),
            None => call.clock.end_try(),
        }
        let body = UpstreamBody {
            pump: call.request.commit().zip(self.send.take()),
            ahead,
            open: Some((recv, lease)),
            clock: std::mem::replace(&mut call.clock, Clock::new(None)),
            report: std::mem::take(&mut self.report),
            cut: None,
        };
        Ok(Response::from_parts(head, body.into_body()))
    }

    /// The answer is over, without a message. Without `trailers` its headers end it.
    fn ended(&mut self, call: &mut Call<'_>, head: Parts, trailers: Option<HeaderMap>) -> Tried {
        let last = trailers.as_ref().unwrap_or(&head.headers);
        let code = status_of(last);
        self.tell(|report, endpoint| report.status(code, endpoint));
        let wait = call.retried(code.unwrap_or(Code::Unknown), Pushback::of(last));
        if wait.is_none() {
            call.record.trace.event("headers");
        }
        let body = match trailers {
            Some(trailers) => UpstreamBody::ended_with(trailers).into_body(),
            None => Body::empty(),
        };
        let end = match code {
            Some(_) => Ok(Response::from_parts(head, body)),
            None => Err(no_status()),
        };
        self.settle(call, wait, end)
    }

    /// What came is not gRPC.
    fn not_an_answer(&mut self, call: &mut Call<'_>, status: StatusCode) -> Tried {
        self.tell(|report, endpoint| match status.is_server_error() {
            true => report.record(Outcome::Failure, endpoint),
            false => report.failed(endpoint),
        });
        let reply = not_grpc(status);
        // A limit is not met better by trying harder.
        let pushback = match status {
            StatusCode::TOO_MANY_REQUESTS => Pushback::Never,
            _ => Pushback::Nothing,
        };
        let wait = call.retried(reply.code, pushback);
        self.settle(call, wait, Err(reply))
    }

    /// The stream or its connection is gone.
    fn broke(
        &mut self,
        call: &mut Call<'_>,
        error: &BodyError,
        cause: fn(&h2::Error) -> Option<Cause>,
    ) -> Tried {
        let BodyError::Gone(error) = error else {
            return Tried::Over(Err(Reply::internal()));
        };
        if let Some(lease) = &self.lease {
            self.report.record(lease.outcome(error), lease.endpoint());
        }
        let wait = cause(error).and_then(|cause| call.again(cause, Pushback::Nothing));
        self.settle(call, wait, Err(broken(error)))
    }

    fn stopped(&mut self, call: &mut Call<'_>, stop: Stop) -> Tried {
        match stop {
            Stop::Request(reply) => Tried::Over(Err(*reply)),
            Stop::Deadline => {
                self.tell(Report::waited);
                if self.send.is_none() {
                    self.tell(Report::late);
                }
                Tried::Over(Err(Reply::deadline()))
            }
            Stop::Late(wait) => {
                self.leave(call);
                Tried::Again(wait)
            }
        }
    }

    fn settle(&mut self, call: &mut Call<'_>, wait: Option<Duration>, end: End) -> Tried {
        if wait.is_some() {
            self.leave(call);
        } else if let Some((lease, rest)) = self.rest() {
            lease.wind_up(rest);
        }
        call.settle(wait, end)
    }

    /// The call goes elsewhere. Not because its caller gave it up.
    fn leave(&mut self, call: &mut Call<'_>) {
        if let Some(lease) = &self.lease {
            call.retries.failed_at(lease.endpoint());
        }
        if let Some((lease, rest)) = self.rest() {
            lease.wind_up(rest);
        }
    }

    fn tell(&mut self, tell: impl FnOnce(&mut Report, &Endpoint)) {
        if let Some(lease) = &self.lease {
            tell(&mut self.report, lease.endpoint());
        }
    }

    /// What is to be reset, unless the stream is gone.
    fn rest(&mut self) -> Option<(Lease, Rest)> {
        let lease = self.lease.take()?;
        let send = self.send.take();
        let rest = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Waiting(response) => Rest::unanswered(response, send),
            Stage::Answered(recv) => Rest::answered(recv, send),
            Stage::Over => return None,
        };
        Some((lease, rest))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some((lease, rest)) = self.rest() {
            self.report.given_up(lease.endpoint());
            lease.give_up(rest);
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
