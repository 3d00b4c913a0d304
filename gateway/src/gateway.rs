//! The gateway alive: what a checked configuration becomes.
//!
//! Decisions are made per process ([`Gateway`]); sockets belong to a worker
//! ([`Worker`]). Building fails with everything that only shows when files are
//! read: keys, certificates, descriptor sets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use intellirouter::IpcError;
use intellirouter::events::EventLog;
use intellirouter::security::{IdentitySigner, TokenVerifier, VerificationKey, VerifierSettings};
use prometheus_client::registry::Registry;
use prost_reflect::DescriptorPool;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, KeyConfig, KeySource};
use crate::events::EventPlane;
use crate::layers::authenticate::{Authenticate, Signing};
use crate::layers::cors::Cors;
use crate::local::LocalServices;
use crate::reply::Reply;
use crate::routes::{Access, Route, RouteTable};
use crate::telemetry::Telemetry;
use crate::upstream::{Pool, Upstream, UpstreamError};

/// Why a checked configuration could not come alive.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that the configuration names does not hold what it must.
    #[error("{key}: {message}")]
    Setting {
        /// The key in the configuration.
        key: String,
        /// What was expected.
        message: String,
    },
    /// A port could not be bound.
    #[error("{key} {address}: {source}")]
    Bind {
        /// The key in the configuration.
        key: &'static str,
        /// What was asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gave no thread or runtime.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl StartError {
    pub(crate) fn setting(key: impl Into<String>, message: impl ToString) -> Self {
        Self::Setting {
            key: key.into(),
            message: message.to_string(),
        }
    }
}

/// What all workers share.
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) routes: RouteTable,
    pub(crate) authenticate: Authenticate,
    pub(crate) cors: Cors,
    pub(crate) events: Arc<EventPlane>,
    pub(crate) local: LocalServices,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// Metrics of the services that share this process.
    pub(crate) services: Option<Registry>,
    /// Cancelled once, when the gateway stops taking connections.
    pub(crate) drain: CancellationToken,
    /// Told whenever a connection has closed.
    pub(crate) closed: Notify,
}

