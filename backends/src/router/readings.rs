//! Work on the rules of strategies: compiling them, and looking for what they match.
//!
//! Owns where it is done: on threads that may block, at most [`READINGS`] at a time, so that calls of
//! others go on meanwhile. Whoever waits for a place may give up at any time; what has begun is
//! finished, and bounded by the limits of rules. It fails with [`RouteError::Reading`] if the work
//! panics.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::RouteError;
use super::limits::READINGS;

/// The places for such work.
#[derive(Debug)]
pub(super) struct Readings(Arc<Semaphore>);

impl Readings {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(READINGS)))
    }

    /// Does the work as soon as there is a place.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RouteError> {
        let place = Arc::clone(&self.0).acquire_owned().await;
        let working = tokio::task::spawn_blocking(move || {
            // Held by the work, which goes on when its caller has gone.
            let _place = place;
            work()
        });
        working.await.map_err(|_| RouteError::Reading)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn only_so_many_are_at_work_even_if_their_callers_have_gone() {
        let readings = Arc::new(Readings::new());
        let (begun, begins) = mpsc::channel();
        let mut ends = Vec::new();
        for n in 0..=READINGS {
            let (readings, begun) = (Arc::clone(&readings), begun.clone());
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let work = move || {
                begun.send(n).unwrap();
                // Fails when the other end is dropped, which is what it waits for.
                let _ = ended.recv();
            };
            let caller = tokio::spawn(async move { readings.run(work).await });
            tokio::task::yield_now().await;
            if n < READINGS {
                assert_eq!(begins.recv().unwrap(), n);
                caller.abort();
                assert!(caller.await.unwrap_err().is_cancelled());
            }
        }
        assert!(begins.try_recv().is_err());
        ends.remove(0);
        let third = tokio::task::spawn_blocking(move || begins.recv().unwrap());
        assert_eq!(third.await.unwrap(), READINGS);
    }

    #[tokio::test]
    async fn work_that_panics_fails_its_own_call_alone() {
        let readings = Readings::new();
        for _ in 0..=READINGS {
            let failed = readings.run(|| panic!("a fault")).await;
            assert!(matches!(failed, Err::<(), _>(RouteError::Reading)));
        }
        assert_eq!(readings.run(|| 1).await.unwrap(), 1);
    }
}
