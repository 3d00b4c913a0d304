//! A gRPC server that only knows callers reach, over mutual TLS.
//!
//! Owns listening, the TLS handshakes and the check in front of every method. It does not own the
//! services, nor which role may call which method. Handlers find the caller as
//! [`Claims`](super::Claims) and the connection as [`PeerInfo`] in the request's extensions.
//!
//! Secure by default: without TLS, or without anyone to trust, `build` fails unless that was asked
//! for by name. A refused call gets UNAUTHENTICATED or PERMISSION_DENIED with `google.rpc.ErrorInfo`.
//!
//! Limits: 4096 connections and 512 handshakes at a time (more wait in the kernel's backlog), 10 s
//! per handshake, 1024 calls per connection, 32 KiB of headers per call, 4 MiB per message (tonic's),
//! 1024 remembered tokens. A peer that does not answer a ping (every 30 s) within 20 s is dropped.
//! After a shutdown signal, running calls have 30 s.

mod accept;
mod guard;
mod io;
mod remember;

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Service;

pub use io::PeerInfo;

use super::identity::IdentityVerifier;
use super::jwt::JwtAuthenticator;
use super::tls::TlsConfig;
use crate::error::{IpcError, IpcResult};
use guard::{Guard, Policy};

const MAX_STREAMS: u32 = 1024;
// Room for a forwarded token and an identity of 8 KiB each.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
// Connections that are ready but not yet picked up; they are picked up at once.
const READY: usize = 16;

/// Settings of a server; see the example at [`SecureRouter`].
#[derive(Debug, Default)]
#[must_use]
pub struct SecureGrpcServerBuilder {
    tls: Option<TlsConfig>,
    jwt: Option<Arc<JwtAuthenticator>>,
    identity: Option<Arc<IdentityVerifier>>,
    required_roles: Vec<String>,
    plaintext: bool,
    unauthenticated: bool,
}

impl SecureGrpcServerBuilder {
    /// Nothing is set: `build` will ask for TLS and for someone to trust.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves over mutual TLS.
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Accepts callers with a bearer token of this authenticator. Every caller, also one that the
    /// gateway vouches for, must have one of `required_roles` or `admin`; an empty list asks for no
    /// role.
    pub fn with_jwt(mut self, jwt: Arc<JwtAuthenticator>, required_roles: Vec<String>) -> Self {
        self.jwt = Some(jwt);
        self.required_roles = required_roles;
        self
    }

    /// Accepts callers that the gateway vouches for. Where its header is present it decides alone:
    /// a bearer token beside it is not looked at.
    pub fn with_gateway_identity(mut self, identity: IdentityVerifier) -> Self {
        self.identity = Some(Arc::new(identity));
        self
    }

    /// Lets the server listen without TLS. For tests, and for links that something else protects.
    pub fn allow_plaintext(mut self) -> Self {
        self.plaintext = true;
        self
    }

    /// Lets callers in without a token; with TLS, the CA still decides who can connect.
    pub fn allow_unauthenticated(mut self) -> Self {
        self.unauthenticated = true;
        self
    }

    /// Reads the TLS files and checks the settings. `S`, the service that the server is for, is its
    /// name in logs.
    pub fn build<S>(&self) -> IpcResult<SecureRouter> {
        let tls = match &self.tls {
            Some(tls) => Some(Arc::new(tls.load_server_config()?)),
            None if self.plaintext => None,
            None => {
                return Err(IpcError::Security(
                    "no TLS is configured: call with_tls, or allow_plaintext if that is meant"
                        .into(),
                ));
            }
        };
        if let Some(jwt) = &self.jwt {
            jwt.verifier()?;
        }
        if self.jwt.is_none() && self.identity.is_none() && !self.unauthenticated {
            return Err(IpcError::Security(
                "no caller could be checked: call with_jwt or with_gateway_identity, or \
                 allow_unauthenticated if that is meant"
                    .into(),
            ));
        }
        Ok(SecureRouter {
            name: std::any::type_name::<S>(),
            tls,
            policy: Arc::new(Policy::new(
                self.identity.clone(),
                self.jwt.clone(),
                self.required_roles.clone(),
            )),
            routes: Routes::default(),
            services: Vec::new(),
            twice: None,
        })
    }

    /// The same as [`SecureRouter::add_service`].
    pub fn add_service<S>(&self, router: SecureRouter, service: S) -> SecureRouter
    where
        S: GrpcService,
        S::Future: Send + 'static,
    {
        router.add_service(service)
    }
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
    name: &'static str,
    tls: Option<Arc<ServerConfig>>,
    policy: Arc<Policy>,
    routes: Routes,
    services: Vec<&'static str>,
    twice: Option<&'static str>,
}

impl SecureRouter {
    /// Serves one more service. Adding one twice is reported when the server is bound.
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
        self.routes = self.routes.add_service(service);
        self
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
    pub async fn bind(self, addr: SocketAddr) -> IpcResult<BoundServer> {
        if let Some(service) = self.twice {
            return Err(IpcError::InvalidArgument(format!(
                "service {service} was added twice"
            )));
        }
        let refuse = |error| IpcError::Connection(format!("listen on {addr}: {error}"));
        let listener = TcpListener::bind(addr).await.map_err(refuse)?;
        let local_addr = listener.local_addr().map_err(refuse)?;
        Ok(BoundServer {
            router: self,
            listener,
            local_addr,
        })
    }
}

impl fmt::Debug for SecureRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureRouter")
            .field("name", &self.name)
            .field("tls", &self.tls.is_some())
            .field("policy", &self.policy)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

/// A server that listens; connections wait until it serves.
#[derive(Debug)]
#[must_use]
pub struct BoundServer {
    router: SecureRouter,
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl BoundServer {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `signal` completes, then lets running calls finish.
    ///
    /// Fails with [`IpcError::Timeout`] when some still run 30 s later.
    pub async fn serve_with_shutdown(self, signal: impl Future<Output = ()>) -> IpcResult<()> {
        let Self {
            router,
            listener,
            local_addr,
        } = self;
        tracing::info!(server = router.name, %local_addr, services = ?router.services, "listening");

        let (ready, accepted) = mpsc::channel(READY);
        let accepting = accept::accept_loop(
            listener,
            router.tls.map(TlsAcceptor::from),
            ready,
            router.name,
        );
        let incoming = ReceiverStream::new(accepted).map(Ok::<_, Infallible>);

        let (signalled, draining) = oneshot::channel();
        let signal = async {
            signal.await;
            // Nobody listens any more if the server ended by itself.
            let _ = signalled.send(());
        };
        let serving = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .serve_with_incoming_shutdown(
                Guard::new(router.routes.prepare(), router.policy),
                incoming,
                signal,
            );
        // The accept loop ends by itself when the signal drops `incoming`.
        let served = async { tokio::join!(serving, accepting).0 };

        tokio::select! {
            result = served => Ok(result?),
            () = drained_too_long(draining) => Err(IpcError::Timeout(format!(
                "calls were still running {DRAIN_LIMIT:?} after the shutdown signal"
            ))),
        }
    }
}

async fn drained_too_long(draining: oneshot::Receiver<()>) {
    if draining.await.is_err() {
        // The server ended without a signal, and says so itself.
        pending::<()>().await;
    }
    tokio::time::sleep(DRAIN_LIMIT).await;
}
