//! The Redis in which gateways count together, from a call's point of view.
//!
//! Owns how the store stands and the queue of questions to it; the connection
//! belongs to the [`keeper`], on the runtime that built the limits. Questions
//! are never waited for here.
//!
//! The store is *prompt*, *slow* or *away*. A call that waited its timeout in
//! vain makes it slow at once; no call waits then, and questions go on in the
//! background. It is prompt again with the first answer in time. With no answer
//! for 100 ms, or without a connection, it is away: nothing is asked, every
//! gateway keeps to its share, and the keeper tries again after at most 500 ms.
//!
//! Bounds: 4,096 questions that wait to be sent, beyond which the share decides.

mod keeper;
mod script;

pub(super) use script::TAG;

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use intellirouter::RedisDialer;
use tokio::sync::mpsc;

use self::keeper::Keeper;
use super::global::Global;
use super::key::{Digest, Key};
use super::lease::{Question, Standing};
use super::shards::Place;
use crate::config::StoreConfig;
use crate::gateway::StartError;

/// Questions that wait to be sent.
const QUEUE: usize = 4096;

const AWAY: u8 = 0;
const SLOW: u8 = 1;
const PROMPT: u8 = 2;

/// A question about one bucket of one rate.
pub(super) struct Ask {
    pub(super) rate: Arc<Global>,
    pub(super) key: Key,
    pub(super) place: Place,
    pub(super) digest: Digest,
    pub(super) question: Question,
    /// That of the [`Standing`] under which it was asked: on a later one it says too little.
    pub(super) connection: u32,
}

/// See the module's comment.
pub(super) struct Store {
    config: StoreConfig,
    /// The content of the file of authorities.
    authorities: Option<Vec<u8>>,
    state: Arc<State>,
    asks: mpsc::Sender<Ask>,
}

/// What calls and the keeper share.
struct State {
    speed: AtomicU8,
    /// Counts connections.
    connection: AtomicU32,
    /// Gateways that were alive when the store was last heard.
    alive: AtomicU32,
    expected: u32,
    rates: Mutex<Vec<Weak<Global>>>,
}

impl Store {
    /// Begins to connect, on the runtime of the caller. The one of `previous`
    /// goes on if its configuration and the file it names are the same.
    pub(super) fn open(
        config: &StoreConfig,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, StartError> {
        let authorities = match &config.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                let message = format!("{}: {error}", path.display());
                StartError::setting("limits.store.ca_file", message)
            })?),
        };
        if let Some(previous) = previous
            && previous.config == *config
            && previous.authorities == authorities
        {
            return Ok(Arc::clone(previous));
        }
        let url = config
            .url
            .read()
            .map_err(|error| StartError::setting("limits.store.url_env", error))?;
        let dialer = RedisDialer::new(&url, authorities.clone())
            .map_err(|error| StartError::setting("limits.store", error))?;
        let state = Arc::new(State {
            speed: AtomicU8::new(AWAY),
            connection: AtomicU32::new(0),
            alive: AtomicU32::new(1),
            expected: config.expected_gateways.unwrap_or(1),
            rates: Mutex::default(),
        });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let keeper = Keeper::new(dialer, Arc::clone(&state), receiver, config);
        tokio::spawn(keeper.keep());
        Ok(Arc::new(Self {
            config: config.clone(),
            authorities,
            state,
            asks: sender,
        }))
    }

    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    pub(super) fn lease(&self) -> Duration {
        self.config.lease
    }

    pub(super) fn standing(&self) -> Standing {
        self.state.standing()
    }

    /// A call waited its time in vain.
    pub(super) fn was_slow(&self) {
        // Fails only when it is slow or away already.
        let _ =
            self.state
                .speed
                .compare_exchange(PROMPT, SLOW, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Hands a question over; gives it back when there is no room for it.
    pub(super) fn ask(&self, ask: Ask) -> Result<(), Box<Ask>> {
        self.asks.try_send(ask).map_err(|unsent| {
            Box::new(match unsent {
                mpsc::error::TrySendError::Full(ask) | mpsc::error::TrySendError::Closed(ask) => {
                    ask
                }
            })
        })
    }

    /// From now on settles what the rate's leases owe, as long as it lives.
    pub(super) fn serve(&self, rate: &Arc<Global>) {
        let mut rates = self.state.rates();
        rates.retain(|rate| rate.strong_count() > 0);
        rates.push(Arc::downgrade(rate));
    }

    pub(super) fn is_away(&self) -> bool {
        self.state.speed.load(Ordering::Relaxed) == AWAY
    }

    /// How the store is doing, for operators.
    pub(super) fn status(&self) -> String {
        match self.is_away() {
            true => format!("limit store away: {}", self.state.share()),
            false => "limit store connected".to_owned(),
        }
    }
}

impl State {
    fn standing(&self) -> Standing {
        let speed = self.speed.load(Ordering::Acquire);
        Standing {
            prompt: speed == PROMPT,
            reachable: speed != AWAY,
            gateways: self.gateways(),
            connection: self.connection.load(Ordering::Relaxed),
        }
    }

    /// As many as were seen, and no fewer than are expected: a share too small
    /// keeps the limit, one too large does not.
    fn gateways(&self) -> u32 {
        self.alive.load(Ordering::Relaxed).max(self.expected).max(1)
    }

    fn share(&self) -> String {
        format!("using 1/{} of each global limit", self.gateways())
    }

    fn rates(&self) -> MutexGuard<'_, Vec<Weak<Global>>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
