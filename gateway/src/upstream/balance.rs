//! Gives each try a place: on which endpoint, on which of its connections, and
//! with the leave of its breaker.
//!
//! Which endpoint is [`choice`]'s concern. Usually that is all: what it chose is
//! connected and has room. Otherwise the others follow, best first, each at most
//! once: first the connected ones of a rank, then connections are made. A host that
//! does not answer must not cost a call the whole connect timeout while there is
//! another: after [`STAGGER`] the next one is tried beside it.
//!
//! When there is no place the call is refused at once, it never waits for one:
//!
//! - no endpoint is known, or all fail their checks: UNAVAILABLE, `no_endpoint`;
//! - the breakers of those that are up are open: UNAVAILABLE, `breaker_open`, with
//!   the time to the first probe;
//! - all that live are full: UNAVAILABLE, `upstream_full`, or RESOURCE_EXHAUSTED,
//!   `too_many_of_caller`;
//! - none could be connected to: UNAVAILABLE, `no_endpoint`. Only then was a host
//!   at fault, and its breaker hears of it, once for each attempt.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use intellirouter::resilience::{Permit, Readiness};

use super::choice::{self, Candidate, Dice, Rank};
use super::endpoint::Endpoint;
use super::pool::{Lease, Pool};
use super::slot::Slot;
use crate::reply::Reply;

/// How long one endpoint is waited for before another is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);

/// What a try asks for.
pub(super) struct Wish<'a> {
    /// How many calls its caller has in progress.
    pub(super) calls: usize,
    /// Whether another try may follow if it fails: such a one may be a probe.
    pub(super) repeatable: bool,
    /// Where the call has failed already; other endpoints come first.
    pub(super) failed_at: &'a [Arc<Endpoint>],
}

/// Where a try goes: a place on a connection, and the leave of the endpoint's
/// breaker, which is told how the try ended.
pub(super) struct Place {
    pub(super) lease: Lease,
    pub(super) permit: Permit,
}

/// Why there is no place.
pub(super) enum NoPlace {
    /// No endpoint could be connected to, so nothing was sent: later, one may.
    Unreachable(Reply),
    /// The gateway refuses the call itself: another try would not help.
    Refused(Reply),
}

impl Pool {
    /// Where a try goes.
    pub(super) async fn place(self: &Arc<Self>, wish: &Wish<'_>) -> Result<Place, NoPlace> {
        let slots = self.slots();
        let list = slots.list();
        let Some(choice) = choice::choose(list, wish, self.dice()) else {
            return Err(NoPlace::Refused(refusal(list)));
        };
        if choice.rank.is_connected() {
            if let Some(index) = choice.joins {
                list[index].connect_behind();
            }
            let (best, other) = choice.best;
            for index in std::iter::once(best).chain(other) {
                if let Some(place) = list[index].place(wish.calls) {
                    return Ok(place);
                }
            }
        }
        // Boxed, so that a call that needs no connection does not carry the
        // state of making one.
        Box::pin(place_anywhere(list, wish, self.dice())).await
    }
}

impl Slot {
    /// The leave of the endpoint's breaker.
    pub(super) fn acquire(&self) -> Option<Permit> {
        let standing = &self.endpoint().standing;
        let permit = standing.breaker.try_acquire().ok()?;
        if permit.is_probe() {
            // What it was like before it failed must not keep it out.
            standing.load.forget();
        }
        Some(permit)
    }

    /// A place on a connection that there is.
    fn place(&self, calls: usize) -> Option<Place> {
        let permit = self.acquire()?;
        let lease = self.take(calls)?;
        Some(Place { lease, permit })
    }
}

/// A place on any endpoint, wherever there is one or a connection can be made.
async fn place_anywhere(
    list: &[Arc<Slot>],
    wish: &Wish<'_>,
    dice: &Dice,
) -> Result<Place, NoPlace> {
    let order = in_order(list, wish, dice);
    let mut attempts = FuturesUnordered::new();
    let mut why = None;
    for group in order.chunk_by(|(one, _), (other, _)| one.group() == other.group()) {
        let connected = group.iter().filter(|(rank, _)| rank.is_connected());
        if let Some(place) = connected
            .filter_map(|(_, slot)| slot.place(wish.calls))
            .next()
        {
            return Ok(place);
        }
        for (_, slot) in group {
            let Some(permit) = slot.acquire() else {
                continue;
            };
            attempts.push(slot.connect(wish.calls, permit));
            match tokio::time::timeout(STAGGER, attempts.next()).await {
                Ok(Some(Ok(place))) => return Ok(place),
                Ok(Some(Err(no))) => note(&mut why, no),
                Ok(None) | Err(_) => {}
            }
        }
    }
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(place) => return Ok(place),
            Err(no) => note(&mut why, no),
        }
    }
    Err(why.unwrap_or_else(|| NoPlace::Refused(refusal(list))))
}

/// Those that can have the try, best first. Nobody is probed for the sake of the
/// probe here.
fn in_order<'a>(list: &'a [Arc<Slot>], wish: &Wish<'_>, dice: &Dice) -> Vec<(Rank, &'a Arc<Slot>)> {
    let (before, after) = list.split_at(dice.below(list.len().max(1)));
    let ranked = after.iter().chain(before).filter_map(|slot| {
        let rank = Rank::of(&**slot, wish)?.patient();
        Some((rank, slot))
    });
    let mut order: Vec<_> = ranked.collect();
    order.sort_by_key(|(rank, slot)| (*rank, slot.endpoint().standing.load.in_flight()));
    order
}

/// That an endpoint is full says more than that another is away: it lives.
fn note(why: &mut Option<NoPlace>, no: NoPlace) {
    if !matches!(why, Some(NoPlace::Refused(_))) {
        *why = Some(no);
    }
}

/// What a call is told when no endpoint can have it.
fn refusal(list: &[Arc<Slot>]) -> Reply {
    let up = list.iter().map(|slot| &slot.endpoint().standing);
    let waits = up.filter(|standing| standing.health.is_up());
    let waits = waits.filter_map(|standing| match standing.breaker.readiness() {
        Readiness::Refusing { retry_after } => Some((retry_after, &standing.breaker)),
        Readiness::Closed | Readiness::ProbeDue { .. } => None,
    });
    match waits.min_by_key(|(wait, _)| *wait) {
        Some((wait, breaker)) => {
            // Asked, so that it counts the call that it refuses.
            let wait = breaker
                .try_acquire()
                .map_or_else(|open| open.retry_after, |_| wait);
            Reply::unavailable("breaker_open", "the backends fail too often").retry_after(wait)
        }
        None => Reply::unavailable("no_endpoint", "no backend is up"),
    }
}

#[cfg(test)]
mod tests;
