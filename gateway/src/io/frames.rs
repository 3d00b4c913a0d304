//! Watches the frames that an HTTP/2 client sends, and says when it floods.
//!
//! The h2 crate bounds what a client can make it keep, but answers PING and
//! SETTINGS, and follows WINDOW_UPDATE, PRIORITY and RST_STREAM, as often as
//! they come. This stands below it, where the bytes are plain, and reads the
//! 9-byte heads of frames as they pass: nothing is copied, and a connection
//! that sends nothing but calls costs a few comparisons per frame.
//!
//! Bounds, in frames per 10 seconds and connection; what a client may have to
//! send because of what it receives grows with the bytes written to it:
//!
//! | frames | at most | and one more per | reason |
//! |---|---:|---:|---|
//! | PING | 1,000 | 32 bytes | `ping_flood` |
//! | answers to a PING (the gateway sends one, when it drains) | 10 | | `ping_flood` |
//! | SETTINGS | 100 | | `settings_flood` |
//! | RST_STREAM | 2,000 | 32 bytes | `reset_flood` |
//! | WINDOW_UPDATE | 20,000 | 16 bytes | `window_flood` |
//! | PRIORITY and unknown ones | 2,000 | 32 bytes | `priority_flood` |
//! | header blocks over the limit | 20 | | `header_flood` |
//!
//! A header block may have so many CONTINUATION frames as its greatest size
//! needs, and a quarter more (at least 4; `continuation_flood`), and a limit
//! of time from its first byte to its last (`header_timeout`).
//!
//! Fails by reading no more: what holds the connection asks [`Verdict::get`]
//! and closes it. Knows nothing of streams, and judges no frame that h2 does.
//! Reads in [`Turns`] of 32 KiB, each frame counted as 64 bytes more, so that a
//! flood that is allowed holds up no other connection of its worker for longer
//! than one read of h2, some 800 of the smallest frames.

mod scan;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use self::scan::Scan;
use super::Turns;

/// How much is read before other connections get their turn, in bytes.
const TURN: usize = 32 * 1024;
/// What a frame costs beyond its bytes, as if it had so many more. Enough for
/// a single read of the smallest ones (h2 reads 8 KiB at a time) to be a turn,
/// and nothing beside a frame of 16 KiB.
const FRAME: usize = 64;
/// What a client may still send behind the last word to it, in bytes, and for
/// how long.
const LINGER_BYTES: usize = 64 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection is to be closed, for the one who holds it: h2 gives the
/// [`FrameGuard`] itself to nobody. The first reason stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict(Arc<Found>);

#[derive(Debug, Default)]
struct Found {
    reason: OnceLock<&'static str>,
    /// One more than the index into [`TOLD`], or 0.
    told: AtomicUsize,
}

/// What h2 says at the end of its GOAWAY when it loses its patience, and what
/// that is counted as. It says so to nobody else.
const TOLD: [(&[u8], &str); 5] = [
    (b"too_many_resets", "reset_flood"),
    (b"too_many_internal_resets", "stream_errors"),
    (b"too_many_data_frames", "small_frames"),
    (b"too_many_continuations", "continuation_flood"),
    (b"header_list_way_too_large", "header_flood"),
];

impl Verdict {
    pub(crate) fn get(&self) -> Option<&'static str> {
        self.0.reason.get().copied()
    }

    pub(crate) fn condemn(&self, reason: &'static str) {
        self.0.reason.get_or_init(|| reason);
    }

    /// What h2 closed a connection for with ENHANCE_YOUR_CALM.
    pub(crate) fn calmed(&self) -> &'static str {
        let told = self.0.told.load(Ordering::Relaxed);
        let told = told.checked_sub(1).and_then(|index| TOLD.get(index));
        told.map_or("stream_errors", |(_, reason)| reason)
    }
}

pub(crate) struct FrameGuard<T> {
    io: Turns<T>,
    scan: Scan,
    verdict: Verdict,
    header_timeout: Duration,
    /// Runs while a header block, or the head of a frame, is not whole.
    unfinished: Option<Pin<Box<Sleep>>>,
    /// Set once nothing more is written.
    linger: Option<Linger>,
}

/// What is still read of a client behind the last word to it.
struct Linger {
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl Linger {
    fn begin() -> Self {
        Self {
            left: LINGER_BYTES,
            until: Box::pin(tokio::time::sleep(LINGER)),
        }
    }

    /// Ready when the client has closed too, or has had its time.
    fn poll(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncRead + Unpin)) -> Poll<()> {
        while self.left > 0 && self.until.as_mut().poll(cx).is_pending() {
            let mut bytes = [0; 4096];
            let mut buf = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    self.left = self.left.saturating_sub(buf.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<T> FrameGuard<T> {
    /// `header_bytes` is the greatest size of a header list.
    pub(crate) fn new(io: T, header_bytes: u32, header_timeout: Duration) -> Self {
        Self {
            io: Turns::new(io, TURN),
            scan: Scan::new(header_bytes),
            verdict: Verdict::default(),
            header_timeout,
            unfinished: None,
            linger: None,
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// Nothing more has come: has what is here been unfinished for too long?
    fn poll_unfinished(&mut self, cx: &mut Context<'_>) {
        if !self.scan.is_unfinished() {
            self.unfinished = None;
            return;
        }
        let limit = self.header_timeout;
        let sleep = self
            .unfinished
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if sleep.as_mut().poll(cx).is_ready() {
            self.verdict.condemn("header_timeout");
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FrameGuard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.verdict.get().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_pending() {
            this.poll_unfinished(cx);
            return Poll::Pending;
        }
        let blocks = this.scan.finished;
        let read = this.scan.read(&buf.filled()[before..]);
        let frames = this.scan.finished.wrapping_sub(blocks);
        this.io.charge((frames as usize).saturating_mul(FRAME));
        if let Err(reason) = read {
            this.verdict.condemn(reason);
            // What came with it is not for h2 to work through.
            buf.set_filled(before);
            return Poll::Pending;
        }
        if frames > 0 {
            // Whatever is unfinished now began just now.
            this.unfinished = None;
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> FrameGuard<T> {
    fn written(&mut self, polled: Poll<io::Result<usize>>, last: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.scan.written += bytes as u64;
            // May be a payload that ends like that; only the last one counts.
            if let Some(index) = TOLD.iter().position(|(text, _)| last.ends_with(text)) {
                self.verdict.0.told.store(index + 1, Ordering::Relaxed);
            }
        }
        polled
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FrameGuard<T> {
    crate::io::pass_on!(is_write_vectored poll_flush);

    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(polled, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        let last = bufs.iter().rfind(|buf| !buf.is_empty());
        self.written(polled, last.map_or(&[], |buf| buf))
    }

    /// Reads on for a moment behind the last word: closing a socket that holds
    /// unread bytes resets it (RFC 1122, 4.2.2.13), and what the client has not
    /// read yet may be lost to it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        if this.verdict.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        let linger = this.linger.get_or_insert_with(Linger::begin);
        linger.poll(cx, &mut this.io).map(Ok)
    }
}

#[cfg(test)]
mod tests;
