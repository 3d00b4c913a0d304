//! Calls as every load of the benchmark makes them, on the h2 crate.
//!
//! Owns the connection (TLS, ALPN `h2`, never resumed), the headers that each
//! call has, and how an answer is read. Nothing is ever connected or called
//! again: what a client would see as a failure is one. Does not own pace and
//! figures. Fails with a boxed error that says what came instead.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Connection, SendRequest};
use http::{HeaderValue, Request, Response, request};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{CONNECTION_WINDOW, Error, net, tls};

/// Where calls go, and as whom.
pub struct Client {
    to: SocketAddr,
    tls: TlsConnector,
    name: ServerName<'static>,
    authorization: String,
}

impl Client {
    /// # Errors
    /// If a file cannot be read or does not hold what it should.
    pub fn new(to: SocketAddr, ca: &Path, authorization_file: &Path) -> Result<Self, Error> {
        let authorization = std::fs::read_to_string(authorization_file)
            .map_err(|error| format!("{}: {error}", authorization_file.display()))?;
        Ok(Self {
            to,
            tls: TlsConnector::from(Arc::new(tls::client(ca, None)?)),
            name: ServerName::try_from("localhost")?,
            authorization,
        })
    }

    /// A new connection, to be driven by the caller.
    ///
    /// # Errors
    /// If nobody answers, or not as they should.
    pub async fn connect(
        &self,
    ) -> Result<(SendRequest<Bytes>, Connection<TlsStream<TcpStream>, Bytes>), Error> {
        let stream = net::connect(self.to).await?;
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        let built = h2::client::Builder::new()
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await?;
        Ok(built)
    }

    /// The same, driven by a task: its calls tell how it ended.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connected(&self) -> Result<SendRequest<Bytes>, Error> {
        let (sender, connection) = self.connect().await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// A gRPC request without its body.
    pub fn request(&self, path: &str) -> request::Builder {
        Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", &self.authorization)
    }
}

/// Sends one message; ready with the head of the answer.
///
/// # Errors
/// If the call or its connection breaks.
pub async fn send(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
) -> Result<Response<RecvStream>, Error> {
    let (response, mut out) = sender.ready().await?.send_request(request, false)?;
    out.send_data(message, true)?;
    Ok(response.await?)
}

/// What an answer came to.
#[derive(Debug)]
pub struct Answer {
    /// Bytes of its messages, with their prefixes.
    pub bytes: usize,
    /// `grpc-status`, from wherever it stood.
    pub status: Option<HeaderValue>,
}

impl Answer {
    /// Reads an answer to its end.
    ///
    /// # Errors
    /// If it is not HTTP 200, or breaks off.
    pub async fn read(response: Response<RecvStream>) -> Result<Self, Error> {
        if response.status() != 200 {
            return Err(format!("answered {}", response.status()).into());
        }
        let status = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            bytes += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        let status = status.or_else(|| trailers.get("grpc-status").cloned());
        Ok(Self { bytes, status })
    }

    /// Whether it is OK and has so many bytes.
    #[must_use]
    pub fn is_whole(&self, bytes: usize) -> bool {
        self.bytes == bytes && self.status.as_ref().is_some_and(|status| status == "0")
    }
}
