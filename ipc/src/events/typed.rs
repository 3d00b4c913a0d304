//! A type for every event of the contract.
//!
//! Owns the shapes of the payloads and the channel that each belongs to. A payload is one JSON
//! object; every one has `timestamp` (RFC 3339, UTC) and `metadata`. Fields that a reader does not
//! know are ignored, so that a newer publisher can add some; of those that it knows, only `metadata`
//! and the `details` of an error may be missing.
//!
//! What can't be written or read is an [`IpcError::Serialization`]. Its text says which field and
//! why, in at most [`MAX_MESSAGE_CHARS`] characters, since it may quote the payload.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::channel::ChannelName;
use crate::error::{IpcError, IpcResult};

mod fields;

#[cfg(test)]
mod tests;

/// The most that a message takes over from the JSON reader, in characters.
const MAX_MESSAGE_CHARS: usize = 256;

/// What can be the payload of an event: everything that serde can write and read as JSON.
pub trait EventPayload: Sized {
    /// The payload as JSON text.
    ///
    /// # Errors
    /// [`IpcError::Serialization`] if the value has no JSON form.
    fn serialize(&self) -> IpcResult<String>;

    /// Reads a payload.
    ///
    /// # Errors
    /// [`IpcError::Serialization`] that says where the text is not what was expected.
    fn deserialize(text: &str) -> IpcResult<Self>;
}

impl<T: Serialize + DeserializeOwned> EventPayload for T {
    fn serialize(&self) -> IpcResult<String> {
        serde_json::to_string(self).map_err(unfit)
    }

    fn deserialize(text: &str) -> IpcResult<Self> {
        serde_json::from_str(text).map_err(unfit)
    }
}

fn unfit(error: serde_json::Error) -> IpcError {
    let text = error.to_string();
    let mut cut: String = text.chars().take(MAX_MESSAGE_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    IpcError::Serialization(cut)
}

/// An event that has a channel of its own.
pub trait TypedEvent: EventPayload + Send + Sync + 'static {
    /// Who sends it.
    const SOURCE: &'static str;
    /// For whom it is.
    const DESTINATION: &'static str;
    /// The last segment of its channel.
    const EVENT_TYPE: &'static str;

    /// Its channel.
    fn channel() -> ChannelName {
        ChannelName::new(Self::SOURCE, Self::DESTINATION, Self::EVENT_TYPE)
    }
}

/// Why something failed, as events tell it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventError {
    /// A short name of the kind of failure, such as `TIMEOUT`.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// More about it, where there is more.
    #[serde(default)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $name:ident: $source:literal -> $destination:literal, $event_type:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            /// When it happened.
            #[serde(with = "fields::utc")]
            pub timestamp: OffsetDateTime,
            /// Whatever else the publisher wants to tell.
            #[serde(default)]
            pub metadata: HashMap<String, String>,
        }

        impl $name {
            /// One that happens now, without metadata.
            #[must_use]
            pub fn new($($field: $type),*) -> Self {
                Self {
                    $($field,)*
                    timestamp: OffsetDateTime::now_utc(),
                    metadata: HashMap::new(),
                }
            }
        }

        impl TypedEvent for $name {
            const SOURCE: &'static str = $source;
            const DESTINATION: &'static str = $destination;
            const EVENT_TYPE: &'static str = $event_type;
        }
    )*};
}

events! {
    /// An execution of a chain ended as wanted.
    ChainExecutionCompletedEvent: "chain_engine" -> "router_core", "chain_execution_completed" {
        /// The execution.
        execution_id: String,
        /// What the last step gave.
        output: String,
        /// Tokens of all steps.
        total_tokens: u32,
        /// How long it took, in milliseconds.
        execution_time_ms: u64,
    }

    /// An execution of a chain failed, ran out of time or was cancelled.
    ChainExecutionFailedEvent: "chain_engine" -> "router_core", "chain_execution_failed" {
        /// The execution.
        execution_id: String,
        /// Why.
        error: EventError,
        /// How long it took, in milliseconds.
        execution_time_ms: u64,
    }

    /// A step of a chain ended as wanted.
    ChainStepCompletedEvent: "chain_engine" -> "router_core", "chain_step_completed" {
        /// The execution.
        execution_id: String,
        /// The step.
        step_id: String,
        /// Its place in the chain, from 0.
        step_index: u32,
        /// What it gave.
        output: String,
        /// Tokens that it took.
        tokens: u32,
    }

    /// A document can be found now.
    DocumentIndexedEvent: "rag_manager" -> "persona_layer", "document_indexed" {
        /// The document.
        document_id: String,
        /// In how many pieces it is kept.
        chunk_count: u32,
    }

    /// Documents were looked for.
    DocumentRetrievalEvent: "rag_manager" -> "persona_layer", "document_retrieval" {
        /// What was looked for.
        query: String,
        /// What was found, best first.
        document_ids: Vec<String>,
    }

    /// A request was given context from documents.
    ContextAugmentationEvent: "rag_manager" -> "persona_layer", "context_augmentation" {
        /// The request.
        request_id: String,
        /// How many documents were used.
        document_count: u32,
    }

    /// A message was added to a conversation.
    ConversationUpdatedEvent: "memory" -> "chain_engine", "conversation_updated" {
        /// The conversation.
        conversation_id: String,
        /// The message.
        message_id: String,
    }

    /// The history of a conversation was read.
    ConversationHistoryRetrievedEvent:
        "memory" -> "chain_engine", "conversation_history_retrieved" {
        /// The conversation.
        conversation_id: String,
        /// How many messages were read.
        message_count: u32,
        /// How many tokens they have.
        token_count: u32,
    }

    /// A model was checked.
    ModelHealthCheckEvent: "router_core" -> "model_registry", "model_health_check" {
        /// The model.
        model_id: String,
        /// Whether it answered as it should.
        healthy: bool,
        /// How long the check took, in milliseconds.
        #[serde(serialize_with = "fields::finite")]
        latency_ms: f32,
    }

    /// A model was picked for a request.
    ModelRoutingDecisionEvent: "router_core" -> "model_registry", "model_routing_decision" {
        /// The request.
        request_id: String,
        /// The model.
        selected_model_id: String,
        /// The strategy that picked it.
        strategy_name: String,
        /// How long picking took, in milliseconds.
        routing_time_ms: u64,
    }

    /// A model answered a request.
    ModelUsageEvent: "router_core" -> "model_registry", "model_usage" {
        /// The model.
        model_id: String,
        /// The request.
        request_id: String,
        /// Tokens that went in.
        input_tokens: u32,
        /// Tokens that came out.
        output_tokens: u32,
        /// How long the answer took, in milliseconds.
        #[serde(serialize_with = "fields::finite")]
        latency_ms: f32,
    }
}
