//! A request on its way to a backend, for as many tries as it takes.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body as _;
use tonic::Code;

use super::replay::{Replay, Room};
use crate::body::{Body, BodyError};
use crate::layers::conduct::Caller;
use crate::relay::{Relay, RelayError};
use crate::reply::Reply;

/// How many tries came before (gRPC, "Retry Design", A6).
const ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// See the module's comment.
pub(super) struct Outgoing {
    path: PathAndQuery,
    sent: Sent,
    /// `None` if the request has no body.
    upload: Option<Upload>,
}

/// How much of a request was sent, to any backend.
enum Sent {
    /// Nothing: these are its headers, and whose it is, if that is known.
    Nothing(HeaderMap, Option<Caller>),
    /// What is kept, while another try may follow.
    Something(Option<Replay>),
}

/// A request's body, and what of it was read and is not sent.
pub(super) struct Upload {
    body: Body,
    relay: Relay,
}

impl Outgoing {
    pub(super) fn new(request: Request<Body>, caller: Option<Caller>) -> Self {
        let (mut head, body) = request.into_parts();
        // Of tries the gateway knows itself.
        head.headers.remove(ATTEMPTS);
        let path = head.uri.path_and_query().cloned();
        let upload = (!body.is_end_stream()).then(|| Upload {
            body,
            relay: Relay::default(),
        });
        Self {
            path: path.unwrap_or(PathAndQuery::from_static("/")),
            sent: Sent::Nothing(head.headers, caller),
            upload,
        }
    }

    pub(super) fn has_body(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether it can be sent, as a whole.
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self.sent, Sent::Something(None))
    }

    /// The head for the next try, `made` having come before; the body begins
    /// anew. From the first one on up to `most` bytes are kept, in `room`.
    pub(super) fn next(&mut self, made: u32, most: usize, room: &Arc<Room>) -> Option<Parts> {
        if let Sent::Nothing(headers, caller) = &mut self.sent {
            let kept = Replay::begin(headers, most, room, caller.take());
            let kept = Sent::Something(kept);
            if let Sent::Nothing(headers, _) = std::mem::replace(&mut self.sent, kept) {
                return Some(self.head(headers));
            }
        }
        let Sent::Something(Some(kept)) = &mut self.sent else {
            return None;
        };
        let mut headers = kept.headers()?;
        headers.insert(ATTEMPTS, HeaderValue::from(made));
        if let Some(upload) = &mut self.upload {
            upload.relay.rewind(kept);
        }
        Some(self.head(headers))
    }

    /// Every gRPC call is a POST.
    fn head(&self, headers: HeaderMap) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = Method::POST;
        head.uri = self.path.clone().into();
        head.headers = headers;
        head
    }

    /// Moves the body on; `send` is unset at its end. `Err` is a request that
    /// breaks a rule.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut Option<SendStream<Bytes>>,
    ) -> Result<(), Box<Reply>> {
        if let (Some(upload), Some(stream)) = (&mut self.upload, &mut *send)
            && let Sent::Something(kept) = &mut self.sent
            && upload.poll(cx, stream, kept)?.is_ready()
        {
            *send = None;
        }
        Ok(())
    }

    /// No other try follows: what was kept is forgotten.
    pub(super) fn commit(&mut self) -> Option<Upload> {
        self.sent = Sent::Something(None);
        self.upload.take()
    }
}

impl Upload {
    /// Moves the body on; ready when nothing more is to be sent.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut SendStream<Bytes>,
        kept: &mut Option<Replay>,
    ) -> Result<Poll<()>, Box<Reply>> {
        match self.relay.poll_keeping(cx, &mut self.body, send, kept) {
            Poll::Pending => Ok(Poll::Pending),
            // A backend may answer without reading the request to its end.
            Poll::Ready(Ok(()) | Err(RelayError::Sink | RelayError::Stalled)) => {
                Ok(Poll::Ready(()))
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
}
