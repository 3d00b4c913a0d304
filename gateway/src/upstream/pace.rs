//! How fast calls that nobody wants any more are reset on one connection to a
//! backend.
//!
//! A server closes a connection on which it sees many streams reset, and on a
//! connection that carries everybody's calls one impatient caller would take
//! down all. Some count those that they have not taken up (the h2 crate: 20 of
//! them), others every one (nghttp2, and with it Node: 1,000 at once and 33 a
//! second). So [`Pace`] has two bounds: of the calls that their backend has not
//! answered [`UNANSWERED`] are reset at once, then one every 5 ms; of all
//! calls [`ANY`] at once, then one every 34 ms, 29 a second.
//!
//! A call that waits for its reset keeps its place on the connection, and needs
//! none once its backend ends it; the first bound holds it no longer once its
//! backend answers. They go in the order in which they came. So no more wait
//! than a connection has places, [`super::connect::CALLS`], and none longer
//! than 36 s. That one caller does not take all those places is
//! [`crate::layers::conduct`]'s concern.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// At once, and then one in this time.
const UNANSWERED: (u32, Duration) = (10, Duration::from_millis(5));
const ANY: (u32, Duration) = (500, Duration::from_millis(34));

/// See the module's comment.
pub(super) struct Pace {
    /// Of resets of calls that their backend has not answered.
    pub(super) unanswered: Turns,
    /// Of all resets.
    pub(super) any: Turns,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            unanswered: Turns::new(UNANSWERED),
            any: Turns::new(ANY),
        }
    }
}

/// Who may go, one after another.
pub(super) struct Turns {
    at_once: u32,
    every: Duration,
    /// When as many as may go at once could go again. Held by the first of
    /// those that wait, so that the others come after it.
    rested_at: Mutex<Instant>,
}

impl Turns {
    fn new((at_once, every): (u32, Duration)) -> Self {
        Self {
            at_once,
            every,
            rested_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes a turn, if there is one now.
    pub(super) fn take(&self) -> bool {
        let Ok(mut rested_at) = self.rested_at.try_lock() else {
            return false;
        };
        let now = Instant::now();
        let free = self.wait(*rested_at, now).is_zero();
        if free {
            *rested_at = now.max(*rested_at) + self.every;
        }
        free
    }

    /// Takes the next turn. Who waits no longer has taken none.
    pub(super) async fn next(&self) {
        let mut rested_at = self.rested_at.lock().await;
        tokio::time::sleep(self.wait(*rested_at, Instant::now())).await;
        *rested_at = Instant::now().max(*rested_at) + self.every;
    }

    fn wait(&self, rested_at: Instant, now: Instant) -> Duration {
        let owed = rested_at.saturating_duration_since(now) + self.every;
        owed.saturating_sub(self.every * self.at_once)
    }
}

#[cfg(test)]
mod tests {
    use super::super::connect::CALLS;
    use super::*;

    /// How many go at once.
    fn at_once(turns: &Turns) -> usize {
        std::iter::repeat_with(|| turns.take())
            .take_while(|taken| *taken)
            .count()
    }

    /// How long so many take.
    async fn time(turns: &Turns, number: usize) -> Duration {
        let began = Instant::now();
        for _ in 0..number {
            turns.next().await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_unanswered_calls_are_reset_at_once_and_the_others_200_a_second() {
        let pace = Pace::default();
        assert_eq!(at_once(&pace.unanswered), 10);
        assert_eq!(time(&pace.unanswered, 200).await, Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn all_resets_together_are_fewer_than_30_a_second() {
        let pace = Pace::default();
        assert_eq!(at_once(&pace.any), 500);
        let took = time(&pace.any, 300).await;
        assert!(took > Duration::from_secs(10), "{took:?}");
        assert!(took < Duration::from_secs(11), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_resets_for_a_while_resets_a_few_at_once_again() {
        let turns = Turns::new(UNANSWERED);
        time(&turns, 30).await;
        assert_eq!(at_once(&turns), 0);
        tokio::time::advance(Duration::from_millis(51)).await;
        assert_eq!(at_once(&turns), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_no_longer_takes_no_turn() {
        let turns = Turns::new(UNANSWERED);
        at_once(&turns);
        let gone = turns.next();
        assert!(tokio::time::timeout(Duration::ZERO, gone).await.is_err());
        assert_eq!(time(&turns, 1).await, Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_overtakes_those_who_wait() {
        let turns = Turns::new(UNANSWERED);
        at_once(&turns);
        let mut waiting = std::pin::pin!(turns.next());
        assert!(crate::test_util::now(|cx| waiting.as_mut().poll(cx)).is_pending());
        tokio::time::advance(Duration::from_millis(6)).await;
        assert!(!turns.take());
        waiting.await;
    }

    #[tokio::test(start_paused = true)]
    async fn no_reset_waits_longer_than_the_bound() {
        let pace = Pace::default();
        at_once(&pace.any);
        let took = time(&pace.any, CALLS as usize).await;
        assert!(took < Duration::from_secs(36), "{took:?}");
    }
}
