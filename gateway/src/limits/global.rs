//! One rate that all gateways of a store count together.
//!
//! Owns the leases of one rate and who waits for them. How a lease decides is
//! [`super::lease`]; how questions travel is [`super::store`]. A call waits only
//! when its lease is empty and the store answers promptly, and no longer than
//! the store's timeout; then, as when the store is away, this gateway's share
//! decides at once. The store being slow, away or broken is never an error for
//! the caller.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::key::{Key, Parts, Seeds, digest, overflow_digest};
use super::lease::{Answer, Lease, Question, Standing, Terms, Verdict};
use super::pace::{Pace, Ticks, nanos};
use super::shards::{KeyMetrics, Place, SHARDS, Shards, shard_of};
use super::store::{Ask, Store};

/// See the module's comment.
pub(super) struct Global {
    /// The start of the rate's keys in the store.
    prefix: String,
    terms: Terms,
    seeds: Seeds,
    ticks: Ticks,
    leases: Shards<Lease>,
    /// Told when an answer has come, by shard.
    answered: Box<[Notify]>,
    store: Arc<Store>,
    /// Told once, that a key can't be used.
    complained: AtomicBool,
}

/// How a call was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Calls left, or the time until one passes.
    pub(super) result: Result<u32, Duration>,
    /// By this gateway's share.
    pub(super) fallback: bool,
}

impl Global {
    /// Takes over what the buckets of `previous` hold, if it counts the same
    /// callers.
    pub(super) fn new(
        prefix: String,
        pace: Pace,
        keys: usize,
        metrics: KeyMetrics,
        store: Arc<Store>,
        previous: Option<&Self>,
    ) -> Arc<Self> {
        let ticks = Ticks::start();
        let leases = Shards::new(keys, metrics);
        if let Some(old) = previous {
            let (then, now) = (old.ticks.now(), ticks.now());
            leases.take_over(&old.leases, |lease| {
                lease.renewed(old.terms.pace, pace, then, now)
            });
        }
        let global = Arc::new(Self {
            prefix,
            terms: Terms {
                pace,
                lease: lease_of(pace, store.lease()),
            },
            seeds: previous.map(|old| old.seeds.clone()).unwrap_or_default(),
            ticks,
            leases,
            answered: std::iter::repeat_with(Notify::new).take(SHARDS).collect(),
            store,
            complained: AtomicBool::new(false),
        });
        global.store.serve(&global);
        global
    }

    /// Takes one call's worth.
    pub(super) async fn take(self: &Arc<Self>, parts: &Parts<'_>) -> Outcome {
        let key = self.seeds.key(parts);
        match self.decide(key, parts, false) {
            Ok(outcome) => outcome,
            // Boxed: calls that need not wait must not carry what waiting needs.
            Err(place) => {
                let waiting = Waiting {
                    rate: self,
                    key,
                    place,
                };
                Box::pin(waiting.take(parts)).await
            }
        }
    }

    /// Where the call waits when only the store knows; `waits`: it does so
    /// already.
    fn decide(
        self: &Arc<Self>,
        key: Key,
        parts: &Parts<'_>,
        waits: bool,
    ) -> Result<Outcome, Place> {
        let standing = self.store.standing();
        let (verdict, ask, place) = self.with(key, parts, &standing, |lease, now, place| {
            let (verdict, question) = lease.take(now, &self.terms, &standing, waits);
            let ask =
                question.map(|question| self.question(key, place, lease, question, &standing));
            (verdict, ask, place)
        });
        if let Some(ask) = ask
            && let Err(ask) = self.store.ask(ask)
        {
            self.unanswered(&ask);
            if verdict == Verdict::Ask {
                if !waits {
                    self.leases.at(key, place, Lease::waited);
                }
                return Ok(self.fall_back(key, parts));
            }
        }
        outcome(verdict).ok_or(place)
    }

    fn question(
        self: &Arc<Self>,
        key: Key,
        place: Place,
        lease: &Lease,
        question: Question,
        standing: &Standing,
    ) -> Ask {
        Ask {
            rate: Arc::clone(self),
            key,
            place,
            digest: lease.digest,
            question,
            connection: standing.connection,
        }
    }

    fn fall_back(&self, key: Key, parts: &Parts<'_>) -> Outcome {
        let standing = self.store.standing();
        let verdict = self.with(key, parts, &standing, |lease, now, _| {
            lease.fall_back(now, &self.terms, &standing)
        });
        // A share always decides.
        outcome(verdict).unwrap_or(Outcome {
            result: Err(Duration::ZERO),
            fallback: true,
        })
    }