impl Gateway {
    pub(crate) fn new(
        config: Config,
        log: Arc<dyn EventLog>,
        services: Option<Registry>,
    ) -> Result<Arc<Self>, StartError> {
        let telemetry = Telemetry::new(config.log.access);
        let drain = CancellationToken::new();
        let descriptors = descriptors(&config)?;
        let events = EventPlane::new(log, &config.events, telemetry.clone(), drain.clone());
        let upstreams = config
            .upstreams
            .iter()
            .map(|upstream| {
                Upstream::new(upstream)
                    .map(Arc::new)
                    .map_err(|e| upstream_fault(upstream, e))
            })
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            routes: RouteTable::new(&config, &descriptors),
            authenticate: authenticate(&config)?,
            cors: Cors::new(&config.cors),
            local: LocalServices::new(&config, events.clone(), drain.clone())?,
            events,
            telemetry,
            upstreams,
            services,
            drain,
            closed: Notify::new(),
            config,
        }))
    }

    /// Counts calls and streams until their last byte, not their headers only.
    /// Calls without a token have a tenth of the places: whoever needs none to
    /// fill them must not lock out those who have one.
    pub(crate) fn check_open_calls(&self, route: &Route) -> Result<(), Reply> {
        let most = self.config.limits.open_calls;
        let public = self.telemetry.public_calls.load(Ordering::Relaxed);
        if route.access == Access::Public && public > (most / 10).max(1) {
            return Err(Reply::unavailable(
                "too_many_public_calls",
                "too many calls without a token",
            ));
        }
        if self.telemetry.open_calls.load(Ordering::Relaxed) > self.config.limits.open_calls {
            return Err(Reply::unavailable("too_many_calls", "the gateway is full"));
        }
        Ok(())
    }

    pub(crate) fn tls(&self) -> Result<TlsAcceptor, StartError> {
        let listen = &self.config.listen;
        let config = intellirouter::security::server_config(
            &listen.cert_file,
            &listen.key_file,
            None,
            &[b"h2", b"http/1.1"],
        )
        .map_err(|error| StartError::setting("listen", error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// What one worker owns beside its share of the gateway.
pub(crate) struct Worker {
    pub(crate) gateway: Arc<Gateway>,
    /// By upstream index.
    pub(crate) pools: Vec<Arc<Pool>>,
}

impl Worker {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Arc<Self> {
        let pools = gateway
            .upstreams
            .iter()
            .map(|upstream| Pool::new(upstream.clone()))
            .collect();
        Arc::new(Self { gateway, pools })
    }
}

/// The built-in descriptor set and those of the config's files.
pub(crate) fn descriptors(config: &Config) -> Result<DescriptorPool, StartError> {
    let mut pool = DescriptorPool::decode(intellirouter_proto::FILE_DESCRIPTOR_SET)
        .map_err(|error| StartError::setting("descriptors", error))?;
    for (i, path) in config.descriptor_files.iter().enumerate() {
        let key = format!("descriptors.files[{i}]");
        let bytes = std::fs::read(path).map_err(|error| StartError::setting(&key, error))?;
        pool.decode_file_descriptor_set(bytes.as_slice())
            .map_err(|error| {
                StartError::setting(
                    &key,
                    format!("expected a FileDescriptorSet with its imports: {error}"),
                )
            })?;
    }
    Ok(pool)
}

/// What is wrong inside the files that a configuration names, each with its
/// key, all at once.
pub(crate) fn file_faults(config: &Config) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut note = |key: String, fault: Option<String>| {
        faults.extend(fault.map(|message| (key, message)));
    };
    let listen = &config.listen;
    let tls =
        intellirouter::security::server_config(&listen.cert_file, &listen.key_file, None, &[b"h2"]);
    note("listen.cert_file".into(), tls.err().map(|e| e.to_string()));
    for (i, key) in config.auth.keys.iter().enumerate() {
        note(format!("auth.keys[{i}]"), load_key(key).err());
    }
    note("identity.key_file".into(), load_signer(config).err());
    for (i, upstream) in config.upstreams.iter().enumerate() {
        let fault = Upstream::new(upstream).err().map(|e| e.to_string());
        note(format!("upstreams[{i}]"), fault);
    }
    if let Err(StartError::Setting { key, message }) = descriptors(config) {
        note(key, Some(message));
    }
    faults
}

fn load_signer(config: &Config) -> Result<IdentitySigner, String> {
    let identity = &config.identity;
    let pem = read(&identity.key_file)?;
    IdentitySigner::from_pkcs8_pem(pem.as_bytes(), &identity.issuer, identity.lifetime)
        .map_err(|error: IpcError| error.to_string())
}

fn upstream_fault(config: &crate::config::UpstreamConfig, error: UpstreamError) -> StartError {
    StartError::setting(format!("upstreams \"{}\"", config.name), error)
}

fn authenticate(config: &Config) -> Result<Authenticate, StartError> {
    let keys = config
        .auth
        .keys
        .iter()
        .enumerate()
        .map(|(i, key)| {
            load_key(key).map_err(|message| StartError::setting(format!("auth.keys[{i}]"), message))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let settings = VerifierSettings {
        issuer: config.auth.issuer.clone(),
        audience: config.auth.audience.clone(),
        leeway: config.auth.leeway,
    };
    let verifier = TokenVerifier::new(settings, keys)
        .map_err(|error| StartError::setting("auth.keys", error))?;
    let identity = &config.identity;
    let signer =
        load_signer(config).map_err(|message| StartError::setting("identity.key_file", message))?;
    let signing = Signing {
        signer,
        lifetime: identity.lifetime,
        audiences: config
            .upstreams
            .iter()
            .map(|upstream| upstream.name.clone())
            .collect(),
    };
    Ok(Authenticate::new(verifier, signing))
}

fn load_key(key: &KeyConfig) -> Result<VerificationKey, String> {
    let algorithm = key
        .algorithm
        .parse()
        .map_err(|_| "unknown algorithm".to_owned())?;
    let kid = key.kid.clone();
    match &key.source {
        KeySource::SecretFile(path) => {
            let secret = read(path)?;
            VerificationKey::hmac(
                kid,
                algorithm,
                secret.trim_end_matches(['\r', '\n']).as_bytes(),
            )
        }
        KeySource::SecretEnv(name) => {
            let secret = std::env::var(name).map_err(|_| format!("{name} is not set"))?;
            VerificationKey::hmac(kid, algorithm, secret.as_bytes())
        }
        KeySource::PublicKeyFile(path) => {
            VerificationKey::from_public_pem(kid, algorithm, read(path)?.as_bytes())
        }
    }
    .map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
