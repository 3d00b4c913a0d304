//! A server with its services: put together, bound to a port, and served until the drain is over.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Service;

use super::accept;
use super::call::Calls;
use super::connections::Connections;
use super::guard::Guard;
use super::health::HealthReporter;
use super::methods::{Methods, Plan};
use super::metrics::ServerMetrics;
use super::rules::{HEALTH, REFLECTION, Rules};
use crate::error::{IpcError, IpcResult};
use crate::security::TlsReload;

// Per connection: fewer would hamper good clients (RFC 9113, 6.5.2), and none needs more.
const STREAMS: RangeInclusive<u32> = 100..=1024;
// Room for a forwarded token and an identity of 8 KiB each.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
// Connections that are ready but not yet picked up; they are picked up at once.
const READY: usize = 16;
/// What a reflection request may have, in bytes: one name.
const MAX_REFLECTION_BYTES: usize = 4096;

/// The TLS files, and how often they are looked at.
pub(super) struct Tls {
    pub(super) files: Arc<TlsReload<ServerConfig>>,
    pub(super) every: Duration,
}

/// What `tonic` generates as `…Server`.
pub trait GrpcService:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GrpcService for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A server with its services, ready to listen.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use intellirouter::security::*;
/// # use intellirouter::generated::intellirouter::memory::v1::memory_service_server::*;
/// # async fn run<M: MemoryService>(service: M, tls: TlsConfig, jwt: Arc<JwtAuthenticator>) -> intellirouter::IpcResult<()> {
/// let builder = SecureGrpcServerBuilder::new().with_tls(tls).with_jwt(jwt, vec!["chain".into()]);
/// let router = builder.build::<MemoryServiceServer<M>>()?;
/// let router = builder.add_service(router, MemoryServiceServer::new(service));
/// router.serve(([127, 0, 0, 1], 50053).into()).await
/// # }
/// ```
#[must_use]
pub struct SecureRouter {
    pub(super) name: &'static str,
    pub(super) tls: Option<Tls>,
    pub(super) guard: Guard,
    pub(super) rules: Rules,
    pub(super) descriptors: Vec<&'static [u8]>,
    pub(super) metrics: Option<(ServerMetrics, String)>,
    pub(super) max_calls: usize,
    pub(super) health: HealthReporter,
    pub(super) routes: Routes,
    pub(super) services: Vec<&'static str>,
    pub(super) twice: Option<&'static str>,
}

