//! Sockets as every benchmark binary opens them.
//!
//! Owns: the listen backlog and `TCP_NODELAY`. Without the latter a small reply
//! waits for the peer's delayed ACK, and the figures measure that wait.
//! Limit: 4,096 connections not yet accepted (the kernel may lower it).

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::Error;

const BACKLOG: u32 = 4096;

/// Binds and listens; the error names the address.
///
/// # Errors
/// If the address is taken or not allowed.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error| format!("cannot listen on {address}: {error}").into())
}

/// Accepts the next connection; a failed `accept` concerns one peer only and is
/// passed over.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if stream.set_nodelay(true).is_ok() => return stream,
            Ok(_) => {}
            Err(error) => {
                eprintln!("accept: {error}");
                // Out of descriptors shows here; let others run before the next try.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Connects; the error names the address.
///
/// # Errors
/// If nobody answers there.
pub async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
