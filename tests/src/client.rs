//! A gRPC client that works on HTTP/2 frames: it sends what no library would
//! and shows what libraries hide.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::grpc::Status;
use crate::{DEADLINE, Gateway};

/// An HTTP/2 connection. It closes when it is dropped.
pub struct Connection {
    send: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
    port: u16,
    /// What the other side proved itself with, in DER.
    pub certificate: Vec<u8>,
    /// Whether its TLS session goes on from an earlier connection's.
    pub resumed: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A call whose request may still be written.
pub struct Call {
    /// The request side.
    pub send: SendStream<Bytes>,
    response: ResponseFuture,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Status line and headers.
    pub head: Response<()>,
    /// All DATA, joined.
    pub body: Vec<u8>,
    /// The trailers; `None` when the headers ended the stream.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The gRPC status, wherever it stands.
    pub fn status(&self) -> Status {
        Status::read(self.trailers.as_ref().unwrap_or(self.head.headers()))
    }
}

/// TLS to a server of `ca`, showing a certificate and its key where they are
/// given. Sessions are resumed by whoever connects with it again.
pub fn tls(ca: &Path, identity: Option<(&Path, &Path)>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_file(cert).unwrap();
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

impl Connection {
    /// Connects to a port of localhost.
    pub async fn open(port: u16, ca: &Path) -> Self {
        Self::open_with(port, &tls(ca, None)).await
    }

    /// As [`Connection::open`], with a certificate or a session of its own.
    pub async fn open_with(port: u16, tls: &TlsConnector) -> Self {
        Self::open_narrow(port, tls, 65_535).await
    }

    /// As [`Connection::open_with`], for no more of each answer than so many
    /// bytes until the test gives credit.
    pub async fn open_narrow(port: u16, tls: &TlsConnector, window: u32) -> Self {
        let tcp = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))
            .await
            .unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = tls
            .connect(name, tcp)
            .await
            .expect("the handshake succeeds");
        let certificates = tls.get_ref().1.peer_certificates();
        let certificate = certificates.expect("a certificate")[0].to_vec();
        let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        // Room for many streams that a test leaves unread: only each stream's
        // own window is small.
        let handshake = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(64 * 1024 * 1024)
            .handshake(tls);
        let (send, connection) = handshake.await.expect("HTTP/2 is spoken");
        Self {
            send,
            driver: tokio::spawn(connection),
            port,
            certificate,
            resumed,
        }
    }

    /// Closes the connection and waits until it is closed: a test that then
    /// blocks on a process keeps no half-closed connection open.
    pub async fn close(mut self) {
        self.driver.abort();
        let _ = (&mut self.driver).await;
    }

    /// Waits until the gateway has closed the connection.
    pub async fn closed(mut self) {
        // How it was closed is not looked at.
        let _ = in_time("the end of the connection", &mut self.driver).await;
    }

    /// Begins a gRPC call with these headers beside the usual ones.
    pub async fn call(&mut self, path: &str, headers: &[(&str, &str)]) -> Call {
        let mut request = Request::post(format!("https://localhost:{}{path}", self.port))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            let value = HeaderValue::try_from(*value).unwrap();
            if name == "content-type" {
                request.headers_mut().insert(name, value);
            } else {
                request.headers_mut().append(name, value);
            }
        }
        self.begin(request, false).await
    }

    /// Begins any request; `end` when it has no body.
    pub async fn begin(&mut self, request: Request<()>, end: bool) -> Call {
        let ready = self.send.clone().ready();
        self.send = in_time("room for a stream", ready)
            .await
            .expect("the connection lives");
        let (response, send) = self
            .send
            .send_request(request, end)
            .expect("a request is legal");
        Call { send, response }
    }

    /// A whole unary call with one message.
    pub async fn unary(&mut self, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Answer {
        let mut call = self.call(path, headers).await;
        call.send
            .send_data(crate::grpc::frame(false, message), true)
            .unwrap();
        call.answer().await
    }
}

impl Call {
    /// Waits for the response headers.
    pub async fn head(&mut self) -> Response<RecvStream> {
        in_time("response headers", &mut self.response)
            .await
            .expect("an answer comes")
    }

    /// Waits for the whole answer; panics when the stream is reset.
    pub async fn answer(mut self) -> Answer {
        let (head, body) = self.head().await.into_parts();
        let (body, trailers) = in_time("the end", read(body))
            .await
            .expect("the answer is whole");
        Answer {
            head: Response::from_parts(head, ()),
            body,
            trailers,
        }
    }
}

/// Reads a body to its end, giving credit for what was read.
pub async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok((all, body.trailers().await?))
}

/// Bounds a wait; panics with `what` when it is too long.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("no {what} within {DEADLINE:?}"))
}

/// One unary call with an empty message.
pub async fn call(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = client.unary(path, headers, b"").await;
    client.close().await;
    answer
}

/// The gRPC code of a call with this token.
pub async fn code_with(gateway: &Gateway, path: &str, token: &str) -> i32 {
    let bearer = format!("Bearer {token}");
    call(gateway, path, &[("authorization", &bearer)])
        .await
        .status()
        .code
}
