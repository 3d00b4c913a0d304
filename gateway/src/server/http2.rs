//! HTTP/2 on the h2 crate directly: one task per connection, one per stream.
//!
//! Bounds, per connection: the configured number of streams and header bytes,
//! a receive window and a send buffer of 128 KiB and 64 KiB for each stream (the
//! connection's window has room for all of them, so that streams nobody reads
//! hold up no other). A stream that its client resets is dropped at once, and
//! with it the call upstream; one that its client had already reset when it
//! was taken up never reaches a backend. A stream whose client takes nothing
//! of what waits for it is reset after the idle timeout.
//!
//! A client that floods is closed with ENHANCE_YOUR_CALM: control frames are
//! counted by [`FrameGuard`], calls given up at once by [`GivenUp`], and by h2
//! what it has to keep: 100 empty DATA frames, DATA frames of less than 256
//! bytes that nobody has taken yet (51,000 of one byte at 200 streams), 1,024
//! malformed or refused streams, [`RESETS_UNSEEN`] resets of streams not yet
//! taken up, a header list over four times its limit.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::body::{Body, BodyError};
use crate::config::LimitsConfig;
use crate::io::{FrameGuard, Gathered, Hold, Verdict};
use crate::layers::given_up::GivenUp;
use crate::pipeline;
use crate::relay::{Relay, RelayError};
use crate::reply::Reply;
use crate::server::Client;
use crate::worker::Worker;

const STREAM_WINDOW: u32 = 128 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
/// Calls that a connection may give up at once, or as many as it may have, and
/// so many more a second.
const GIVEN_UP: u32 = 200;
const GIVEN_UP_PER_SECOND: u32 = 50;
/// Streams that their client has reset before they were taken up.
const RESETS_UNSEEN: usize = 100;
/// Calls that a connection begins before other connections get their turn. A
/// small call costs some 20 microseconds in all, so this is about a millisecond.
const CALLS_PER_TURN: u32 = 64;

/// Serves one connection; tells why the gateway closed it, if it did.
pub(crate) async fn serve<T>(
    worker: &Arc<Worker>,
    limits: &LimitsConfig,
    io: T,
    client: Arc<Client>,
) -> Option<&'static str>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = FrameGuard::new(io, limits.header_bytes, limits.handshake_timeout);
    let client = Arc::new(Peer {
        client,
        idle_timeout: limits.idle_timeout,
        verdict: io.verdict(),
        given_up: GivenUp::new(
            limits.streams_per_connection.max(GIVEN_UP),
            GIVEN_UP_PER_SECOND,
        ),
    });
    let hold = Hold::default();
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(whole_window(limits.streams_per_connection))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .max_pending_accept_reset_streams(RESETS_UNSEEN)
        .handshake::<_, Bytes>(Gathered::new(io, hold.clone()));
    let mut connection = match tokio::time::timeout(limits.handshake_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return Some("bad_preface"),
        Err(_) => return Some("handshake_timeout"),
    };
    let mut draining = pin!(worker.gateway.drain.cancelled().fuse());
    let mut idle = pin!(tokio::time::sleep(limits.idle_timeout));
    let mut calls_at_last_look = 0;
    let mut calls = 0;
    let mut begun = 0;
    loop {
        let next = std::future::poll_fn(|cx| {
            // Before: what a stream found. After: what reading found.
            if let Some(reason) = client.verdict.get() {
                return Poll::Ready(Next::Condemned(reason));
            }
            if begun == CALLS_PER_TURN {
                begun = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Poll::Ready(accepted) = poll_accept(&mut connection, &hold, cx) {
                return Poll::Ready(Next::Accepted(accepted));
            }
            begun = 0;
            match client.verdict.get() {
                Some(reason) => Poll::Ready(Next::Condemned(reason)),
                None if draining.as_mut().poll(cx).is_ready() => Poll::Ready(Next::Drain),
                None => idle.as_mut().poll(cx).map(|()| Next::Look),
            }
        })
        .await;
        match next {
            // GOAWAY twice with a round trip between (RFC 9113, 6.8): no call
            // is lost that the client sent before it heard.
            Next::Drain => connection.graceful_shutdown(),
            Next::Look if calls == calls_at_last_look && !connection.has_streams() => {
                close(&mut connection, Reason::NO_ERROR).await;
                return Some("idle");
            }
            Next::Look => {
                calls_at_last_look = calls;
                idle.as_mut().reset(Instant::now() + limits.idle_timeout);
            }
            Next::Accepted(Some(Ok((request, respond)))) => {
                calls += 1;
                begun += 1;
                tokio::spawn(stream(worker.clone(), client.clone(), request, respond));
            }
            Next::Accepted(Some(Err(error))) => return client.closed_by_us(&error),
            Next::Accepted(None) => return None,
            Next::Condemned(reason) => {
                close(&mut connection, Reason::ENHANCE_YOUR_CALM).await;
                return Some(reason);
            }
        }
    }
}

