//! What one source has said so far, and how it is doing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::set::RevokedSet;

/// What all sources share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// A new number at each change.
    pub(super) changes: watch::Sender<u64>,
    /// The entries of all sources, so that a call asks none of them while there are none.
    pub(super) entries: AtomicUsize,
}

/// The last good set of one source. Good or bad, it holds.
pub(super) struct Kept {
    /// For messages, such as `file`.
    what: &'static str,
    set: ArcSwap<RevokedSet>,
    /// Whether the set is what the source said, not what it began with.
    read: AtomicBool,
    state: watch::Sender<State>,
    /// What was logged last, so that it is logged once.
    logged: Mutex<Option<String>>,
    shared: Arc<Shared>,
}

/// How a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The first look has not ended.
    Untried,
    Good,
    /// It answers, but not all that it says can hold. The words say why.
    Partly(String),
    /// The words say why.
    Bad(String),
}

impl Kept {
    /// Of a source that was read already.
    pub(super) fn new(
        what: &'static str,
        first: Arc<RevokedSet>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        Self::with(what, first, true, State::Good, shared)
    }

    /// Of a source that nothing is known of.
    pub(super) fn unread(what: &'static str, shared: Arc<Shared>) -> Arc<Self> {
        Self::with(what, Arc::default(), false, State::Untried, shared)
    }

    /// Of a source that begins with what this one knows.
    pub(super) fn successor(&self) -> Arc<Self> {
        let shared = Arc::clone(&self.shared);
        Self::with(
            self.what,
            self.set(),
            self.was_read(),
            State::Untried,
            shared,
        )
    }

    fn with(
        what: &'static str,
        first: Arc<RevokedSet>,
        read: bool,
        state: State,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        shared.entries.fetch_add(first.len(), Ordering::Relaxed);
        Arc::new(Self {
            what,
            set: ArcSwap::new(first),
            read: AtomicBool::new(read),
            state: watch::Sender::new(state),
            logged: Mutex::default(),
            shared,
        })
    }

    pub(super) fn set(&self) -> Arc<RevokedSet> {
        self.set.load_full()
    }

    pub(super) fn revokes(&self, bearer: super::Bearer<'_>, now: u64) -> bool {
        self.set.load().revokes(bearer, now)
    }

    /// Whether the source was read successfully at least once.
    pub(super) fn was_read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }

    /// Takes a new set in place of the last one.
    pub(super) fn take(&self, set: RevokedSet) {
        // More for a moment, never fewer: nobody may pass because of the count.
        self.shared.entries.fetch_add(set.len(), Ordering::Relaxed);
        let old = self.set.swap(Arc::new(set));
        self.shared.entries.fetch_sub(old.len(), Ordering::Relaxed);
        self.read.store(true, Ordering::Relaxed);
        self.shared.changes.send_modify(|number| *number += 1);
    }

    /// How the source is doing now. What it said last holds in any case.
    pub(super) fn is(&self, state: State) {
        let trouble = match &state {
            State::Untried | State::Good => None,
            State::Partly(why) | State::Bad(why) => Some(why.clone()),
        };
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if *logged != trouble {
            self.log(&state);
            *logged = trouble;
        }
        drop(logged);
        self.state
            .send_if_modified(|known| (*known != state).then(|| *known = state).is_some());
    }

    fn log(&self, state: &State) {
        let source = self.what;
        match state {
            State::Untried | State::Good => {
                tracing::info!(source, "revocations are followed again");
            }
            State::Partly(why) => {
                tracing::error!(source, why, "not all revocations hold");
            }
            State::Bad(why) if !self.was_read() => tracing::error!(
                source,
                why,
                "revocations were never read; the gateway is not ready"
            ),
            State::Bad(why) => tracing::warn!(
                source,
                why,
                "revocations can't be followed; the last known ones hold"
            ),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the first look has ended, whatever it found.
    pub(super) async fn first_look(&self) {
        let mut state = self.state.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = state.wait_for(|state| *state != State::Untried).await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let len = self.set.load().len();
        self.shared.entries.fetch_sub(len, Ordering::Relaxed);
    }
}
