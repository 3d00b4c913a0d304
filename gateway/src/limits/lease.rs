//! What one gateway knows of one global bucket: a lease of calls that the store
//! has granted, and a share of the rest for the time when it can't be asked.
//!
//! Plain arithmetic on times that are passed in; owns no clock, no lock and no
//! connection. Times are as in [`super::pace`].
//!
//! With the store a call takes from the lease, which is topped up before it is
//! empty; without one it asks, and waits. A refusal holds until the time that
//! the store named. Leases of fewer than two calls are not topped up ahead: a
//! call that nobody needs would be missed elsewhere for as long as it takes to
//! come again. For calls that wait as many are asked for as there are, and what
//! comes is theirs before it is that of later ones: a burst costs a few
//! questions, whatever the rate.
//!
//! Without the store each gateway counts every call that it lets in as one of
//! every gateway (`drawn` moves on by as many intervals as there are gateways),
//! starting from what was left when the store was last heard. So together they
//! keep the limit as long as each has heard of what the others took; what a
//! gateway has not heard of by then may be let in once more, at most its share
//! of one burst. What was drawn is charged when the store is back: each gateway
//! its own part, so that the sum is right. For the time in which others had the
//! store already, and the whole rate with it, this gateway's share of the rate is
//! charged too, as far as it was used. `seen` goes along if the connection was
//! lost, in case the store has forgotten.

use super::key::Digest;
use super::pace::Pace;
use super::shards::Slot;

/// The shortest time between two questions about an empty bucket, in
/// nanoseconds: fast rates are asked for in handfuls.
const ASK_EVERY: u64 = 5_000_000;
/// How long a bucket that the store can't count is not asked about again.
const BROKEN_FOR: u64 = 1_000_000_000;

/// How the store stands, from a lease's point of view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Calls may wait for an answer.
    pub(super) prompt: bool,
    /// Questions may be sent.
    pub(super) reachable: bool,
    /// Gateways that share every rate, at least 1.
    pub(super) gateways: u32,
    /// Counts connections: on another one the store may be another.
    pub(super) connection: u32,
}

/// What does not change in the life of a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) pace: Pace,
    /// Calls of a whole lease, at least 1.
    pub(super) lease: u32,
}

/// A question to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Calls wanted; below 0: calls given back.
    pub(super) calls: i64,
    /// The bucket is full no sooner than so long from now.
    pub(super) floor: u64,
    /// What is missing of this gateway's share of the bucket, as time to fill.
    pub(super) charge: u64,
    /// All that was let in without the store, as time to fill;
    pub(super) spent: u64,
    /// and for how long.
    pub(super) alone: u64,
}

/// The store's answer, as of its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) granted: u32,
    /// How long until the bucket is full.
    pub(super) full_in: u64,
    /// How long until one more call fits.
    pub(super) wait: u64,
}

/// A decision on one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// How many are left.
    Allowed { left: u32, fallback: bool },
    /// How long until one more call passes.
    Refused { wait: u64, fallback: bool },
    /// Only the store knows.
    Ask,
}

/// See the module's comment.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) digest: Digest,
    /// Granted and not used.
    calls: u32,
    /// When the bucket is full, as the store said last.
    seen: u64,
    /// The same with what was let in without the store since.
    drawn: u64,
    /// Calls let in without the store, and when that began.
    spent: u32,
    alone_since: u64,
    /// Calls that wait for an answer.
    waiting: u32,
    /// A question is open.
    asking: bool,
    /// When it was asked, and how much of `spent` it tells.
    asked_at: u64,
    told: u32,
    /// When the next question makes sense.
    ask_at: u64,
    /// Until when the store can't count this bucket.
    broken_until: u64,
    /// Where `seen` was heard.
    connection: u32,
    /// Since the last [`Lease::settle`].
    used: bool,
}

impl Slot for Lease {
    fn idle_at(&self) -> u64 {
        if self.asking || self.waiting > 0 || self.calls > 0 {
            return u64::MAX;
        }
        self.drawn
            .max(self.seen)
            .max(self.ask_at)
            .max(self.broken_until)
    }
}

impl Lease {
    /// Of a full bucket.
    pub(super) fn new(digest: Digest, now: u64, standing: &Standing) -> Self {
        Self {
            digest,
            calls: 0,
            seen: now,
            drawn: now,
            spent: 0,
            alone_since: now,
            waiting: 0,
            asking: false,
            asked_at: now,
            told: 0,
            ask_at: 0,
            broken_until: 0,
            connection: standing.connection,
            used: false,
        }
    }

    /// Of a rate with new numbers, no fuller than this one is.
    pub(super) fn renewed(&self, old: Pace, new: Pace, then: u64, now: u64) -> Self {
        let full_at = new.take_over(old, self.drawn, then, now);
        Self {
            seen: full_at,
            drawn: full_at,
            // Never that of a connection: the store must be told.
            connection: u32::MAX,
            ..Self::new(self.digest, now, &Standing::AWAY)
        }
    }

