//! HTTP/1.1 for browsers and tools: gRPC-Web, events, plain HTTP.
//!
//! hyper does the protocol. Bounds: 100 headers, the configured header bytes, the
//! handshake timeout for the headers to arrive; one request at a time. A
//! client that closes its connection drops the call, which cancels upstream.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::{Body, Kind};
use crate::gateway::Worker;
use crate::pipeline;

/// Serves one connection; tells why the gateway closed it, if it did.
pub(crate) async fn serve<T>(worker: &Arc<Worker>, io: T, peer: SocketAddr) -> Option<&'static str>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: http::Request<Incoming>| {
        let worker = worker.clone();
        async move {
            let request = request.map(|body| Body::new(Kind::Http1(body)));
            Ok::<_, Infallible>(pipeline::serve(&worker, peer, request).await)
        }
    });
    // hyper's least is 8 KiB.
    let buffer = (worker.gateway.config.limits.header_bytes as usize).max(8192);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(worker.gateway.config.limits.handshake_timeout)
        .max_buf_size(buffer)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = worker.gateway.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match served {
        Err(error) if error.is_timeout() => Some("header_timeout"),
        Err(error) if error.is_parse() => Some("bad_http1"),
        _ => None,
    }
}
