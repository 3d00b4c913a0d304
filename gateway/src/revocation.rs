//! Tokens and callers that are refused although their tokens or certificates are valid.
//!
//! Owns what is revoked, from a file and from a store that gateways share, and following both.
//! Does not own which calls are asked about: the pipeline asks for each call, remembered tokens
//! included, and [`Revocations::changes`] tells when open streams must be looked at again. A
//! revocation holds within a second: at most 500 ms until it is seen, and the time to read it.
//!
//! Nothing here makes a call wait or fail by itself. A file that is bad or gone and a store that is
//! away leave the last known entries in force, which is said in the log, a metric and `/readyz`.
//! A process that has never read its store knows nothing of it: until it has, it is not ready.
//! Lives as long as the process and survives a reload.
//!
//! Limits, for each of the two: the configured number of entries (100,000 by default), each with
//! texts of at most 2 KiB together; the file has at most 16 MiB.

mod edit;
mod entry;
mod file;
mod kept;
mod metrics;
mod set;
mod store;

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::RevocationConfig;
use crate::gateway::StartError;
use crate::layers::authenticate::Identity;
use crate::reply::Reply;

pub(crate) use entry::{ALWAYS, CERTIFICATE_ALIAS, Entry, Target, parse_time};
pub(crate) use file::{RevocationFile, fault as file_fault};
use kept::{Kept, Shared, State};
pub(crate) use metrics::RevocationMetrics;
pub(crate) use set::Bearer;
use store::StorePlace;
pub(crate) use store::{Store, fault as store_fault};

/// See the module's comment.
pub(crate) struct Revocations {
    sources: ArcSwap<Sources>,
    shared: Arc<Shared>,
    /// One change of the sources at a time.
    changing: Mutex<()>,
}

#[derive(Default)]
struct Sources {
    file: Option<Arc<Source<RevocationFile>>>,
    store: Option<Arc<Source<StorePlace>>>,
}

/// A place that is followed.
struct Source<P> {
    place: P,
    poll: Duration,
    max_entries: usize,
    kept: Arc<Kept>,
    /// Ends with the source.
    _follower: JoinSet<()>,
}

impl Revocations {
    /// Reads the file and starts to follow both sources, on the runtime of the caller. A store
    /// that is away is no error.
    pub(crate) fn new(config: &RevocationConfig) -> Result<Arc<Self>, StartError> {
        let this = Self {
            sources: ArcSwap::default(),
            shared: Arc::default(),
            changing: Mutex::default(),
        };
        this.reconfigure(config)?;
        Ok(Arc::new(this))
    }

