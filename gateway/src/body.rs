//! One body type for every message that passes the gateway, in both
//! directions and in every protocol.
//!
//! An enum and not a trait object: the proxy path makes no allocation for it.
//! It owns the flow-control credit of what it handed out: credit goes back to
//! the sender only when the consumer says that the data went on
//! ([`Body::release`]), so a slow receiver slows its sender and nothing piles
//! up here. A response body also carries the [`CallRecord`], because only the
//! trailers, or their absence, tell how a call truly ended.
//!
//! Errors of a *response* never surface as body errors for gRPC callers:
//! [`crate::upstream`] turns them into trailers. What remains is
//! [`BodyError`].

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::calls::Cut;
use crate::events::EventBody;
use crate::layers::grpc_web::{WebRequest, WebResponse};
use crate::reply::Reply;
use crate::server::Http1Body;
use crate::telemetry::CallRecord;
use crate::upstream::UpstreamBody;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The peer reset the stream or the connection broke.
    #[error("the peer went away: {0}")]
    Gone(#[from] h2::Error),
    /// The same over HTTP/1.1.
    #[error("the peer went away: {0}")]
    Http1(#[from] hyper::Error),
    /// A service inside this process failed.
    #[error("{0}")]
    Local(#[from] tonic::Status),
    /// The call is over, and its answer can't be ended in its own dialect.
    #[error("broken off")]
    Cut,
    /// The bytes break a rule; the reply says which.
    #[error("{}", .0.message)]
    Refused(Box<Reply>),
}

/// What carries the bytes.
pub(crate) enum Kind {
    Empty,
    Full(Bytes),
    H2(H2Request),
    Http1(Box<Http1Body>),
    Upstream(Box<UpstreamBody>),
    WebRequest(Box<WebRequest>),
    WebResponse(Box<WebResponse>),
    Events(Box<EventBody>),
    Local(tonic::body::Body),
    /// Ended by the gateway before its end.
    Cut(Cut),
}

impl Life {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Reply::deadline());
        }
        if let Some(drain) = &mut self.drain
            && drain.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Cut::Draining.reply());
        }
        Poll::Pending
    }
}

/// A request or response body on its way through the gateway.
pub(crate) struct Body {
    kind: Kind,
    record: Option<Box<CallRecord>>,
    life: Option<Box<Life>>,
}

