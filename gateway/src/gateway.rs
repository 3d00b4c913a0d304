//! The gateway alive: what lasts as long as the process, and the generation of
//! the configuration that is in use.
//!
//! Decisions are made per process, here; sockets belong to a
//! [`crate::worker::Worker`]. A reload builds a new [`Runtime`] and publishes
//! it; counts, buckets, revocations and the event log stay where they are.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use intellirouter::events::EventLog;
use intellirouter::security::{ClientCertificates, ClientVerifier};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::calls::OpenCalls;
use crate::config::Config;
use crate::events::Door;
use crate::layers::authenticate::Authenticate;
use crate::local::Health;
use crate::reload::ReloadState;
use crate::reply::Reply;
use crate::revocation::{self, Revocations};
use crate::routes::{Route, RouteTable, Target};
use crate::runtime::{Runtime, descriptors};
use crate::telemetry::Telemetry;
use crate::trace::Tracing;
use crate::upstream::Upstream;

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

/// What lasts as long as the process, whatever the configuration.
#[derive(Clone)]
pub(crate) struct Lasting {
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) calls: Arc<OpenCalls>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) door: Arc<Door>,
    pub(crate) health: Health,
    /// Places for payloads that arrive by POST.
    pub(crate) publishing: Arc<Semaphore>,
    /// Cancelled by an operator who wants the gateway to stop.
    pub(crate) stop_asked: CancellationToken,
    /// Cancelled once, when the gateway says that it is no longer ready.
    pub(crate) stopping: CancellationToken,
    /// Cancelled once after that, when it stops taking connections.
    pub(crate) drain: CancellationToken,
}

/// Payloads that arrive by POST at the same time; more are refused.
const PUBLISHING: usize = 64;

/// How long a reload waits for the workers to take it; they still do later.
const TAKING: Duration = Duration::from_secs(2);

/// What all workers share.
pub(crate) struct Gateway {
    lasting: Lasting,
    /// Metrics of the services that share this process.
    pub(crate) services: Option<Registry>,
    /// Told whenever a connection has closed.
    pub(crate) closed: Notify,
    pub(crate) reload: ReloadState,
    runtime: watch::Sender<Arc<Runtime>>,
    /// By worker: whether it serves with the newest generation.
    taken: watch::Sender<Vec<bool>>,
}

impl Deref for Gateway {
    type Target = Lasting;

    fn deref(&self) -> &Lasting {
        &self.lasting
    }
}

impl Gateway {
    /// Must run on the runtime that lasts as long as the gateway.
    pub(crate) fn new(
        config: Config,
        log: Arc<dyn EventLog>,
        services: Option<Registry>,
    ) -> Result<Arc<Self>, StartError> {
        let workers = config.workers;
        let tracing = Tracing::start(config.trace.as_ref())
            .map_err(|message| StartError::setting("trace", message))?;
        let stopping = CancellationToken::new();
        let revocations = Revocations::new(&config.revocation)?;
        let lasting = Lasting {
            telemetry: Telemetry::new(config.log.access, tracing),
            calls: OpenCalls::new(workers),
            door: Door::open(&config.events, &revocations)?,
            revocations,
            log,
            health: Health::new(stopping.clone()),
            publishing: Arc::new(Semaphore::new(PUBLISHING)),
            stop_asked: CancellationToken::new(),
            stopping,
            drain: CancellationToken::new(),
        };
        let transport = &lasting.telemetry.transport;
        transport.follow_certificates(config.certificates());
        let watch = transport.clone().watch_certificates();
        tokio::spawn(lasting.drain.clone().run_until_cancelled_owned(watch));
        let runtime = Runtime::build(config, &lasting, None)?;
        let reload = ReloadState::default();
        reload.loaded(&lasting.telemetry);
        Ok(Arc::new(Self {
            lasting,
            services,
            closed: Notify::new(),
            reload,
            runtime: watch::Sender::new(runtime),
            taken: watch::Sender::new(vec![false; workers]),
        }))
    }

