//! Opens connections to endpoints: TCP, TLS with the gateway's certificate,
//! HTTP/2.
//!
//! TCP_NODELAY is set; keepalive (20 s idle, 3 probes of 5 s) and
//! TCP_USER_TIMEOUT (30 s) end connections to hosts that vanished. What one
//! connection buffers is bounded by the windows of its streams, 128 KiB each,
//! credit being given only after data went on. The connection's own window has
//! room for all its calls, [`CALLS`]: callers that do not read must not hold up
//! those that do.
//!
//! h2 defends a connection against its peer by budgets whose end is the end of
//! the connection. A backend is trusted, and callers could spend them for it:
//! answers that come late to streams that were given up count as faults of the
//! peer (1,024 in the life of a connection), and so does every small DATA frame
//! that a caller does not read. So both are without a limit here. What waits
//! unread is still bounded by the windows; the call that does not read pays.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::{Authority, Scheme};
use prometheus_client::metrics::gauge::Gauge;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{EndpointConfig, UpstreamConfig, UpstreamTls};
use crate::files::{Fingerprint, fingerprint};
use crate::io::{Batched, Turns};

/// The most calls on one connection, whatever its peer would allow.
pub(super) const CALLS: u32 = 1024;
const STREAM_WINDOW: u32 = 128 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// How much is read before other tasks get their turn, in bytes.
const TURN: usize = 128 * 1024;
const HEADER_BYTES: u32 = 64 * 1024;

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
    #[error(transparent)]
    Tls(#[from] intellirouter::IpcError),
}

/// An upstream as the workers share it.
pub(crate) struct Upstream {
    pub(crate) name: String,
    config: UpstreamConfig,
    files: Fingerprint,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) connect_timeout: Duration,
}

pub(crate) struct Endpoint {
    /// As it is written in the configuration.
    pub(crate) name: Arc<str>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// The calls in flight of each connection, of all workers.
    connections: Mutex<Vec<Weak<AtomicUsize>>>,
    failure: Mutex<Option<(SystemTime, String)>>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Connections that are open, of the whole upstream.
    open: Gauge,
}

impl Upstream {
    /// As the configuration says: `old`, if that is the same and so are its
    /// certificates. `open` counts its connections.
    pub(crate) fn open(
        config: &UpstreamConfig,
        old: Option<&Arc<Self>>,
        open: &Gauge,
    ) -> Result<Arc<Self>, UpstreamError> {
        let tls = config.tls.as_ref();
        // Before the files are used: a change in between shows at the next look.
        let files = fingerprint(tls.into_iter().flat_map(UpstreamTls::files));
        if let Some(old) = old.filter(|old| old.config == *config && old.files == files) {
            return Ok(old.clone());
        }
        let connector = tls
            .map(|tls| {
                let client = tls
                    .client
                    .as_ref()
                    .map(|(cert, key)| (cert.as_path(), key.as_path()));
                intellirouter::security::client_config(Some(&tls.ca_file), client, &[b"h2"])
            })
            .transpose()?
            .map(|config| TlsConnector::from(Arc::new(config)));
        let name = tls.and_then(|tls| tls.server_name.as_deref());
        let endpoints = config
            .endpoints
            .iter()
            .map(|endpoint| Endpoint::new(endpoint, connector.as_ref(), name, open.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            name: config.name.clone(),
            endpoints,
            connect_timeout: config.connect_timeout,
            config: config.clone(),
            files,
        }))
    }
}

