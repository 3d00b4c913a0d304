//! Lets HTTP/2 flush once for all that a connection has to say.
//!
//! The h2 crate flushes behind every DATA frame of more than 256 bytes, since it holds one such frame
//! at a time. A hundred event streams on a connection would so be a hundred system calls for one
//! event. While a [`Hold`] is on, a flush is only noted: what is written waits below, in a buffer
//! that bounds it. Whoever drives the connection lets go and polls it once more, and it flushes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) struct Gathered<T> {
    io: T,
    hold: Hold,
}

/// Whether flushes wait; for the one who drives the connection. Used by one task.
#[derive(Clone, Default)]
pub(crate) struct Hold(Arc<Flags>);

#[derive(Default)]
struct Flags {
    on: AtomicBool,
    /// A flush was asked for and not made.
    owed: AtomicBool,
}

impl Hold {
    pub(crate) fn on(&self) {
        self.0.on.store(true, Relaxed);
    }

    /// Tells whether a flush is owed.
    pub(crate) fn off(&self) -> bool {
        self.0.on.store(false, Relaxed);
        self.0.owed.load(Relaxed)
    }
}

impl<T> Gathered<T> {
    pub(crate) fn new(io: T, hold: Hold) -> Self {
        Self { io, hold }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    crate::io::pass_on!(poll_read);
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    crate::io::pass_on!(poll_write poll_write_vectored is_write_vectored poll_shutdown);

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flags = &self.hold.0;
        if flags.on.load(Relaxed) {
            flags.owed.store(true, Relaxed);
            return Poll::Ready(Ok(()));
        }
        flags.owed.store(false, Relaxed);
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::io::Batched;

    #[tokio::test]
    async fn what_is_flushed_during_a_hold_goes_out_with_the_flush_after_it() {
        let (mut peer, io) = tokio::io::duplex(1000);
        let hold = Hold::default();
        let mut writer = Gathered::new(Batched::new(io), hold.clone());
        hold.on();
        for part in [b"one ", b"two "] {
            writer.write_all(part).await.unwrap();
            writer.flush().await.unwrap();
        }
        let mut got = [0; 8];
        let mut early = std::pin::pin!(peer.read(&mut got));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(std::future::Future::poll(early.as_mut(), &mut cx).is_pending());
        assert!(hold.off());
        writer.flush().await.unwrap();
        assert!(!hold.off());
        assert_eq!(early.await.unwrap(), 8);
        assert_eq!(&got, b"one two ");
    }
}
