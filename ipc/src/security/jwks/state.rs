//! What a source knows, and who waits for it: shared by the task that fetches and the calls that
//! use the keys.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::{JwksSettings, JwksStatus};
use crate::security::verifier::{JwkSet, KeySet};

/// Calls that wait for the same fetch; more are refused at once.
const MAX_WAITING: usize = 1024;

pub(super) struct State {
    settings: JwksSettings,
    keys: ArcSwap<KeySet>,
    inner: Mutex<Inner>,
    /// Tells the task that a fetch is wanted at once.
    wanted: Notify,
    /// Changes at the end of each fetch.
    ended: watch::Sender<()>,
    places: Semaphore,
}

#[derive(Clone, Default)]
struct Inner {
    /// A fetch runs, or will at once.
    fetching: bool,
    /// When an unknown key last caused a fetch.
    asked: Option<Instant>,
    /// When the keys were fetched that hold now.
    good_since: Option<Instant>,
    last_success: Option<Instant>,
    last_error: Option<String>,
    succeeded: u64,
    failed: u64,
}

impl State {
    pub(super) fn new(settings: JwksSettings) -> Self {
        let none = Arc::new(KeySet::new(Vec::new()));
        Self::with(settings, none, Inner::default())
    }

    /// A new one that knows what this one knows.
    pub(super) fn continued(&self, settings: JwksSettings) -> Self {
        let inner = self.inner();
        // Under the lock: keys and their age belong together. The set is the same one, so that who
        // remembers its generation need not look again.
        let keys = self.keys.load_full();
        Self::with(settings, keys, inner.clone())
    }

    fn with(settings: JwksSettings, keys: Arc<KeySet>, known: Inner) -> Self {
        Self {
            settings,
            keys: ArcSwap::new(keys),
            // The first fetch is as good as begun: who comes before it waits for it.
            inner: Mutex::new(Inner {
                fetching: true,
                ..known
            }),
            wanted: Notify::new(),
            ended: watch::Sender::new(()),
            places: Semaphore::new(MAX_WAITING),
        }
    }

    pub(super) fn settings(&self) -> &JwksSettings {
        &self.settings
    }

    pub(super) fn keys(&self) -> Guard<Arc<KeySet>> {
        self.keys.load()
    }

    pub(super) fn is_available(&self) -> bool {
        self.inner().good_since.is_some()
    }

    /// See [`super::JwksSource::is_starting`].
    pub(super) fn is_starting(&self) -> bool {
        let inner = self.inner();
        inner.succeeded == 0 && inner.failed == 0
    }

    pub(super) fn status(&self) -> JwksStatus {
        let keys = self.keys.load().len();
        let inner = self.inner();
        JwksStatus {
            keys,
            age: inner.last_success.map(|at| at.elapsed()),
            last_error: inner.last_error.clone(),
            succeeded: inner.succeeded,
            failed: inner.failed,
        }
    }

    /// See [`super::JwksSource::renew`].
    pub(super) async fn renew(&self) -> bool {
        let Ok(_place) = self.places.try_acquire() else {
            return false;
        };
        let Some(mut ended) = self.ask() else {
            return false;
        };
        timeout(self.settings.timeout, ended.changed())
            .await
            .is_ok()
    }

    fn ask(&self) -> Option<watch::Receiver<()>> {
        let mut inner = self.inner();
        if !inner.fetching {
            let now = Instant::now();
            if inner
                .asked
                .is_some_and(|asked| now < asked + self.settings.cooldown)
            {
                return None;
            }
            inner.asked = Some(now);
            inner.fetching = true;
            self.wanted.notify_one();
        }
        // Under the lock, so that the end can't come before.
        Some(self.ended.subscribe())
    }

    pub(super) fn begin(&self) {
        self.inner().fetching = true;
    }

    pub(super) fn end(&self) {
        let mut inner = self.inner();
        inner.fetching = false;
        self.ended.send_replace(());
    }

    pub(super) fn succeeded(&self, set: JwkSet) {
        let issuer = &self.settings.issuer;
        let known = self.keys.load().is_same(&set.keys);
        if !known {
            for skipped in &set.skipped {
                tracing::warn!(
                    issuer,
                    index = skipped.index,
                    kid = ?skipped.kid,
                    reason = ?skipped.reason,
                    "a key of the issuer is not used"
                );
            }
            tracing::info!(
                issuer,
                keys = set.keys.len(),
                "the issuer's keys have changed"
            );
        }
        let now = Instant::now();
        let mut inner = self.inner();
        if !known {
            // Otherwise the old set stays, and whoever remembers its generation need not look again.
            self.keys.store(Arc::new(KeySet::new(set.keys)));
        }
        inner.good_since = Some(now);
        inner.last_success = Some(now);
        inner.last_error = None;
        inner.succeeded += 1;
    }

    pub(super) fn failed(&self, why: String) {
        tracing::warn!(
            issuer = self.settings.issuer,
            url = %self.settings.url,
            error = why,
            "the issuer's keys could not be fetched"
        );
        let mut inner = self.inner();
        inner.last_error = Some(why);
        inner.failed += 1;
    }

    /// Waits until a fetch is due or wanted; meanwhile drops what has become too old.
    pub(super) async fn until_wanted(&self, due: Instant) {
        loop {
            let stale = self.stale_at();
            tokio::select! {
                () = sleep_until(due) => return,
                // A wish that a fetch has served meanwhile is no wish any more.
                () = self.wanted.notified() => if self.inner().fetching { return },
                () = sleep_until(stale.unwrap_or(due)), if stale.is_some() => self.drop_stale(),
            }
        }
    }

    fn stale_at(&self) -> Option<Instant> {
        Some(self.inner().good_since? + self.settings.stale)
    }

    fn drop_stale(&self) {
        let mut inner = self.inner();
        self.keys.store(Arc::new(KeySet::new(Vec::new())));
        inner.good_since = None;
        drop(inner);
        tracing::error!(
            issuer = self.settings.issuer,
            stale = ?self.settings.stale,
            "the issuer's keys could not be fetched for too long and are dropped"
        );
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
