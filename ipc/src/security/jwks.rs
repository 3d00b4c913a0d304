//! Keys of an issuer that are fetched from its URL (a JWK set, RFC 7517), again and again.
//!
//! Owns when that is done, and how long what was fetched holds:
//! - regularly, so that new keys are there before they are needed and removed ones stop working;
//! - at once when a token names an unknown key: the first such call starts one fetch, all others
//!   that come meanwhile wait for the same, and after it nobody can start another for the cooldown,
//!   so that made-up key names cause one fetch per cooldown and no more;
//! - after a failure with a growing pause (1 s to 60 s). The last good keys stay in use until
//!   `stale` has passed since they were fetched, then they are dropped.
//!
//! A good answer is the truth. One with no usable key is no good answer but a failure: an issuer that
//! takes back its last key is far rarer than one that is broken for a minute. Nobody waits for a fetch
//! whose token names a known key. It does not own what a set means ([`JwkSet`]) or whose tokens the keys verify.
//!
//! Limits: answers of 1 MiB and 64 keys, one fetch at a time, 1024 calls that wait for it. The task
//! that fetches ends when its [`JwksSource`] is dropped.

mod client;
#[cfg(test)]
pub(super) mod double;
mod state;
mod url;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::verifier::{Algorithm, JwkSet, KeySet};
use crate::error::IpcResult;
use client::HttpFetch;
use state::State;

pub use url::{InvalidJwksUrl, JwksUrl};

/// How the keys of one issuer are fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksSettings {
    /// Whose keys they are, for the log.
    pub issuer: String,
    /// Where the JWK set is.
    pub url: JwksUrl,
    /// The CA of the server's certificate, for the log, and its PEM text; the system's CAs by
    /// default.
    pub ca: Option<(PathBuf, Arc<[u8]>)>,
    /// What keys may be used for; by default what their kind allows, shared secrets excepted.
    pub algorithms: Option<Vec<Algorithm>>,
    /// How often they are fetched. The server's `max-age` may shorten it to 60 s.
    pub refresh: Duration,
    /// How long no unknown key name causes another fetch.
    pub cooldown: Duration,
    /// How long a fetch may take in all, and how long a call waits for it.
    pub timeout: Duration,
    /// How long keys hold that can't be fetched anew.
    pub stale: Duration,
}

impl JwksSettings {
    /// Whether both are for the same keys: what one source has fetched holds for the other. When and
    /// over what TLS it is fetched makes no difference.
    pub fn are_for_the_keys_of(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.url == other.url && self.algorithms == other.algorithms
    }
}

impl fmt::Debug for JwksSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksSettings")
            .field("issuer", &self.issuer)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// How it goes with the fetching of an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksStatus {
    /// The fetched keys that can verify a token now, one for each algorithm that a key serves.
    pub keys: usize,
    /// The time since the last success.
    pub age: Option<Duration>,
    /// Why the last fetch failed, if it did.
    pub last_error: Option<String>,
    /// Fetches that succeeded so far.
    pub succeeded: u64,
    /// Fetches that failed so far.
    pub failed: u64,
}

/// Fetches keys as long as it lives.
pub struct JwksSource {
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// One answer.
struct Fetched {
    set: JwkSet,
    max_age: Option<Duration>,
}

impl Fetched {
    fn with_a_key(self) -> Result<Self, String> {
        if !self.set.keys.is_empty() {
            return Ok(self);
        }
        Err(match self.set.skipped.first() {
            None => "the key set is empty".to_owned(),
            Some(first) => format!(
                "no usable key among {}; the first: {}",
                self.set.skipped.len(),
                first.reason
            ),
        })
    }
}

/// Gets a set once. The text of an error has no user info and no query of the URL.
#[async_trait]
trait Fetch: Send + Sync {
    async fn fetch(&self) -> Result<Fetched, String>;
}

impl JwksSource {
    /// Starts to fetch, on the runtime that runs this; the first answer may come later. Fails when
    /// the CA file holds no certificate.
    pub fn start(settings: JwksSettings) -> IpcResult<Self> {
        let fetch = HttpFetch::new(&settings)?;
        Ok(Self::with(State::new(settings), fetch))
    }

    /// As [`Self::start`], but knows from the beginning what this one knows, if the settings
    /// [are for the same keys](JwksSettings::are_for_the_keys_of): the keys and their age, when an
    /// unknown key last caused a fetch, and the counts.
    pub fn restart(&self, settings: JwksSettings) -> IpcResult<Self> {
        let fetch = HttpFetch::new(&settings)?;
        Ok(self.restart_with(settings, fetch))
    }

    fn restart_with(&self, settings: JwksSettings, fetch: impl Fetch + 'static) -> Self {
        let state = match settings.are_for_the_keys_of(self.settings()) {
            true => self.state.continued(settings),
            false => State::new(settings),
        };
        Self::with(state, fetch)
    }

    fn with(state: State, fetch: impl Fetch + 'static) -> Self {
        let state = Arc::new(state);
        let task = tokio::spawn(run(Arc::clone(&state), fetch));
        Self { state, task }
    }

    /// What it was started with: a source for the same can be used again.
    pub fn settings(&self) -> &JwksSettings {
        self.state.settings()
    }

    /// How it goes.
    pub fn status(&self) -> JwksStatus {
        self.state.status()
    }

    /// The keys that hold now.
    pub(super) fn keys(&self) -> impl std::ops::Deref<Target = Arc<KeySet>> {
        self.state.keys()
    }

    /// Whether the keys are what the issuer said; otherwise nothing is known of them.
    pub(super) fn is_available(&self) -> bool {
        self.state.is_available()
    }

    /// Whether nothing is known of the keys because the very first fetch has not ended yet. That takes
    /// [`JwksSettings::timeout`] at most.
    pub(super) fn is_starting(&self) -> bool {
        self.state.is_starting()
    }

    /// Waits for a fetch, one that runs or one that it starts; `false` at once if there may be none
    /// now, and when it takes too long.
    pub(super) async fn renew(&self) -> bool {
        self.state.renew().await
    }
}

impl Drop for JwksSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksSource")
            .field("settings", self.settings())
            .finish_non_exhaustive()
    }
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The least time between two regular fetches, whatever the server says.
const LEAST_REFRESH: Duration = Duration::from_secs(60);

async fn run(state: Arc<State>, fetch: impl Fetch) {
    let settings = state.settings();
    let mut pause = FIRST_PAUSE;
    loop {
        state.begin();
        let answer = within(settings.timeout, fetch.fetch()).await;
        let wait = match answer.and_then(Fetched::with_a_key) {
            Ok(Fetched { set, max_age }) => {
                pause = FIRST_PAUSE;
                state.succeeded(set);
                let wanted = max_age.map_or(settings.refresh, |age| age.max(LEAST_REFRESH));
                wanted.min(settings.refresh)
            }
            Err(why) => {
                state.failed(why);
                let wait = pause.min(settings.refresh);
                pause = (pause * 2).min(LONGEST_PAUSE);
                wait
            }
        };
        state.end();
        state.until_wanted(Instant::now() + wait).await;
    }
}

async fn within<T>(
    limit: Duration,
    fetch: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match timeout(limit, fetch).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

#[cfg(test)]
mod tests;
