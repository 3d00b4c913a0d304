//! Opens connections to endpoints: TCP, TLS with the gateway's certificate, and
//! HTTP/2 ([`super::connection`]).
//!
//! TCP_NODELAY is set; keepalive (20 s idle, 3 probes of 5 s) and
//! TCP_USER_TIMEOUT (30 s) end connections to hosts that vanished. All of it
//! has the connect timeout; when to try again is [`super::dial`]'s concern. A
//! failure has the names of endpoints looked up again, where they come from DNS.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::Authority;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

pub(super) use super::connection::CALLS;
use super::connection::Terms;
use super::discover::FileFault;
use super::endpoint::Endpoint;
use crate::config::{ConnectionsConfig, EndpointConfig, EndpointSource, UpstreamConfig};
use crate::io::Batched;
use crate::telemetry::UpstreamFigures;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("cannot connect to {endpoint}")]
    Connect { endpoint: String, source: io::Error },
    #[error("cannot connect to {endpoint} within {timeout:?}")]
    TimedOut { endpoint: String, timeout: Duration },
    #[error("{endpoint} does not speak HTTP/2")]
    NotHttp2 { endpoint: String },
    #[error("HTTP/2 handshake with {endpoint} failed")]
    Http2 { endpoint: String, source: h2::Error },
    #[error("\"{name}\" is no name that a certificate can have")]
    ServerName { name: String },
    #[error("\"{name}\" is no authority that a request can have")]
    Authority { name: String },
    #[error("https:// needs the upstream's ca_file")]
    NoAuthorities,
    #[error(transparent)]
    Tls(#[from] intellirouter::IpcError),
    #[error(transparent)]
    File(#[from] FileFault),
}

/// How endpoints of one upstream are connected to.
pub(crate) struct Dialer {
    pub(super) upstream: String,
    connector: Option<TlsConnector>,
    /// The name in the certificates of all endpoints, if it is not their host.
    server_name: Option<String>,
    timeout: Duration,
    pub(super) limits: ConnectionsConfig,
    pub(super) figures: UpstreamFigures,
    /// Told of each connection that could not be made.
    pub(super) failed: Arc<Notify>,
}

/// What an endpoint is called.
pub(super) struct Names {
    /// In its certificate, where it has one.
    pub(super) certificate: Option<ServerName<'static>>,
    /// In `:authority`.
    pub(super) authority: Authority,
}

impl Dialer {
    /// Reads the certificates.
    pub(super) fn new(
        config: &UpstreamConfig,
        figures: UpstreamFigures,
        failed: Arc<Notify>,
    ) -> Result<Self, UpstreamError> {
        let tls = config.tls.as_ref();
        let connector = tls.map(|tls| {
            let client = tls
                .client
                .as_ref()
                .map(|(cert, key)| (cert.as_path(), key.as_path()));
            intellirouter::security::client_config(Some(&tls.ca_file), client, &[b"h2"])
        });
        let connector = connector.transpose()?;
        let looked_up = match &config.source {
            EndpointSource::Dns { host, .. } => Some(host.host.clone()),
            _ => None,
        };
        Ok(Self {
            upstream: config.name.clone(),
            connector: connector.map(|config| TlsConnector::from(Arc::new(config))),
            server_name: tls.and_then(|tls| tls.server_name.clone()).or(looked_up),
            timeout: config.connect_timeout,
            limits: config.connections.clone(),
            figures,
            failed,
        })
    }

    /// What an endpoint is called; an error if it can't be connected to with
    /// these settings.
    pub(super) fn names(&self, endpoint: &EndpointConfig) -> Result<Names, UpstreamError> {
        if endpoint.tls && self.connector.is_none() {
            return Err(UpstreamError::NoAuthorities);
        }
        let name = self.server_name.as_deref().unwrap_or(&endpoint.host);
        let certificate = endpoint.tls.then(|| ServerName::try_from(name.to_owned()));
        let authority = format!("{}:{}", bracketed(name), endpoint.port);
        Ok(Names {
            certificate: certificate
                .transpose()
                .map_err(|_| UpstreamError::ServerName {
                    name: name.to_owned(),
                })?,
            authority: Authority::try_from(authority.as_str())
                .map_err(|_| UpstreamError::Authority { name: authority })?,
        })
    }

    /// A connection that is ready for calls, which count in `in_flight`.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        in_flight: Arc<AtomicUsize>,
    ) -> Result<SendRequest<Bytes>, UpstreamError> {
        let connected = tokio::time::timeout(self.timeout, self.open(endpoint, in_flight)).await;
        let connected = connected.unwrap_or_else(|_| {
            Err(UpstreamError::TimedOut {
                endpoint: endpoint.name.to_string(),
                timeout: self.timeout,
            })
        });
        if connected.is_err() {
            self.failed.notify_one();
        }
        connected
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        in_flight: Arc<AtomicUsize>,
    ) -> Result<SendRequest<Bytes>, UpstreamError> {
        let failed = |source| UpstreamError::Connect {
            endpoint: endpoint.name.to_string(),
            source,
        };
        let address = (endpoint.config.host.as_str(), endpoint.config.port);
        let tcp = TcpStream::connect(address).await.map_err(failed)?;
        tune(&tcp).map_err(failed)?;
        let (Some(connector), Some(name)) = (&self.connector, &endpoint.server_name) else {
            return self.handshake(endpoint, tcp, in_flight).await;
        };
        let tls = connector
            .connect(name.clone(), Batched::new(tcp))
            .await
            .map_err(failed)?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(UpstreamError::NotHttp2 {
                endpoint: endpoint.name.to_string(),
            });
        }
        self.handshake(endpoint, tls, in_flight).await
    }

    async fn handshake<T>(
        &self,
        endpoint: &Endpoint,
        io: T,
        in_flight: Arc<AtomicUsize>,
    ) -> Result<SendRequest<Bytes>, UpstreamError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let terms = Terms {
            name: endpoint.name.clone(),
            limits: self.limits.clone(),
            figures: self.figures.clone(),
            in_flight,
        };
        let opened = terms.open(io).await;
        opened.map_err(|source| UpstreamError::Http2 {
            endpoint: endpoint.name.to_string(),
            source,
        })
    }
}

/// A host as it stands in a URL.
pub(super) fn bracketed(host: &str) -> std::borrow::Cow<'_, str> {
    match host.contains(':') {
        true => format!("[{host}]").into(),
        false => host.into(),
    }
}

/// See the module's comment.
fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    Ok(())
}