/// When a stream of the gateway's own services ends though it goes on.
#[derive(Default)]
struct Life {
    /// How long a receiver may take nothing.
    stall_limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    deadline: Option<Pin<Box<Sleep>>>,
    drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Body {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            record: None,
            life: None,
        }
    }

    pub(crate) fn empty() -> Self {
        Self::new(Kind::Empty)
    }

    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        })
    }

    pub(crate) fn h2(recv: RecvStream) -> Self {
        Self::new(Kind::H2(H2Request(Some(H2Recv::new(recv)))))
    }

    /// From here on this body reports how the call ended: by its trailers, or
    /// by being dropped before its end.
    pub(crate) fn recorded(mut self, mut record: Box<CallRecord>) -> Self {
        if http_body::Body::is_end_stream(&self) {
            record.ended();
        }
        self.record = Some(record);
        self
    }

    /// Gives this body up when its receiver takes nothing for `limit`.
    pub(crate) fn with_stall_limit(mut self, limit: Duration) -> Self {
        self.life.get_or_insert_default().stall_limit = limit;
        self
    }

    /// Ends this body, which is gRPC, with DEADLINE_EXCEEDED after `timeout`.
    pub(crate) fn with_timeout(mut self, timeout: Duration) -> Self {
        let sleep = Box::pin(tokio::time::sleep(timeout));
        self.life.get_or_insert_default().deadline = Some(sleep);
        self
    }

    /// Ends this body, which is gRPC, with UNAVAILABLE when the gateway drains.
    pub(crate) fn until(mut self, drain: CancellationToken) -> Self {
        let drained = Box::pin(drain.cancelled_owned());
        self.life.get_or_insert_default().drain = Some(drained);
        self
    }

    /// Gives the sender credit for up to `bytes` of what was handed out.
    /// Called by the consumer once the data went on.
    pub(crate) fn release(&mut self, bytes: usize) {
        // A receiver that takes a little is slow, not stalled.
        if let Some(life) = &mut self.life {
            life.stalled = None;
        }
        match &mut self.kind {
            Kind::H2(H2Request(Some(recv))) => recv.release(bytes),
            Kind::Upstream(body) => body.release(bytes),
            Kind::WebRequest(body) => body.inner.release(bytes),
            Kind::WebResponse(body) => body.release(bytes),
            _ => {}
        }
    }

    /// Whether this is an event stream that carries itself.
    pub(crate) fn is_events(&self) -> bool {
        matches!(self.kind, Kind::Events(_))
    }

    fn is_over(&self) -> bool {
        matches!(self.kind, Kind::Empty | Kind::Cut(_))
    }

    /// Reads what a refused request still sends, for a moment.
    pub(crate) async fn discard(mut self) {
        read_on(|cx| {
            self.release(usize::MAX);
            self.poll_next(cx)
        })
        .await;
    }

    /// Whether a window bounds what can be read without giving credit.
    pub(crate) fn has_window(&self) -> bool {
        match &self.kind {
            // Of a body that was ended nothing more is read.
            Kind::H2(_) | Kind::Upstream(_) | Kind::Cut(_) => true,
            Kind::WebRequest(body) => body.inner.has_window(),
            Kind::WebResponse(body) => body.inner.has_window(),
            _ => false,
        }
    }

    /// Whether the end that this body came to is not that of its sender.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut_reason().is_some()
    }

    fn cut_reason(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Upstream(body) => body.cut_reason(),
            Kind::WebResponse(body) => body.inner.cut_reason(),
            Kind::Cut(cut) => Some(cut.label()),
            _ => None,
        }
    }

    /// What need not be sent before the status of a call that was cut, where the
    /// status stands in the body: counted from the first byte that is not sent.
    pub(crate) fn spare(&self) -> Option<Range<usize>> {
        match &self.kind {
            Kind::WebResponse(body) => body.spare(),
            _ => None,
        }
    }

    /// Why the gateway ends this call, if it does.
    pub(crate) fn cut(&self) -> Option<Cut> {
        self.record.as_ref()?.call().is_cut()
    }

    /// Ready with the last frame once the gateway ends this call. An event
    /// stream says so itself, with an event.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Frame<Bytes>> {
        let Some(record) = self.record.as_mut() else {
            return Poll::Pending;
        };
        if record.is_done() || record.call().channels().is_some() {
            return Poll::Pending;
        }
        let cut = ready!(record.call().poll_cut(cx));
        let reply = cut.reply();
        record.cut(cut, &reply);
        record.ended();
        self.kind = Kind::Cut(cut);
        self.life = None;
        Poll::Ready(Frame::trailers(reply.trailers()))
    }

    /// What is to wake the task for anything but the next frame, when that is to be listened for anew.
    /// Of an event stream this is so after each look at all but events; of others always.
    pub(crate) fn take_rest(&mut self, cx: &Context<'_>) -> Option<Waker> {
        match &mut self.kind {
            Kind::Events(body) => body.take_rest(),
            _ => Some(cx.waker().clone()),
        }
    }

    /// Called while the receiver takes nothing. Ready when this stream of events
    /// is to end, with what ends each of its frames: the one that was begun must
    /// be ended, those after it give way to the word why.
    pub(crate) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<&'static [u8]> {
        let (Kind::Events(body), Some(record)) = (&mut self.kind, &mut self.record) else {
            return Poll::Pending;
        };
        let cut = ready!(record.call().poll_cut(cx));
        record.cut(cut, &cut.reply());
        // Otherwise that word is among what waits already.
        match body.close(cut.label()) {
            true => Poll::Ready(body.frame_end()),
            false => Poll::Pending,
        }
    }

    /// Called while the receiver takes nothing: a stream of events counts what comes from now on.
    pub(crate) fn held_up(&mut self) {
        match (&mut self.kind, &self.record) {
            (Kind::Events(body), _) => body.held_up(),
            (Kind::WebResponse(body), _) => body.inner.held_up(),
            (_, Some(record)) => record.call().hold_up(),
            _ => {}
        }
    }

    /// Called while the receiver takes nothing; ready at the stall limit.
    pub(crate) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Kind::WebResponse(body) = &mut self.kind {
            return body.inner.poll_stalled(cx);
        }
        self.held_up();
        // What can't be told to a receiver that takes nothing is not told. A
        // stream of events has its last word ready; see `poll_ending`.
        if !matches!(self.kind, Kind::Events(_))
            && let Some(record) = &mut self.record
            && let Poll::Ready(cut) = record.call().poll_cut(cx)
        {
            record.cut(cut, &cut.reply());
            return Poll::Ready(());
        }
        let Some(life) = &mut self.life else {
            return Poll::Pending;
        };
        let limit = life.stall_limit;
        let stalled = life
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        if let Kind::Events(body) = &mut self.kind {
            body.close("slow");
        }
        Poll::Ready(())
    }

    /// Its receiver took nothing for too long: says so before it is dropped.
    pub(crate) fn stalled(&mut self, reason: &'static str) {
        if let Kind::WebResponse(body) = &mut self.kind {
            return body.inner.stalled(reason);
        }
        if let Kind::Events(body) = &mut self.kind {
            body.close("slow");
        }
        if let Some(record) = &mut self.record {
            record.gave_up(reason);
        }
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(life) = &mut self.life {
            life.stalled = None;
            if let Poll::Ready(reply) = life.poll_end(cx) {
                self.life = None;
                self.kind = Kind::Empty;
                if let Some(record) = &mut self.record {
                    record.refused(&reply);
                    record.ended();
                }
                return Poll::Ready(Some(Ok(Frame::trailers(reply.trailers()))));
            }
        }
        if !self.is_over()
            && let Poll::Ready(frame) = self.poll_cut(cx)
        {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = match &mut self.kind {
            Kind::Empty | Kind::Cut(_) => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::H2(H2Request(recv)) => match recv {
                // gRPC has no request trailers; what stands there was judged by
                // nobody and goes nowhere.
                Some(recv) => recv
                    .poll_next(cx)
                    .map(|frame| frame.filter(|frame| !is_trailers(frame))),
                None => Poll::Ready(None),
            },
            Kind::Http1(body) => body.poll_next(cx),
            Kind::Upstream(body) => body.poll_next(cx).map(|frame| frame.map(Ok)),
            Kind::WebRequest(body) => body.poll_next(cx),
            Kind::WebResponse(body) => body.poll_next(cx),
            Kind::Events(body) => body
                .poll_next(cx)
                .map(|bytes| bytes.map(|b| Ok(Frame::data(b)))),
            Kind::Local(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        };
        let frame = ready!(polled);
        // A consumer need not ask again once the end is known.
        let last = self.record.is_some() && http_body::Body::is_end_stream(self);
        let cut = self.cut_reason();
        if let Some(record) = &mut self.record {
            if let Some(reason) = cut {
                record.broke_off(reason);
            }
            // An event stream has said itself why it ends.
            let over = frame.as_ref().is_none_or(is_trailers);
            if over
                && !record.is_done()
                && record.call().channels().is_some()
                && let Some(cut) = record.call().is_cut()
            {
                record.cut(cut, &cut.reply());
            }
            match &frame {
                Some(Ok(frame)) => record.see(frame),
                Some(Err(_)) => record.broke(),
                None => record.ended(),
            }
            if last {
                record.ended();
            }
        }
        Poll::Ready(frame)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        // A consumer that asks for more has passed the rest on.
        this.release(usize::MAX);
        this.poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::Cut(_) => true,
            Kind::H2(H2Request(recv)) => recv.as_ref().is_none_or(|body| body.recv.is_end_stream()),
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Local(body) => body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

fn is_trailers(frame: &Result<Frame<Bytes>, BodyError>) -> bool {
    frame.as_ref().is_ok_and(Frame::is_trailers)
}

/// The receiving half of an HTTP/2 stream, with the credit it still owes.
pub(crate) struct H2Recv {
    recv: RecvStream,
    data_done: bool,
    owed: usize,
}

impl H2Recv {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            data_done: false,
            owed: 0,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.data_done {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    self.owed += bytes.len();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_done = true,
            }
        }
        Poll::Ready(match ready!(self.recv.poll_trailers(cx)) {
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }

    pub(crate) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.owed);
        if bytes > 0 {
            // Fails only on a stream that is gone, which needs no credit.
            let _ = self.recv.flow_control().release_capacity(bytes);
            self.owed -= bytes;
        }
    }
}

/// What a request may still send after it was decided, in bytes, and for how
/// long.
const LINGER_BYTES: usize = 64 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// Reads and forgets, within those bounds. `poll` gives credit for what it
/// handed out before.
async fn read_on(
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>,
) {
    let read = async {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = std::future::poll_fn(&mut poll).await {
            left = left.saturating_sub(frame.data_ref().map_or(1, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Bounded either way; what is left then goes nowhere.
    let _ = tokio::time::timeout(LINGER, read).await;
}

/// A request body from a client.
pub(crate) struct H2Request(Option<H2Recv>);

impl Drop for H2Request {
    /// Reads on for a moment when the answer was there before the request's
    /// end. Dropping the stream would send RST_STREAM right behind the answer
    /// (RFC 9113, 8.1), and clients that still send then throw the answer away.
    fn drop(&mut self) {
        let Some(mut recv) = self.0.take_if(|body| !body.recv.is_end_stream()) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(read_on(move |cx| {
            recv.release(usize::MAX);
            recv.poll_next(cx)
        }));
    }
}
