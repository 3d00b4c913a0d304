//! The entrance as clients see it: HTTP/1.1 and HTTP/2 over TLS, on connections that may end at any byte.
//!
//! By hand, where the rest of the harness has helpers: those fail the test when a connection fails, which here is
//! what is wanted. Each wait has its bound.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a connection may take, and an answer's head.
const OPENING: Duration = Duration::from_secs(5);
/// What the socket of a narrow connection takes unread, in bytes (the kernel doubles it).
const NARROW: u32 = 8 * 1024;
/// No head of a message is longer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// What clients of the gateways need.
#[derive(Clone)]
pub struct Entrance {
    http1: TlsConnector,
    http2: TlsConnector,
    /// The value of `authorization`.
    pub bearer: String,
    narrow: bool,
}

impl Entrance {
    /// For gateways with a certificate of `ca`, as the caller with this token.
    pub fn new(ca: &Path, token: &str) -> Self {
        let speaking = |protocol: &[u8]| {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(ca).unwrap())
                .unwrap();
            let builder = ClientConfig::builder().with_root_certificates(roots);
            let mut config = builder.with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Self {
            http1: speaking(b"http/1.1"),
            http2: speaking(b"h2"),
            bearer: format!("Bearer {token}"),
            narrow: false,
        }
    }

    /// The same, on sockets that take no more than [`NARROW`] unread.
    pub fn narrow(self) -> Self {
        Self {
            narrow: true,
            ..self
        }
    }

    /// An HTTP/1.1 connection to a port of localhost.
    pub async fn http1(&self, port: u16) -> io::Result<Http1<TlsStream<TcpStream>>> {
        let tls = within("connect", OPENING, self.dial(&self.http1, port)).await?;
        Ok(Http1::new(tls))
    }

    /// An HTTP/2 connection to a port of localhost.
    pub async fn http2(&self, port: u16) -> io::Result<Http2> {
        let tls = within("connect", OPENING, self.dial(&self.http2, port)).await?;
        let handshake = async { h2::client::handshake(tls).await.map_err(io::Error::other) };
        let (send, connection) = within("HTTP/2", OPENING, handshake).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Http2 { send, driver })
    }

    async fn dial(&self, tls: &TlsConnector, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        if self.narrow {
            socket.set_recv_buffer_size(NARROW)?;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        tls.connect(name, tcp).await
    }
}

/// Bounds a wait.
pub async fn within<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let ended = tokio::time::timeout(limit, work).await;
    ended.unwrap_or_else(|_| Err(io::Error::other(format!("no {what} within {limit:?}"))))
}

/// An HTTP/2 connection. It closes when it is dropped.
pub struct Http2 {
    send: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2 {
    /// Begins a gRPC call with one message.
    pub async fn call(
        &mut self,
        path: &str,
        bearer: &str,
        message: &[u8],
    ) -> io::Result<http::Response<h2::RecvStream>> {
        let request = http::Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", bearer)
            .body(())
            .map_err(io::Error::other)?;
        let work = async {
            let mut ready = self.send.clone().ready().await.map_err(io::Error::other)?;
            let (response, mut body) = ready
                .send_request(request, false)
                .map_err(io::Error::other)?;
            let frame = crate::grpc::frame(false, message);
            body.send_data(frame, true).map_err(io::Error::other)?;
            response.await.map_err(io::Error::other)
        };
        within("answer", OPENING, work).await
    }
}

/// The next piece of an HTTP/2 body; `None` at its end.
pub async fn piece(body: &mut h2::RecvStream) -> io::Result<Option<Bytes>> {
    let Some(data) = body.data().await else {
        return Ok(None);
    };
    let data = data.map_err(io::Error::other)?;
    body.flow_control()
        .release_capacity(data.len())
        .map_err(io::Error::other)?;
    Ok(Some(data))
}

/// One side of an HTTP/1.1 connection.
pub struct Http1<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    /// On a connection that nothing was read from yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads the head of a message, with its blank line.
    pub async fn head(&mut self) -> io::Result<Head> {
        let work = async {
            loop {
                if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                    let head = self.buffer.split_to(end + 4);
                    return Ok(Head(String::from_utf8_lossy(&head).into_owned()));
                }
                if self.buffer.len() > MAX_HEAD {
                    return Err(io::Error::other("a head without end"));
                }
                self.more().await?;
            }
        };
        within("head", OPENING, work).await
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        let line = loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                break end;
            }
            self.more().await?;
        };
        let size = std::str::from_utf8(&self.buffer[..line]).map_err(io::Error::other)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        self.fill(line + 2 + size + 2).await?;
        self.buffer.advance(line + 2);
        let chunk = self.buffer.split_to(size).freeze();
        self.buffer.advance(2);
        Ok((size > 0).then_some(chunk))
    }

    /// A whole body.
    pub async fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        if let Some(length) = head.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            self.fill(length).await?;
            return Ok(self.buffer.split_to(length).to_vec());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(())
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// The head of a message, as it came.
pub struct Head(pub String);

impl Head {
    /// The status of an answer; 0 if there is none.
    pub fn status(&self) -> u16 {
        let word = self.0.split_whitespace().nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Where `wanted` begins.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}
