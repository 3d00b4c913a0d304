//! Events between services: a log that many publish to and many follow.
//!
//! Owns the names of channels and the patterns over them, the [`EventLog`] contract, the ring
//! from which every subscriber reads, and the two stores that feed it: [`MemoryLog`] within one
//! process and [`RedisLog`] over a Redis Stream; and for service authors the typed events and
//! [`RedisClient`] with its publishers and subscribers. It does not own who may read or publish
//! what, nor how an event looks on a client's connection: those belong to the gateway.
//!
//! What may have been lost is always said, as a [`Gap`] in the stream; nothing here drops an
//! event in silence. The bounds of the ring, of payloads and of waits stand in [`LogSettings`].

mod channel;
mod event;
mod idempotency;
mod interest;
mod log;
mod memory;
mod open;
mod pattern;
mod payloads;
mod position;
mod pubsub;
mod redis;
mod ring;
mod settings;
mod subscription;
mod typed;
mod wakeups;

pub(crate) use channel::shown;
pub use channel::{CHANNEL_PREFIX, ChannelName, MAX_SEGMENT_BYTES};
pub use event::{Event, FRAME_SLOTS};
pub use log::{
    Entry, EventLog, Gap, GapReason, MAX_PATTERNS, PublishError, Published, StoreStatus,
    SubscribeError,
};
pub use memory::MemoryLog;
pub use open::open;
pub use pattern::ChannelPattern;
pub use position::Position;
pub use pubsub::{
    ChainEngineEvent, ChainEngineEventPublisher, ChainEngineEventSubscriber, EventSubscription,
    FromMessage, MemoryEvent, MemoryEventPublisher, Message, ModelRegistryEventSubscriber,
    PersonaLayerEventSubscriber, RagManagerEvent, RagManagerEventPublisher, RedisClient,
    RedisClientImpl, RouterCoreEvent, RouterCoreEventPublisher, RouterCoreEventSubscriber,
    Subscription, publish_event,
};
pub use redis::RedisLog;
pub use settings::{IDEMPOTENCY_WINDOW, LogSettings, LogUse, MAX_IDEMPOTENCY_KEYS};
pub use subscription::{LogSubscription, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES};
pub use typed::{
    ChainExecutionCompletedEvent, ChainExecutionFailedEvent, ChainStepCompletedEvent,
    ContextAugmentationEvent, ConversationHistoryRetrievedEvent, ConversationUpdatedEvent,
    DocumentIndexedEvent, DocumentRetrievalEvent, EventError, EventPayload, ModelHealthCheckEvent,
    ModelRoutingDecisionEvent, ModelUsageEvent, TypedEvent,
};
