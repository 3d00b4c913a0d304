//! A gRPC server that only known callers reach, over mutual TLS.
//!
//! Owns listening, the TLS handshakes, the check in front of every method, deadlines, the bound on
//! calls in progress, health, reflection and the metrics. It does not own the services. Handlers find
//! the caller as [`Claims`](super::Claims) (not at public methods) and the connection as [`PeerInfo`]
//! in the request's extensions.
//!
//! Secure by default: without TLS, or without anyone to trust, `build` fails unless that was asked
//! for by name; with descriptors or roles per method, a method without a rule is closed to all. The
//! TLS files are looked at every 10 s, and new connections use what is new ([`super::TlsReload`]).
//!
//! What a caller sees, each with `google.rpc.ErrorInfo`: UNAUTHENTICATED without a good token,
//! PERMISSION_DENIED without the role, INVALID_ARGUMENT for a malformed `grpc-timeout`,
//! RESOURCE_EXHAUSTED with RetryInfo when too many calls are in progress, DEADLINE_EXCEEDED when the
//! caller's or the method's time is up (then the handler's future or stream is dropped), INTERNAL when
//! a handler panics, while all other calls live on. A message over the limit is tonic's OUT_OF_RANGE.
//!
//! Limits: 4096 connections and 512 handshakes at a time (more wait in the kernel's backlog), 10 s
//! per handshake, and 10 s more until the HTTP/2 preface is in; 1024 calls in progress (streams count
//! until they end; more are refused); beside them 1024 checks of health, of 10 s each, 64 watches of
//! it, and 64 calls of reflection. A connection has at most a quarter of the calls in progress (at
//! least 100, at most 1024); shares per caller are the gateway's to give. 32 KiB of headers per call,
//! 4 MiB per message (tonic's), 1024 remembered tokens. Of an error that it sends, message and details
//! have 6 KiB as encoded: a longer message is cut (it ends with `…`), details that don't fit are left
//! out, and that is logged once per method. A peer that does not answer a ping (every 30 s) within
//! 20 s is dropped. After a shutdown signal, running calls have 30 s; then their connections are cut,
//! as they are when the serving future is dropped.

mod accept;
mod answer;
mod call;
mod connections;
mod deadline;
mod guard;
mod health;
mod io;
mod methods;
mod metrics;
mod refusal;
mod remember;
mod router;
mod rules;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;

pub use deadline::parse_grpc_timeout;
pub use health::HealthReporter;
pub use io::PeerInfo;
pub use metrics::ServerMetrics;
pub use router::{BoundServer, GrpcService, SecureRouter};

use super::identity::IdentityVerifier;
use super::jwt::JwtAuthenticator;
use super::reload::TlsReload;
use super::tls::{ALPN_GRPC, ClientCertificates, TlsConfig};
use crate::error::{IpcError, IpcResult};
use guard::Guard;
use router::Tls;
use rules::Rules;

const RELOAD_EVERY: Duration = Duration::from_secs(10);
const RELOAD_AT_LEAST: Duration = Duration::from_millis(10);
const MAX_CALLS: usize = 1024;

/// Settings of a server; see the example at [`SecureRouter`].
#[derive(Debug, Default)]
#[must_use]
pub struct SecureGrpcServerBuilder {
    tls: Option<TlsConfig>,
    reload_every: Option<Duration>,
    jwt: Option<Arc<JwtAuthenticator>>,
    identity: Option<Arc<IdentityVerifier>>,
    required_roles: Vec<String>,
    descriptors: Vec<&'static [u8]>,
    method_roles: Vec<(String, Vec<String>)>,
    max_calls: Option<usize>,
    metrics: Option<(ServerMetrics, String)>,
    plaintext: bool,
    unauthenticated: bool,
}

impl SecureGrpcServerBuilder {
    /// Nothing is set: `build` will ask for TLS and for someone to trust.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves over mutual TLS. The files are looked at every 10 s: a renewed certificate, key or CA
    /// holds for new connections, and one that does not fit leaves the last good ones in use.
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Looks at the TLS files every so often: at least every 10 ms, and every 10 s if nothing is said.
    pub fn reload_tls_every(mut self, every: Duration) -> Self {
        self.reload_every = Some(every);
        self
    }

    /// Accepts callers with a bearer token of this authenticator. Every caller, also one that the
    /// gateway vouches for, must have one of `required_roles` or `admin`, beside what the method asks
    /// for; an empty list, and `*` in it, ask for no role. Public methods (health) are open to all.
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

