//! Where the endpoints of an upstream are found while the gateway runs: by
//! looking a name up again and again, or in a file that is followed.
//!
//! Owns what is known of the source, for as long as it stays the same: reloads
//! that change other things begin with it. One task for each source looks, on
//! the process's main runtime, and ends with the last upstream that has it.
//! Nothing is changed by an answer with the same endpoints, in whatever order.
//! When a look finds none, or a fault, those last known stay; that is logged
//! once, counted, and shown to operators until a look is good again.
//!
//! Limits: [`MOST`] endpoints of an upstream, of more those that come last in
//! order are left out, with a warning; one look at a time.

mod dns;
mod file;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

pub(super) use self::file::FileFault;
use super::connect::{Dialer, UpstreamError};
use super::shared::Upstream;
use crate::config::{EndpointConfig, EndpointSource, UpstreamConfig};
use crate::files::Disk;
use crate::telemetry::UpstreamFigures;

/// Endpoints of one upstream.
const MOST: usize = 256;

/// See the module's comment.
pub(super) struct Discovery {
    source: EndpointSource,
    shared: Arc<Shared>,
    /// Ends with this.
    task: OnceLock<JoinSet<()>>,
}

/// What the task has too.
struct Shared {
    /// Of the upstream, for the log.
    name: String,
    figures: UpstreamFigures,
    /// Told of each connection that could not be made.
    failed: Arc<Notify>,
    state: Mutex<State>,
    /// Whether a look has ended.
    looked: watch::Sender<bool>,
    /// Held by a look-up while it runs, though nobody waits for it any more.
    looking: Arc<Semaphore>,
    disk: Disk,
}

/// What looks have found so far.
#[derive(Clone, Default)]
struct State {
    /// The upstream of the generation in use.
    upstream: Weak<Upstream>,
    /// Which one of them it is. What is good or bad for one need not be so for the
    /// next, which may connect otherwise.
    generation: u64,
    /// `None` before the first good look.
    known: Option<Vec<EndpointConfig>>,
    found_at: Option<SystemTime>,
    left_out: usize,
    fault: Option<(SystemTime, String)>,
    /// Whether the last look was not good.
    is_stale: bool,
}

/// What a good look finds.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    /// Each is there once.
    endpoints: Vec<EndpointConfig>,
    left_out: usize,
}

impl Found {
    /// Of what may hold some twice, or too many.
    fn new(mut endpoints: Vec<EndpointConfig>) -> Self {
        let mut seen = std::collections::HashSet::new();
        endpoints.retain(|endpoint| seen.insert(endpoint.clone()));
        let left_out = endpoints.len().saturating_sub(MOST);
        endpoints.truncate(MOST);
        Self {
            endpoints,
            left_out,
        }
    }
}

