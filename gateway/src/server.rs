//! Takes connections from clients: TCP, TLS, then HTTP/2 or HTTP/1.1 by ALPN.
//!
//! Worker 0 accepts and hands each connection to the worker with the fewest,
//! so that a call stays on one core from its first byte to its last. Bounds: the
//! configured number of connections, in all and of each address (more are
//! closed at once), a timeout for the handshake, and one for a peer that takes
//! no bytes. Whatever closes a connection from this side is counted in
//! `intellirouter_connections_closed` by its reason.

mod addresses;
mod http1;
mod http2;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use self::addresses::{Addresses, Place};
pub(crate) use self::http1::Http1Body;
use self::http1::Served;
use crate::gateway::Gateway;
use crate::io::{Batched, StallGuard};
use crate::layers::certificate::ClientCertificate;
use crate::worker::Worker;

/// Connections that wait to be taken over by a worker.
const HANDOVER: usize = 1024;
/// How often refused connections are logged at most.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// Reasons to close a connection that show ill will, or a client that must
/// not just connect again.
const FLOODS: [&str; 9] = [
    "continuation_flood",
    "header_flood",
    "ping_flood",
    "priority_flood",
    "reset_flood",
    "settings_flood",
    "small_frames",
    "stream_errors",
    "window_flood",
];

/// A connection on its way to its worker.
struct Arrived {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: Place,
}

/// Who is at the other end of a connection.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    /// What it has shown in the handshake.
    pub(crate) certificate: Option<ClientCertificate>,
}

/// How a worker is reached by the one that accepts.
pub(crate) struct Handle {
    connections: mpsc::Sender<Arrived>,
    open: Arc<AtomicUsize>,
}

/// A worker's side of [`Handle`].
pub(crate) struct Inbox {
    connections: mpsc::Receiver<Arrived>,
    open: Arc<AtomicUsize>,
}

pub(crate) fn handover() -> (Handle, Inbox) {
    let (sender, receiver) = mpsc::channel(HANDOVER);
    let open = Arc::new(AtomicUsize::new(0));
    (
        Handle {
            connections: sender,
            open: open.clone(),
        },
        Inbox {
            connections: receiver,
            open,
        },
    )
}

