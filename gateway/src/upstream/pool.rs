//! The connections of one worker to one upstream.
//!
//! A worker keeps its own, so that a call stays on one core. Which endpoint a
//! call goes to is [`super::balance`]'s concern; the connections to one
//! endpoint, and their bounds, are [`super::slot`]'s.
//!
//! A task looks after them every [`EVERY`], for as long as there is the pool:
//! then connections close that are dead, idle or too old, or whose endpoint is
//! gone, though nobody calls.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use intellirouter::resilience::Outcome;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior};

use super::choice::Dice;
use super::endpoint::Endpoint;
use super::rest::Rest;
use super::shared::{Endpoints, Upstream};
use super::slot::{Connection, Slot};
use super::status;
use crate::layers::conduct::Caller;
use crate::reply::Reply;

/// How often connections are looked after.
const EVERY: Duration = Duration::from_secs(1);

/// See the module's comment.
pub(crate) struct Pool {
    upstream: Arc<Upstream>,
    /// One for each endpoint that there was at the last look.
    slots: ArcSwap<Slots>,
    dice: Dice,
}

#[derive(Default)]
pub(super) struct Slots {
    of: Arc<Endpoints>,
    list: Vec<Arc<Slot>>,
}

impl Slots {
    pub(super) fn list(&self) -> &[Arc<Slot>] {
        &self.list
    }
}

/// A place for one call on a connection.
pub(crate) struct Lease {
    connection: Connection,
    endpoint: Arc<Endpoint>,
    /// Whose call it is, if that is known.
    caller: Option<Caller>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.standing.load.end();
    }
}

impl Lease {
    /// On a connection that counts the call already.
    pub(super) fn new(connection: Connection, endpoint: Arc<Endpoint>) -> Self {
        endpoint.standing.load.begin();
        Self {
            connection,
            endpoint,
            caller: None,
        }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
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
    /// Whether a call that broke so is its endpoint's failure. A connection fails
    /// once, however many calls it takes along.
    pub(super) fn outcome(&self, error: &h2::Error) -> Outcome {
        match status::outcome(error) {
            Outcome::Failure if !error.is_reset() && self.connection.common.is_known_lost() => {
                Outcome::Ignored
            }
            outcome => outcome,
        }
    }

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
        let pace = &self.connection.common.pace;
        if rest.is_over() || rest.take_turn(pace) {
            return false;
        }
        // Without a runtime nothing is sent on any connection.
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let held = self.caller.as_ref().map(Caller::hold);
        runtime.spawn(async move {
            rest.in_turn(&self.connection.common.pace).await;
            drop((self, held));
        });
        true
    }
}

impl Pool {
    /// Must run on the runtime that its calls will run on.
    pub(crate) fn new(upstream: Arc<Upstream>) -> Arc<Self> {
        let this = Self::unattended(upstream);
        tokio::spawn(look_after(Arc::downgrade(&this)));
        this
    }

    /// One whose connections nobody looks after.
    pub(super) fn unattended(upstream: Arc<Upstream>) -> Arc<Self> {
        Arc::new(Self {
            upstream,
            slots: ArcSwap::default(),
            dice: Dice::new(rand::random()),
        })
    }

    /// Closes what is not to be kept.
    pub(super) fn look_after(&self, now: Instant) {
        for slot in &self.slots().list {
            slot.look_after(now);
        }
    }

    pub(super) fn dice(&self) -> &Dice {
        &self.dice
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Whether this is the pool of that upstream, unchanged.
    pub(crate) fn serves(&self, upstream: &Arc<Upstream>) -> bool {
        Arc::ptr_eq(&self.upstream, upstream)
    }

    /// A slot for each endpoint that there is now. Those of endpoints that are
    /// gone are dropped: their connections close as their last calls end.
    pub(super) fn slots(&self) -> Arc<Slots> {
        let slots = self.slots.load_full();
        let endpoints = self.upstream.endpoints();
        if Arc::ptr_eq(&slots.of, &endpoints) {
            return slots;
        }
        let list = endpoints.iter().map(|endpoint| {
            let mut known = slots.list.iter();
            let known = known.find(|slot| Arc::ptr_eq(&slot.endpoint, endpoint));
            known
                .cloned()
                .unwrap_or_else(|| Slot::new(endpoint.clone()))
        });
        let list = list.collect();
        let slots = Arc::new(Slots {
            of: endpoints,
            list,
        });
        self.slots.store(slots.clone());
        slots
    }

    #[cfg(test)]
    pub(super) fn slot(&self, number: usize) -> Arc<Slot> {
        self.slots().list[number].clone()
    }

    /// How many places are taken.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        let slots = self.slots();
        slots.list.iter().map(|slot| slot.in_flight()).sum()
    }
}

async fn look_after(pool: Weak<Pool>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match pool.upgrade() {
            Some(pool) => pool.look_after(Instant::now()),
            None => return,
        }
    }
}
