//! Starts a gateway and stops it: ports, threads, signals.
//!
//! Every port is bound before anything is served, so that a taken port is an
//! error at start and not a gateway without a door. Stopping: the listener
//! closes, health and readiness say no, connections hear GOAWAY, event streams
//! end with a word; calls may go on for the drain timeout, and those still open
//! then end with the process.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use intellirouter::events::EventLog;
use intellirouter::logging::LogGuard;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin;
use crate::config::Config;
use crate::events;
use crate::gateway::{Gateway, StartError, Worker};
use crate::server::{self, Inbox};

/// A gateway whose ports are bound.
pub struct Bound {
    gateway: Arc<Gateway>,
    tls: tokio_rustls::TlsAcceptor,
    listener: StdListener,
    admin: StdListener,
}

impl Bound {
    /// Reads what a checked configuration names, then binds its ports. Must run
    /// on the runtime that [`Bound::run`] will run on.
    pub async fn new(config: Config) -> Result<Self, StartError> {
        let log = events::open_log(&config.events).await?;
        Self::beside(config, log, None).await
    }

    /// The same for a gateway that shares its process with services: they publish to `log`, and
    /// `metrics` are shown beside the gateway's own.
    pub async fn beside(
        config: Config,
        log: Arc<dyn EventLog>,
        metrics: Option<Registry>,
    ) -> Result<Self, StartError> {
        let gateway = Gateway::new(config, log, metrics)?;
        let tls = gateway.tls()?;
        let listener = bind("listen.address", gateway.config.listen.address)?;
        let admin = bind("admin.address", gateway.config.admin)?;
        Ok(Self {
            gateway,
            tls,
            listener,
            admin,
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

    /// Serves until SIGINT or SIGTERM and drains. `ready` runs once everything
    /// works. Must run on a runtime that goes on meanwhile.
    pub async fn run(self, ready: impl FnOnce()) -> Result<(), StartError> {
        let (gateway, tls) = (self.gateway, self.tls);
        let admin = TcpListener::from_std(self.admin)?;
        let admin = tokio::spawn(admin::serve(gateway.clone(), admin));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (done, mut workers) = mpsc::channel::<()>(1);
        let (handles, inboxes): (Vec<_>, Vec<_>) = (0..gateway.config.workers)
            .map(|_| server::handover())
            .unzip();
        let mut listener = Some((self.listener, handles));
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let start = Start {
                number,
                inbox,
                tls: tls.clone(),
                accept: listener.take(),
            };
            start.spawn(gateway.clone(), done.clone())?;
        }
        drop(done);
        ready();
        let hung_up = async {
            // A closed terminal must not cut calls.
            while hangup.recv().await.is_some() {
                tracing::warn!("SIGHUP: a changed config needs a restart; nothing was done");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = hung_up => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            // All workers gone without a signal: nothing is served any more.
            _ = workers.recv() => {
                return Err(StartError::System(std::io::Error::other("the workers stopped")));
            }
        }
        let limit = gateway.config.limits.drain_timeout;
        let open = gateway.telemetry.open_calls.load(Ordering::Relaxed);
        tracing::info!(open_calls = open, limit = ?limit, "draining");
        gateway.drain.cancel();
        tokio::select! {
            _ = workers.recv() => tracing::info!("drained"),
            () = tokio::time::sleep(limit) => {
                let open = gateway.telemetry.open_calls.load(Ordering::Relaxed);
                tracing::warn!(
                    open_calls = open,
                    "drain timeout: the calls still open end with the process"
                );
            }
            _ = interrupt.recv() => tracing::warn!("interrupted twice: stopping at once"),
        }
        admin.abort();
        Ok(())
    }
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
    tls: tokio_rustls::TlsAcceptor,
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
                    server::work(Worker::new(gateway), self.inbox, self.tls).await;
                });
            })?;
        Ok(())
    }
}

/// Starts logging to stderr, as the configuration says.
pub(crate) fn log(config: &Config) -> LogGuard {
    intellirouter::logging::start(&config.log.level, config.log.json)
}
