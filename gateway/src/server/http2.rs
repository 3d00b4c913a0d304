//! HTTP/2 on the h2 crate directly: one task per connection, one per stream.
//!
//! Bounds, per connection: the configured number of streams and header bytes,
//! a receive window and a send buffer of 128 KiB and 64 KiB for each stream (the
//! connection's window has room for all of them, so that streams nobody reads
//! hold up no other); resets and small frames are bounded by h2, which closes the
//! connection with ENHANCE_YOUR_CALM beyond that. A stream that its client
//! resets is dropped at once, and with it the call upstream.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::body::{Body, BodyError};
use crate::gateway::Worker;
use crate::pipeline;
use crate::relay::{Relay, RelayError};
use crate::reply::Reply;

const STREAM_WINDOW: u32 = 128 * 1024;
const SEND_BUFFER: usize = 64 * 1024;

/// Serves one connection; tells why the gateway closed it, if it did.
pub(crate) async fn serve<T>(worker: &Arc<Worker>, io: T, peer: SocketAddr) -> Option<&'static str>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &worker.gateway.config.limits;
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(whole_window(limits.streams_per_connection))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .handshake::<_, Bytes>(io);
    let mut connection = match tokio::time::timeout(limits.handshake_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return Some("bad_preface"),
        Err(_) => return Some("handshake_timeout"),
    };
    let mut draining = pin!(worker.gateway.drain.cancelled().fuse());
    let mut idle = pin!(tokio::time::sleep(limits.idle_timeout));
    let mut calls_at_last_look = 0;
    let mut calls = 0;
    loop {
        let next = std::future::poll_fn(|cx| match connection.poll_accept(cx) {
            Poll::Pending if draining.as_mut().poll(cx).is_ready() => Poll::Ready(Next::Drain),
            Poll::Pending if idle.as_mut().poll(cx).is_ready() => Poll::Ready(Next::Look),
            polled => polled.map(Next::Accepted),
        })
        .await;
        match next {
            // GOAWAY twice with a round trip between (RFC 9113, 6.8): no call
            // is lost that the client sent before it heard.
            Next::Drain => connection.graceful_shutdown(),
            Next::Look if calls == calls_at_last_look && !connection.has_streams() => {
                idle_close(&mut connection).await;
                return Some("idle");
            }
            Next::Look => {
                calls_at_last_look = calls;
                idle.as_mut().reset(Instant::now() + limits.idle_timeout);
            }
            Next::Accepted(Some(Ok((request, respond)))) => {
                calls += 1;
                tokio::spawn(stream(worker.clone(), peer, request, respond));
            }
            Next::Accepted(Some(Err(error))) => return closed_by_us(&error),
            Next::Accepted(None) => return None,
        }
    }
}

/// What a connection does next.
enum Next<A> {
    Accepted(A),
    Drain,
    /// Time to see whether it is in use.
    Look,
}

/// Says goodbye; a client that does not take it is closed all the same.
async fn idle_close<T>(connection: &mut h2::server::Connection<T, Bytes>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection.abrupt_shutdown(Reason::NO_ERROR);
    let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
    let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
}

/// Room for every stream's window (RFC 9113, 6.9.1: at most 2^31 - 1).
fn whole_window(streams: u32) -> u32 {
    STREAM_WINDOW.saturating_mul(streams).min(i32::MAX as u32)
}

fn closed_by_us(error: &h2::Error) -> Option<&'static str> {
    if error.is_io() || error.is_remote() {
        return None;
    }
    Some(match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => "abuse",
        _ => "bad_http2",
    })
}

/// Answers one request.
async fn stream(
    worker: Arc<Worker>,
    peer: SocketAddr,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let response = {
        let mut serve = pin!(pipeline::serve(&worker, peer, request.map(Body::h2)));
        std::future::poll_fn(|cx| match serve.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            // Dropping the future cancels the call upstream.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(response) = response else { return };
    let is_grpc = is_grpc(&response);
    let (head, mut body) = response.into_parts();
    let ends = body.is_end_stream();
    let sent = respond.send_response(Response::from_parts(head, ()), ends);
    let Ok(mut send) = sent else { return };
    if ends {
        return;
    }
    let mut relay = Relay::default();
    let relayed = std::future::poll_fn(|cx| relay.poll(cx, &mut body, &mut send));
    match AssertUnwindSafe(relayed).catch_unwind().await {
        Ok(Ok(()) | Err(RelayError::Sink)) => {}
        Ok(Err(RelayError::Stalled)) => send.send_reset(Reason::CANCEL),
        Ok(Err(RelayError::Source(BodyError::Cut))) => send.send_reset(Reason::CANCEL),
        Ok(Err(RelayError::Source(error))) => {
            tracing::debug!(%error, "response broken off");
            break_off(
                &mut send,
                is_grpc,
                &Reply::unavailable("upstream_cut", "the answer broke off"),
            );
        }
        Err(_) => break_off(&mut send, is_grpc, &Reply::internal()),
    }
}

/// Ends a stream whose body failed: never cleanly.
fn break_off(send: &mut SendStream<Bytes>, is_grpc: bool, reply: &Reply) {
    if !is_grpc || send.send_trailers(reply.trailers()).is_err() {
        send.send_reset(Reason::INTERNAL_ERROR);
    }
}

fn is_grpc(response: &Response<Body>) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && !value.starts_with(b"application/grpc-web")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Each call allocates this and moves it once or twice; connecting to a
    /// backend and the gateway's own services must stay boxed.
    #[test]
    fn a_call_is_a_small_future() {
        let size = size_of_future(stream);
        assert!(size <= 3 * 1024, "{size} bytes");
    }
}
