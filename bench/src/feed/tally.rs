//! What all subscribers have got since the counts were last taken.
//!
//! An event counts as delivered when its `data:` line is complete. One that a
//! subscriber can no longer get, because a later one has come, is *announced* if
//! an `ir.gap` stood between, and *lost* if none did.

use std::collections::VecDeque;
use std::time::Instant;

/// See the module's comment.
pub struct Tally {
    began: Instant,
    /// The time of the read that is being worked through, in nanoseconds.
    now: u64,
    latencies: Vec<u32>,
    /// How many subscribers are past each event from `first` on.
    past: VecDeque<usize>,
    first: u64,
    /// Events delivered, to all subscribers together.
    pub delivered: u64,
    /// Events that a subscriber missed without a word.
    pub lost: u64,
    /// Events that a subscriber missed and was told of.
    pub announced: u64,
    /// Events that came again or too late.
    pub repeated: u64,
    /// Streams that ended, and said why.
    pub told: u64,
    /// Streams that ended without a word.
    pub cut: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            now: 0,
            latencies: Vec::new(),
            past: VecDeque::new(),
            first: 0,
            delivered: 0,
            lost: 0,
            announced: 0,
            repeated: 0,
            told: 0,
            cut: 0,
        }
    }
}

impl Tally {
    /// Nanoseconds since the start, for payloads.
    #[must_use]
    pub fn clock(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What comes now has arrived now.
    pub fn arrived(&mut self) {
        self.now = self.clock();
    }

    /// Begins anew; `next` is the number of the next event.
    pub fn restart(&mut self, next: u64) {
        let began = self.began;
        *self = Self {
            began,
            first: next,
            ..Self::default()
        };
    }

    pub(super) fn deliver(&mut self, sent: u64) {
        self.delivered += 1;
        let micros = self.now.saturating_sub(sent) / 1000;
        self.latencies
            .push(u32::try_from(micros).unwrap_or(u32::MAX));
    }

    /// A subscriber is past the events `from..to`.
    pub(super) fn pass(&mut self, from: u64, to: u64) {
        for number in from.max(self.first)..to {
            let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
            if self.past.len() <= index {
                self.past.resize(index + 1, 0);
            }
            self.past[index] += 1;
        }
    }

    /// The number of the first event that not all of `subscribers` are past.
    pub fn reached(&mut self, subscribers: usize) -> u64 {
        while self.past.front().is_some_and(|past| *past >= subscribers) {
            self.past.pop_front();
            self.first += 1;
        }
        self.first
    }

    /// The latency that so large a share of deliveries was within, in µs.
    pub fn quantile(&mut self, share: f64) -> u32 {
        let last = self.latencies.len().saturating_sub(1);
        let index = ((self.latencies.len() as f64 * share) as usize).min(last);
        if self.latencies.is_empty() {
            return 0;
        }
        *self.latencies.select_nth_unstable(index).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_reached_when_every_subscriber_is_past_it() {
        let mut tally = Tally::default();
        tally.restart(5);
        tally.pass(5, 7);
        assert_eq!(tally.reached(2), 5);
        tally.pass(5, 6);
        assert_eq!(tally.reached(2), 6);
        tally.pass(6, 7);
        assert_eq!(tally.reached(2), 7);
    }

    #[test]
    fn quantiles_are_of_what_was_delivered() {
        let mut tally = Tally::default();
        assert_eq!(tally.quantile(0.99), 0);
        tally.now = 1_000_000;
        for micros in 0..100 {
            tally.deliver(1_000_000 - micros * 1000);
        }
        assert_eq!((tally.quantile(0.5), tally.quantile(0.99)), (50, 99));
    }
}
