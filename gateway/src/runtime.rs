//! One generation of the configuration, alive: what a reload replaces as a
//! whole.
//!
//! What did not change is taken over from the generation before: pools with
//! their connections, verified tokens, session tickets. Whether it changed is
//! told by its settings and by the content of the files that they name.
//! Building fails with what only shows when files are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost_reflect::DescriptorPool;
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, ListenConfig};
use crate::events::EventPlane;
use crate::files::{Fingerprint, fingerprint};
use crate::gateway::{Lasting, StartError};
use crate::layers::authenticate::Authenticate;
use crate::layers::certificate::Certificates;
use crate::layers::cors::Cors;
use crate::limits::RateLimits;
use crate::local::LocalServices;
use crate::routes::RouteTable;
use crate::telemetry::Telemetry;
use crate::upstream::Upstream;

/// See the module's comment.
pub(crate) struct Runtime {
    /// No two have the same.
    pub(crate) generation: u64,
    pub(crate) config: Config,
    pub(crate) routes: RouteTable,
    pub(crate) authenticate: Arc<Authenticate>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) cors: Cors,
    pub(crate) limits: RateLimits,
    pub(crate) events: Arc<EventPlane>,
    pub(crate) local: LocalServices,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    listener: Arc<Listener>,
}

/// What connections from clients are accepted with.
struct Listener {
    config: ListenConfig,
    files: Fingerprint,
    tls: TlsAcceptor,
}

impl Runtime {
    pub(crate) fn build(
        config: Config,
        lasting: &Lasting,
        previous: Option<&Self>,
    ) -> Result<Arc<Self>, StartError> {
        let descriptors = descriptors(&config)?;
        let upstreams = upstreams(&config, &lasting.telemetry, previous)?;
        let authenticate = Authenticate::build(
            &config,
            previous.map(|previous| &previous.authenticate),
            &lasting.calls,
        )?;
        let limits = RateLimits::build(
            &config.limits,
            previous.map(|previous| &previous.limits),
            &lasting.telemetry.limits,
        )?;
        let events = EventPlane::new(&config.events, lasting);
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(Arc::new(Self {
            generation: NEXT.fetch_add(1, Ordering::Relaxed),
            routes: RouteTable::new(&config, &descriptors).limited(&limits),
            limits,
            certificates: Certificates::build(
                &config,
                &authenticate,
                previous.map(|previous| &previous.certificates),
            )?,
            authenticate,
            cors: Cors::new(&config.cors),
            local: LocalServices::new(&config, events.clone(), lasting)?,
            listener: Listener::open(&config.listen, previous)?,
            events,
            upstreams,
            config,
        }))
    }

    /// This generation is the one in use from now on. Must run on the runtime
    /// that lasts as long as the process.
    pub(crate) fn start(&self) {
        for upstream in &self.upstreams {
            upstream.start();
        }
    }

    /// Ready once it is known which endpoints there are, within some seconds.
    pub(crate) async fn first_look(&self) {
        for upstream in &self.upstreams {
            upstream.first_look().await;
        }
    }

    pub(crate) fn tls(&self) -> TlsAcceptor {
        self.listener.tls.clone()
    }
}

impl Listener {
    fn open(config: &ListenConfig, previous: Option<&Runtime>) -> Result<Arc<Self>, StartError> {
        // Before the files are used: a change in between shows at the next look.
        let files = fingerprint(config.files());
        let same = previous
            .map(|previous| &previous.listener)
            .filter(|old| old.config == *config && old.files == files);
        if let Some(same) = same {
            return Ok(same.clone());
        }
        let tls = intellirouter::security::server_config(
            &config.cert_file,
            &config.key_file,
            config.client_certificates(),
            &[b"h2", b"http/1.1"],
        )
        .map_err(|error| StartError::setting("listen", error))?;
        Ok(Arc::new(Self {
            config: config.clone(),
            files,
            tls: TlsAcceptor::from(Arc::new(tls)),
        }))
    }
}

fn upstreams(
    config: &Config,
    telemetry: &Telemetry,
    previous: Option<&Runtime>,
) -> Result<Vec<Arc<Upstream>>, StartError> {
    let old = previous.map_or(&[][..], |previous| &previous.upstreams);
    config
        .upstreams
        .iter()
        .map(|config| {
            let old = old.iter().find(|old| old.name == config.name);
            let figures = telemetry.transport.upstream(&config.name);
            Upstream::open(config, old, &figures).map_err(|error| {
                StartError::setting(format!("upstreams \"{}\"", config.name), error)
            })
        })
        .collect()
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