impl Discovery {
    /// Of the configured source; with what `old` knows, if that has the same
    /// one. Reads the file, if it is one and nothing is known.
    pub(super) fn open(
        config: &UpstreamConfig,
        dialer: &Dialer,
        old: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, UpstreamError> {
        if let Some(old) = old.filter(|old| old.source == config.source) {
            return Ok(old.clone());
        }
        let old = old.filter(|old| is_same_place(&old.source, &config.source));
        let state = match old {
            Some(old) => State {
                upstream: Weak::new(),
                ..old.shared.lock().clone()
            },
            None => State::default(),
        };
        let this = Self {
            source: config.source.clone(),
            shared: Arc::new(Shared {
                name: config.name.clone(),
                figures: dialer.figures.clone(),
                failed: dialer.failed.clone(),
                state: Mutex::new(state),
                looked: watch::Sender::new(false),
                looking: Arc::new(Semaphore::new(1)),
                disk: Disk::default(),
            }),
            task: OnceLock::new(),
        };
        if old.is_some() {
            this.shared.looked.send_replace(true);
        } else if let Some(found) = Self::first(&config.source, dialer)? {
            this.shared.good(found);
        }
        Ok(Arc::new(this))
    }

    /// What of a source stands from the start: a list, or a file as it is now.
    /// Fails if endpoints that it names can't be connected to with these settings.
    pub(super) fn first(
        source: &EndpointSource,
        dialer: &Dialer,
    ) -> Result<Option<Found>, UpstreamError> {
        match source {
            EndpointSource::List(list) => {
                for endpoint in list {
                    dialer.names(endpoint)?;
                }
                Ok(Some(Found::new(list.clone())))
            }
            EndpointSource::Dns { host, .. } => {
                // As all its addresses are.
                dialer.names(host)?;
                Ok(None)
            }
            EndpointSource::File(path) => Ok(Some(file::read(path)?.found(path, dialer)?)),
        }
    }

    /// What is to be told of connections that can't be made to this source.
    pub(super) fn failed(&self) -> &Arc<Notify> {
        &self.shared.failed
    }

    /// Ready once it is known whether there are endpoints: at the end of the
    /// first look, which is bounded.
    pub(super) async fn first_look(&self) {
        let mut looked = self.shared.looked.subscribe();
        // The sender is here, so there is no error.
        let _ = looked.wait_for(|looked| *looked).await;
    }

    /// The endpoints that are known.
    pub(super) fn known(&self) -> Vec<EndpointConfig> {
        self.shared.lock().known.clone().unwrap_or_default()
    }

    /// From now on `upstream` is told what is found; looking begins. Must run
    /// on the runtime that lasts as long as the process. Tells whether another
    /// was told before, or none.
    pub(super) fn serve(&self, upstream: &Arc<Upstream>) -> bool {
        let is_new = self.shared.serve(upstream);
        self.task.get_or_init(|| {
            let mut task = JoinSet::new();
            let shared = self.shared.clone();
            match self.source.clone() {
                EndpointSource::List(_) => {}
                EndpointSource::Dns { host, refresh } => {
                    task.spawn(dns::follow(shared, host, refresh, dns::system));
                }
                EndpointSource::File(path) => {
                    task.spawn(file::follow(shared, path));
                }
            }
            task
        });
        is_new
    }

    /// What operators are told.
    pub(super) fn describe(&self) -> serde_json::Value {
        let (source, place) = match &self.source {
            EndpointSource::List(_) => return serde_json::json!({ "source": "list" }),
            EndpointSource::Dns { host, .. } => ("dns", host.host.clone()),
            EndpointSource::File(path) => ("file", path.display().to_string()),
        };
        let at = |at: SystemTime| {
            OffsetDateTime::from(at)
                .format(&Rfc3339)
                .unwrap_or_default()
        };
        let state = self.shared.lock();
        serde_json::json!({
            "source": source,
            "place": place,
            "found_at": state.found_at.map(at),
            "is_stale": state.is_stale,
            "left_out": state.left_out,
            "last_fault": state.fault.as_ref().map(|(when, error)| serde_json::json!({
                "at": at(*when),
                "error": error,
            })),
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, upstream: &Arc<Upstream>) -> bool {
        let upstream = Arc::downgrade(upstream);
        let mut state = self.lock();
        let is_new = !Weak::ptr_eq(&state.upstream, &upstream);
        state.generation += u64::from(is_new);
        state.upstream = upstream;
        self.tell(&state);
        is_new
    }

    /// The upstream that is told, while there is one, and its generation.
    fn upstream(&self) -> (Option<Arc<Upstream>>, u64) {
        let state = self.lock();
        (state.upstream.upgrade(), state.generation)
    }

    /// A look has found these.
    fn good(&self, found: Found) {
        let mut state = self.lock();
        let upstream = &*self.name;
        if std::mem::take(&mut state.is_stale) {
            tracing::info!(upstream, "the endpoints are found again");
        }
        if found.left_out > 0 && found.left_out != state.left_out {
            let left_out = found.left_out;
            tracing::warn!(upstream, left_out, "more than {MOST} endpoints");
        }
        state.left_out = found.left_out;
        state.found_at = Some(SystemTime::now());
        if !are_same(state.known.as_deref(), &found.endpoints) {
            let number = found.endpoints.len();
            state.known = Some(found.endpoints);
            tracing::info!(upstream, number, "the endpoints have changed");
            self.tell(&state);
        }
        drop(state);
        self.looked.send_replace(true);
    }

    /// A look has found none, or a fault; those last known stay.
    fn bad(&self, error: String) {
        let mut state = self.lock();
        self.figures.discovery_faults.inc();
        if !std::mem::replace(&mut state.is_stale, true) {
            let (upstream, known) = (&*self.name, state.known.as_ref().map_or(0, Vec::len));
            let message = "the endpoints can't be found; those last known stay";
            tracing::warn!(upstream, known, error, "{message}");
        }
        state.fault = Some((SystemTime::now(), error));
        drop(state);
        self.looked.send_replace(true);
    }

    /// Under the lock, so that nothing older comes after it.
    fn tell(&self, state: &State) {
        let Some((upstream, known)) = state.upstream.upgrade().zip(state.known.as_ref()) else {
            return;
        };
        if let Err(error) = upstream.replace(known, None) {
            // What was found is checked, so this is a fault of the gateway.
            tracing::error!(upstream = upstream.name, %error, "endpoints can't be used");
        }
    }
}

fn are_same(known: Option<&[EndpointConfig]>, found: &[EndpointConfig]) -> bool {
    // Each has none twice.
    known.is_some_and(|known| {
        known == found || known.len() == found.len() && found.iter().all(|one| known.contains(one))
    })
}

/// Whether what is known from `old` holds for `new`.
fn is_same_place(old: &EndpointSource, new: &EndpointSource) -> bool {
    match (old, new) {
        (EndpointSource::Dns { host: old, .. }, EndpointSource::Dns { host: new, .. }) => {
            old == new
        }
        (old, new) => old == new,
    }
}

#[cfg(test)]
mod tests;