/// Accepts until the gateway drains.
pub(crate) async fn accept(gateway: Arc<Gateway>, listener: TcpListener, workers: Vec<Handle>) {
    let mut door = Door {
        gateway: &gateway,
        workers,
        addresses: Addresses::default(),
        logged: None,
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = gateway.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(reason) = door.hand_over(stream, peer) {
                    door.refused(reason, peer);
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to close.
                tracing::warn!(%error, "no connection accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Who gets in, and to which worker.
struct Door<'a> {
    gateway: &'a Gateway,
    workers: Vec<Handle>,
    addresses: Addresses,
    logged: Option<Instant>,
}

impl Door<'_> {
    fn hand_over(&self, stream: TcpStream, peer: SocketAddr) -> Result<(), &'static str> {
        let runtime = self.gateway.runtime();
        let limits = &runtime.config.limits;
        let open = |worker: &Handle| worker.open.load(Ordering::Relaxed);
        if self.workers.iter().map(open).sum::<usize>() >= limits.connections {
            return Err("too_many_connections");
        }
        let most = limits.connections_per_address;
        let place = self.addresses.place(peer.ip(), most);
        let place = place.ok_or("too_many_from_address")?;
        let worker = self.workers.iter().min_by_key(|worker| open(worker));
        let (Some(worker), Ok(stream)) = (worker, stream.into_std()) else {
            return Err("worker_busy");
        };
        let arrived = Arrived {
            stream,
            peer,
            place,
        };
        worker.open.fetch_add(1, Ordering::Relaxed);
        worker.connections.try_send(arrived).map_err(|_| {
            worker.open.fetch_sub(1, Ordering::Relaxed);
            "worker_busy"
        })
    }

    /// The log must not grow as fast as somebody can connect.
    fn refused(&mut self, reason: &'static str, peer: SocketAddr) {
        self.gateway.telemetry.connection_closed(reason);
        let now = Instant::now();
        if self
            .logged
            .is_none_or(|at| now.duration_since(at) >= LOG_EVERY)
        {
            self.logged = Some(now);
            tracing::warn!(reason, address = %peer.ip(), "connection refused");
        }
    }
}

/// Runs a worker: serves the connections that it is handed, until all are
/// done after the gateway began to drain.
pub(crate) async fn work(worker: Arc<Worker>, mut inbox: Inbox) {
    while let Some(arrived) = inbox.connections.recv().await {
        let visit = Visit {
            worker: worker.clone(),
            peer: arrived.peer,
            place: arrived.place,
            _open: OpenConnection::new(&worker.gateway, &inbox.open),
        };
        tokio::spawn(async move {
            match connection(&visit.worker, arrived.stream, visit.peer).await {
                Ok(Served::Closed(reason)) => visit.ended(reason),
                // A task of its own, so that nothing is kept of what came before.
                Ok(Served::Follows(mut follow)) => {
                    tokio::spawn(async move {
                        // Awaited by value it would have two places in the task.
                        visit.ended((&mut follow).await);
                    });
                }
                Err(error) => tracing::debug!(peer = %visit.peer, %error, "connection failed"),
            }
        });
    }
    // The accept loop is gone: the gateway drains.
    while inbox.open.load(Ordering::Relaxed) > 0 {
        worker.gateway.closed.notified().await;
    }
}

/// A connection from its arrival to its end.
struct Visit {
    worker: Arc<Worker>,
    peer: SocketAddr,
    place: Place,
    _open: OpenConnection,
}

impl Visit {
    fn ended(self, reason: Option<&'static str>) {
        let Some(reason) = reason else { return };
        self.worker.gateway.telemetry.connection_closed(reason);
        if FLOODS.contains(&reason) {
            tracing::info!(peer = %self.peer, reason, "connection closed");
            self.place.keep_for_flood();
        }
    }
}

/// Counts a connection while it is open.
struct OpenConnection {
    gateway: Arc<Gateway>,
    open: Arc<AtomicUsize>,
}

impl OpenConnection {
    fn new(gateway: &Arc<Gateway>, open: &Arc<AtomicUsize>) -> Self {
        gateway.telemetry.connections.inc();
        Self {
            gateway: gateway.clone(),
            open: open.clone(),
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.gateway.telemetry.connections.dec();
        self.gateway.closed.notify_waiters();
    }
}

/// What TLS is spoken over.
type Socket = Batched<StallGuard<TcpStream>>;

/// Serves one connection until it is closed or becomes an event stream.
async fn connection(
    worker: &Arc<Worker>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
) -> io::Result<Served<TlsStream<Socket>>> {
    let serving = worker.serving();
    let limits = &serving.runtime.config.limits;
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let stream = StallGuard::new(TcpStream::from_std(stream)?, limits.stall_timeout);
    let stream = Batched::new(stream);
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(limits.handshake_timeout, serving.runtime.tls().accept(stream)) => handshake,
        // Nobody has asked for anything yet.
        () = worker.gateway.drain.cancelled() => return Ok(Served::Closed(None)),
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "handshake failed");
            worker.gateway.telemetry.transport.handshake_failed(&error);
            return Ok(Served::Closed(Some("handshake_failed")));
        }
        Err(_) => return Ok(Served::Closed(Some("handshake_timeout"))),
    };
    let limits = limits.clone();
    // A connection must not keep a generation of the configuration.
    drop(serving);
    let session = stream.get_ref().1;
    let client = Arc::new(Client {
        address: peer,
        certificate: ClientCertificate::new(session.peer_certificates()),
    });
    Ok(if session.alpn_protocol() == Some(b"h2") {
        Served::Closed(http2::serve(worker, &limits, stream, client).await)
    } else {
        http1::serve(worker, &limits, stream, client).await
    })
}

/// What a failure of a connection's socket is counted as, if the gateway
/// brought it about ([`StallGuard`]).
fn stalled(error: &io::Error) -> Option<&'static str> {
    (error.kind() == io::ErrorKind::TimedOut).then_some("stalled")
}
