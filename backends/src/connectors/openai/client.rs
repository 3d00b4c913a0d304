//! The connections to endpoints, and reading what comes over them.
//!
//! Owns TLS (the system's CAs and one more file), the pool, and the limit in time for a new
//! connection, which covers name, TCP and TLS together. It does not own what is sent or what the
//! bytes mean. It fails with [`ConnectorError::Connection`], or
//! [`Unusable`](ConnectorError::Unusable) for what is no HTTP, or
//! [`TooLarge`](ConnectorError::TooLarge) for what is larger than is taken. Limits: the
//! head of an answer has at most 64 KiB and 100 fields; the pool's bounds are in
//! [`ConnectorSettings`].

use std::error::Error;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::iter::successors;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tower::Service;

use super::super::deadline::Deadline;
use super::super::{ConnectorError, ConnectorSettings};
use super::failure::plain;

const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEAD_FIELDS: usize = 100;
const MAX_CA_BYTES: u64 = 1024 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;
type Connection = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;

/// The HTTP client with its pool.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: legacy::Client<TimedConnect, Full<Bytes>>,
    connect_timeout: Duration,
}

impl Client {
    pub(super) fn new(settings: &ConnectorSettings) -> Result<Self, ConnectorError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Shared out among the addresses of a name, so that a dead one leaves time for the next.
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(settings.extra_ca.as_deref())?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(settings.pool_idle_timeout)
            .pool_max_idle_per_host(settings.pool_idle_per_host)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .http1_max_headers(MAX_HEAD_FIELDS)
            // Only for a request of which nothing was sent, since its pooled connection was closed.
            .retry_canceled_requests(true)
            .build(TimedConnect {
                inner: tls,
                timeout: settings.connect_timeout,
            });
        Ok(Self {
            http,
            connect_timeout: settings.connect_timeout,
        })
    }

    /// Sends a request and gives back the head of the answer.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ConnectorError> {
        self.http.request(request).await.map_err(|error| {
            if error.is_connect() && chain(&error).any(is_timeout) {
                return ConnectorError::TimedOut(self.connect_timeout);
            }
            broken(&error)
        })
    }
}

/// Reads a body to its end: at most so many bytes, with at most such a pause between two pieces.
pub(super) async fn read_all(
    mut body: Incoming,
    (most, idle): (usize, Duration),
    deadline: Deadline,
) -> Result<Vec<u8>, ConnectorError> {
    let mut bytes = Vec::new();
    while let Some(piece) = next_piece(&mut body, idle, deadline).await? {
        if bytes.len() + piece.len() > most {
            return Err(ConnectorError::TooLarge(most));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Reads what a body begins with, as far as it comes.
pub(super) async fn read_start(
    mut body: Incoming,
    (most, idle): (usize, Duration),
    deadline: Deadline,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = next_piece(&mut body, idle, deadline).await {
        bytes.extend_from_slice(&piece[..piece.len().min(most - bytes.len())]);
        if bytes.len() == most {
            break;
        }
    }
    bytes
}

/// The next piece of a body; none at its proper end.
pub(super) async fn next_piece(
    body: &mut Incoming,
    idle: Duration,
    deadline: Deadline,
) -> Result<Option<Bytes>, ConnectorError> {
    loop {
        match deadline.within(idle, body.frame()).await? {
            None => return Ok(None),
            Some(Err(error)) => return Err(broken(&error)),
            Some(Ok(frame)) => {
                // Trailers say nothing here.
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
        }
    }
}

fn broken(error: &(dyn Error + 'static)) -> ConnectorError {
    let no_http = |error: &hyper::Error| error.is_parse();
    if chain(error)
        .filter_map(<dyn Error>::downcast_ref)
        .any(no_http)
    {
        return ConnectorError::Unusable("expected HTTP/1.1".to_owned());
    }
    let texts: Vec<_> = chain(error).map(ToString::to_string).collect();
    ConnectorError::Connection(plain(&texts.join(": ")))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| error.source())
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    error.is::<ConnectTimedOut>() || io.is_some_and(|io| io.kind() == ErrorKind::TimedOut)
}

/// Gives up a connection that is not ready, TLS included, in time.
#[derive(Clone, Debug)]
struct TimedConnect {
    inner: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("connecting took too long")]
struct ConnectTimedOut;

impl Service<Uri> for TimedConnect {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connected = tokio::time::timeout(self.timeout, self.inner.call(uri));
        Box::pin(async move { connected.await.map_err(|_| ConnectTimedOut)? })
    }
}

fn tls_config(extra_ca: Option<&Path>) -> Result<ClientConfig, ConnectorError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(system.certs);
    if added == 0 {
        // No fault: endpoints may be plain HTTP, or of a private CA.
        tracing::warn!("the system has no CA certificates: public endpoints can't be verified");
    }
    if let Some(path) = extra_ca {
        add_file(&mut roots, path).map_err(|why| {
            ConnectorError::Settings(format!("extra_ca: {}: {why}", path.display()))
        })?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectorError::Settings(format!("TLS: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CA_BYTES + 1).read_to_end(&mut pem))
        .map_err(|error| error.to_string())?;
    if pem.len() as u64 > MAX_CA_BYTES {
        return Err(format!("it has more than {MAX_CA_BYTES} bytes"));
    }
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| "a PEM block in it is damaged")?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == before {
        return Err("expected at least one PEM certificate".to_owned());
    }
    Ok(())
}
