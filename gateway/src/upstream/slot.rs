//! The connections of one worker to one endpoint.
//!
//! A connection takes as many calls as its peer allows; then another is opened,
//! up to [`MAX_CONNECTIONS`]. Beyond that a call is refused, never queued. Half
//! of the connections are kept for callers that have fewer calls in progress
//! than the other half takes, so that one caller can't keep out all others. One
//! attempt to connect runs at a time, and calls that need it wait for its end, at
//! most the connect timeout; it goes on when they no longer do. How soon after a
//! failure there may be another is [`super::dial`]'s concern.
//!
//! A connection that is dead, or that its peer is closing (GOAWAY), gets no new
//! calls from that moment on. One that had no call for `idle_timeout` is closed.
//! One as old as `max_connection_age`, less up to a tenth by chance, is replaced:
//! calls go to it until the other is there, and [`OVERTIME`] longer at most.
//! Whatever is closed, the calls in progress on it end first. Idle and old ones
//! are found by [`Slot::look_after`], so within a second or two.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use intellirouter::resilience::{Outcome, Permit, Readiness};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tonic::Code;

use super::balance::{NoPlace, Place};
use super::choice::Candidate;
use super::connect::CALLS;
use super::endpoint::{Endpoint, Standing};
use super::pace::Pace;
use super::pool::Lease;
use crate::reply::Reply;
use crate::telemetry::Closed;

/// Connections of one worker to one endpoint.
const MAX_CONNECTIONS: usize = 8;
/// Those of them on which a caller may use every place.
const SHARED_CONNECTIONS: usize = MAX_CONNECTIONS / 2;
/// How long a connection that is too old is used when there is no other.
const OVERTIME: Duration = Duration::from_secs(10);

/// See the module's comment.
pub(super) struct Slot {
    pub(super) endpoint: Arc<Endpoint>,
    connections: Mutex<Vec<Kept>>,
    connecting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
pub(super) struct Connection {
    pub(super) send: SendRequest<Bytes>,
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) common: Arc<Common>,
}

/// What else the calls on a connection share.
#[derive(Default)]
pub(super) struct Common {
    pub(super) pace: Pace,
    is_lost: AtomicBool,
}

impl Common {
    /// Whether another call has found out that the connection is lost; now it is
    /// known.
    pub(super) fn is_known_lost(&self) -> bool {
        self.is_lost.swap(true, Relaxed)
    }
}

/// A connection that calls may go to.
struct Kept {
    connection: Connection,
    /// When it is too old.
    expires: Instant,
    /// The calls that it was given, at the last look too, wrapping.
    given: u32,
    seen: u32,
    /// When it was first seen to have none, and had none since.
    idle_since: Option<Instant>,
}

impl Connection {
    /// How many calls it takes.
    fn most(&self) -> usize {
        let allowed = self.send.current_max_send_streams();
        allowed.min(CALLS as usize)
    }
}

impl Kept {
    fn new(connection: Connection, expires: Instant) -> Self {
        Self {
            connection,
            expires,
            // The one that it was opened for.
            given: 1,
            seen: 0,
            idle_since: None,
        }
    }

    /// Not if it is closed or going away.
    fn takes_calls(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !matches!(
            self.connection.send.poll_ready(&mut cx),
            Poll::Ready(Err(_))
        )
    }

    /// Since when it has had no call, as far as looks can tell.
    fn idle_since(&mut self, now: Instant) -> Option<Instant> {
        let unused = self.seen == self.given && self.connection.in_flight.load(Relaxed) == 0;
        self.seen = self.given;
        self.idle_since = unused.then(|| self.idle_since.unwrap_or(now));
        self.idle_since
    }
}

impl Candidate for Slot {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn is_connected(&self) -> bool {
        !self.lock().is_empty()
    }

    fn backs_off(&self) -> bool {
        self.endpoint.standing.dial.backs_off(Instant::now())
    }
}

