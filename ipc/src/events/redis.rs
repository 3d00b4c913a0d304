//! The event log over Redis Pub/Sub: `redis://` and `rediss://` (Redis 6 or later).
//!
//! Two connections, whatever the number of subscribers: the *tail* follows `intellirouter:*` and
//! puts what anyone publishes there into the ring; the *publisher* carries publishes, pipelined.
//! Both are kept alive: an answer is expected at least every 3 s, and a lost one is made again
//! after a pause (see [`LogSettings`]).
//!
//! Redis Pub/Sub forgets. So each time that the tail was lost, the gap `recorder_away` goes into
//! the ring before the next event. The positions are this process's own: they resume at the same
//! process, as long as the ring holds them, and give the gap `store_restarted` elsewhere.
//!
//! While Redis is away a publish fails at once and a new subscription is refused; those that are
//! open stay open. A message on a channel that breaks the grammar is ignored and counted; one that
//! is larger than the largest payload becomes the gap `trimmed` on its channel. The payloads of
//! publishes without an answer have at most 16 MiB together, also those that their callers have given
//! up; beyond it a publish is refused at once. The process holds up to three copies of each.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinSet;

use self::health::{Health, Link};
use self::publisher::{Publisher, PublisherLink};
use self::tail::{Counters, TailLink};
use super::channel::{ChannelName, invalid};
use super::idempotency::check_key;
use super::log::{EventLog, PublishError, Published, StoreStatus, SubscribeError};
use super::pattern::ChannelPattern;
use super::position::Position;
use super::ring::{Ids, Ring};
use super::settings::LogSettings;
use super::subscription::LogSubscription;
use crate::RedisDialer;
use crate::error::IpcResult;

mod health;
mod keep;
mod publisher;
mod tail;

/// See the module. Dropping it closes its connections; open subscriptions then stay silent.
pub struct RedisLog {
    ring: Arc<Ring>,
    publisher: Publisher,
    health: Arc<Health>,
    counters: Arc<Counters>,
    /// Aborts the two connections' tasks when it is dropped.
    _links: JoinSet<()>,
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
    /// Starts to follow the Redis at `url`, on the runtime of the caller.
    ///
    /// Returns when the first try to connect has ended, after at most 3 s. A Redis that is away is
    /// no error: [`EventLog::status`] says so, and the log goes on trying.
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
        let health = Arc::new(Health::new(dialer.address().to_owned()));
        let publisher = Publisher::new(settings.publish_timeout);
        let pauses = keep::Backoff::new(&settings);
        let ring = Arc::new(Ring::new(settings, Ids::Shared));
        let counters = Arc::<Counters>::default();

        let tail = TailLink::new(Arc::clone(&ring), Arc::clone(&counters));
        let publishing = PublisherLink::new(&publisher);
        let mut links = JoinSet::new();
        let (d, h) = (Arc::clone(&dialer), Arc::clone(&health));
        links.spawn(keep::alive(tail, d, h, pauses.clone()));
        links.spawn(keep::alive(publishing, dialer, Arc::clone(&health), pauses));
        health.first_try().await;
        Ok(Self {
            ring,
            publisher,
            health,
            counters,
            _links: links,
        })
    }

    /// Waits until the store is connected, or until it is not.
    pub async fn wait_for_connection(&self, connected: bool) {
        self.health.wait_for(connected).await;
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
        let limit = self.ring.limits().max_payload;
        if payload.len() > limit {
            let bytes = payload.len();
            return Err(PublishError::TooLarge { bytes, limit });
        }
        idempotency_key.map_or(Ok(()), check_key)?;
        if let Some(why) = self.health.down(Link::Publisher) {
            return Err(PublishError::Unavailable(why));
        }
        let fresh = self.publisher.publish(channel, payload, idempotency_key);
        Ok(Published {
            position: None,
            duplicate: !fresh.await?,
        })
    }

    async fn subscribe(
        &self,
        patterns: Vec<ChannelPattern>,
        after: Option<Position>,
    ) -> Result<LogSubscription, SubscribeError> {
        if let Some(why) = self.health.down(Link::Tail) {
            return Err(SubscribeError::Unavailable(why));
        }
        LogSubscription::open(&self.ring, patterns, after)
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            recorded: self.ring.recorded(),
            ignored: self.counters.ignored(),
            oversized: self.counters.oversized(),
            ..self.health.status()
        }
    }
}