/// Drives the connection, and has it write all that its streams have to say at once.
fn poll_accept<T>(
    connection: &mut h2::server::Connection<T, Bytes>,
    hold: &Hold,
    cx: &mut Context<'_>,
) -> Poll<Accepted>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    hold.on();
    let accepted = connection.poll_accept(cx);
    if hold.off() && accepted.is_pending() {
        return connection.poll_accept(cx);
    }
    accepted
}

type Accepted = Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

/// What a connection does next.
enum Next<A> {
    Accepted(A),
    Drain,
    /// Time to see whether it is in use.
    Look,
    Condemned(&'static str),
}

/// What the streams of a connection share.
struct Peer {
    client: Arc<Client>,
    idle_timeout: Duration,
    verdict: Verdict,
    given_up: GivenUp,
}

impl Peer {
    /// A call that began then ended before it had an answer.
    fn gave_up(&self, began: Instant) {
        self.given_up.count(began.elapsed());
        if self.given_up.overdrawn().is_some() {
            self.verdict.condemn("reset_flood");
        }
    }

    fn closed_by_us(&self, error: &h2::Error) -> Option<&'static str> {
        if let Some(error) = error.get_io() {
            return super::stalled(error);
        }
        if error.is_remote() {
            return None;
        }
        Some(match error.reason() {
            Some(Reason::ENHANCE_YOUR_CALM) => self.verdict.calmed(),
            _ => "bad_http2",
        })
    }
}

/// Says goodbye; a client that does not take it is closed all the same.
async fn close<T>(connection: &mut h2::server::Connection<T, Bytes>, reason: Reason)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection.abrupt_shutdown(reason);
    let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
    let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
}

/// Room for every stream's window (RFC 9113, 6.9.1: at most 2^31 - 1).
fn whole_window(streams: u32) -> u32 {
    STREAM_WINDOW.saturating_mul(streams).min(i32::MAX as u32)
}

/// Answers one request.
async fn stream(
    worker: Arc<Worker>,
    client: Arc<Peer>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let began = Instant::now();
    if is_reset(&mut respond) {
        return client.gave_up(began);
    }
    let response = {
        let request = request.map(Body::h2);
        let mut serve = pin!(pipeline::serve(&worker, &client.client, request));
        std::future::poll_fn(|cx| match serve.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            // Dropping the future cancels the call upstream.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(response) = response else {
        return client.gave_up(began);
    };
    let is_grpc = is_grpc(&response);
    let (head, body) = response.into_parts();
    let ends = body.is_end_stream();
    let head_status = head.headers.get("grpc-status").filter(|_| ends);
    let timed_out = head_status.is_some_and(|status| status == "4");
    let sent = respond.send_response(Response::from_parts(head, ()), ends);
    let Ok(send) = sent else { return };
    if ends {
        // A deadline of a moment is a reset by another name.
        if timed_out {
            client.gave_up(began);
        }
        return;
    }
    if body.is_events() {
        // A task of its own, so that nothing is kept of how the call began.
        tokio::spawn(async move { carry(&client, body, send, is_grpc).await });
    } else {
        carry(&client, body, send, is_grpc).await;
    }
}

/// Sends the body of an answer whose head is sent.
async fn carry(client: &Peer, mut body: Body, mut send: SendStream<Bytes>, is_grpc: bool) {
    let mut relay = Relay::default();
    let mut patience = Patience::new(client.idle_timeout);
    let relayed = std::future::poll_fn(|cx| match relay.poll(cx, &mut body, &mut send) {
        Poll::Pending if patience.poll(cx, &relay).is_ready() => {
            Poll::Ready(Err(RelayError::Stalled))
        }
        polled => polled,
    });
    match AssertUnwindSafe(relayed).catch_unwind().await {
        Ok(Ok(())) => client.given_up.answered(),
        Ok(Err(RelayError::Sink)) => {}
        Ok(Err(RelayError::Stalled)) => match body.cut() {
            // Trailers need no room.
            Some(cut) if is_grpc => break_off(&mut send, is_grpc, &cut.reply()),
            Some(_) => send.send_reset(Reason::CANCEL),
            None => {
                body.stalled("stalled");
                send.send_reset(Reason::CANCEL);
            }
        },
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

/// Whether a client has already given up a call: it was not worth beginning.
fn is_reset(respond: &mut SendResponse<Bytes>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    respond.poll_reset(&mut cx).is_ready()
}

/// How long a client may take nothing of what waits for it. Costs nothing
/// while it takes some.
struct Patience {
    limit: Duration,
    moved: u32,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            moved: 0,
            sleep: None,
        }
    }

    /// To be called when nothing more can be moved; ready at the limit.
    fn poll(&mut self, cx: &mut Context<'_>, relay: &Relay) -> Poll<()> {
        if !relay.is_blocked() || self.moved != relay.moved() {
            self.moved = relay.moved();
            self.sleep = None;
        }
        if !relay.is_blocked() {
            return Poll::Pending;
        }
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        sleep.as_mut().poll(cx)
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
mod tests;
