//! How an answer's body leaves hyper once hyper has sent the head.
//!
//! hyper gets an [`Answer`] that has no bytes to give. It asks for them when the head is in its buffer,
//! and flushes its connection when that buffer is empty: after both, nothing of the answer is hyper's
//! any more, and the connection can be taken from it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::read_on::ReadOn;
use crate::body::{Body, BodyError};

const STAYS: u8 = 0;
const HEAD_BUFFERED: u8 = 1;
const HEAD_SENT: u8 = 2;

/// What a connection's answers and its socket share.
#[derive(Default)]
pub(super) struct Door {
    stage: AtomicU8,
    leaving: Mutex<Option<Body>>,
}

impl Door {
    /// Takes the body out of an answer; it leaves when the head is sent.
    pub(super) fn keep(self: &Arc<Self>, answer: Response<Body>) -> Response<Answer> {
        let (mut head, body) = answer.into_parts();
        let close = HeaderValue::from_static("close");
        head.headers.insert(CONNECTION, close);
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        Response::from_parts(head, Answer::Leaves(self.clone()))
    }

    /// The body whose head is sent.
    pub(super) fn take(&self) -> Option<Body> {
        if self.stage.load(Ordering::Relaxed) != HEAD_SENT {
            return None;
        }
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.take()
    }

    fn step(&self, from: u8, to: u8) {
        if self.stage.load(Ordering::Relaxed) == from {
            self.stage.store(to, Ordering::Relaxed);
        }
    }
}

/// What hyper sends.
pub(super) enum Answer {
    Whole(ReadOn),
    Leaves(Arc<Door>),
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Leaves(door) => {
                door.step(STAYS, HEAD_BUFFERED);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Leaves(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Leaves(_) => SizeHint::default(),
        }
    }
}

/// Below hyper: sees its flushes.
pub(super) struct Doorway<T> {
    pub(super) io: T,
    door: Arc<Door>,
}

impl<T> Doorway<T> {
    pub(super) fn new(io: T, door: Arc<Door>) -> Self {
        Self { io, door }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Doorway<T> {
    crate::io::pass_on!(poll_read);
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Doorway<T> {
    crate::io::pass_on!(poll_write poll_write_vectored is_write_vectored poll_shutdown);

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.door.step(HEAD_BUFFERED, HEAD_SENT);
        Pin::new(&mut self.io).poll_flush(cx)
    }
}
