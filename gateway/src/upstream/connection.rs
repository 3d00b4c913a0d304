//! One HTTP/2 connection to a backend, from its handshake to its end.
//!
//! What one connection buffers is bounded by the windows of its streams, 128 KiB
//! each, credit being given only after data went on. The connection's own window
//! has room for all its calls, [`CALLS`]: callers that do not read must not hold
//! up those that do.
//!
//! h2 defends a connection against its peer by budgets whose end is the end of
//! the connection. A backend is trusted, and callers could spend them for it:
//! answers that come late to streams that were given up count as faults of the
//! peer (1,024 in the life of a connection), and so does every small DATA frame
//! that a caller does not read. So both are without a limit here. What waits
//! unread is still bounded by the windows; the call that does not read pays.
//!
//! Keepalive: a connection that has calls in progress and brings nothing for
//! `keepalive` is asked by a PING. When nothing comes for `keepalive_timeout`
//! after that, it is given up, and its calls fail as on one that broke. While
//! bytes come, or there is no call, no PING is sent. gRPC servers close a
//! connection for PINGs that they think too many: by default for the third that
//! comes within 5 minutes of the one before, with nothing sent by them in
//! between that is part of an answer (gRPC, proposal A8). So after each answer
//! only [`EARLY`] PINGs are that early; those after them keep a distance of
//! [`DISTANCE`]. A host that vanishes meanwhile is found by TCP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::config::ConnectionsConfig;
use crate::io::{Ear, Heard, Turns};
use crate::telemetry::{Closed, UpstreamFigures};

/// The most calls on one connection, whatever its peer would allow.
pub(super) const CALLS: u32 = 1024;
const STREAM_WINDOW: u32 = 128 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// How much is read before other tasks get their turn, in bytes.
const TURN: usize = 128 * 1024;
const HEADER_BYTES: u32 = 64 * 1024;

/// See the module's comment.
const EARLY: u32 = 2;
/// The 5 minutes of gRPC servers, and some for clocks and for the way.
const DISTANCE: Duration = Duration::from_secs(310);

/// What a connection is opened with.
pub(super) struct Terms {
    /// The endpoint, for the log.
    pub(super) name: Arc<str>,
    pub(super) limits: ConnectionsConfig,
    pub(super) figures: UpstreamFigures,
    /// Its calls in progress.
    pub(super) in_flight: Arc<AtomicUsize>,
}

impl Terms {
    /// A connection that is ready for calls, driven by tasks of its own. It
    /// closes when nobody can call on it any more and its last call has ended.
    pub(super) async fn open<T>(self, io: T) -> Result<SendRequest<Bytes>, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ear = Arc::<Ear>::default();
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * CALLS)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEADER_BYTES)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(CALLS as usize)
            .data_frame_budget(usize::MAX)
            .enable_push(false)
            .handshake(Turns::new(Heard::new(io, ear.clone()), TURN))
            .await?;
        let mut pings = connection.ping_pong();
        // The answer to a ping comes after the peer's SETTINGS: a peer that is
        // silent is no connection, and how many calls it takes is known now.
        if let Some(pings) = &mut pings {
            tokio::select! {
                biased;
                pong = pings.ping(Ping::opaque()) => { pong?; }
                ended = &mut connection => {
                    ended?;
                    return Err(h2::Reason::NO_ERROR.into());
                }
            }
        }
        let watch = pings.map(|pings| Watch {
            pings,
            ear,
            in_flight: self.in_flight,
            limits: self.limits,
        });
        let open = Open::new(&self.figures.connections);
        // On its own, so that what happens on the connection wakes no watch.
        let mut driver = tokio::spawn(connection);
        tokio::spawn(async move {
            let _open = open;
            tokio::select! {
                ended = &mut driver => {
                    if let Ok(Err(error)) = ended {
                        tracing::info!(endpoint = %self.name, %error, "upstream connection lost");
                    }
                }
                () = silent(watch) => {
                    // Dropped with the task, and with it all its calls break.
                    driver.abort();
                    self.figures.closed(Closed::Keepalive);
                    let message = "upstream connection given up: no answer to a PING";
                    tracing::warn!(endpoint = %self.name, "{message}");
                }
            }
        });
        Ok(send)
    }
}

/// Ready when a connection must be given up.
async fn silent(watch: Option<Watch>) {
    match watch {
        Some(watch) => watch.silent().await,
        None => std::future::pending().await,
    }
}

/// Asks whether a peer is still there; see the module's comment.
struct Watch {
    pings: PingPong,
    ear: Arc<Ear>,
    in_flight: Arc<AtomicUsize>,
    limits: ConnectionsConfig,
}

impl Watch {
    async fn silent(mut self) {
        let mut asked_at = Instant::now();
        let mut early = EARLY;
        let mut next = asked_at + self.limits.keepalive;
        loop {
            sleep_until(next).await;
            let now = Instant::now();
            if self.ear.take_answered() {
                early = EARLY;
            }
            let quiet_at = self.ear.heard_at() + self.limits.keepalive;
            let far_at = asked_at + DISTANCE;
            next = if quiet_at > now {
                quiet_at
            } else if self.in_flight.load(Relaxed) == 0 {
                now + self.limits.keepalive
            } else if early == 0 && far_at > now {
                // An answer may come meanwhile, so this looks as often as ever.
                far_at.min(now + self.limits.keepalive)
            } else {
                early = early.saturating_sub(u32::from(far_at > now));
                asked_at = now;
                if !self.is_answered(now).await {
                    return;
                }
                now + self.limits.keepalive
            };
        }
    }

    /// Sends a PING. Whatever comes is an answer; a PONG may have to wait
    /// behind much else.
    async fn is_answered(&mut self, asked_at: Instant) -> bool {
        let mut pong = std::pin::pin!(self.pings.ping(Ping::opaque()));
        loop {
            let heard_at = self.ear.heard_at().max(asked_at);
            tokio::select! {
                biased;
                pong = &mut pong => match pong {
                    Ok(_) => return true,
                    // The connection is over, and its driver says so.
                    Err(_) => std::future::pending().await,
                },
                () = sleep_until(heard_at + self.limits.keepalive_timeout) => {
                    if self.ear.heard_at() <= heard_at {
                        return false;
                    }
                }
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open(Gauge);

impl Open {
    fn new(count: &Gauge) -> Self {
        count.inc();
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
