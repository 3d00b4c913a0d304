//! An event stream over HTTP/1.1 that has left hyper.
//!
//! hyper reads the request and sends the head of the answer; from there on this writes the chunks
//! (RFC 9112, 7.1). A subscriber that waits then costs neither hyper's buffers nor the state of a call
//! that is being answered, and an event goes from the log's frame into one TLS record and one system
//! call. The answer says `connection: close`, and the connection ends with the stream.
//!
//! Owns the connection and the body. The next batch is asked for only when the kernel has all of the
//! one before, so one batch is held at most. What a client sends meanwhile is forgotten, [`DEAF`] bytes
//! of it; then no more is read, and its leaving shows at the next write. A client that takes no byte
//! for the stall timeout is closed, as `stalled`.
//!
//! Whether the client has left is looked at when something other than an event wakes the task: to look
//! at the socket for every event would cost a tenth of what its sending does.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::Body;
use crate::server::stalled;

/// How much is read of a client that has nothing to say, in bytes.
const DEAF: usize = 16 * 1024;

/// See the module's comment. Ready with the reason why the gateway closed it, if it did.
pub(crate) struct Follow<T> {
    io: T,
    body: Body,
    chunk: Chunk,
    /// Something written is not yet with the kernel.
    unflushed: bool,
    /// It was, when everything was tried last.
    blocked: bool,
    /// The last chunk was made.
    over: bool,
    /// How much the client has sent.
    heard: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Follow<T> {
    pub(super) fn new(io: T, body: Body) -> Self {
        Self {
            io,
            body,
            chunk: Chunk::default(),
            // The head may be on its way.
            unflushed: true,
            blocked: false,
            over: false,
            heard: 0,
        }
    }

    /// Ready when everything is sent, or can't be.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while let Some(slices) = self.chunk.left() {
                let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.chunk.written += written;
                if std::mem::take(&mut self.blocked) {
                    // It is slow, not stalled.
                    self.body.release(written);
                }
            }
            if self.unflushed {
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                self.unflushed = false;
                // What it held is an event's, and may be gone elsewhere.
                self.chunk = Chunk::default();
            }
            if self.over {
                return Pin::new(&mut self.io).poll_shutdown(cx);
            }
            let frame = ready!(self.body.poll_next(cx));
            let data = match frame {
                Some(Ok(frame)) => frame.into_data().ok(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => None,
            };
            // A chunk without bytes would be the last one.
            if data.as_ref().is_some_and(Bytes::is_empty) {
                continue;
            }
            self.over = data.is_none();
            self.chunk = Chunk::new(data.unwrap_or_default());
            self.unflushed = true;
        }
    }

    /// Ready when the client is gone.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 256];
        while self.heard < DEAF {
            let mut buf = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.heard += buf.filled().len(),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Follow<T> {
    type Output = Option<&'static str>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this.poll_send(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(None),
            Poll::Ready(Err(error)) => {
                let reason = stalled(&error);
                if reason.is_some() {
                    this.body.stalled("stalled");
                }
                return Poll::Ready(reason);
            }
            Poll::Pending => {}
        }
        this.blocked = this.unflushed;
        if this.blocked && this.body.poll_stalled(cx).is_ready() {
            if this.body.cut().is_none() {
                this.body.stalled("stalled");
            }
            return Poll::Ready(Some("stalled"));
        }
        // Also after an event was sent: one wake-up may be for both.
        if this.unflushed || this.over {
            return this.poll_leave(cx).map(|()| None);
        }
        match this.body.take_rest(cx) {
            Some(rest) => this
                .poll_leave(&mut Context::from_waker(&rest))
                .map(|()| None),
            None => Poll::Pending,
        }
    }
}

/// A chunk on its way: its size, its bytes, a line end. Without bytes, the last one.
struct Chunk {
    /// In hexadecimal digits, and a line end; from `start` on.
    size: [u8; 18],
    start: usize,
    data: Bytes,
    end: &'static [u8],
    written: usize,
}

impl Default for Chunk {
    /// Nothing.
    fn default() -> Self {
        Self {
            size: [0; 18],
            start: 18,
            data: Bytes::new(),
            end: b"",
            written: 0,
        }
    }
}

impl Chunk {
    fn new(data: Bytes) -> Self {
        let (mut size, mut start) = ([0; 18], 16);
        size[16..].copy_from_slice(b"\r\n");
        let mut rest = data.len();
        while rest > 0 || start == 16 {
            start -= 1;
            size[start] = b"0123456789abcdef"[rest % 16];
            rest /= 16;
        }
        Self {
            size,
            start,
            data,
            end: b"\r\n",
            written: 0,
        }
    }

