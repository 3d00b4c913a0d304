//! What one caller may take of what all share: calls at the same time, and
//! calls that it begins and gives up.
//!
//! Stands after authentication, because a caller is known by its token and not
//! by its connections. Beyond the bounds its calls are refused with
//! RESOURCE_EXHAUSTED; those of others are not touched. Bounds: the configured
//! number of calls in progress, and of calls given up as soon as they were
//! begun [`GIVEN_UP`] at once and a second, of those that had an answer
//! [`LEFT`] ([`GivenUp`]). They fit what a connection to a backend can bear of
//! one caller.
//!
//! A call that waits for its reset upstream is in progress until then, and
//! counts as given up however long it lived: it keeps a place that others need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::given_up::{GivenUp, SOON};
use crate::calls::OpenCall;
use crate::reply::Reply;

/// At once, and a second. Fewer than are reset upstream in that time.
const GIVEN_UP: (u32, u32) = (300, 25);
const LEFT: (u32, u32) = (400, 50);

/// How one caller behaves, whatever its connections.
#[derive(Debug)]
pub(crate) struct Conduct {
    open: AtomicUsize,
    given_up: GivenUp,
    /// Given up when their answer had begun.
    left: GivenUp,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            open: AtomicUsize::new(0),
            given_up: GivenUp::new(GIVEN_UP.0, GIVEN_UP.1),
            left: GivenUp::new(LEFT.0, LEFT.1),
        }
    }
}

impl Conduct {
    /// A call has begun. Each is ended by one of the calls below.
    pub(crate) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Refuses a call, which has begun, of a caller that takes too much.
    pub(crate) fn check(&self, most: usize) -> Result<(), Reply> {
        if self.open.load(Ordering::Relaxed) > most {
            let message = "the caller has too many calls in progress";
            let reply = Reply::new(Code::ResourceExhausted, "too_many_of_caller", message);
            return Err(reply.retry_after(Duration::from_secs(1)));
        }
        if let Some(wait) = self.given_up.overdrawn().max(self.left.overdrawn()) {
            let message = "the caller gave up too many calls as soon as it had begun them";
            let reply = Reply::new(Code::ResourceExhausted, "too_many_given_up", message);
            return Err(reply.retry_after(wait));
        }
        Ok(())
    }

    pub(crate) fn ended(&self, how: End, lived: Duration) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        match how {
            End::Answered => {
                self.given_up.answered();
                self.left.answered();
            }
            End::GivenUp => self.given_up.count(lived),
            End::Other => {}
        }
    }
}

/// Whose a call to a backend is.
#[derive(Clone)]
pub(crate) struct Caller {
    conduct: Arc<Conduct>,
    /// When the call began.
    began: Instant,
}

impl Caller {
    /// `None` for a call that needs no token.
    pub(crate) fn of(call: &OpenCall) -> Option<Self> {
        call.caller().map(|caller| Self {
            conduct: caller.conduct().clone(),
            began: call.started,
        })
    }

    /// How many calls it has in progress.
    pub(crate) fn calls(&self) -> usize {
        self.conduct.open.load(Ordering::Relaxed)
    }

    /// It gave up the call when its answer had begun.
    pub(crate) fn left(&self) {
        self.conduct.left.count(self.began.elapsed());
    }

    /// The call that it gave up keeps a place upstream. What was given up soon
    /// is counted already.
    pub(crate) fn kept_a_place(&self) {
        if self.began.elapsed() > SOON {
            self.conduct.given_up.spend();
        }
    }

    /// Counts a place that the call keeps as a call in progress.
    pub(crate) fn hold(&self) -> Held {
        self.conduct.begin();
        Held(self.conduct.clone())
    }
}

#[cfg(test)]
impl Caller {
    /// One who has so many calls in progress.
    pub(crate) fn with(calls: usize) -> Self {
        let conduct = Arc::<Conduct>::default();
        conduct.open.store(calls, Ordering::Relaxed);
        Self {
            conduct,
            began: Instant::now(),
        }
    }
}

/// A place that a call keeps which its caller has given up.
pub(crate) struct Held(Arc<Conduct>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.ended(End::Other, Duration::ZERO);
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Well.
    Answered,
    /// By its caller, or the deadline that its caller gave it, without an answer.
    GivenUp,
    /// By anybody else.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_no_more_calls_in_progress_than_it_may() {
        let conduct = Conduct::default();
        for _ in 0..3 {
            conduct.begin();
            assert!(conduct.check(3).is_ok());
        }
        conduct.begin();
        let reply = conduct.check(3).unwrap_err();
        assert_eq!(
            (reply.code, reply.label),
            (Code::ResourceExhausted, "too_many_of_caller")
        );
        conduct.ended(End::Other, Duration::ZERO);
        assert!(conduct.check(3).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gave_up_too_many_calls_is_told_when_to_come_again() {
        let conduct = Conduct::default();
        for _ in 0..325 {
            conduct.begin();
            conduct.ended(End::GivenUp, Duration::ZERO);
        }
        let reply = conduct.check(10).unwrap_err();
        assert_eq!(
            (reply.code, reply.label),
            (Code::ResourceExhausted, "too_many_given_up")
        );
        assert_eq!(reply.retry_after, Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(conduct.check(10).is_ok());
    }

    fn caller(conduct: &Arc<Conduct>) -> Caller {
        conduct.begin();
        Caller {
            conduct: conduct.clone(),
            began: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_a_given_up_call_keeps_is_a_call_in_progress() {
        let conduct = Arc::<Conduct>::default();
        let held: Vec<_> = (0..4)
            .map(|_| {
                let held = caller(&conduct).hold();
                conduct.ended(End::GivenUp, Duration::from_secs(1));
                held
            })
            .collect();
        assert_eq!(conduct.check(3).unwrap_err().label, "too_many_of_caller");
        drop(held);
        assert!(conduct.check(0).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_given_up_call_that_keeps_a_place_counts_once_however_long_it_lived() {
        for lived in [Duration::ZERO, SOON * 2] {
            let conduct = Arc::<Conduct>::default();
            let callers: Vec<_> = (0..301).map(|_| caller(&conduct)).collect();
            tokio::time::advance(lived).await;
            for (number, caller) in callers.iter().enumerate() {
                assert!(conduct.check(301).is_ok(), "{number}");
                caller.kept_a_place();
                conduct.ended(End::GivenUp, lived);
            }
            assert_eq!(conduct.check(301).unwrap_err().label, "too_many_given_up");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_answers_that_have_just_begun_is_refused_later() {
        let conduct = Arc::<Conduct>::default();
        let mut left = 0;
        while conduct.check(1).is_ok() {
            caller(&conduct).left();
            conduct.ended(End::Other, Duration::ZERO);
            left += 1;
            assert!(left < 10_000);
        }
        assert_eq!(left, 401);
        // A stream that was listened to for a while may be left.
        let listening = Arc::<Conduct>::default();
        for _ in 0..10 {
            let callers: Vec<_> = (0..100).map(|_| caller(&listening)).collect();
            tokio::time::advance(SOON * 2).await;
            for caller in callers {
                caller.left();
                listening.ended(End::Other, SOON * 2);
            }
        }
        assert!(listening.check(1).is_ok());
    }
}
