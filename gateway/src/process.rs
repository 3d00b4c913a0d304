//! Starts a gateway and stops it: ports, threads, signals.
//!
//! Every port is bound before anything is served, so that a taken port is an
//! error at start and not a gateway without a door. How it stops is told in
//! [`crate::shutdown`]; how it changes while it runs, in [`crate::reload`].

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use intellirouter::events::{EventLog, LogUse};
use intellirouter::logging::LogGuard;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::gateway::{Gateway, StartError};
use crate::server::{self, Inbox};
use crate::shutdown::{self, Signals};
use crate::worker::Worker;
use crate::{admin, events, recheck, reload};

/// How long the last spans may take to the collector.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// A gateway whose ports are bound.
pub struct Bound {
    gateway: Arc<Gateway>,
    listener: StdListener,
    admin: StdListener,
}

impl Bound {
    /// Reads what a checked configuration names, then binds its ports. Must run
    /// on the runtime that [`Bound::run`] will run on.
    pub async fn new(config: Config) -> Result<Self, StartError> {
        let log = events::open_log(&config.events, LogUse::Gateway).await?;
        Self::beside(config, log, None).await
    }

    /// The same for a gateway that shares its process with services: they publish to `log`, and
    /// `metrics` are shown beside the gateway's own.
    pub async fn beside(
        config: Config,
        log: Arc<dyn EventLog>,
        metrics: Option<Registry>,
    ) -> Result<Self, StartError> {
        let (listen, admin) = (config.listen.address, config.admin);
        let gateway = Gateway::new(config, log, metrics)?;
        gateway.revocations.first_look().await;
        Ok(Self {
            gateway,
            listener: bind("listen.address", listen)?,
            admin: bind("admin.address", admin)?,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> Result<SocketAddr, StartError> {
        Ok(self.listener.local_addr()?)
    }

    /// Where operators look.
    pub fn admin_address(&self) -> Result<SocketAddr, StartError> {
        Ok(self.admin.local_addr()?)
    }

    /// Serves until SIGINT, SIGTERM or `/drain`, and drains. `ready` runs once
    /// everything works. Must run on a runtime that goes on meanwhile.
    pub async fn run(self, ready: impl FnOnce()) -> Result<(), StartError> {
        let gateway = self.gateway;
        let signals = Signals::new()?;
        let hangup = signal(SignalKind::hangup())?;
        let admin = TcpListener::from_std(self.admin)?;
        let mut beside = JoinSet::new();
        beside.spawn(admin::serve(gateway.clone(), admin));
        beside.spawn(never(reload::follow(gateway.clone(), hangup)));
        beside.spawn(never(recheck::follow(gateway.clone())));
        gateway.runtime().start();
        beside.spawn(never(events::follow(gateway.clone())));
        // Who comes with a cookie would take a refusal for the last word.
        gateway.door.first_look().await;
        let workers = start_workers(&gateway, self.listener)?;
        ready();
        let result = shutdown::run(&gateway, signals, workers).await;
        // After the last call: somebody else records on.
        gateway.log.close().await;
        gateway.telemetry.tracing.shutdown(LAST_SPANS).await;
        result
    }
}

/// For a set of tasks that end with the process.
async fn never(task: impl Future<Output = Infallible>) {
    match task.await {}
}

/// Starts every worker on a thread of its own; the channel closes when all of
/// them have ended.
fn start_workers(
    gateway: &Arc<Gateway>,
    listener: StdListener,
) -> Result<mpsc::Receiver<()>, StartError> {
    let (done, workers) = mpsc::channel::<()>(1);
    let (handles, inboxes): (Vec<_>, Vec<_>) = (0..gateway.runtime().config.workers)
        .map(|_| server::handover())
        .unzip();
    let mut listener = Some((listener, handles));
    for (number, inbox) in inboxes.into_iter().enumerate() {
        let start = Start {
            number,
            inbox,
            accept: listener.take(),
        };
        start.spawn(gateway.clone(), done.clone())?;
    }
    Ok(workers)
}

fn bind(key: &'static str, address: SocketAddr) -> Result<StdListener, StartError> {
    let fault = |source| StartError::Bind {
        key,
        address,
        source,
    };
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).map_err(fault)?;
    socket.set_reuse_address(true).map_err(fault)?;
    socket.bind(&address.into()).map_err(fault)?;
    socket.listen(1024).map_err(fault)?;
    socket.set_nonblocking(true).map_err(fault)?;
    Ok(socket.into())
}

/// What a worker thread starts with.
struct Start {
    number: usize,
    inbox: Inbox,
    accept: Option<(StdListener, Vec<server::Handle>)>,
}

impl Start {
    fn spawn(self, gateway: Arc<Gateway>, done: mpsc::Sender<()>) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name(format!("worker-{}", self.number))
            .spawn(move || {
                // Dropped with the thread: the channel tells that all are gone.
                let _done = done;
                runtime.block_on(async {
                    if let Some((listener, handles)) = self.accept {
                        match TcpListener::from_std(listener) {
                            Ok(listener) => {
                                tokio::spawn(server::accept(gateway.clone(), listener, handles));
                            }
                            Err(error) => return tracing::error!(%error, "cannot listen"),
                        }
                    }
                    let worker = Worker::new(gateway, self.number);
                    tokio::select! {
                        () = server::work(worker.clone(), self.inbox) => {}
                        never = worker.follow() => match never {},
                    }
                });
            })?;
        Ok(())
    }
}

/// Starts logging to stderr, as the configuration says.
pub(crate) fn log(config: &Config) -> LogGuard {
    intellirouter::logging::start(&config.log.level, config.log.json)
}
