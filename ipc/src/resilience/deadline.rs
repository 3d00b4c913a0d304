//! The deadline of the try that runs (of a stream: the whole stream's), for the transport below it.
//!
//! A policy gives up at the deadline anyway; with it the request can also tell the server
//! (`grpc-timeout`), so that it does not go on working for nobody. Passed along the task, since the
//! methods of a client trait have no place for it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Runs `work`, in which [`remaining`] counts down to `deadline`, or to the one of a call around this
/// one if that is earlier.
pub(super) fn scope<F: Future>(deadline: Instant, work: F) -> impl Future<Output = F::Output> {
    let outer = DEADLINE.try_with(|outer| *outer).unwrap_or(deadline);
    let deadline = deadline.min(outer);
    DEADLINE.scope(deadline, work)
}

/// How long what runs in this task may still take; nothing when no policy limits it.
pub(crate) fn remaining() -> Option<Duration> {
    DEADLINE
        .try_with(|deadline| deadline.saturating_duration_since(Instant::now()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_counts_down_inside_the_scope_and_is_unknown_outside() {
        assert_eq!(remaining(), None);
        let deadline = Instant::now() + Duration::from_secs(3);
        scope(deadline, async {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(remaining(), Some(Duration::from_secs(2)));
            tokio::time::advance(Duration::from_secs(9)).await;
            assert_eq!(remaining(), Some(Duration::ZERO));
        })
        .await;
        assert_eq!(remaining(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_within_a_call_has_no_more_time_than_the_outer_one() {
        let seconds = Duration::from_secs;
        let at = |time| Instant::now() + time;
        scope(at(seconds(3)), async {
            let later = scope(at(seconds(5)), async { remaining() }).await;
            assert_eq!(later, Some(seconds(3)));
            let earlier = scope(at(seconds(1)), async { remaining() }).await;
            assert_eq!(earlier, Some(seconds(1)));
        })
        .await;
    }
}
