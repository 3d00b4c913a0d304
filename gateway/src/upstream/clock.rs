//! When a call must be over, and when one of its tries: one timer for both,
//! which is not set before something is waited for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Call,
    Try,
}

/// See the module's comment.
pub(super) struct Clock {
    call: Option<Instant>,
    current: Option<Instant>,
    /// Set to one of them, or to one that was given up since.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Of a call that must be over then, if ever.
    pub(super) fn new(call: Option<Instant>) -> Self {
        Self {
            call,
            current: None,
            sleep: None,
        }
    }

    /// The try may take so long from now on.
    pub(super) fn begin_try(&mut self, time: Duration) {
        self.current = Instant::now().checked_add(time);
    }

    /// The call goes on with this try, however long it takes.
    pub(super) fn end_try(&mut self) {
        self.current = None;
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        loop {
            let next = self.call.into_iter().chain(self.current).min();
            let Some(at) = next else {
                return Poll::Pending;
            };
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if sleep.deadline() > at {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(cx));
            let now = Instant::now();
            if self.call.is_some_and(|call| call <= now) {
                return Poll::Ready(Over::Call);
            }
            if self.current.take_if(|current| *current <= now).is_some() {
                return Poll::Ready(Over::Try);
            }
            sleep.as_mut().reset(at);
        }
    }

    /// Waits for the end of the call. No `async fn`: the try before is over at
    /// once, though this may never be polled.
    pub(super) fn over(&mut self) -> impl Future<Output = ()> {
        self.end_try();
        std::future::poll_fn(|cx| self.poll(cx).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn next(clock: &mut Clock) -> (Over, Duration) {
        let began = Instant::now();
        let over = std::future::poll_fn(|cx| clock.poll(cx)).await;
        (over, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_ends_before_its_call_and_the_call_at_its_own_time() {
        let mut clock = Clock::new(Some(Instant::now() + 10 * SECOND));
        clock.begin_try(3 * SECOND);
        assert_eq!(next(&mut clock).await, (Over::Try, 3 * SECOND));
        clock.begin_try(3 * SECOND);
        assert_eq!(next(&mut clock).await, (Over::Try, 3 * SECOND));
        clock.begin_try(30 * SECOND);
        assert_eq!(next(&mut clock).await, (Over::Call, 4 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_goes_on_ends_with_its_call() {
        let mut clock = Clock::new(Some(Instant::now() + 10 * SECOND));
        clock.begin_try(SECOND);
        assert!(crate::test_util::now(|cx| clock.poll(cx)).is_pending());
        clock.end_try();
        assert_eq!(next(&mut clock).await, (Over::Call, 10 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_call_has_ended_the_try_before_waiting() {
        let mut clock = Clock::new(Some(Instant::now() + 10 * SECOND));
        clock.begin_try(SECOND);
        drop(clock.over());
        assert_eq!(next(&mut clock).await, (Over::Call, 10 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_limit_is_never_over() {
        let mut clock = Clock::new(None);
        assert!(crate::test_util::now(|cx| clock.poll(cx)).is_pending());
        clock.begin_try(SECOND);
        assert_eq!(next(&mut clock).await, (Over::Try, SECOND));
        assert!(crate::test_util::now(|cx| clock.poll(cx)).is_pending());
        clock.begin_try(Duration::MAX);
        assert!(crate::test_util::now(|cx| clock.poll(cx)).is_pending());
    }
}