    /// What is not yet written, if anything.
    fn left(&self) -> Option<[IoSlice<'_>; 3]> {
        let mut skip = self.written;
        let parts = [&self.size[self.start..], &self.data[..], self.end].map(|part| {
            let skipped = skip.min(part.len());
            skip -= skipped;
            &part[skipped..]
        });
        let some = parts.iter().any(|part| !part.is_empty());
        some.then(|| parts.map(IoSlice::new))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;
    use crate::body::Kind;
    use crate::io::StallGuard;

    /// A body that says this and then nothing, without an end.
    fn endless(first: &'static [u8]) -> Body {
        use futures_util::{StreamExt as _, stream};
        let frame = http_body::Frame::data(Bytes::from_static(first));
        let frames = stream::iter([Ok::<_, tonic::Status>(frame)]).chain(stream::pending());
        let body = http_body_util::StreamBody::new(frames);
        Body::new(Kind::Local(tonic::body::Body::new(body)))
    }

    async fn read(mut peer: DuplexStream) -> Vec<u8> {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        got
    }

    #[tokio::test]
    async fn what_is_said_goes_out_in_chunks_whatever_the_socket_takes() {
        for room in [1, 7, 1000] {
            let (peer, io) = duplex(room);
            let reader = tokio::spawn(read(peer));
            let follow = Follow::new(io, Body::full(vec![b'x'; 300]));
            assert_eq!(follow.await, None);
            let expected = format!("12c\r\n{}\r\n0\r\n\r\n", "x".repeat(300));
            assert_eq!(reader.await.unwrap(), expected.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_stream() {
        let (mut peer, io) = duplex(1000);
        let follow = tokio::spawn(Follow::new(io, endless(b"abc")));
        let mut got = [0; 8];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"3\r\nabc\r\n");
        drop(peer);
        assert_eq!(follow.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_client_that_leaves_in_the_moment_of_an_event_ends_the_stream() {
        use futures_util::{StreamExt as _, stream};
        let (events, mut next) = tokio::sync::mpsc::unbounded_channel::<&'static [u8]>();
        let events_of = stream::poll_fn(move |cx| next.poll_recv(cx));
        let frames = events_of
            .map(|event| Ok::<_, tonic::Status>(http_body::Frame::data(Bytes::from_static(event))));
        let body = http_body_util::StreamBody::new(frames);
        let body = Body::new(Kind::Local(tonic::body::Body::new(body)));
        let (mut peer, io) = duplex(1000);
        let mut follow = Follow::new(io, body);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..3 {
            events.send(b"abc").unwrap();
            assert!(Pin::new(&mut follow).poll(&mut cx).is_pending());
        }
        // It reads on, but says that it is done.
        tokio::io::AsyncWriteExt::shutdown(&mut peer).await.unwrap();
        events.send(b"abc").unwrap();
        assert!(Pin::new(&mut follow).poll(&mut cx).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_sends_is_read_up_to_the_bound() {
        let (mut peer, io) = duplex(1000);
        let follow = tokio::spawn(Follow::new(io, endless(b"abc")));
        let sent = tokio::io::AsyncWriteExt::write_all(&mut peer, &[0; DEAF]).await;
        assert!(sent.is_ok());
        let more = tokio::io::AsyncWriteExt::write_all(&mut peer, &[0; 2000]);
        let more = tokio::time::timeout(Duration::from_millis(50), more);
        assert!(more.await.is_err());
        follow.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_closed_after_the_stall_timeout() {
        let (_peer, io) = duplex(16);
        let limit = Duration::from_secs(30);
        let began = tokio::time::Instant::now();
        let follow = Follow::new(StallGuard::new(io, limit), endless(&[b'x'; 100]));
        assert_eq!(follow.await, Some("stalled"));
        assert_eq!(began.elapsed(), limit);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_is_slow_and_not_stalled() {
        let (mut peer, io) = duplex(1000);
        let limit = Duration::from_secs(30);
        let body = endless(&[b'x'; 20_000]).with_stall_limit(limit);
        let follow = tokio::spawn(Follow::new(StallGuard::new(io, limit), body));
        let mut got = [0; 1000];
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            peer.read_exact(&mut got).await.unwrap();
        }
        assert!(!follow.is_finished());
        assert_eq!(follow.await.unwrap(), Some("stalled"));
    }
}
