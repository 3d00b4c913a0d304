//! Takes connections from clients: TCP, TLS, then HTTP/2 or HTTP/1.1 by ALPN.
//!
//! Worker 0 accepts and hands each connection to the worker with the fewest,
//! so that a call stays on one core from its first byte to its last. Bounds: the
//! configured number of connections (more are closed at once), a timeout for
//! the handshake, and one for a peer that takes no bytes.

mod http1;
mod http2;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::gateway::{Gateway, Worker};
use crate::io::{Batched, StallGuard};

/// Connections that wait to be taken over by a worker.
const HANDOVER: usize = 1024;

/// How a worker is reached by the one that accepts.
pub(crate) struct Handle {
    connections: mpsc::Sender<(std::net::TcpStream, SocketAddr)>,
    open: Arc<AtomicUsize>,
}

/// A worker's side of [`Handle`].
pub(crate) struct Inbox {
    connections: mpsc::Receiver<(std::net::TcpStream, SocketAddr)>,
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
    loop {
        let accepted = tokio::select! {
            biased;
            () = gateway.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => hand_over(&gateway, &workers, stream, peer),
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to close.
                tracing::warn!(%error, "no connection accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

fn hand_over(gateway: &Gateway, workers: &[Handle], stream: TcpStream, peer: SocketAddr) {
    let open: usize = workers
        .iter()
        .map(|worker| worker.open.load(Ordering::Relaxed))
        .sum();
    if open >= gateway.config.limits.connections {
        gateway.telemetry.connection_closed("too_many_connections");
        return;
    }
    let least = workers
        .iter()
        .min_by_key(|worker| worker.open.load(Ordering::Relaxed));
    let Some(worker) = least else { return };
    let sent = stream.into_std().is_ok_and(|stream| {
        worker.open.fetch_add(1, Ordering::Relaxed);
        worker.connections.try_send((stream, peer)).is_ok() || {
            worker.open.fetch_sub(1, Ordering::Relaxed);
            false
        }
    });
    if !sent {
        gateway.telemetry.connection_closed("worker_busy");
    }
}

/// Runs a worker: serves the connections that it is handed, until all are
/// done after the gateway began to drain.
pub(crate) async fn work(worker: Arc<Worker>, mut inbox: Inbox, tls: TlsAcceptor) {
    while let Some((stream, peer)) = inbox.connections.recv().await {
        let guard = OpenConnection::new(&worker.gateway, &inbox.open);
        let (worker, tls) = (worker.clone(), tls.clone());
        tokio::spawn(async move {
            let _guard = guard;
            if let Err(error) = connection(&worker, stream, peer, tls).await {
                tracing::debug!(%peer, %error, "connection failed");
            }
        });
    }
    // The accept loop is gone: the gateway drains.
    while inbox.open.load(Ordering::Relaxed) > 0 {
        worker.gateway.closed.notified().await;
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

async fn connection(
    worker: &Arc<Worker>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
) -> io::Result<()> {
    let limits = &worker.gateway.config.limits;
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(std::time::Duration::from_secs(60));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let stream = StallGuard::new(TcpStream::from_std(stream)?, limits.stall_timeout);
    let stream = Batched::new(stream);
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(limits.handshake_timeout, tls.accept(stream)) => handshake,
        // Nobody has asked for anything yet.
        () = worker.gateway.drain.cancelled() => return Ok(()),
    };
    let Ok(stream) = handshake else {
        worker
            .gateway
            .telemetry
            .connection_closed("handshake_timeout");
        return Ok(());
    };
    let stream = stream.inspect_err(|_| {
        worker
            .gateway
            .telemetry
            .connection_closed("handshake_failed");
    })?;
    let closed = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2::serve(worker, stream, peer).await
    } else {
        http1::serve(worker, stream, peer).await
    };
    if let Some(reason) = closed {
        worker.gateway.telemetry.connection_closed(reason);
    }
    Ok(())
}
