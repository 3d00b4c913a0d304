//! Takes from a socket all that is there in one system call.
//!
//! rustls reads at most 4 KiB at a time, so a full TLS record would cost five
//! system calls and a message of 64 KiB twenty. Reads go into one buffer of
//! [`SCRATCH`] bytes that all connections of a worker share; what TLS does not
//! take at once is kept, at most that much, and freed as soon as it is read. An
//! idle connection keeps nothing.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that one read takes, in bytes.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

pub(crate) struct ReadAhead<T> {
    io: T,
    kept: Bytes,
}

impl<T> ReadAhead<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, kept: Bytes::new() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.kept.is_empty() {
            return BUFFER.with_borrow_mut(|scratch| {
                let mut read = ReadBuf::new(scratch);
                ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
                let (now, later) =
                    read.filled().split_at(read.filled().len().min(buf.remaining()));
                buf.put_slice(now);
                if !later.is_empty() {
                    this.kept = Bytes::copy_from_slice(later);
                }
                Poll::Ready(Ok(()))
            });
        }
        let now = this.kept.len().min(buf.remaining());
        buf.put_slice(&this.kept[..now]);
        this.kept.advance(now);
        if this.kept.is_empty() {
            this.kept = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn small_reads_see_every_byte_in_order_and_keep_nothing() {
        let (mut peer, io) = tokio::io::duplex(200_000);
        let sent: Vec<u8> = (0..150_000u32).map(|n| (n % 251) as u8).collect();
        peer.write_all(&sent).await.unwrap();
        drop(peer);
        let mut reader = ReadAhead::new(io);
        let (mut got, mut chunk) = (Vec::new(), [0; 997]);
        loop {
            let n = reader.read(&mut chunk).await.unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&chunk[..n]);
            assert!(reader.kept.len() <= SCRATCH);
        }
        assert_eq!(got, sent);
        assert!(reader.kept.is_empty());
    }
}