    /// Takes the rules of the methods (who may call, and how long a call may take) from the options
    /// `intellirouter.options.v1` in an encoded `FileDescriptorSet`, and serves the set by reflection
    /// (v1), to callers with a token. A method of the server that has no rule is then closed to all.
    pub fn with_descriptors(mut self, set: &'static [u8]) -> Self {
        self.descriptors.push(set);
        self
    }

    /// Asks for one of `roles` at `/package.Service/Method`, or at every method of
    /// `/package.Service/*` that has no rule by name. Goes before the options of the descriptors;
    /// `*` stands for every caller with a valid token. A method that is left without a rule is
    /// closed to all; with descriptors, a rule for a method that its service does not have is an error.
    pub fn with_method_roles(mut self, pattern: impl Into<String>, roles: Vec<String>) -> Self {
        self.method_roles.push((pattern.into(), roles));
        self
    }

    /// Serves so many calls at a time, streams counted until they end: at least 1, and 1024 if nothing
    /// is said. One more is refused at once. A single connection may have a quarter of them, within
    /// 100 to 1024; its next call waits at the client.
    pub fn max_calls(mut self, calls: usize) -> Self {
        self.max_calls = Some(calls);
        self
    }

    /// Counts the calls under the label `server`.
    pub fn with_metrics(mut self, metrics: &ServerMetrics, server: impl Into<String>) -> Self {
        self.metrics = Some((metrics.clone(), server.into()));
        self
    }

    /// Lets the server listen without TLS. For tests, and for links that something else protects.
    pub fn allow_plaintext(mut self) -> Self {
        self.plaintext = true;
        self
    }

    /// Lets callers in without a token; with TLS, the CA still decides who can connect. Beside
    /// `with_jwt` or `with_gateway_identity` it is an error.
    pub fn allow_unauthenticated(mut self) -> Self {
        self.unauthenticated = true;
        self
    }

    /// Reads the TLS files and checks the settings. `S`, the service that the server is for, is its
    /// name in logs.
    pub fn build<S>(&self) -> IpcResult<SecureRouter> {
        let tls = self.tls()?;
        if let Some(jwt) = &self.jwt {
            jwt.verifier()?;
        }
        let checked = self.jwt.is_some() || self.identity.is_some();
        if checked && self.unauthenticated {
            return Err(IpcError::InvalidArgument(
                "allow_unauthenticated contradicts with_jwt and with_gateway_identity: to let \
                 everybody call one method, make it public in its options"
                    .into(),
            ));
        }
        if !checked && !self.unauthenticated {
            return Err(IpcError::Security(
                "no caller could be checked: call with_jwt or with_gateway_identity, or \
                 allow_unauthenticated if that is meant"
                    .into(),
            ));
        }
        // A semaphore's bound; nobody has that much memory.
        let max_calls = self.max_calls.unwrap_or(MAX_CALLS);
        if max_calls == 0 || max_calls > tokio::sync::Semaphore::MAX_PERMITS {
            return Err(IpcError::InvalidArgument(
                "max_calls: expected at least 1".into(),
            ));
        }
        Ok(SecureRouter {
            name: short_name(std::any::type_name::<S>()),
            tls,
            guard: Guard::new(
                self.identity.clone(),
                self.jwt.clone(),
                self.required_roles.clone(),
            ),
            rules: Rules::new(&self.descriptors, &self.method_roles)?,
            descriptors: self.descriptors.clone(),
            metrics: self.metrics.clone(),
            max_calls,
            health: HealthReporter::new(),
            routes: Routes::default(),
            services: Vec::new(),
            twice: None,
        })
    }

    fn tls(&self) -> IpcResult<Option<Tls>> {
        let Some(tls) = &self.tls else {
            return if self.plaintext {
                Ok(None)
            } else {
                Err(IpcError::Security(
                    "no TLS is configured: call with_tls, or allow_plaintext if that is meant"
                        .into(),
                ))
            };
        };
        let every = self.reload_every.unwrap_or(RELOAD_EVERY);
        if every < RELOAD_AT_LEAST {
            return Err(IpcError::InvalidArgument(format!(
                "reload_tls_every({every:?}): expected at least {RELOAD_AT_LEAST:?}"
            )));
        }
        let clients = ClientCertificates::Required(&tls.ca_cert_path);
        let files = TlsReload::server(&tls.cert_path, &tls.key_path, clients, ALPN_GRPC)?;
        Ok(Some(Tls {
            files: Arc::new(files),
            every,
        }))
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

/// `Server` of `path::Server<path::Service>`.
fn short_name(type_name: &'static str) -> &'static str {
    let plain = type_name.split('<').next().unwrap_or(type_name);
    plain.rsplit("::").next().unwrap_or(plain)
}
