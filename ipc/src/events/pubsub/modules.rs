//! A publisher per source, a subscriber per destination, and all events of a source as one type.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::RedisClient;
use super::subscription::Message;
use super::typed_subscription::{EventSubscription, FromMessage, publish_event};
use crate::error::{IpcError, IpcResult};
use crate::events::channel::{CHANNEL_PREFIX, shown};
use crate::events::typed::{
    ChainExecutionCompletedEvent, ChainExecutionFailedEvent, ChainStepCompletedEvent,
    ContextAugmentationEvent, ConversationHistoryRetrievedEvent, ConversationUpdatedEvent,
    DocumentIndexedEvent, DocumentRetrievalEvent, ModelHealthCheckEvent, ModelRoutingDecisionEvent,
    ModelUsageEvent, TypedEvent,
};

macro_rules! module_events {
    ($(
        $source:literal -> $destination:literal:
        $publisher:ident, $subscriber:ident, $all:ident by $subscribe_to_all:ident {
            $($variant:ident($event:ident): $publish:ident, $subscribe:ident;)*
        }
    )*) => {$(
        #[doc = concat!("Publishes the events of `", $source, "`.")]
        #[derive(Clone)]
        pub struct $publisher {
            client: Arc<dyn RedisClient>,
        }

        impl $publisher {
            /// Publishes through this client.
            #[must_use]
            pub fn new(client: Arc<dyn RedisClient>) -> Self {
                Self { client }
            }

            $(
                #[doc = concat!("Publishes a [`", stringify!($event), "`]; ")]
                /// see [`publish_event`] for the errors.
                pub async fn $publish(
                    &self,
                    event: impl Borrow<$event> + Send,
                ) -> IpcResult<()> {
                    publish_event::<$event>(&*self.client, event.borrow()).await
                }
            )*
        }

        #[doc = concat!("Follows the events for `", $destination, "`.")]
        #[derive(Clone)]
        pub struct $subscriber {
            client: Arc<dyn RedisClient>,
        }

        impl $subscriber {
            /// Subscribes through this client.
            #[must_use]
            pub fn new(client: Arc<dyn RedisClient>) -> Self {
                Self { client }
            }

            $(
                #[doc = concat!("Follows each [`", stringify!($event), "`]; ")]
                /// see [`RedisClient::subscribe`] for the errors.
                pub async fn $subscribe(&self) -> IpcResult<EventSubscription<$event>> {
                    EventSubscription::open(&*self.client).await
                }
            )*

            #[doc = concat!("Follows every event of `", $source, "` for `", $destination, "`, in order; ")]
            /// see [`RedisClient::subscribe`] for the errors.
            pub async fn $subscribe_to_all(&self) -> IpcResult<EventSubscription<$all>> {
                let pattern = format!("{CHANNEL_PREFIX}:{}:{}:*", $source, $destination);
                Ok(EventSubscription::new(self.client.psubscribe(&pattern).await?))
            }
        }

        #[doc = concat!("An event of `", $source, "` for `", $destination, "`.")]
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum $all {
            $(
                #[doc = concat!("See [`", stringify!($event), "`].")]
                $variant($event),
            )*
        }

        impl FromMessage for $all {
            /// An event type that this version does not know is an error too.
            fn from_message(message: &Message) -> IpcResult<Self> {
                $(
                    if is_of::<$event>(message) {
                        return $event::from_message(message).map(Self::$variant);
                    }
                )*
                Err(unknown(message))
            }
        }

        impl fmt::Debug for $publisher {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($publisher)).finish_non_exhaustive()
            }
        }

        impl fmt::Debug for $subscriber {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($subscriber)).finish_non_exhaustive()
            }
        }
    )*};
}

fn is_of<E: TypedEvent>(message: &Message) -> bool {
    let segments = message.channel.split(':');
    segments.eq([CHANNEL_PREFIX, E::SOURCE, E::DESTINATION, E::EVENT_TYPE])
}

fn unknown(message: &Message) -> IpcError {
    IpcError::Serialization(format!(
        "channel {}: this event type is not known",
        shown(&message.channel)
    ))
}

module_events! {
    "chain_engine" -> "router_core":
    ChainEngineEventPublisher, RouterCoreEventSubscriber,
    ChainEngineEvent by subscribe_to_all_chain_engine_events {
        ExecutionCompleted(ChainExecutionCompletedEvent):
            publish_chain_execution_completed, subscribe_to_chain_execution_completed;
        ExecutionFailed(ChainExecutionFailedEvent):
            publish_chain_execution_failed, subscribe_to_chain_execution_failed;
        StepCompleted(ChainStepCompletedEvent):
            publish_chain_step_completed, subscribe_to_chain_step_completed;
    }

    "rag_manager" -> "persona_layer":
    RagManagerEventPublisher, PersonaLayerEventSubscriber,
    RagManagerEvent by subscribe_to_all_rag_manager_events {
        DocumentIndexed(DocumentIndexedEvent):
            publish_document_indexed, subscribe_to_document_indexed;
        DocumentRetrieval(DocumentRetrievalEvent):
            publish_document_retrieval, subscribe_to_document_retrieval;
        ContextAugmentation(ContextAugmentationEvent):
            publish_context_augmentation, subscribe_to_context_augmentation;
    }

    "memory" -> "chain_engine":
    MemoryEventPublisher, ChainEngineEventSubscriber,
    MemoryEvent by subscribe_to_all_memory_events {
        ConversationUpdated(ConversationUpdatedEvent):
            publish_conversation_updated, subscribe_to_conversation_updated;
        ConversationHistoryRetrieved(ConversationHistoryRetrievedEvent):
            publish_conversation_history_retrieved, subscribe_to_conversation_history_retrieved;
    }

    "router_core" -> "model_registry":
    RouterCoreEventPublisher, ModelRegistryEventSubscriber,
    RouterCoreEvent by subscribe_to_all_router_core_events {
        ModelHealthCheck(ModelHealthCheckEvent):
            publish_model_health_check, subscribe_to_model_health_check;
        ModelRoutingDecision(ModelRoutingDecisionEvent):
            publish_model_routing_decision, subscribe_to_model_routing_decision;
        ModelUsage(ModelUsageEvent):
            publish_model_usage, subscribe_to_model_usage;
    }
}
