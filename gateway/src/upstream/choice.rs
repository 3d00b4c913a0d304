//! Which of several endpoints a try goes to.
//!
//! The better of two that chance draws among those that are fit for it; the
//! better is the one whose expected latency times its calls in flight, with this
//! one, is less. Where nothing is known of the latency of one of them, the calls
//! in flight alone decide. How fit an endpoint is, says its [`Rank`]: one of a
//! lower rank is chosen only where none of a higher one is.
//!
//! Owns no connection: what is chosen may turn out to be full or gone, and
//! [`super::balance`] goes on from there. Allocates nothing. Looks at [`DRAWS`]
//! endpoints and at one more, whose turn it is, so that none whose probe is due is
//! overlooked for longer than there are endpoints; at all of them, 256 at most,
//! where they are no more than [`FEW`] or those that were drawn are not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use intellirouter::resilience::Readiness;
use tokio::time::Instant;

use super::balance::Wish;
use super::endpoint::Endpoint;

/// Up to so many endpoints, all of them are looked at.
const FEW: usize = 4;
/// How many are drawn where there are more, to find two that are fit.
const DRAWS: usize = 4;
/// A probe that is due for so long goes with a call that can't be repeated, too.
const PATIENCE: Duration = Duration::from_secs(1);

/// An endpoint as one worker sees it.
pub(super) trait Candidate {
    fn endpoint(&self) -> &Arc<Endpoint>;

    /// Whether this worker has a connection to it.
    fn is_connected(&self) -> bool;

    /// Whether it could not be connected to, a short while ago.
    fn backs_off(&self) -> bool;
}

/// How fit an endpoint is for a try: the less, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u8);

impl Rank {
    /// A probe is due, and this try may be it.
    const PROBE_NOW: Self = Self(0);
    /// It is up, and connected.
    const FIT: Self = Self(2);
    const UNCONNECTED: u8 = 1;
    /// It fails more than the others do.
    const EJECTED: u8 = 4;
    /// The call has failed there.
    const FAILED: u8 = 8;
    /// Its breaker lets nothing through but probes, and the try had better be none.
    const PROBE: u8 = 16;
    const BACKS_OFF: u8 = 32;

    /// `None` if it can't have the try at all.
    pub(super) fn of(one: &impl Candidate, wish: &Wish<'_>) -> Option<Self> {
        let endpoint = one.endpoint();
        let standing = &endpoint.standing;
        if !standing.health.is_up() {
            return None;
        }
        let connected = one.is_connected();
        let failed = wish.failed_at.iter().any(|at| Arc::ptr_eq(at, endpoint));
        let mut rank = Self::FIT.0;
        match standing.breaker.readiness() {
            Readiness::Closed if !connected && one.backs_off() => rank |= Self::BACKS_OFF,
            Readiness::Closed => {}
            Readiness::ProbeDue { since } => {
                let now = wish.repeatable || since.elapsed() >= PATIENCE;
                if now && connected && !failed {
                    return Some(Self::PROBE_NOW);
                }
                rank |= Self::PROBE;
            }
            Readiness::Refusing { .. } => return None,
        }
        for (holds, bit) in [
            (!connected, Self::UNCONNECTED),
            (standing.ejection.is_out(), Self::EJECTED),
            (failed, Self::FAILED),
        ] {
            rank |= if holds { bit } else { 0 };
        }
        Some(Self(rank))
    }

    pub(super) fn is_connected(self) -> bool {
        self.0 & Self::UNCONNECTED == 0
    }

    /// The same whether it is connected or not.
    pub(super) fn group(self) -> u8 {
        self.0 & !Self::UNCONNECTED
    }

    /// The same for one that would not go first for the sake of its probe.
    pub(super) fn patient(self) -> Self {
        match self {
            Self::PROBE_NOW => Self(Self::FIT.0 | Self::PROBE),
            other => other,
        }
    }

    /// Whether it would be fit, or could be probed, if it were connected.
    fn may_join(self) -> bool {
        let lacks = Self::UNCONNECTED | Self::PROBE;
        !self.is_connected() && self.0 & !lacks == Self::FIT.0
    }
}

/// What was chosen, by its place in the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) rank: Rank,
    /// The other one is as fit, but not better.
    pub(super) best: (usize, Option<usize>),
    /// One that should be connected to meanwhile.
    pub(super) joins: Option<usize>,
}

