//! An accepted connection: plain or TLS, with what is known about the peer, and its end.
//!
//! Until the HTTP/2 connection preface is in, nothing else watches over a connection: no ping is sent,
//! and a drain can't be announced. So it has 10 s for that, and a drain ends it at once. Later a cut
//! ends it, in the middle of whatever is read or written.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::connections::Place;

// RFC 9113, 3.4: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".
const PREFACE_BYTES: usize = 24;
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is at the other end of the connection; in the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// The peer's address.
    pub address: SocketAddr,
    /// The peer's certificate chain, its own first, as it was verified; empty without TLS.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

pub(super) struct ServerIo {
    stream: Stream,
    peer: PeerInfo,
    /// Gone once the preface is in.
    silence: Option<Silence>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

/// The time before a connection speaks HTTP/2.
struct Silence {
    missing: usize,
    too_long: Pin<Box<Sleep>>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Silence {
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(stopped());
        }
        ready!(self.too_long.as_mut().poll(cx));
        let error = io::Error::new(
            io::ErrorKind::TimedOut,
            "no HTTP/2 preface came within 10 s",
        );
        Poll::Ready(error)
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped")
}

impl ServerIo {
    pub(super) fn plain(stream: TcpStream, address: SocketAddr, place: Place) -> Self {
        Self::new(Either::Left(stream), address, Arc::new([]), place)
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, address: SocketAddr, place: Place) -> Self {
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = shown.iter().map(|one| one.clone().into_owned()).collect();
        Self::new(
            Either::Right(Box::new(stream)),
            address,
            certificates,
            place,
        )
    }

    fn new(
        stream: Stream,
        address: SocketAddr,
        certificates: Arc<[CertificateDer<'static>]>,
        place: Place,
    ) -> Self {
        let silence = Silence {
            missing: PREFACE_BYTES,
            too_long: Box::pin(sleep(PREFACE_TIMEOUT)),
            draining: Box::pin(place.draining.clone().cancelled_owned()),
        };
        Self {
            stream,
            peer: PeerInfo {
                address,
                certificates,
            },
            silence: Some(silence),
            over: Box::pin(place.over.clone().cancelled_owned()),
            _place: place,
        }
    }

    /// The stream, while the server is not over. One task reads and writes, so that one waker is enough.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut Stream>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Err(stopped());
        }
        Ok(Pin::new(&mut self.stream))
    }

    fn heard(&mut self, bytes: usize) {
        if let Some(silence) = &mut self.silence {
            silence.missing = silence.missing.saturating_sub(bytes);
            if silence.missing == 0 {
                self.silence = None;
            }
        }
    }
}

impl Connected for ServerIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // What has come counts, also at the last moment.
        if let Poll::Ready(read) = self.stream(cx)?.poll_read(cx, buf) {
            self.heard(buf.filled().len() - before);
            return Poll::Ready(read);
        }
        match &mut self.silence {
            Some(silence) => silence.end(cx).map(Err),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_shutdown(cx)
    }
}