impl Slot {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            connections: Mutex::default(),
            connecting: Arc::default(),
        })
    }

    pub(super) fn lease(&self, connection: Connection) -> Lease {
        Lease::new(connection, self.endpoint.clone())
    }

    /// Connects while the call goes to another endpoint: a host that is gone
    /// must not cost callers the connect timeout.
    pub(super) fn connect_behind(self: &Arc<Self>) {
        match self.take(0) {
            // Full only for that caller.
            Some(lease) => drop(lease),
            None => self.open_behind(),
        }
    }

    fn open_behind(self: &Arc<Self>) {
        let now = Instant::now();
        let Standing { dial, breaker, .. } = &*self.endpoint.standing;
        // A probe has waited long enough.
        let is_due = || matches!(breaker.readiness(), Readiness::ProbeDue { .. });
        // Its end is logged, and no caller waits for it.
        if (!dial.backs_off(now) || is_due())
            && self.check_room(0).is_ok()
            && let Ok(turn) = self.connecting.clone().try_lock_owned()
            && dial.may_try(now)
            && let Some(permit) = self.acquire()
        {
            drop(tokio::spawn(self.clone().open(turn, permit)));
        }
    }

    /// A place, for which a connection is made if none has room.
    pub(super) async fn connect(
        self: &Arc<Self>,
        calls: usize,
        permit: Permit,
    ) -> Result<Place, NoPlace> {
        if let Some(lease) = self.take(calls) {
            return Ok(Place { lease, permit });
        }
        let asked = Instant::now();
        let turn = self.connecting.clone().lock_owned().await;
        if let Some(lease) = self.take(calls) {
            return Ok(Place { lease, permit });
        }
        self.check_room(calls).map_err(NoPlace::Refused)?;
        let dial = &self.endpoint.standing.dial;
        // The attempt that this call waited for may be the one that failed.
        if dial.failed_since(asked) || !dial.may_try(Instant::now()) {
            return Err(unreachable());
        }
        // On its own: that one caller waits no longer must not end it, or an
        // endpoint that is silent would never have failed.
        let opened = tokio::spawn(self.clone().open(turn, permit)).await;
        opened.ok().flatten().ok_or_else(unreachable)
    }

    /// One attempt, and the only one at a time. A failure counts for the breaker,
    /// once however many calls wait for it.
    async fn open(self: Arc<Self>, _turn: OwnedMutexGuard<()>, permit: Permit) -> Option<Place> {
        match self.endpoint.open().await {
            Ok((send, in_flight)) => {
                let connection = Connection {
                    send,
                    in_flight,
                    common: Arc::default(),
                };
                let age = age(self.endpoint.dialer.limits.max_age, rand::random());
                let kept = Kept::new(connection.clone(), Instant::now() + age);
                self.lock().push(kept);
                let lease = self.lease(connection);
                Some(Place { lease, permit })
            }
            Err(error) => {
                permit.record(Outcome::Failure);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let (upstream, endpoint) = (&self.endpoint.dialer.upstream, &self.endpoint.name);
                tracing::warn!(upstream, %endpoint, %error, cause, "no connection");
                None
            }
        }
    }

    /// A place on a connection with room for a caller that has so many calls in
    /// progress. Dead ones are dropped.
    pub(super) fn take(&self, calls: usize) -> Option<Lease> {
        let mut connections = self.lock();
        let mut index = 0;
        let mut places = 0;
        while let Some(kept) = connections.get_mut(index) {
            if !kept.takes_calls() {
                connections.swap_remove(index);
                continue;
            }
            if index >= SHARED_CONNECTIONS && calls >= places {
                return None;
            }
            let connection = &kept.connection;
            let most = connection.most();
            if connection.in_flight.load(Relaxed) < most {
                connection.in_flight.fetch_add(1, Relaxed);
                kept.given = kept.given.wrapping_add(1);
                return Some(self.lease(connection.clone()));
            }
            if index < SHARED_CONNECTIONS {
                places += most;
            }
            index += 1;
        }
        None
    }

    /// Refuses a call for which no further connection may be opened; no fault of
    /// the endpoint.
    fn check_room(&self, calls: usize) -> Result<(), Reply> {
        let connections = self.lock();
        if connections.len() >= SHARED_CONNECTIONS {
            let shared = connections.iter().take(SHARED_CONNECTIONS);
            if calls >= shared.map(|kept| kept.connection.most()).sum() {
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

    /// Closes connections that are dead, idle or too old; see the module's
    /// comment.
    pub(super) fn look_after(self: &Arc<Self>, now: Instant) {
        let idle_timeout = self.endpoint.dialer.limits.idle_timeout;
        let figures = &self.endpoint.dialer.figures;
        let mut connections = self.lock();
        connections.retain_mut(Kept::takes_calls);
        let young = connections.iter().any(|kept| now < kept.expires);
        // One must go at once where there is no room for another.
        let mut spare = connections.len() >= MAX_CONNECTIONS;
        let mut replace = false;
        connections.retain_mut(|kept| {
            let idle_since = kept.idle_since(now);
            if idle_since.is_some_and(|since| now - since >= idle_timeout) {
                figures.closed(Closed::Idle);
                return false;
            }
            if now < kept.expires {
                return true;
            }
            let goes = young || idle_since.is_some() || now >= kept.expires + OVERTIME;
            if goes || std::mem::take(&mut spare) {
                figures.closed(Closed::Age);
                return false;
            }
            replace = true;
            true
        });
        drop(connections);
        if replace {
            self.open_behind();
        }
    }

    /// How many places are taken.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        let connections = self.lock();
        let calls = connections
            .iter()
            .map(|kept| kept.connection.in_flight.load(Relaxed));
        calls.sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreachable() -> NoPlace {
    NoPlace::Unreachable(Reply::unavailable(
        "no_endpoint",
        "no backend can be reached",
    ))
}

/// How old a connection gets; `chance` is 0 to 1. They must not all go at once.
fn age(most: Duration, chance: f64) -> Duration {
    most.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 10.0)
}

#[cfg(test)]
mod tests;