/// `None` if no endpoint can have the try.
pub(super) fn choose<C: Candidate>(
    list: &[Arc<C>],
    wish: &Wish<'_>,
    dice: &Dice,
) -> Option<Choice> {
    if list.len() > FEW
        && let Some(choice) = sample(list, wish, dice)
    {
        return Some(choice);
    }
    scan(list, wish, dice)
}

/// `None` if there was no luck.
fn sample<C: Candidate>(list: &[Arc<C>], wish: &Wish<'_>, dice: &Dice) -> Option<Choice> {
    let turn = dice.turn(list.len());
    let draws = (0..DRAWS).map(|_| dice.below(list.len()));
    let (mut fit, mut joins) = (None, None);
    for (step, index) in std::iter::once(turn).chain(draws).enumerate() {
        let Some(rank) = Rank::of(&*list[index], wish) else {
            continue;
        };
        if rank.may_join() {
            joins = Some(index);
        }
        let best = match fit {
            _ if rank == Rank::PROBE_NOW => (index, None),
            // The one whose turn it is was not drawn.
            _ if rank != Rank::FIT || step == 0 || fit == Some(index) => continue,
            None => {
                fit = Some(index);
                continue;
            }
            Some(other) => better(list, (other, index), dice),
        };
        return Some(Choice { rank, best, joins });
    }
    None
}

fn scan<C: Candidate>(list: &[Arc<C>], wish: &Wish<'_>, dice: &Dice) -> Option<Choice> {
    let mut best: Option<(Rank, Two)> = None;
    let (mut joins, mut joining) = (None, 0);
    for (index, one) in list.iter().enumerate() {
        let Some(rank) = Rank::of(&**one, wish) else {
            continue;
        };
        if rank.may_join() {
            joining += 1;
            // Each with the same chance.
            if dice.below(joining) == 0 {
                joins = Some(index);
            }
        }
        match &mut best {
            Some((known, _)) if rank > *known => {}
            Some((known, two)) if rank == *known => two.add(index, dice),
            _ => best = Some((rank, Two::of(index))),
        }
    }
    best.map(|(rank, two)| Choice {
        rank,
        best: match two.second {
            Some(second) => better(list, (two.first, second), dice),
            None => (two.first, None),
        },
        joins,
    })
}

/// Two of those that are added; each two with the same chance.
struct Two {
    first: usize,
    second: Option<usize>,
    added: usize,
}

impl Two {
    fn of(first: usize) -> Self {
        Self {
            first,
            second: None,
            added: 1,
        }
    }

    fn add(&mut self, index: usize, dice: &Dice) {
        self.added += 1;
        match (self.second, dice.below(self.added)) {
            (None, _) | (_, 1) => self.second = Some(index),
            (_, 0) => self.first = index,
            _ => {}
        }
    }
}

/// The better one first; chance decides between equals.
fn better<C: Candidate>(
    list: &[Arc<C>],
    (mut one, mut other): (usize, usize),
    dice: &Dice,
) -> (usize, Option<usize>) {
    if dice.below(2) == 0 {
        (one, other) = (other, one);
    }
    let load = |index: usize| &list[index].endpoint().standing.load;
    let calls = |index: usize| load(index).in_flight() + 1;
    let now = Instant::now();
    let other_is_better = match (load(one).expected(now), load(other).expected(now)) {
        (Some(here), Some(there)) => there * calls(other) as f64 <= here * calls(one) as f64,
        _ => calls(other) <= calls(one),
    };
    if other_is_better {
        (one, other) = (other, one);
    }
    (one, Some(other))
}

/// A worker's chance: cheap, without a lock, and the same again from the same
/// seed (SplitMix64, whose state is a number that rises by the same each time).
#[derive(Debug)]
pub(super) struct Dice {
    state: AtomicU64,
    turn: AtomicUsize,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: AtomicU64::new(seed),
            turn: AtomicUsize::new(0),
        }
    }

    /// A number below `bound`, which is at least 1 and at most 2^32.
    pub(super) fn below(&self, bound: usize) -> usize {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.state.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half, scaled: below `bound`, so the cast loses nothing.
        ((((mixed ^ (mixed >> 31)) >> 32) * bound as u64) >> 32) as usize
    }

    /// Each number below `bound`, one after the other.
    fn turn(&self, bound: usize) -> usize {
        self.turn.fetch_add(1, Relaxed) % bound
    }
}

#[cfg(test)]
mod tests;
