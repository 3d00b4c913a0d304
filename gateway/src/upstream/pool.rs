//! The connections of one worker to one upstream.
//!
//! A worker keeps its own, so that a call stays on one core. Calls go to the
//! endpoints in turn; an endpoint that could not be reached is passed over for
//! [`BACK_OFF`] while another can be, and while any is connected no call waits
//! for a connection to another. A connection takes as many calls as its
//! peer allows; then another is opened, up to [`MAX_CONNECTIONS`] for an
//! endpoint. Beyond that a call is refused, never queued. One connection
//! attempt per endpoint runs at a time; calls that need it wait for its end,
//! at most the connect timeout each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use tokio::time::Instant;

use super::connect::{CALLS, Endpoint, Upstream};
use crate::reply::Reply;

/// How long an endpoint that could not be reached is passed over.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Connections of one worker to one endpoint.
const MAX_CONNECTIONS: usize = 8;

/// See the module's comment.
pub(crate) struct Pool {
    upstream: Arc<Upstream>,
    slots: Vec<Slot>,
    next: AtomicUsize,
}

#[derive(Default)]
struct Slot {
    connections: Mutex<Vec<Connection>>,
    connecting: tokio::sync::Mutex<()>,
    failed_at: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Connection {
    send: SendRequest<Bytes>,
    in_flight: Arc<AtomicUsize>,
}

/// A place for one call on a connection.
pub(crate) struct Lease {
    connection: Connection,
    upstream: Arc<Upstream>,
    endpoint: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    fn endpoint(&self) -> &Endpoint {
        &self.upstream.endpoints[self.endpoint]
    }

    /// Points a request at the endpoint.
    pub(crate) fn address(&self, head: &mut Parts) -> Result<(), Reply> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.endpoint().scheme.clone());
        uri.authority = Some(self.endpoint().authority.clone());
        let path = head.uri.path_and_query().cloned();
        uri.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
        head.uri = Uri::from_parts(uri).map_err(|_| Reply::internal())?;
        head.version = Version::HTTP_2;
        Ok(())
    }

    pub(crate) fn send(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.connection.send.clone().send_request(request, ends)
    }
}

impl Pool {
    pub(crate) fn new(upstream: Arc<Upstream>) -> Arc<Self> {
        let slots = upstream.endpoints.iter().map(|_| Slot::default()).collect();
        Arc::new(Self {
            upstream,
            slots,
            next: AtomicUsize::new(0),
        })
    }

    /// A place for one call, on a connection that lives.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, Reply> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..self.slots.len() {
            let endpoint = first.wrapping_add(step) % self.slots.len();
            if let Some(connection) = self.slots[endpoint].take() {
                if step > 0 {
                    self.connect_behind(first % self.slots.len());
                }
                return Ok(Lease {
                    connection,
                    upstream: self.upstream.clone(),
                    endpoint,
                });
            }
        }
        // Boxed, so that a call that needs no connection does not carry the
        // state of making one.
        Box::pin(self.connect_any(first)).await
    }

    /// Connects to an endpoint whose turn it was, while the call goes to
    /// another: a host that is gone must not cost callers the connect timeout.
    fn connect_behind(self: &Arc<Self>, endpoint: usize) {
        let slot = &self.slots[endpoint];
        if slot.backs_off() || slot.connecting.try_lock().is_err() {
            return;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            // Its refusal is logged, and no caller waits for it.
            drop(pool.lease_from(endpoint).await);
        });
    }

    async fn connect_any(&self, first: usize) -> Result<Lease, Reply> {
        let mut order: Vec<usize> = (0..self.slots.len())
            .map(|step| first.wrapping_add(step) % self.slots.len())
            .collect();
        // One more connection to an endpoint that answers before the first to
        // one that may not; one that has just failed comes last.
        order.sort_by_key(|endpoint| {
            let slot = &self.slots[*endpoint];
            (slot.lock().is_empty(), slot.backs_off())
        });
        let mut refusal = None;
        for endpoint in order {
            match self.lease_from(endpoint).await {
                Ok(lease) => return Ok(lease),
                Err(reply) => refusal = Some(reply),
            }
        }
        Err(refusal.unwrap_or_else(unreachable))
    }

    async fn lease_from(&self, endpoint: usize) -> Result<Lease, Reply> {
        let slot = &self.slots[endpoint];
        let make = |connection| Lease {
            connection,
            upstream: self.upstream.clone(),
            endpoint,
        };
        if let Some(connection) = slot.take() {
            return Ok(make(connection));
        }
        let asked = Instant::now();
        let _one_at_a_time = slot.connecting.lock().await;
        if let Some(connection) = slot.take() {
            return Ok(make(connection));
        }
        if slot.lock().len() >= MAX_CONNECTIONS {
            let message = "every connection to the backend is full";
            return Err(Reply::unavailable("upstream_full", message));
        }
        if slot.failed().is_some_and(|at| at >= asked) {
            // The attempt that this call waited for has failed.
            return Err(unreachable());
        }
        let connected = self.upstream.endpoints[endpoint]
            .connect(self.upstream.connect_timeout)
            .await;
        match connected {
            Ok(send) => {
                *slot.failed() = None;
                let connection = Connection {
                    send,
                    in_flight: Arc::new(AtomicUsize::new(1)),
                };
                slot.lock().push(connection.clone());
                Ok(make(connection))
            }
            Err(error) => {
                *slot.failed() = Some(Instant::now());
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(upstream = self.upstream.name, %error, cause, "no connection");
                Err(unreachable())
            }
        }
    }
}

impl Slot {
    /// A connection with room, counted as used. Dead ones are dropped.
    fn take(&self) -> Option<Connection> {
        let mut connections = self.lock();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut index = 0;
        while let Some(connection) = connections.get_mut(index) {
            // Ready with an error once the connection is closed or going away.
            if let std::task::Poll::Ready(Err(_)) = connection.send.poll_ready(&mut cx) {
                connections.swap_remove(index);
                continue;
            }
            let most = connection
                .send
                .current_max_send_streams()
                .min(CALLS as usize);
            if connection.in_flight.load(Ordering::Relaxed) < most {
                connection.in_flight.fetch_add(1, Ordering::Relaxed);
                return Some(connection.clone());
            }
            index += 1;
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn backs_off(&self) -> bool {
        self.failed().is_some_and(|at| at.elapsed() < BACK_OFF)
    }
}

fn unreachable() -> Reply {
    Reply::unavailable("no_endpoint", "no backend can be reached")
}
