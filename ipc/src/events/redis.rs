//! The event log over a Redis Stream: `redis://`, `rediss://`, and both with Sentinel (Redis 6 or
//! later, no cluster).
//!
//! One stream holds the recent events of all channels; scripts append to it and keep its books, so
//! a position means the same to every process, and a publish also reaches plain subscribers of its
//! channel, exactly as given. Up to three connections, whatever the number of subscribers: the
//! *publisher* carries publishes, pipelined; the *tail* follows the stream and feeds the ring, from
//! which all subscribers read; the *recorder* hears what others publish on Redis itself, and appends
//! it where this process holds the lease for that. See each of them for its bounds. Where replicas
//! must have an event before its publish is answered, the publisher has one more to wait for them.
//!
//! A position is an epoch and an offset. The epoch rises whenever the server is another than before
//! or has lost what this process has seen, so an old position never means a new event; the change is
//! the gap `store_lost_data`. Each connection is given up if its server turns out to be no master.
//!
//! While Redis is away a publish fails at once and a new subscription is refused; those that are
//! open stay open, and one that resumes from a position in the ring goes on with them. The keys are `{intellirouter}:*`; whoever connects needs those, the channels
//! `{intellirouter}:mark` and `intellirouter:*`, and the commands that the scripts name, with INFO,
//! ROLE, XREAD, HMGET and WAIT. Redis should evict nothing (`maxmemory-policy noeviction`): books that
//! are gone are a loss of data.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::health::{Health, Link};
use self::keep::{Pauses, Purpose};
use self::known::Known;
use self::publisher::{Publisher, PublisherLink};
use self::recording::RecorderLink;
use self::tail::{Counters, TailLink};
use super::channel::{ChannelName, invalid};
use super::idempotency::check_key;
use super::log::{EventLog, PublishError, Published, StoreStatus, SubscribeError};
use super::pattern::ChannelPattern;
use super::position::Position;
use super::ring::Ring;
use super::settings::{LogSettings, LogUse};
use super::subscription::{self, LogSubscription};
use crate::RedisDialer;
use crate::error::IpcResult;

mod confirm;
mod entries;
mod health;
mod keep;
mod known;
mod publisher;
mod recorder;
mod recording;
mod scripts;
mod server;
mod tail;

/// How long a subscription from a position waits for the tail to come to it.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

/// The longest that closing takes.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// See the module. Dropping it closes its connections; open subscriptions then stay silent.
pub struct RedisLog {
    settings: LogSettings,
    ring: Arc<Ring>,
    known: Arc<Known>,
    publisher: Publisher,
    health: Arc<Health>,
    counters: Arc<Counters>,
    dialer: Arc<RedisDialer>,
    runtime: Handle,
    following: AtomicBool,
    /// Of the connections: three at most.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    /// Ends the connections' tasks when it is dropped.
    _stop: DropGuard,
}

/// What a file of authorities holds.
fn read(file: &Path) -> IpcResult<Vec<u8>> {
    std::fs::read(file).map_err(|error| {
        let file = file.display();
        invalid(format!(
            "event store: can't read the authorities in {file}: {error}"
        ))
    })
}

impl RedisLog {
    /// Connects to the Redis at `url`, on the runtime of the caller.
    ///
    /// Returns when the first try to connect has ended, after about 3 s at most if there is no
    /// Redis. One that is away is no error: [`EventLog::status`] says so, and the log goes on trying.
    /// A gateway's log has then loaded what the store retains.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`](crate::IpcError::InvalidArgument) if the URL, the settings or
    /// the file of authorities are not valid. The message never holds a credential.
    pub async fn connect(url: &str, settings: LogSettings) -> IpcResult<Self> {
        settings.validate()?;
        let authorities = settings.ca_file.as_deref().map(read).transpose()?;
        let dialer = RedisDialer::new(url, authorities)
            .map_err(|error| invalid(format!("event store: {error}")))?;
        let dialer = Arc::new(dialer);
        let known = Arc::new(Known::new());
        let stop = CancellationToken::new();
        let log = Self {
            health: Arc::new(Health::new(dialer.address().to_owned())),
            publisher: Publisher::new(&settings, Arc::clone(&known), &dialer),
            ring: Arc::new(Ring::following(settings.clone())),
            counters: Arc::default(),
            dialer,
            runtime: Handle::current(),
            following: AtomicBool::new(false),
            tasks: Mutex::default(),
            _stop: stop.clone().drop_guard(),
            stop,
            known,
            settings,
        };
        log.keep(PublisherLink::new(&log.publisher, Arc::clone(&log.health)));
        if log.settings.usage == LogUse::Gateway {
            log.follow();
        }
        log.health.first_try().await;
        Ok(log)
    }

