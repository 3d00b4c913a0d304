//! A reader that ends its turn after so many bytes, or what costs as much.
//!
//! An HTTP/2 connection reads as long as its socket has bytes. A fast backend
//! then fills the buffers of every stream before the tasks that empty them may
//! run, and their memory has left the cache by then; and a client that sends
//! without a pause holds up all others. After so many bytes this says "pending"
//! and wakes its task at once, so that the others come in between. It delays no
//! byte while nothing else runs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) struct Turns<T> {
    io: T,
    turn: usize,
    taken: usize,
}

impl<T> Turns<T> {
    /// `turn` is how much is read before other tasks get theirs, in bytes.
    pub(crate) fn new(io: T, turn: usize) -> Self {
        Self { io, turn, taken: 0 }
    }

    /// Counts what was read as so many bytes more: what it costs to work
    /// through does not follow from its size alone.
    pub(crate) fn charge(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Turns<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken >= self.turn {
            self.taken = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_pending() {
            self.taken = 0;
        }
        ready!(polled)?;
        self.taken += buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Turns<T> {
    crate::io::pass_on!(poll_write poll_write_vectored is_write_vectored poll_flush poll_shutdown);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const TURN: usize = 128 * 1024;

    #[tokio::test]
    async fn a_full_turn_lets_others_run_and_then_goes_on() {
        let (mut peer, io) = tokio::io::duplex(4 * TURN);
        peer.write_all(&vec![7; 2 * TURN]).await.unwrap();
        let mut reader = Turns::new(io, TURN);
        let mut all = vec![0; TURN];
        reader.read_exact(&mut all).await.unwrap();
        let mut more = [0; 1];
        let mut next = Box::pin(reader.read(&mut more));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert_eq!(next.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn what_is_charged_shortens_the_turn() {
        let (mut peer, io) = tokio::io::duplex(TURN);
        peer.write_all(&[7; 3]).await.unwrap();
        let mut reader = Turns::new(io, TURN);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut one = [0; 1];
        let mut poll = |reader: &mut Turns<_>| {
            let mut buf = ReadBuf::new(&mut one);
            Pin::new(reader).poll_read(&mut cx, &mut buf).is_ready()
        };
        assert!(poll(&mut reader));
        reader.charge(TURN - 2);
        assert!(poll(&mut reader));
        assert!(!poll(&mut reader));
        assert!(poll(&mut reader));
    }
}