    /// The generation in use.
    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        self.runtime.borrow().clone()
    }

    /// The generation in use, and each that comes after.
    pub(crate) fn generations(&self) -> watch::Receiver<Arc<Runtime>> {
        self.runtime.subscribe()
    }

    /// Puts a configuration in the place of the one in use; ready once the
    /// workers serve with it.
    pub(crate) async fn take(&self, config: Config) -> Result<(), StartError> {
        let old = self.runtime();
        let lasting = self.lasting.clone();
        let log = config.log.clone();
        let certificates = config.certificates();
        // Reads files.
        let handle = tokio::runtime::Handle::current();
        let built = tokio::task::spawn_blocking(move || {
            let _on = handle.enter();
            let revocation = config.revocation.clone();
            let runtime = Runtime::build(config, &lasting, Some(&old))?;
            lasting.revocations.reconfigure(&revocation)?;
            Ok::<_, StartError>(runtime)
        });
        let runtime = built
            .await
            .map_err(|error| StartError::System(std::io::Error::other(error)))??;
        self.telemetry
            .access_log
            .store(log.access, std::sync::atomic::Ordering::Relaxed);
        if let Err(error) = intellirouter::logging::set_filter(&log.level) {
            tracing::warn!(error, "the log keeps its level");
        }
        self.telemetry.transport.follow_certificates(certificates);
        self.taken.send_modify(|taken| taken.fill(false));
        runtime.limits.announce();
        // Calls that come to an upstream which is new must find its endpoints.
        runtime.start();
        runtime.first_look().await;
        self.runtime.send_replace(runtime);
        let mut taken = self.taken.subscribe();
        let all = taken.wait_for(|taken| taken.iter().all(|taken| *taken));
        if tokio::time::timeout(TAKING, all).await.is_err() {
            tracing::warn!("a worker is busy and takes the new configuration later");
        }
        Ok(())
    }

    /// Worker number `worker` serves with the newest generation.
    pub(crate) fn taken_by(&self, worker: usize) {
        self.taken.send_modify(|taken| {
            if let Some(taken) = taken.get_mut(worker) {
                *taken = true;
            }
        });
    }

    /// Counts calls and streams until their last byte, not their headers only.
    /// Calls whose caller is nobody, or not known yet, take no place from the
    /// others and have a tenth as many: whoever needs no token must not lock
    /// out those who have one. A health check that is answered at once is not
    /// held to that: strangers must not make the gateway look ill.
    pub(crate) fn check_open_calls(&self, most: usize, route: &Route) -> Result<(), Reply> {
        let probe = route.unary && route.target == Target::Local;
        if route.is_public() && !probe && self.calls.anonymous() > tenth(most) {
            return Err(Reply::unavailable(
                "too_many_public_calls",
                "too many calls without a token",
            ));
        }
        if self.calls.identified() >= most {
            return Err(Reply::unavailable("too_many_calls", "the gateway is full"));
        }
        Ok(())
    }

    /// Whether somebody who is refused may still be listened to for a moment.
    pub(crate) fn can_linger(&self, most: usize) -> bool {
        self.calls.anonymous() <= tenth(most)
    }
}

fn tenth(most: usize) -> usize {
    (most / 10).max(1)
}

/// What is wrong inside the files that a configuration names, each with its
/// key, all at once.
pub(crate) fn file_faults(config: &Config, running: Option<&Config>) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut note = |key: String, fault: Option<String>| {
        faults.extend(fault.map(|message| (key, message)));
    };
    let listen = &config.listen;
    let ignored = ClientCertificates::Ignored;
    let tls =
        intellirouter::security::server_config(&listen.cert_file, &listen.key_file, ignored, &[]);
    note("listen.cert_file".into(), tls.err().map(|e| e.to_string()));
    if let Some(clients) = &listen.clients {
        let fault = ClientVerifier::load(&clients.ca_file).err();
        note("listen.client_ca_file".into(), fault.map(|e| e.to_string()));
    }
    let unread = match running {
        Some(running) => config.unfollowed(running),
        None => config.revocation.file.as_ref(),
    };
    if let Some(path) = unread {
        let fault = revocation::file_fault(path, config.revocation.max_entries);
        note("revocation.file".into(), fault);
    }
    let store = revocation::store_fault(&config.revocation);
    note("revocation.ca_file".into(), store);
    for (key, message) in Authenticate::faults(config) {
        note(key, Some(message));
    }
    for (i, upstream) in config.upstreams.iter().enumerate() {
        let followed = running.is_some_and(|running| running.follows(upstream));
        let fault = Upstream::check(upstream, followed).err();
        note(format!("upstreams[{i}]"), fault.map(|e| e.to_string()));
    }
    let collector = config.trace.as_ref().and_then(crate::trace::check);
    note("trace.ca_file".into(), collector);
    match descriptors(config) {
        Ok(descriptors) => {
            for key in RouteTable::new(config, &descriptors).uncovering(&config.limits) {
                note(key, Some("no route is covered by this".to_owned()));
            }
        }
        Err(StartError::Setting { key, message }) => note(key, Some(message)),
        Err(error) => note("descriptors".into(), Some(error.to_string())),
    }
    faults
}
