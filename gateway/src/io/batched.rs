//! Reads all that a socket has and writes all that waits for it, each in one
//! system call.
//!
//! rustls reads 4 KiB at a time and sends each record by itself: a message of
//! 64 KiB would cost twenty system calls on its way in and five on its way
//! out, and the kernel as many wake-ups of its receiver. What is read and not
//! yet taken, and what is written and not yet flushed, waits in a [`Buffer`]
//! each, 64 KiB at most. HTTP/2 and HTTP/1.1 flush whenever they have nothing
//! more to say.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::Buffer;

pub(crate) struct Batched<T> {
    io: T,
    read: Buffer,
    written: Buffer,
}

impl<T> Batched<T> {
    pub(crate) fn new(io: T) -> Self {
        Self {
            io,
            read: Buffer::default(),
            written: Buffer::default(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Batched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.waiting().is_empty() {
            let mut space = ReadBuf::new(this.read.unused());
            let polled = Pin::new(&mut this.io).poll_read(cx, &mut space);
            let got = space.filled().len();
            this.read.filled(got);
            ready!(polled)?;
        }
        let waiting = this.read.waiting();
        let now = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..now]);
        this.read.consume(now);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Batched<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.written.waiting().is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, self.written.waiting()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written.consume(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Batched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total > this.written.room() {
            ready!(this.poll_drain(cx))?;
        }
        let mut taken = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            let part = buf.len().min(this.written.room());
            if part == 0 {
                break;
            }
            this.written.unused()[..part].copy_from_slice(&buf[..part]);
            this.written.filled(part);
            taken += part;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn pattern(bytes: u32) -> Vec<u8> {
        (0..bytes).map(|n| (n % 251) as u8).collect()
    }

    #[tokio::test]
    async fn small_reads_see_every_byte_in_order_and_then_hold_no_memory() {
        let (mut peer, io) = tokio::io::duplex(200_000);
        let sent = pattern(150_000);
        peer.write_all(&sent).await.unwrap();
        drop(peer);
        let mut reader = Batched::new(io);
        let (mut got, mut chunk) = (Vec::new(), [0; 997]);
        loop {
            let n = reader.read(&mut chunk).await.unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&chunk[..n]);
        }
        assert_eq!(got, sent);
        assert!(!reader.read.holds_memory());
    }

    #[tokio::test]
    async fn a_connection_that_waits_for_bytes_holds_no_memory() {
        let (_peer, io) = tokio::io::duplex(16);
        let mut reader = Batched::new(io);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut chunk = [0; 16];
        let polled = Pin::new(&mut reader).poll_read(&mut cx, &mut ReadBuf::new(&mut chunk));
        assert!(polled.is_pending());
        assert!(!reader.read.holds_memory());
    }

    #[tokio::test]
    async fn writes_go_out_together_with_the_flush_and_then_hold_no_memory() {
        let (mut peer, io) = tokio::io::duplex(1000);
        let mut writer = Batched::new(io);
        writer.write_all(b"one ").await.unwrap();
        writer.write_all(b"two").await.unwrap();
        assert_eq!(writer.written.waiting(), b"one two");
        writer.flush().await.unwrap();
        assert!(!writer.written.holds_memory());
        let mut got = [0; 7];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two");
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_costs_no_more_than_the_bound() {
        let (_peer, io) = tokio::io::duplex(16);
        let mut writer = Batched::new(io);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut taken = 0;
        while let Poll::Ready(Ok(n)) = Pin::new(&mut writer).poll_write(&mut cx, &[0; 10_000]) {
            taken += n;
        }
        assert!(taken <= 64 * 1024 + 16, "{taken}");
    }

    #[tokio::test]
    async fn more_than_the_bound_arrives_whole() {
        let (mut peer, io) = tokio::io::duplex(1000);
        let sent = pattern(300_000);
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            let mut writer = Batched::new(io);
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert_eq!(got, expected);
    }
}