impl SecureRouter {
    /// Serves one more service. Adding one twice is reported when the server is bound. A
    /// `grpc.health.v1.Health` or `grpc.reflection.v1.ServerReflection` that is added here is served
    /// in place of the built-in one.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: GrpcService,
        S::Future: Send + 'static,
    {
        // The routes would panic.
        if self.services.contains(&S::NAME) {
            self.twice = Some(S::NAME);
            return self;
        }
        self.services.push(S::NAME);
        self.health.add(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }

    /// Says which services take calls, over `grpc.health.v1.Health`.
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Listens on `addr` and serves for ever.
    pub async fn serve(self, addr: SocketAddr) -> IpcResult<()> {
        self.serve_with_shutdown(addr, pending()).await
    }

    /// Listens on `addr` and serves until `signal` completes; then running calls are finished.
    pub async fn serve_with_shutdown(
        self,
        addr: SocketAddr,
        signal: impl Future<Output = ()>,
    ) -> IpcResult<()> {
        self.bind(addr).await?.serve_with_shutdown(signal).await
    }

    /// Listens on `addr` (port 0: any free one), so that callers can connect from now on.
    pub async fn bind(mut self, addr: SocketAddr) -> IpcResult<BoundServer> {
        if let Some(service) = self.twice {
            return Err(IpcError::InvalidArgument(format!(
                "service {service} was added twice"
            )));
        }
        self = self.add_built_in()?;
        self.rules.check(&self.services)?;
        let methods = self.methods();
        let refuse = |error| IpcError::Connection(format!("listen on {addr}: {error}"));
        let listener = TcpListener::bind(addr).await.map_err(refuse)?;
        let local_addr = listener.local_addr().map_err(refuse)?;
        Ok(BoundServer {
            calls: Calls::new(self.routes, self.guard, methods),
            streams: streams_per_connection(self.max_calls),
            name: self.name,
            services: self.services,
            tls: self.tls,
            health: self.health,
            listener,
            local_addr,
        })
    }

    fn add_built_in(mut self) -> IpcResult<Self> {
        if !self.services.contains(&HEALTH) {
            let health = self.health.clone().into_service();
            self = self.add_service(health);
        }
        if self.descriptors.is_empty() || self.services.contains(&REFLECTION) {
            return Ok(self);
        }
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(REFLECTION);
        for set in &self.descriptors {
            builder = builder.register_encoded_file_descriptor_set(set);
        }
        for service in &self.services {
            builder = builder.with_service_name(*service);
        }
        let reflection = builder
            .build_v1()
            .map_err(|error| IpcError::InvalidArgument(format!("with_descriptors: {error}")))?;
        Ok(self.add_service(reflection.max_decoding_message_size(MAX_REFLECTION_BYTES)))
    }

    fn methods(&self) -> Methods {
        let plan = Plan {
            rules: &self.rules,
            metrics: self.metrics.as_ref(),
            max_calls: self.max_calls,
        };
        let methods = Methods::new(&self.services, &plan);
        let closed = methods.closed();
        if !closed.is_empty() {
            tracing::warn!(server = self.name, methods = ?closed, "no rule lets anybody call these");
        }
        methods
    }
}

impl fmt::Debug for SecureRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureRouter")
            .field("name", &self.name)
            .field("tls", &self.tls.is_some())
            .field("guard", &self.guard)
            .field("rules", &self.rules)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

/// A server that listens; connections wait until it serves.
#[must_use]
pub struct BoundServer {
    calls: Calls,
    streams: u32,
    name: &'static str,
    services: Vec<&'static str>,
    tls: Option<Tls>,
    health: HealthReporter,
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl BoundServer {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `signal` completes, then takes no more calls and lets running ones finish.
    ///
    /// Health is NOT_SERVING from then on. Only an open `Watch` sees that: a `Check` is a new call, so
    /// it finds a connection that is going away, or a closed port.
    ///
    /// Fails with [`IpcError::Timeout`] when connections are still open 30 s later, because a call
    /// runs on them or the peer does not answer. Then, and when the future is dropped, they are cut:
    /// their handlers are dropped, and nothing is served any more.
    pub async fn serve_with_shutdown(self, signal: impl Future<Output = ()>) -> IpcResult<()> {
        tracing::info!(
            server = self.name,
            local_addr = %self.local_addr,
            services = ?self.services,
            "listening"
        );
        let files = self.tls.as_ref().map(|tls| Arc::clone(&tls.files));
        let (ready, accepted) = mpsc::channel(READY);
        let connections = Connections::new();
        let _cut = connections.cut_on_drop();
        let accepting =
            accept::accept_loop(self.listener, files, ready, connections.clone(), self.name);
        let incoming = ReceiverStream::new(accepted).map(Ok::<_, Infallible>);

        let health = self.health;
        let draining = connections.clone();
        let signal = async move {
            signal.await;
            health.drain();
            draining.drain();
        };
        let serving = Server::builder()
            .max_concurrent_streams(self.streams)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .serve_with_incoming_shutdown(self.calls, incoming, signal);
        // The accept loop ends by itself when the signal drops `incoming`.
        let served = async { tokio::join!(serving, accepting).0 };

        let result = tokio::select! {
            result = served => result.map_err(IpcError::from),
            never = follow_files(self.tls) => match never {},
            () = drained_too_long(&connections) => Err(IpcError::Timeout(format!(
                "connections were still open {DRAIN_LIMIT:?} after the shutdown signal"
            ))),
        };
        connections.cut().await;
        result
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer")
            .field("name", &self.name)
            .field("local_addr", &self.local_addr)
            .field("tls", &self.tls.is_some())
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

async fn follow_files(tls: Option<Tls>) -> Infallible {
    match tls {
        Some(Tls { files, every }) => files.watch(every).await,
        None => pending().await,
    }
}

async fn drained_too_long(connections: &Connections) {
    connections.draining().await;
    tokio::time::sleep(DRAIN_LIMIT).await;
}

/// A quarter of the places for calls, so that one connection can't take them all.
fn streams_per_connection(max_calls: usize) -> u32 {
    u32::try_from(max_calls / 4)
        .unwrap_or(u32::MAX)
        .clamp(*STREAMS.start(), *STREAMS.end())
}
