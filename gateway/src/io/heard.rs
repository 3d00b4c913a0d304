//! Notes when a connection to a backend last brought something, and whether
//! that was part of an answer.
//!
//! Stands right below HTTP/2, on what TLS has decrypted, and changes nothing.
//! Of the protocol it knows the head of a frame (RFC 9113, 4.1): a PONG or a
//! WINDOW_UPDATE shows that the peer lives, but only HEADERS and DATA are
//! answers. What is noted can be read from anywhere: two atomic numbers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

const HEAD_BYTES: usize = 9;
/// The types of frames that answers are made of (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// See the module's comment.
pub(crate) struct Heard<T> {
    io: T,
    ear: Arc<Ear>,
    head: [u8; HEAD_BYTES],
    /// How much of `head` is there; less than all of it.
    have: usize,
    /// Bytes that still belong to the frame that has begun.
    skip: usize,
}

/// What is noted.
pub(crate) struct Ear {
    start: Instant,
    /// When bytes came last, in nanoseconds since `start`.
    at: AtomicU64,
    answered: AtomicBool,
}

impl Default for Ear {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            at: AtomicU64::new(0),
            answered: AtomicBool::new(false),
        }
    }
}

impl Ear {
    /// When bytes came last; at first, when this was made.
    pub(crate) fn heard_at(&self) -> Instant {
        self.start + Duration::from_nanos(self.at.load(Relaxed))
    }

    /// Whether part of an answer has come since this was last asked.
    pub(crate) fn take_answered(&self) -> bool {
        self.answered.swap(false, Relaxed)
    }

    fn hears(&self) {
        // Enough for 584 years.
        let at = self.start.elapsed().as_nanos() as u64;
        self.at.store(at, Relaxed);
    }
}

impl<T> Heard<T> {
    pub(crate) fn new(io: T, ear: Arc<Ear>) -> Self {
        Self {
            io,
            ear,
            head: [0; HEAD_BYTES],
            have: 0,
            skip: 0,
        }
    }

    /// Goes from head to head.
    fn scan(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let wanted = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + wanted].copy_from_slice(&bytes[..wanted]);
            self.have += wanted;
            bytes = &bytes[wanted..];
            if self.have < HEAD_BYTES {
                return;
            }
            self.have = 0;
            let [a, b, c, kind, ..] = self.head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            if matches!(kind, DATA | HEADERS) {
                self.ear.answered.store(true, Relaxed);
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            this.ear.hears();
            this.scan(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    crate::io::pass_on!(poll_write poll_write_vectored is_write_vectored poll_flush poll_shutdown);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PONG: [u8; 17] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const CREDIT: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    const ANSWER: [u8; 10] = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    const BYTES: [u8; 11] = [0, 0, 2, 0, 0, 0, 0, 0, 1, 1, 1];

    /// What is noted of these bytes, read so many at a time; and the bytes.
    async fn noted(bytes: &[u8], at_a_time: usize) -> (bool, Vec<u8>) {
        let (mut peer, io) = tokio::io::duplex(1024);
        let ear = Arc::<Ear>::default();
        let mut heard = Heard::new(io, ear.clone());
        peer.write_all(bytes).await.unwrap();
        drop(peer);
        let mut all = Vec::new();
        let mut some = vec![0; at_a_time];
        loop {
            match heard.read(&mut some).await.unwrap() {
                0 => return (ear.take_answered(), all),
                n => all.extend_from_slice(&some[..n]),
            }
        }
    }

    #[tokio::test]
    async fn only_headers_and_data_are_answers_however_they_are_cut() {
        let control = [&SETTINGS[..], &PONG, &CREDIT].concat();
        for (bytes, answered) in [
            (control.clone(), false),
            ([&control[..], &ANSWER].concat(), true),
            ([&control[..], &BYTES, &PONG].concat(), true),
        ] {
            for at_a_time in [1, 2, 5, 9, 10, 1024] {
                let noted = noted(&bytes, at_a_time).await;
                assert_eq!(noted, (answered, bytes.clone()), "{at_a_time}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_bytes_are_known_by_their_time() {
        let (mut peer, io) = tokio::io::duplex(1024);
        let ear = Arc::<Ear>::default();
        let mut heard = Heard::new(io, ear.clone());
        let start = Instant::now();
        assert_eq!(ear.heard_at(), start);
        tokio::time::advance(Duration::from_secs(3)).await;
        peer.write_all(&SETTINGS[..4]).await.unwrap();
        assert_eq!(heard.read(&mut [0; 16]).await.unwrap(), 4);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(ear.heard_at(), start + Duration::from_secs(3));
    }
}
