//! Publish and subscribe over the event log, as service authors use it.
//!
//! Owns the trait [`RedisClient`] and its implementation over an [`EventLog`], so that `memory:`
//! and Redis, reconnection and bounds are the ones of the log; and for each module of the contract
//! a publisher and a subscriber with one method per event. It does not own the shapes of the
//! events (those are beside it), nor who may publish what: whoever reaches the store may.
//!
//! How it fails: a publish says whether the store took it, and is never queued for a store that
//! is away ([`IpcError::Connection`]). A subscription stays open whatever happens to the store, and
//! says what may have been lost and what it could not read as an `Err`, each once; the next call
//! goes on. See [`Subscription::next_message`].
//!
//! Limits of [`RedisClientImpl::new`]: [`RedisClientImpl::settings`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::channel::ChannelName;
use super::log::{EventLog, PublishError, StoreStatus, SubscribeError};
use super::open::open;
use super::pattern::ChannelPattern;
use super::settings::{LogSettings, LogUse};
use crate::error::{IpcError, IpcResult};

mod modules;
mod subscription;
mod typed_subscription;

pub use modules::{
    ChainEngineEvent, ChainEngineEventPublisher, ChainEngineEventSubscriber, MemoryEvent,
    MemoryEventPublisher, ModelRegistryEventSubscriber, PersonaLayerEventSubscriber,
    RagManagerEvent, RagManagerEventPublisher, RouterCoreEvent, RouterCoreEventPublisher,
    RouterCoreEventSubscriber,
};
pub use subscription::{Message, Subscription};
pub use typed_subscription::{EventSubscription, FromMessage, publish_event};

/// Publishes text on channels and follows them.
///
/// A trait, so that a publisher can be tested with a store that fails; for one that works,
/// `RedisClientImpl::new("memory:")` needs no Redis.
#[async_trait]
pub trait RedisClient: Send + Sync {
    /// Publishes `payload`, exactly as it is, on the channel with this name, and returns when the
    /// store has answered.
    ///
    /// # Errors
    /// - [`IpcError::InvalidArgument`]: the name breaks the grammar (see [`ChannelName`]), or the
    ///   payload is too large. Nothing was published.
    /// - [`IpcError::Connection`]: the store is away, refused, or was lost before it answered. Only
    ///   in the last case the event may have been published; the text says so.
    /// - [`IpcError::Timeout`]: no answer in time, or too few replicas confirmed it; the event may
    ///   have been published.
    async fn publish(&self, channel: &str, payload: &str) -> IpcResult<()>;

    /// Follows one channel. What is published after this returned is seen.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] for a name that breaks the grammar, [`IpcError::Connection`]
    /// while the store is away.
    async fn subscribe(&self, channel: &str) -> IpcResult<Subscription>;

    /// Follows every channel that the pattern matches; see [`ChannelPattern`] for what a `*` means
    /// (less than in Redis: a whole segment, or the whole rest).
    ///
    /// # Errors
    /// As for [`RedisClient::subscribe`].
    async fn psubscribe(&self, pattern: &str) -> IpcResult<Subscription>;
}

/// The client over an event log. Cheap to clone; clones share the log.
#[derive(Clone)]
pub struct RedisClientImpl {
    log: Arc<dyn EventLog>,
}

impl RedisClientImpl {
    /// Opens the store at `url` with [`RedisClientImpl::settings`]: `redis://…`, `rediss://…`, or
    /// `memory:`, a store of this client alone.
    ///
    /// A Redis that is away is no error: this returns after at most 3 s, [`RedisClientImpl::status`]
    /// says so, and the client goes on trying to connect.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] for a URL that names no store. The text never holds a password.
    pub async fn new(url: impl AsRef<str>) -> IpcResult<Self> {
        Self::with_settings(url, Self::settings()).await
    }

    /// As [`RedisClientImpl::new`], with other limits, or with the authorities that `rediss://`
    /// trusts.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] also for settings that are not valid.
    pub async fn with_settings(url: impl AsRef<str>, settings: LogSettings) -> IpcResult<Self> {
        Ok(Self::from_log(open(url.as_ref(), settings).await?))
    }

    /// The client over a log that is open already, such as one that a whole process shares.
    #[must_use]
    pub fn from_log(log: Arc<dyn EventLog>) -> Self {
        Self { log }
    }

    /// What [`RedisClientImpl::new`] uses: a quarter of the gateway's memory, since here the log
    /// only has to bridge the time that a subscriber takes for an event.
    ///
    /// Kept for subscribers that are behind: 16 MiB, 100,000 events, 10 minutes. A subscriber
    /// further behind is told of a gap. What the store keeps is the gateway's to say. Payloads have
    /// up to 1 MiB, a publish waits 2 s for its answer, and a lost connection is tried again every
    /// 100 ms, after half a minute less and less often, down to once a second.
    #[must_use]
    pub fn settings() -> LogSettings {
        LogSettings {
            retain_bytes: 16 << 20,
            retain_events: 100_000,
            retain_age: Duration::from_secs(600),
            usage: LogUse::Service,
            ..LogSettings::default()
        }
    }

    /// How the store is doing; for a readiness page.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.log.status()
    }

    async fn follow(&self, pattern: ChannelPattern) -> IpcResult<Subscription> {
        let followed = self.log.subscribe(vec![pattern], None).await?;
        Ok(Subscription::new(followed, Arc::clone(&self.log)))
    }
}

#[async_trait]
impl RedisClient for RedisClientImpl {
    async fn publish(&self, channel: &str, payload: &str) -> IpcResult<()> {
        let channel = ChannelName::parse(channel)?;
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        self.log.publish(&channel, payload, None).await?;
        Ok(())
    }

    async fn subscribe(&self, channel: &str) -> IpcResult<Subscription> {
        // Read as a name first: a pattern would be followed, and bring more than was asked for.
        let channel = ChannelName::parse(channel)?;
        self.follow(ChannelPattern::parse(channel.as_str())?).await
    }

    async fn psubscribe(&self, pattern: &str) -> IpcResult<Subscription> {
        self.follow(ChannelPattern::parse(pattern)?).await
    }
}

impl fmt::Debug for RedisClientImpl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClientImpl")
            .field("status", &self.status())
            .finish()
    }
}

impl From<PublishError> for IpcError {
    fn from(error: PublishError) -> Self {
        let text = error.to_string();
        match error {
            PublishError::InvalidChannel(_)
            | PublishError::TooLarge { .. }
            | PublishError::BadIdempotencyKey => Self::InvalidArgument(text),
            PublishError::Unavailable(_) | PublishError::Interrupted(_) => Self::Connection(text),
            PublishError::TimedOut(_) | PublishError::Unconfirmed { .. } => Self::Timeout(text),
        }
    }
}

impl From<SubscribeError> for IpcError {
    fn from(error: SubscribeError) -> Self {
        let text = error.to_string();
        match error {
            SubscribeError::NoPattern | SubscribeError::TooManyPatterns(_) => {
                Self::InvalidArgument(text)
            }
            SubscribeError::Unavailable(_) => Self::Connection(text),
        }
    }
}
