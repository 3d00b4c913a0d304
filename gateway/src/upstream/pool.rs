//! The connections of one worker to one upstream.
//!
//! A worker keeps its own, so that a call stays on one core. Calls go to the
//! endpoints in turn; an endpoint that could not be reached is passed over for
//! [`BACK_OFF`] while another can be, and while any is connected no call waits
//! for a connection to another. A connection takes as many calls as its
//! peer allows; then another is opened, up to [`MAX_CONNECTIONS`] for an
//! endpoint. Beyond that a call is refused, never queued. Half of the
//! connections are kept for callers that have fewer calls in progress than the
//! other half takes, so that one caller can't keep out all others. One connection
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
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::Code;

use super::connect::{CALLS, Endpoint, Upstream};
use super::pace::Pace;
use super::rest::Rest;
use crate::layers::conduct::Caller;
use crate::reply::Reply;

/// How long an endpoint that could not be reached is passed over.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Connections of one worker to one endpoint.
const MAX_CONNECTIONS: usize = 8;
/// Those of them on which a caller may use every place.
const SHARED_CONNECTIONS: usize = MAX_CONNECTIONS / 2;

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
    pace: Arc<Pace>,
}

impl Connection {
    /// How many calls it takes.
    fn most(&self) -> usize {
        let allowed = self.send.current_max_send_streams();
        allowed.min(CALLS as usize)
    }
}

/// A place for one call on a connection.
pub(crate) struct Lease {
    connection: Connection,
    upstream: Arc<Upstream>,
    endpoint: usize,
    /// Whose call it is, if that is known.
    caller: Option<Caller>,
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

    /// The endpoint, for logs and traces.
    pub(crate) fn endpoint_name(&self) -> &Arc<str> {
        &self.endpoint().name
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

impl Lease {
    /// Says whose call it is.
    pub(crate) fn charge(&mut self, caller: Option<Caller>) {
        self.caller = caller;
    }

    /// Resets a call that its caller wants no more, when it is its turn. Its
    /// place counts as its caller's until then.
    pub(crate) fn give_up(self, rest: Rest) {
        let caller = self.caller.clone();
        if rest.is_answered()
            && let Some(caller) = &caller
        {
            caller.left();
        }
        if self.wind_up(rest)
            && let Some(caller) = &caller
        {
            caller.kept_a_place();
        }
    }

    /// Resets what is left of a call, when it is its turn; tells whether that
    /// is later.
    pub(crate) fn wind_up(self, mut rest: Rest) -> bool {
        let pace = &self.connection.pace;
        if rest.is_over() || rest.take_turn(pace) {
            return false;
        }
        // Without a runtime nothing is sent on any connection.
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let held = self.caller.as_ref().map(Caller::hold);
        runtime.spawn(async move {
            rest.in_turn(&self.connection.pace).await;
            drop((self, held));
        });
        true
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

    /// Whether this is the pool of that upstream, unchanged.
    pub(crate) fn serves(&self, upstream: &Arc<Upstream>) -> bool {
        Arc::ptr_eq(&self.upstream, upstream)
    }

    /// A place for one call, on a connection that lives, for a caller that has
    /// so many calls in progress.
    pub(crate) async fn lease(self: &Arc<Self>, calls: usize) -> Result<Lease, Reply> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..self.slots.len() {
            let endpoint = first.wrapping_add(step) % self.slots.len();
            if let Some(connection) = self.slots[endpoint].take(calls) {
                if step > 0 {
                    self.connect_behind(first % self.slots.len());
                }
                return Ok(Lease {
                    connection,
                    upstream: self.upstream.clone(),
                    endpoint,
                    caller: None,
                });
            }
        }
        // Boxed, so that a call that needs no connection does not carry the
        // state of making one.
        Box::pin(self.connect_any(first, calls)).await
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
            drop(pool.lease_from(endpoint, 0).await);
        });
    }

    /// How many places are taken.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        let count = |slot: &Slot| -> usize {
            let connections = slot.lock();
            let calls = connections
                .iter()
                .map(|one| one.in_flight.load(Ordering::Relaxed));
            calls.sum()
        };
        self.slots.iter().map(count).sum()
    }

    async fn connect_any(&self, first: usize, calls: usize) -> Result<Lease, Reply> {
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
            match self.lease_from(endpoint, calls).await {
                Ok(lease) => return Ok(lease),
                Err(reply) => refusal = Some(reply),
            }
        }
        Err(refusal.unwrap_or_else(unreachable))
    }

    async fn lease_from(&self, endpoint: usize, calls: usize) -> Result<Lease, Reply> {
        let slot = &self.slots[endpoint];
        let make = |connection| Lease {
            connection,
            upstream: self.upstream.clone(),
            endpoint,
            caller: None,
        };
        if let Some(connection) = slot.take(calls) {
            return Ok(make(connection));
        }
        let asked = Instant::now();
        let _one_at_a_time = slot.connecting.lock().await;
        if let Some(connection) = slot.take(calls) {
            return Ok(make(connection));
        }
        slot.check_room(calls)?;
        if slot.failed().is_some_and(|at| at >= asked) {
            // The attempt that this call waited for has failed.
            return Err(unreachable());
        }
        let host = &self.upstream.endpoints[endpoint];
        match host.connect(self.upstream.connect_timeout).await {
            Ok(send) => {
                *slot.failed() = None;
                let connection = Connection {
                    send,
                    in_flight: host.connected(),
                    pace: Arc::default(),
                };
                slot.lock().push(connection.clone());
                Ok(make(connection))
            }
            Err(error) => {
                *slot.failed() = Some(Instant::now());
                host.failed(&error);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(upstream = self.upstream.name, %error, cause, "no connection");
                Err(unreachable())
            }
        }
    }
}

impl Slot {
    /// A connection with room for a caller that has so many calls in progress,
    /// counted as used. Dead ones are dropped.
    fn take(&self, calls: usize) -> Option<Connection> {
        let mut connections = self.lock();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut index = 0;
        let mut places = 0;
        while let Some(connection) = connections.get_mut(index) {
            // Ready with an error once the connection is closed or going away.
            if let std::task::Poll::Ready(Err(_)) = connection.send.poll_ready(&mut cx) {
                connections.swap_remove(index);
                continue;
            }
            if index >= SHARED_CONNECTIONS && calls >= places {
                return None;
            }
            let most = connection.most();
            if connection.in_flight.load(Ordering::Relaxed) < most {
                connection.in_flight.fetch_add(1, Ordering::Relaxed);
                return Some(connection.clone());
            }
            if index < SHARED_CONNECTIONS {
                places += most;
            }
            index += 1;
        }
        None
    }

    /// Refuses a call for which no further connection may be opened.
    fn check_room(&self, calls: usize) -> Result<(), Reply> {
        let connections = self.lock();
        if connections.len() >= SHARED_CONNECTIONS {
            let shared = connections.iter().take(SHARED_CONNECTIONS);
            if calls >= shared.map(Connection::most).sum() {
                let message = "the caller has as many calls in progress as a backend takes of one";
                let reply = Reply::new(Code::ResourceExhausted, "too_many_of_caller", message);
                return Err(reply.retry_after(Duration::from_secs(1)));
            }
        }
        if connections.len() >= MAX_CONNECTIONS {
            let message = "every connection to the backend is full";
            return Err(Reply::unavailable("upstream_full", message));
        }
        Ok(())
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