    /// Decides on one call, which is one of those that wait or is new; the
    /// question, if any, is to be sent. With [`Verdict::Ask`] a new one waits
    /// from now on, until [`Lease::waited`].
    pub(super) fn take(
        &mut self,
        now: u64,
        terms: &Terms,
        standing: &Standing,
        waits: bool,
    ) -> (Verdict, Option<Question>) {
        self.used = true;
        let askable = standing.reachable && !self.asking && now >= self.broken_until;
        let ahead = if waits { 0 } else { self.waiting };
        if self.calls > ahead {
            self.calls -= 1;
            let low = terms.lease >= 2 && self.calls <= terms.lease / 2;
            let question = (low && askable && now >= self.ask_at)
                .then(|| self.ask(i64::from(terms.lease - self.calls), now, terms, standing));
            let left = self.calls.saturating_add(terms.pace.left(self.seen, now));
            let verdict = Verdict::Allowed {
                left,
                fallback: false,
            };
            return (verdict, question);
        }
        if !standing.prompt || now < self.broken_until {
            let question = askable.then(|| self.ask(i64::from(terms.lease), now, terms, standing));
            return (self.fall_back(now, terms, standing), question);
        }
        if now < self.ask_at {
            let wait = self.ask_at - now;
            let verdict = Verdict::Refused {
                wait,
                fallback: false,
            };
            return (verdict, None);
        }
        if !waits {
            self.waiting = self.waiting.saturating_add(1);
        }
        let missing = self.waiting.saturating_sub(self.calls).max(terms.lease);
        let question = askable.then(|| self.ask(i64::from(missing), now, terms, standing));
        (Verdict::Ask, question)
    }

    /// A call that waited was decided, or waits no more.
    pub(super) fn waited(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Whether the question that was open at `since` still is.
    pub(super) fn unheard_since(&self, since: u64) -> bool {
        self.asking && self.asked_at <= since
    }

    /// Decides without the store, by this gateway's share.
    pub(super) fn fall_back(&mut self, now: u64, terms: &Terms, standing: &Standing) -> Verdict {
        let (pace, gateways) = (terms.pace, standing.gateways.max(1));
        let step = pace.interval * u64::from(gateways);
        // A share of less than one call has to be saved up.
        let saving = pace.interval * u64::from(gateways.saturating_sub(pace.burst));
        let drawn = self.drawn.max(now.saturating_sub(saving)) + step;
        let most = now + pace.fill();
        if drawn > most {
            return Verdict::Refused {
                wait: drawn - most,
                fallback: true,
            };
        }
        self.drawn = drawn;
        if self.spent == 0 {
            self.alone_since = now;
        }
        self.spent = self.spent.saturating_add(1);
        Verdict::Allowed {
            left: pace.left(drawn, now) / gateways,
            fallback: true,
        }
    }

    /// Undoes one take, however it was decided: a call that was let in without
    /// the store stays charged and can be used.
    pub(super) fn give_back(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }

    /// How long until there is room, as far as is known; takes nothing.
    pub(super) fn wait(&self, now: u64) -> u64 {
        match self.calls {
            0 => self.ask_at.saturating_sub(now),
            _ => 0,
        }
    }

    /// Called every lease: gives back what was not used in that time, and
    /// charges what was drawn.
    pub(super) fn settle(
        &mut self,
        now: u64,
        terms: &Terms,
        standing: &Standing,
    ) -> Option<Question> {
        let used = std::mem::take(&mut self.used);
        if self.asking || now < self.broken_until {
            return None;
        }
        if self.calls > 0 && !used {
            let calls = -i64::from(std::mem::take(&mut self.calls));
            return Some(self.ask(calls, now, terms, standing));
        }
        (self.spent > 0).then(|| self.ask(0, now, terms, standing))
    }

    /// The store has answered a question about `asked` calls. Asks on for
    /// calls that began to wait meanwhile.
    pub(super) fn answered(
        &mut self,
        now: u64,
        asked: i64,
        answer: &Answer,
        terms: &Terms,
        standing: &Standing,
    ) -> Option<Question> {
        // Let in while the answer was on its way.
        self.spent = self.spent.saturating_sub(self.told);
        self.alone_since = self.asked_at;
        self.unanswered();
        let late = u64::from(self.spent);
        self.connection = standing.connection;
        self.calls = self.calls.saturating_add(answer.granted);
        self.seen = now + answer.full_in;
        self.drawn = self.seen + late * terms.pace.interval * u64::from(standing.gateways.max(1));
        if i64::from(answer.granted) < asked {
            self.ask_at = now + answer.wait.max(ASK_EVERY);
            return None;
        }
        let missing = i64::from(self.waiting) - i64::from(self.calls);
        (missing > 0 && now >= self.ask_at).then(|| self.ask(missing, now, terms, standing))
    }

    /// The question will not be answered.
    pub(super) fn unanswered(&mut self) {
        self.asking = false;
        self.told = 0;
    }

    /// The store can't count this bucket: somebody else's value is in its place.
    pub(super) fn broken(&mut self, now: u64) {
        self.unanswered();
        self.broken_until = now + BROKEN_FOR;
    }

    fn ask(&mut self, calls: i64, now: u64, terms: &Terms, standing: &Standing) -> Question {
        self.asking = true;
        (self.asked_at, self.told) = (now, self.spent);
        let seen = self.seen.max(now);
        let gateways = u64::from(standing.gateways.max(1));
        Question {
            calls,
            floor: match self.connection == standing.connection {
                true => 0,
                false => seen - now,
            },
            charge: self.drawn.saturating_sub(seen) / gateways,
            spent: terms.pace.interval.saturating_mul(u64::from(self.spent)),
            alone: now.saturating_sub(self.alone_since),
        }
    }
}

impl Standing {
    pub(super) const AWAY: Self = Self {
        prompt: false,
        reachable: false,
        gateways: 1,
        connection: 0,
    };
}

#[cfg(test)]
mod tests;