    /// Takes a changed section; what did not change goes on. A store that is new begins with the
    /// entries of the one before, until it was read. On an error nothing has changed.
    pub(crate) fn reconfigure(&self, config: &RevocationConfig) -> Result<(), StartError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.sources.load_full();
        let sources = Sources {
            file: self.file(config, old.file.as_ref())?,
            store: self.store(config, old.store.as_ref())?,
        };
        self.sources.store(Arc::new(sources));
        // Also where a source is gone: its entries are.
        self.shared.changes.send_modify(|number| *number += 1);
        Ok(())
    }

    /// Waits until the store was tried once, for at most 3 s.
    pub(crate) async fn first_look(&self) {
        let store = self.sources.load().store.clone();
        if let Some(store) = store {
            let limit = store::CONNECT_LIMIT + Duration::from_secs(1);
            // A store that is slower is away for now.
            let _ = tokio::time::timeout(limit, store.kept.first_look()).await;
        }
    }

    /// Refuses a caller who is revoked.
    pub(crate) fn check(&self, identity: &Identity, now: SystemTime) -> Result<(), Reply> {
        let revoked = self.is_revoked(
            identity.issuer(),
            identity.subject(),
            identity.token_id(),
            identity.issued_at(),
            unix_seconds(now),
        );
        if revoked { Err(refusal()) } else { Ok(()) }
    }

    /// Whether a caller is revoked; times in seconds since 1970. Takes no lock and allocates
    /// nothing; one load where nothing is revoked.
    pub(crate) fn is_revoked(
        &self,
        issuer: &str,
        subject: &str,
        token_id: Option<&str>,
        issued_at: Option<u64>,
        now: u64,
    ) -> bool {
        if self.shared.entries.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let bearer = Bearer {
            issuer,
            subject,
            token_id,
            issued_at,
        };
        let sources = self.sources.load();
        sources.kept().any(|kept| kept.revokes(bearer, now))
    }

    /// Gives a new number each time that what is revoked has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether what the store revokes is known, now or as of an earlier look.
    pub(crate) fn are_known(&self) -> bool {
        self.sources.load().kept().all(Kept::was_read)
    }

    /// How the sources are doing, in a line without credentials.
    pub(crate) fn status(&self) -> String {
        let sources = self.sources.load();
        if sources.kept().next().is_none() {
            return "revocations off".to_owned();
        }
        let mut line = format!("revocations {} entries", sources.len());
        let mut tell = |what: &str, kept: &Kept| {
            let held = "the last known entries hold";
            // Writing to a String can't fail.
            let _ = match kept.state() {
                State::Untried => write!(line, "; {what} not read yet"),
                State::Good => write!(line, "; {what} followed"),
                State::Partly(why) => write!(line, "; {what} followed in part: {why}"),
                State::Bad(why) if !kept.was_read() => write!(line, "; {what} never read: {why}"),
                State::Bad(why) => write!(line, "; {what} not followed, {held}: {why}"),
            };
        };
        if let Some(file) = &sources.file {
            tell("file", &file.kept);
        }
        if let Some(store) = &sources.store {
            tell("store", &store.kept);
        }
        line
    }

    /// Puts the figures into the metrics; called before each scrape.
    pub(crate) fn observe(&self, metrics: &RevocationMetrics) {
        let sources = self.sources.load();
        let file = sources.file.as_ref().map(|file| file.kept.state());
        let store = sources.store.as_ref().map(|store| store.kept.state());
        metrics.set(
            sources.len(),
            !matches!(file, Some(State::Bad(_))),
            // Without a store nothing is away.
            matches!(store, None | Some(State::Good | State::Partly(_))),
        );
    }

    fn file(
        &self,
        config: &RevocationConfig,
        old: Option<&Arc<Source<RevocationFile>>>,
    ) -> Result<Option<Arc<Source<RevocationFile>>>, StartError> {
        let Some(path) = &config.file else {
            return Ok(None);
        };
        let place = RevocationFile {
            path: path.clone(),
            max_entries: config.max_entries,
        };
        if let Some(old) = old.filter(|old| old.place == place && old.fits(config)) {
            return Ok(Some(Arc::clone(old)));
        }
        let fault = |error| StartError::setting("revocation.file", error);
        let first = place.read().map_err(fault)?;
        let set = Arc::new(place.set(&first).map_err(fault)?);
        let kept = Kept::new("file", set, Arc::clone(&self.shared));
        let follow = file::follow(place.clone(), first, config.poll, Arc::clone(&kept));
        Ok(Some(Source::start(place, config, kept, follow)))
    }

    fn store(
        &self,
        config: &RevocationConfig,
        old: Option<&Arc<Source<StorePlace>>>,
    ) -> Result<Option<Arc<Source<StorePlace>>>, StartError> {
        let Some(store) = &config.store else {
            return Ok(None);
        };
        let place = StorePlace::read(store)
            .map_err(|error| StartError::setting("revocation.ca_file", error))?;
        if let Some(old) = old.filter(|old| old.place == place && old.fits(config)) {
            return Ok(Some(Arc::clone(old)));
        }
        let store = Store::at(&place, config.max_entries)
            .map_err(|error| StartError::setting("revocation.store", error))?;
        let kept = match old {
            Some(old) => old.kept.successor(),
            None => Kept::unread("store", Arc::clone(&self.shared)),
        };
        let follow = store::follow(store, config.poll, Arc::clone(&kept));
        Ok(Some(Source::start(place, config, kept, follow)))
    }
}

impl Sources {
    fn kept(&self) -> impl Iterator<Item = &Kept> {
        let file = self.file.iter().map(|file| &*file.kept);
        file.chain(self.store.iter().map(|store| &*store.kept))
    }

    fn len(&self) -> usize {
        self.kept().map(|kept| kept.set().len()).sum()
    }
}

impl<P> Source<P> {
    fn start(
        place: P,
        config: &RevocationConfig,
        kept: Arc<Kept>,
        follow: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Self> {
        let mut follower = JoinSet::new();
        follower.spawn(follow);
        Arc::new(Self {
            place,
            poll: config.poll,
            max_entries: config.max_entries,
            kept,
            _follower: follower,
        })
    }

    fn fits(&self, config: &RevocationConfig) -> bool {
        self.poll == config.poll && self.max_entries == config.max_entries
    }
}

/// What a revoked caller hears.
pub(crate) fn refusal() -> Reply {
    Reply::unauthenticated("revoked", "the token was revoked")
}

/// Seconds since 1970; a clock before that counts as 0.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
