//! Events instead of text: one function to publish them, one type to follow them.

use std::fmt;
use std::marker::PhantomData;

use super::RedisClient;
use super::subscription::{Message, Subscription};
use crate::error::{IpcError, IpcResult};
use crate::events::typed::TypedEvent;

/// Publishes an event on its channel; what every publisher here does. Use it for an event type of
/// your own.
///
/// # Errors
/// As [`RedisClient::publish`], and [`IpcError::Serialization`] for an event that JSON can't hold.
pub async fn publish_event<E: TypedEvent>(client: &dyn RedisClient, event: &E) -> IpcResult<()> {
    let channel = E::channel();
    let payload = event
        .serialize()
        .map_err(|error| on_channel(channel.as_str(), error))?;
    client.publish(channel.as_str(), &payload).await
}

/// What a message can be read as: an event, or one of several.
pub trait FromMessage: Sized {
    /// Reads a message.
    ///
    /// # Errors
    /// [`IpcError::Serialization`] that names the channel.
    fn from_message(message: &Message) -> IpcResult<Self>;
}

impl<E: TypedEvent> FromMessage for E {
    fn from_message(message: &Message) -> IpcResult<Self> {
        E::deserialize(&message.payload).map_err(|error| on_channel(&message.channel, error))
    }
}

/// The error of a payload, with the channel that it was met on.
fn on_channel(channel: &str, error: IpcError) -> IpcError {
    match error {
        IpcError::Serialization(why) => {
            IpcError::Serialization(format!("channel {channel}: {why}"))
        }
        other => other,
    }
}

/// A [`Subscription`] whose messages are read as `E`.
pub struct EventSubscription<E> {
    messages: Subscription,
    event: PhantomData<fn() -> E>,
}

impl<E: FromMessage> EventSubscription<E> {
    /// Reads the messages of any subscription as `E`.
    #[must_use]
    pub fn new(messages: Subscription) -> Self {
        Self {
            messages,
            event: PhantomData,
        }
    }

    /// Waits for the next event. As [`Subscription::next_message`]: `Ok(None)` comes after
    /// [`EventSubscription::close`] alone, a dropped call has taken nothing, and no error ends the
    /// subscription.
    ///
    /// # Errors
    /// As [`Subscription::next_message`], and [`IpcError::Serialization`] for a payload that is no
    /// `E`; the text names its channel and what is wrong with it.
    pub async fn next_event(&self) -> IpcResult<Option<E>> {
        let message = self.messages.next_message().await?;
        message.as_ref().map(E::from_message).transpose()
    }

    /// Ends the subscription: calls that wait, and all later ones, return `Ok(None)`.
    pub fn close(&self) {
        self.messages.close();
    }
}

impl<E: TypedEvent> EventSubscription<E> {
    /// Follows the channel of `E`; what the methods of every subscriber here do. Use it for an
    /// event type of your own.
    ///
    /// # Errors
    /// As [`RedisClient::subscribe`].
    pub async fn open(client: &dyn RedisClient) -> IpcResult<Self> {
        let channel = E::channel();
        Ok(Self::new(client.subscribe(channel.as_str()).await?))
    }
}

impl<E> fmt::Debug for EventSubscription<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSubscription")
            .field("event", &std::any::type_name::<E>())
            .field("messages", &self.messages)
            .finish()
    }
}