impl Endpoint {
    fn new(
        config: &EndpointConfig,
        connector: Option<&TlsConnector>,
        server_name: Option<&str>,
        open: Gauge,
    ) -> Result<Self, UpstreamError> {
        let name = server_name.unwrap_or(&config.host);
        let tls = match connector.filter(|_| config.tls) {
            Some(connector) => {
                let server_name = ServerName::try_from(name.to_owned()).map_err(|_| {
                    UpstreamError::ServerName {
                        name: name.to_owned(),
                    }
                })?;
                Some((connector.clone(), server_name))
            }
            None => None,
        };
        let bracketed = if name.contains(':') {
            format!("[{name}]")
        } else {
            name.to_owned()
        };
        let authority = format!("{bracketed}:{}", config.port);
        let scheme = if config.tls {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        Ok(Self {
            name: format!("{scheme}://{}:{}", config.host, config.port).into(),
            host: config.host.clone(),
            port: config.port,
            scheme,
            open,
            authority: Authority::try_from(authority.as_str())
                .map_err(|_| UpstreamError::Authority { name: authority })?,
            connections: Mutex::default(),
            failure: Mutex::default(),
            tls,
        })
    }

    fn name(&self) -> String {
        (*self.name).to_owned()
    }

    /// Counts the calls of a new connection, the first one included.
    pub(super) fn connected(&self) -> Arc<AtomicUsize> {
        let in_flight = Arc::new(AtomicUsize::new(1));
        let mut connections = unpoisoned(&self.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&in_flight));
        *unpoisoned(&self.failure) = None;
        in_flight
    }

    pub(super) fn failed(&self, error: &UpstreamError) {
        *unpoisoned(&self.failure) = Some((SystemTime::now(), error.to_string()));
    }

    /// What operators are told.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let connections = unpoisoned(&self.connections);
        let in_flight: Vec<_> = connections.iter().filter_map(Weak::upgrade).collect();
        let calls: usize = in_flight.iter().map(|calls| calls.load(Relaxed)).sum();
        let failure = unpoisoned(&self.failure);
        serde_json::json!({
            "endpoint": self.name(),
            "connections": in_flight.len(),
            "calls_in_flight": calls,
            "last_connect_failure": failure.as_ref().map(|(at, error)| serde_json::json!({
                "at": OffsetDateTime::from(*at).format(&Rfc3339).unwrap_or_default(),
                "error": error,
            })),
        })
    }

    /// A connection that is ready for calls, driven by a task of its own.
    pub(crate) async fn connect(
        &self,
        timeout: Duration,
    ) -> Result<SendRequest<Bytes>, UpstreamError> {
        tokio::time::timeout(timeout, self.open())
            .await
            .map_err(|_| UpstreamError::TimedOut {
                endpoint: self.name(),
                timeout,
            })?
    }

    async fn open(&self) -> Result<SendRequest<Bytes>, UpstreamError> {
        let failed = |source| UpstreamError::Connect {
            endpoint: self.name(),
            source,
        };
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(failed)?;
        tune(&tcp).map_err(failed)?;
        match &self.tls {
            None => self.handshake(tcp).await,
            Some((connector, name)) => {
                let tls = connector
                    .connect(name.clone(), Batched::new(tcp))
                    .await
                    .map_err(failed)?;
                if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(UpstreamError::NotHttp2 {
                        endpoint: self.name(),
                    });
                }
                self.handshake(tls).await
            }
        }
    }

    async fn handshake<T>(&self, io: T) -> Result<SendRequest<Bytes>, UpstreamError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * CALLS)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEADER_BYTES)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(CALLS as usize)
            .data_frame_budget(usize::MAX)
            .enable_push(false)
            .handshake(Turns::new(io, TURN))
            .await
            .map_err(|source| UpstreamError::Http2 {
                endpoint: self.name(),
                source,
            })?;
        let endpoint = self.name.clone();
        let open = Open::new(&self.open);
        let pings = connection.ping_pong();
        tokio::spawn(async move {
            let _open = open;
            if let Err(error) = connection.await {
                tracing::info!(%endpoint, %error, "upstream connection lost");
            }
        });
        // The answer to a ping comes after the peer's SETTINGS: a peer that is
        // silent is no connection, and how many calls it takes is known now.
        if let Some(mut pings) = pings {
            pings
                .ping(h2::Ping::opaque())
                .await
                .map_err(|source| UpstreamError::Http2 {
                    endpoint: self.name(),
                    source,
                })?;
        }
        Ok(send)
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a connection while it is open.
struct Open(Gauge);

impl Open {
    fn new(count: &Gauge) -> Self {
        count.inc();
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
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