    fn with<R>(
        &self,
        key: Key,
        parts: &Parts<'_>,
        standing: &Standing,
        then: impl FnOnce(&mut Lease, u64, Place) -> R,
    ) -> R {
        let now = self.ticks.now();
        let make = |place| {
            let digest = match place {
                Place::Own => digest(parts),
                Place::Shared => overflow_digest(shard_of(key)),
            };
            Lease::new(digest, now, standing)
        };
        self.leases
            .with(key, || now, make, |lease, place| then(lease, now, place))
    }

    /// Undoes one take.
    pub(super) fn give_back(&self, parts: &Parts<'_>) {
        self.leases.find(self.seeds.key(parts), Lease::give_back);
    }

    /// How long until there is room, as far as is known; takes nothing.
    pub(super) fn wait(&self, parts: &Parts<'_>) -> Duration {
        let now = self.ticks.now();
        let wait = self
            .leases
            .find(self.seeds.key(parts), |lease| lease.wait(now));
        Duration::from_nanos(wait.unwrap_or(0))
    }

    /// The name of a bucket in the store.
    pub(super) fn name(&self, ask: &Ask) -> String {
        format!("{}{:032x}", self.prefix, u128::from_be_bytes(ask.digest))
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What leases give back or owe; called every lease time.
    pub(super) fn settle(self: &Arc<Self>, mut send: impl FnMut(Ask)) {
        let (now, standing) = (self.ticks.now(), self.store.standing());
        self.leases.sweep(now, |key, place, lease| {
            if let Some(question) = lease.settle(now, &self.terms, &standing) {
                send(self.question(key, place, lease, question, &standing));
            }
        });
    }

    /// Tells those who wait; what they ask on is to be sent.
    pub(super) fn answered(self: &Arc<Self>, ask: &Ask, answer: &Answer) -> Option<Ask> {
        let (now, standing) = (self.ticks.now(), self.store.standing());
        let calls = ask.question.calls;
        let (key, place) = (ask.key, ask.place);
        let more = self.leases.at(key, place, |lease| {
            let question = lease.answered(now, calls, answer, &self.terms, &standing)?;
            Some(self.question(key, place, lease, question, &standing))
        });
        self.tell(key);
        more.flatten()
    }

    pub(super) fn unanswered(&self, ask: &Ask) {
        self.leases.at(ask.key, ask.place, Lease::unanswered);
        self.tell(ask.key);
    }

    /// Somebody else's value has the place of a bucket.
    pub(super) fn broken(&self, ask: &Ask, why: &str) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            let rate = self.prefix.as_str();
            tracing::warn!(rate, why, "a limit's key in the store holds something else");
        }
        let now = self.ticks.now();
        self.leases
            .at(ask.key, ask.place, |lease| lease.broken(now));
        self.tell(ask.key);
    }

    fn tell(&self, key: Key) {
        self.answered[shard_of(key)].notify_waiters();
    }
}

/// A call that waits, and is counted as such for as long as this lives: its
/// client may give it up at any time.
struct Waiting<'r> {
    rate: &'r Arc<Global>,
    key: Key,
    place: Place,
}

impl Waiting<'_> {
    async fn take(self, parts: &Parts<'_>) -> Outcome {
        let (rate, key) = (self.rate, self.key);
        let since = rate.ticks.now();
        let deadline = Instant::now() + rate.store.timeout();
        let answered = &rate.answered[shard_of(key)];
        let mut told = pin!(answered.notified());
        loop {
            // Before the look, so that no answer comes in between unheard.
            told.as_mut().enable();
            if let Ok(outcome) = rate.decide(key, parts, true) {
                return outcome;
            }
            if timeout_at(deadline, told.as_mut()).await.is_err() {
                self.in_vain(since);
                return rate.fall_back(key, parts);
            }
            told.set(answered.notified());
        }
    }

    /// The time is over. Says nothing of the store where it answered in it, to
    /// others who waited for the same bucket.
    fn in_vain(&self, since: u64) {
        let leases = &self.rate.leases;
        let unheard = |lease: &mut Lease| lease.unheard_since(since);
        if leases.at(self.key, self.place, unheard) == Some(true) {
            self.rate.store.was_slow();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.rate.leases.at(self.key, self.place, Lease::waited);
    }
}

/// How many calls make `lease` of a rate: at most a quarter of a burst.
fn lease_of(pace: Pace, lease: Duration) -> u32 {
    let worth = u32::try_from(nanos(lease) / pace.interval).unwrap_or(u32::MAX);
    worth.min(pace.burst / 4).max(1)
}

fn outcome(verdict: Verdict) -> Option<Outcome> {
    let (result, fallback) = match verdict {
        Verdict::Allowed { left, fallback } => (Ok(left), fallback),
        Verdict::Refused { wait, fallback } => (Err(Duration::from_nanos(wait)), fallback),
        Verdict::Ask => return None,
    };
    Some(Outcome { result, fallback })
}
