//! How many of the latest calls failed: counts per tenth of the window, the oldest dropped as time
//! goes on.

use std::time::Duration;

use tokio::time::Instant;

const SLOTS: usize = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u32,
    pub(super) failures: u32,
}

#[derive(Debug)]
pub(super) struct Window {
    slots: [Counts; SLOTS],
    start: Instant,
    slot_nanos: u64,
    // The number of the newest slot, counted from `start`.
    head: u64,
    // When that slot is over, in nanoseconds since `start`.
    head_ends: u64,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        let slot = length.as_nanos() / SLOTS as u128;
        let slot_nanos = u64::try_from(slot).unwrap_or(u64::MAX).max(1);
        Self {
            slots: [Counts::default(); SLOTS],
            start: Instant::now(),
            slot_nanos,
            head: 0,
            head_ends: slot_nanos,
        }
    }

    pub(super) fn add(&mut self, now: Instant, failed: bool) {
        self.advance(now);
        let slot = &mut self.slots[index(self.head)];
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(failed.into());
    }

    pub(super) fn counts(&mut self, now: Instant) -> Counts {
        self.advance(now);
        self.slots
            .iter()
            .fold(Counts::default(), |sum, slot| Counts {
                calls: sum.calls.saturating_add(slot.calls),
                failures: sum.failures.saturating_add(slot.failures),
            })
    }

    pub(super) fn clear(&mut self) {
        self.slots = [Counts::default(); SLOTS];
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.start).as_nanos() as u64;
        if passed < self.head_ends {
            // As nearly always: no division.
            return;
        }
        // Threads read the clock before they get here, so time may seem to go back a little.
        let head = self.head.max(passed / self.slot_nanos);
        let stale = (head - self.head).min(SLOTS as u64);
        for number in 1..=stale {
            self.slots[index(self.head + number)] = Counts::default();
        }
        self.head = head;
        self.head_ends = (head + 1).saturating_mul(self.slot_nanos);
    }
}

fn index(number: u64) -> usize {
    // Below SLOTS, so the cast loses nothing.
    (number % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_counted_for_the_length_of_the_window_and_then_forgotten() {
        let mut window = Window::new(Duration::from_secs(10));
        window.add(Instant::now(), true);
        advance(Duration::from_secs(5)).await;
        window.add(Instant::now(), false);
        let both = Counts {
            calls: 2,
            failures: 1,
        };
        assert_eq!(window.counts(Instant::now()), both);

        advance(Duration::from_millis(4999)).await;
        assert_eq!(window.counts(Instant::now()), both);
        advance(Duration::from_millis(1)).await;
        let later = Counts {
            calls: 1,
            failures: 0,
        };
        assert_eq!(window.counts(Instant::now()), later);
        advance(Duration::from_secs(86_400)).await;
        assert_eq!(window.counts(Instant::now()), Counts::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_reading_from_before_is_counted_as_now() {
        let mut window = Window::new(Duration::from_secs(10));
        let before = Instant::now();
        advance(Duration::from_secs(3)).await;
        window.add(Instant::now(), false);
        window.add(before, true);
        assert_eq!(window.counts(before).calls, 2);
    }
}