    /// Waits until the store is connected, or until it is not.
    pub async fn wait_for_connection(&self, connected: bool) {
        self.health.wait_for(connected).await;
    }

    /// Starts the tail and the recorder, unless they are.
    fn follow(&self) {
        if self.following.swap(true, Ordering::Relaxed) {
            return;
        }
        self.health.set_following();
        let shared = || (Arc::clone(&self.known), Arc::clone(&self.health));
        let (known, health) = shared();
        self.keep(RecorderLink::new(
            self.settings.clone(),
            known,
            health,
            Arc::clone(&self.counters),
        ));
        let (known, health) = shared();
        self.keep(TailLink::new(Arc::clone(&self.ring), known, health));
    }

    fn keep(&self, purpose: impl Purpose + 'static) {
        let (dialer, health) = (Arc::clone(&self.dialer), Arc::clone(&self.health));
        let (pauses, stop) = (Pauses::new(&self.settings), self.stop.clone());
        let alive = keep::alive(purpose, dialer, health, pauses, stop);
        self.tasks().push(self.runtime.spawn(alive));
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the ring come to `after`, if the store says that there is such a position. It may lie
    /// ahead of the tail: another process gave it out, or a publish.
    async fn catch_up(&self, after: Position) -> Result<(), SubscribeError> {
        if after <= self.ring.head() {
            return Ok(());
        }
        let end = self.publisher.end(CATCH_UP_LIMIT).await;
        let end = end.map_err(|error| SubscribeError::Unavailable(error.to_string()))?;
        if !end.is_some_and(|end| end.epoch == after.epoch && end >= after) {
            return Ok(());
        }
        let appended = self.ring.wakeups();
        let reached = std::future::poll_fn(|cx| {
            // First: what is appended after the look wakes.
            appended.arm(cx.waker());
            match self.ring.head() < after {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        });
        let reached = timeout(CATCH_UP_LIMIT, reached).await;
        reached.map_err(|_| {
            SubscribeError::Unavailable(format!(
                "the tail has not come to that position within {CATCH_UP_LIMIT:?}"
            ))
        })
    }
}

impl fmt::Debug for RedisLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLog")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl EventLog for RedisLog {
    async fn publish(
        &self,
        channel: &ChannelName,
        payload: Bytes,
        idempotency_key: Option<&str>,
    ) -> Result<Published, PublishError> {
        let valid = channel.validate();
        valid.map_err(|error| PublishError::InvalidChannel(error.to_string()))?;
        let limit = self.settings.max_payload;
        if payload.len() > limit {
            let bytes = payload.len();
            return Err(PublishError::TooLarge { bytes, limit });
        }
        idempotency_key.map_or(Ok(()), check_key)?;
        if let Some(why) = self.health.down(Link::Publisher) {
            return Err(PublishError::Unavailable(why));
        }
        self.publisher
            .publish(channel, payload, idempotency_key)
            .await
    }

    async fn subscribe(
        &self,
        patterns: Vec<ChannelPattern>,
        after: Option<Position>,
    ) -> Result<LogSubscription, SubscribeError> {
        subscription::check(&patterns)?;
        if !self.following.load(Ordering::Relaxed) {
            self.follow();
            self.health.first_try().await;
        }
        match after {
            None => self.ready(Duration::ZERO).await?,
            // As those that are open: it goes on when the store does.
            Some(after) if self.ring.holds(after) => {}
            Some(after) => {
                self.ready(CATCH_UP_LIMIT).await?;
                self.catch_up(after).await?;
            }
        }
        LogSubscription::open(&self.ring, patterns, after)
    }

    async fn ready(&self, limit: Duration) -> Result<(), SubscribeError> {
        if !limit.is_zero() && self.health.down(Link::Tail).is_some() {
            self.health.wait_up(Link::Tail, limit).await;
        }
        match self.health.down(Link::Tail) {
            Some(why) => Err(SubscribeError::Unavailable(why)),
            None => Ok(()),
        }
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            recorded: self.ring.recorded(),
            ignored: self.counters.ignored(),
            oversized: self.counters.oversized(),
            not_utf8: self.ring.payloads.not_utf8(),
            not_json: self.ring.payloads.not_json(),
            ..self.health.status()
        }
    }

    async fn close(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks());
        // How one ended is of no concern any more.
        let _ = timeout(CLOSE_LIMIT, join_all(tasks)).await;
    }
}
