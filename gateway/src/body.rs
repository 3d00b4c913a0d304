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

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::events::EventBody;
use crate::layers::grpc_web::{WebRequest, WebResponse};
use crate::reply::Reply;
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
    /// The bytes break a rule; the reply says which.
    #[error("{}", .0.message)]
    Refused(Box<Reply>),
}

/// What carries the bytes.
pub(crate) enum Kind {
    Empty,
    Full(Bytes),
    Trailers(HeaderMap),
    H2(H2Recv),
    Http1(hyper::body::Incoming),
    Upstream(Box<UpstreamBody>),
    WebRequest(Box<WebRequest>),
    WebResponse(Box<WebResponse>),
    Events(Box<EventBody>),
    Local(tonic::body::Body),
}

/// A request or response body on its way through the gateway.
pub(crate) struct Body {
    kind: Kind,
    record: Option<Box<CallRecord>>,
}

impl Body {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, record: None }
    }

    pub(crate) fn empty() -> Self {
        Self::new(Kind::Empty)
    }

    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) })
    }

    pub(crate) fn h2(recv: RecvStream) -> Self {
        Self::new(Kind::H2(H2Recv::new(recv)))
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

    /// Gives the sender credit for everything handed out so far. Called by
    /// the consumer once the data went on.
    pub(crate) fn release(&mut self) {
        match &mut self.kind {
            Kind::H2(recv) => recv.release(),
            Kind::Upstream(body) => body.release(),
            Kind::WebRequest(body) => body.inner.release(),
            Kind::WebResponse(body) => body.inner.release(),
            _ => {}
        }
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Trailers(trailers) => {
                let trailers = std::mem::take(trailers);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Kind::H2(recv) => recv.poll_next(cx),
            Kind::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Kind::Upstream(body) => body.poll_next(cx).map(|frame| frame.map(Ok)),
            Kind::WebRequest(body) => body.poll_next(cx),
            Kind::WebResponse(body) => body.poll_next(cx),
            Kind::Events(body) => body.poll_next(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b)))),
            Kind::Local(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        };
        let frame = ready!(polled);
        // A consumer need not ask again once the end is known.
        let last = self.record.is_some() && http_body::Body::is_end_stream(self);
        if let Some(record) = &mut self.record {
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
        this.release();
        this.poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::H2(recv) => recv.recv.is_end_stream(),
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

/// The receiving half of an HTTP/2 stream, with the credit it still owes.
pub(crate) struct H2Recv {
    recv: RecvStream,
    data_done: bool,
    owed: usize,
}

impl H2Recv {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self { recv, data_done: false, owed: 0 }
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

    pub(crate) fn release(&mut self) {
        if self.owed > 0 {
            // Fails only on a stream that is gone, which needs no credit.
            let _ = self.recv.flow_control().release_capacity(self.owed);
            self.owed = 0;
        }
    }
}
