//! Accepts connections and makes the TLS handshakes.
//!
//! Each handshake is a task of its own, so that a peer that stalls or talks nonsense costs nobody
//! else anything. A failed accept or handshake is logged and never ends the loop. When all places
//! are taken, new connections wait in the kernel's backlog.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::connections::{Connections, Place};
use super::io::ServerIo;
use crate::security::TlsReload;

const MAX_HANDSHAKES: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
// After an error such as "too many open files", which would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs until the receiver of `ready` is dropped; handshakes under way are dropped with it.
pub(super) async fn accept_loop(
    listener: TcpListener,
    tls: Option<Arc<TlsReload<ServerConfig>>>,
    ready: mpsc::Sender<ServerIo>,
    connections: Connections,
    server: &'static str,
) {
    let places = Places::new(connections);
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = next(&places, &listener) => accepted,
        };
        // Finished ones; their number is bounded by the places.
        while handshakes.try_join_next().is_some() {}
        match accepted {
            Ok(accepted) => {
                handshakes.spawn(finish(accepted, tls.clone(), ready.clone(), server));
            }
            Err(error) => {
                tracing::warn!(server, %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Places {
    connections: Connections,
    handshakes: Arc<Semaphore>,
}

impl Places {
    fn new(connections: Connections) -> Self {
        Self {
            connections,
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        }
    }

    async fn take(&self) -> Result<(Place, OwnedSemaphorePermit), AcquireError> {
        let connection = self.connections.place().await?;
        let handshake = Arc::clone(&self.handshakes).acquire_owned().await?;
        Ok((connection, handshake))
    }
}

struct Accepted {
    stream: TcpStream,
    address: SocketAddr,
    connection: Place,
    handshake: OwnedSemaphorePermit,
}

async fn next(places: &Places, listener: &TcpListener) -> io::Result<Accepted> {
    // A place first, so that what was accepted is always served.
    let (connection, handshake) = places.take().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(Accepted {
        stream,
        address,
        connection,
        handshake,
    })
}

async fn finish(
    accepted: Accepted,
    tls: Option<Arc<TlsReload<ServerConfig>>>,
    ready: mpsc::Sender<ServerIo>,
    server: &'static str,
) {
    let Accepted {
        stream,
        address,
        connection,
        handshake,
    } = accepted;
    let io = match tls {
        None => ServerIo::plain(stream, address, connection),
        Some(tls) => {
            let shaken = TlsAcceptor::from(tls.current()).accept(stream);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, shaken).await {
                Ok(Ok(stream)) => ServerIo::tls(stream, address, connection),
                Ok(Err(error)) => {
                    tracing::debug!(server, %address, %error, "a TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(server, %address, "a TLS handshake took over 10 s");
                    return;
                }
            }
        }
    };
    drop(handshake);
    // Refused only when the server stops: then the connection is closed.
    let _ = ready.send(io).await;
}
