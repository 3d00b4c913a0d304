//! A reader that ends its turn after so many bytes.
//!
//! An HTTP/2 connection reads as long as its socket has bytes; a fast server
//! then fills the buffers of every stream before the tasks that empty them may
//! run, and their memory has left the cache by then. This wrapper says
//! "pending" after `turn` bytes and wakes its task at once, so that the other
//! tasks come in between. It never delays a byte while nothing else runs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `inner`, read in turns of about `turn` bytes.
#[derive(Debug)]
pub struct Paced<T> {
    inner: T,
    turn: usize,
    taken: usize,
}

impl<T> Paced<T> {
    /// Wraps `inner`; a turn of `usize::MAX` bytes never ends early.
    pub fn new(inner: T, turn: usize) -> Self {
        Self {
            inner,
            turn,
            taken: 0,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken >= self.turn {
            self.taken = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, buffer);
        match poll {
            Poll::Pending => self.taken = 0,
            Poll::Ready(_) => self.taken += buffer.filled().len() - before,
        }
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
