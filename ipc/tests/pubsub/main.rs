//! What publishers and subscribers promise, over the embedded store and over a real Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as the tests do"
)]

#[path = "../util/redis_server.rs"]
mod redis_server;

mod every_event;
mod promises;
mod redis_only;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use intellirouter::events::{
    ChannelName, ConversationUpdatedEvent, EventLog, EventSubscription, FromMessage, LogSettings,
    Message, RedisClient, RedisClientImpl, Subscription, open,
};
use intellirouter::{IpcError, IpcResult};

use self::redis_server::RedisServer;

/// Longer than anything that is waited for may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

const UPDATED: &str = "intellirouter:memory:chain_engine:conversation_updated";

/// A client of one kind of store, and what it needs to live.
struct Store {
    client: Arc<dyn RedisClient>,
    log: Arc<dyn EventLog>,
    _server: Option<RedisServer>,
}

impl Store {
    async fn memory(settings: LogSettings) -> Self {
        Self::at("memory:", settings, None).await
    }

    async fn redis(settings: LogSettings) -> Self {
        let server = RedisServer::start();
        let url = server.url();
        Self::at(&url, settings, Some(server)).await
    }

    async fn at(url: &str, settings: LogSettings, server: Option<RedisServer>) -> Self {
        let log = open(url, settings).await.unwrap();
        Self {
            client: Arc::new(RedisClientImpl::from_log(Arc::clone(&log))),
            log,
            _server: server,
        }
    }

    /// Publishes bytes that no `RedisClient` would let through.
    async fn publish_bytes(&self, channel: &str, payload: &'static [u8]) {
        let channel = ChannelName::parse(channel).unwrap();
        let payload = Bytes::from_static(payload);
        self.log.publish(&channel, payload, None).await.unwrap();
    }
}

/// Makes a test of each promise for each store.
macro_rules! for_each_store {
    ($($promise:ident($settings:expr);)*) => {
        mod memory_store {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(crate::Store::memory($settings).await).await;
            })*
        }
        mod redis_store {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(crate::Store::redis($settings).await).await;
            })*
        }
    };
}
pub(crate) use for_each_store;

/// What comes next, within [`PATIENCE`].
async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("nothing came")
}

async fn next<E: FromMessage>(subscription: &EventSubscription<E>) -> E {
    soon(subscription.next_event()).await.unwrap().unwrap()
}

async fn next_text(subscription: &Subscription) -> String {
    let message = soon(subscription.next_message()).await.unwrap();
    message.unwrap().payload
}

/// The text of the error that comes next, which must be of this kind.
async fn next_error<T: Debug>(
    waiting: impl Future<Output = IpcResult<T>>,
    kind: fn(String) -> IpcError,
) -> String {
    let error = soon(waiting).await.unwrap_err();
    let expected = kind(String::new());
    assert_eq!(
        std::mem::discriminant(&error),
        std::mem::discriminant(&expected),
        "{error}"
    );
    error.to_string()
}

fn updated(message_id: &str) -> ConversationUpdatedEvent {
    ConversationUpdatedEvent::new("c1".to_owned(), message_id.to_owned())
}

fn message(channel: &str, payload: &str) -> Message {
    Message {
        channel: channel.to_owned(),
        payload: payload.to_owned(),
    }
}
