//! How often callers may call: rates over buckets, in this process or shared
//! with others through a store.
//!
//! A call needs room in every rate that covers it. Rates that need to know no
//! caller are asked before authentication ([`RouteRates::early`]), so that
//! they also count tokens that are tried out; the others after it
//! ([`RouteRates::admit`]), before roles. A refused call takes nothing from any
//! rate: what it took before the refusal is given back at once. Until then,
//! which is while the rates are asked one after the other (at most the store's
//! timeout for each global one), another call may find that much less room; more
//! is never let in. A call that its client gives up while it waits counts.
//!
//! Owns the buckets and the link to the store; both live as long as their part
//! of the configuration stays the same, whatever else a reload changes. Rates
//! whose numbers changed start no fuller than they were.
//!
//! Refused calls get RESOURCE_EXHAUSTED (429) with the time after which one
//! more would pass. Bounds: 64 rates; per rate a number of buckets that is
//! configured ([`shards`]); a wait of the store's timeout ([`global`]).

mod global;
mod key;
mod lease;
mod local;
mod metrics;
mod pace;
mod quota;
mod rate;
mod shards;
mod store;

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt as _;

use self::rate::{Call, Rate, Refused};
use self::store::Store;
use crate::config::LimitsConfig;
use crate::gateway::StartError;
use crate::layers::authenticate::Identity;
use crate::reply::Reply;

pub(crate) use metrics::LimitMetrics;
pub(crate) use quota::Quota;

/// The rates of one generation of the configuration.
pub(crate) struct RateLimits {
    rates: Vec<Arc<Rate>>,
    store: Option<Arc<Store>>,
}

impl RateLimits {
    /// Takes over the buckets and the store of `previous` where their
    /// configuration is the same. Connects on the runtime of the caller, in the
    /// background.
    pub(crate) fn build(
        config: &LimitsConfig,
        previous: Option<&Self>,
        metrics: &LimitMetrics,
    ) -> Result<Self, StartError> {
        let shared = config.rates.iter().any(|rate| rate.meter.global);
        let store = match &config.store {
            Some(store) if shared => Some(Store::open(
                store,
                previous.and_then(|previous| previous.store.as_ref()),
            )?),
            _ => None,
        };
        let rates = config.rates.iter().map(|rate| {
            let before = previous.and_then(|previous| {
                let mut rates = previous.rates.iter();
                rates.find(|before| before.name() == rate.name)
            });
            let before = before.map(|before| &**before);
            Arc::new(Rate::new(rate, store.as_ref(), before, metrics))
        });
        Ok(Self {
            rates: rates.collect(),
            store,
        })
    }

    /// The rates that cover a route, by its name: its pattern or its path.
    /// `None` where there are none.
    pub(crate) fn of_route(&self, name: &str) -> Option<RouteRates> {
        let covering = self.rates.iter().filter(|rate| rate.covers_route(name));
        let (mut late, mut early): (Vec<_>, Vec<_>) =
            covering.cloned().partition(|rate| rate.needs_identity());
        if early.is_empty() && late.is_empty() {
            return None;
        }
        // Those that may wait come last, when the others have let the call in.
        early.sort_by_key(|rate| rate.may_wait());
        late.sort_by_key(|rate| rate.may_wait());
        Some(RouteRates {
            route: name.into(),
            early: early.into(),
            late: late.into(),
        })
    }

    /// What rates name as routes, so that each is a route of its own.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.rates.iter().flat_map(|rate| rate.patterns())
    }

    /// Tells operators what this generation, which is in use now, could not
    /// keep of the one before.
    pub(crate) fn announce(&self) {
        self.rates.iter().for_each(|rate| rate.announce());
    }

    /// Puts the figures into the metrics; called before each scrape.
    pub(crate) fn observe(&self, metrics: &LimitMetrics) {
        metrics.set_store(self.store.as_ref().is_none_or(|store| !store.is_away()));
    }

    /// How the store is doing, for operators; `None` without one.
    pub(crate) fn status(&self) -> Option<String> {
        self.store.as_ref().map(|store| store.status())
    }
}

/// The rates of one route.
pub(crate) struct RouteRates {
    route: Box<str>,
    early: Box<[Arc<Rate>]>,
    late: Box<[Arc<Rate>]>,
}

impl RouteRates {
    /// Asks the rates that need no identity.
    pub(crate) async fn early(&self, address: IpAddr) -> Result<Option<Quota>, Reply> {
        if self.early.is_empty() {
            return Ok(None);
        }
        take_all(&self.early, &self.call(address, None)).await
    }

    /// Asks the others, for a caller that is known. A refusal gives back what
    /// [`RouteRates::early`] took for this call.
    pub(crate) async fn admit(
        &self,
        address: IpAddr,
        identity: &Identity,
    ) -> Result<Option<Quota>, Reply> {
        if self.late.is_empty() {
            return Ok(None);
        }
        let call = self.call(address, Some(identity));
        let taken = take_all(&self.late, &call).await;
        if taken.is_err() {
            buckets(&self.early, &call).for_each(|(rate, parts)| rate.give_back(&parts));
        }
        taken
    }

    fn call<'c>(&'c self, address: IpAddr, identity: Option<&'c Identity>) -> Call<'c> {
        Call {
            address,
            route: &self.route,
            identity,
        }
    }
}

/// Every bucket that a call needs room in, in order.
fn buckets<'c>(
    rates: &'c [Arc<Rate>],
    call: &'c Call<'c>,
) -> impl Iterator<Item = (&'c Arc<Rate>, key::Parts<'c>)> {
    rates
        .iter()
        .flat_map(move |rate| rate.buckets(call).map(move |parts| (rate, parts)))
}

/// Takes from every bucket, or from none. Boxed where it may wait: calls that
/// need no store must not carry its state.
async fn take_all(rates: &[Arc<Rate>], call: &Call<'_>) -> Result<Option<Quota>, Reply> {
    if rates.iter().any(|rate| rate.is_global()) {
        return Box::pin(take(rates, call)).await;
    }
    let taken = take(rates, call).now_or_never();
    // What is in memory is never waited for.
    taken.unwrap_or_else(|| Err(Reply::internal()))
}

async fn take(rates: &[Arc<Rate>], call: &Call<'_>) -> Result<Option<Quota>, Reply> {
    let mut tightest = None;
    for (taken, (rate, parts)) in buckets(rates, call).enumerate() {
        match rate.take(&parts).await {
            Ok(quota) => tightest = Quota::tightest(tightest, Some(quota)),
            Err(refused) => {
                let undo = buckets(rates, call).take(taken);
                undo.for_each(|(rate, parts)| rate.give_back(&parts));
                return Err(refusal(rates, call, taken, refused));
            }
        }
    }
    Ok(tightest)
}

/// Names the rate that refuses for the longest: sooner no call would pass.
fn refusal(rates: &[Arc<Rate>], call: &Call<'_>, at: usize, refused: Refused) -> Reply {
    let Some((rate, _)) = buckets(rates, call).nth(at) else {
        return Reply::internal();
    };
    let mut longest = (refused.wait, rate);
    for (rate, parts) in buckets(rates, call).skip(at + 1) {
        let wait = rate.wait(&parts);
        if wait > longest.0 {
            longest = (wait, rate);
        }
    }
    let (wait, rate) = longest;
    rate.refusal(wait)
}

#[cfg(test)]
mod tests;
