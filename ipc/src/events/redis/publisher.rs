//! The publisher: one connection that carries every publish, pipelined.
//!
//! A publish is sent only while the connection stands, waits for Redis's answer at most its
//! timeout, and is never queued for later. What waits for an answer takes at most
//! [`MAX_UNANSWERED`] bytes; beyond it a publish is refused at once.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{PushKind, RedisError, RedisResult, Script};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::dial::Dialer;
use super::health::Link;
use super::keep::{Pulse, Purpose, is_answer};
use crate::events::channel::ChannelName;
use crate::events::log::PublishError;
use crate::events::settings::IDEMPOTENCY_WINDOW;

/// The most that may wait for an answer, in bytes.
const MAX_UNANSWERED: u32 = 16 << 20;

/// What a publish takes beside its payload, in bytes, at most: channel, key and framing.
const COMMAND_OVERHEAD: usize = 1024;

/// Publishes unless the key is known, in one step. A PUBLISH that Redis refuses takes the key
/// back, so that the repeat is not mistaken for a duplicate of what was never published.
static PUBLISH_ONCE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then return 0 end
local sent = redis.pcall('PUBLISH', ARGV[2], ARGV[3])
if type(sent) == 'table' and sent.err then
  redis.call('DEL', KEYS[1])
  return sent
end
return 1",
    )
});

pub(super) struct Publisher {
    connection: Arc<ArcSwapOption<MultiplexedConnection>>,
    room: Semaphore,
    limit: Duration,
}

impl Publisher {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            connection: Arc::default(),
            room: Semaphore::new(MAX_UNANSWERED as usize),
            limit,
        }
    }

    /// True when it was published, false when the key was known.
    pub(super) async fn publish(
        &self,
        channel: &ChannelName,
        payload: &Bytes,
        key: Option<&str>,
    ) -> Result<bool, PublishError> {
        let deadline = Instant::now() + self.limit;
        let size = u32::try_from(payload.len().saturating_add(COMMAND_OVERHEAD));
        // One that is larger than everything together may go when it is alone.
        let size = size.unwrap_or(MAX_UNANSWERED).min(MAX_UNANSWERED);
        let Ok(_room) = self.room.try_acquire_many(size) else {
            return Err(PublishError::Unavailable(format!(
                "publishes of {MAX_UNANSWERED} bytes wait for an answer; there is no room for more"
            )));
        };
        let Some(connection) = self.connection.load_full() else {
            return Err(PublishError::Unavailable(
                "the connection was lost".to_owned(),
            ));
        };
        match timeout_at(deadline, send(&connection, channel, payload, key)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(PublishError::TimedOut(self.limit)),
        }
    }
}

async fn send(
    connection: &MultiplexedConnection,
    channel: &ChannelName,
    payload: &Bytes,
    key: Option<&str>,
) -> RedisResult<bool> {
    let mut connection = connection.clone();
    let (channel, payload) = (channel.as_str(), payload.as_ref());
    let Some(key) = key else {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(payload);
        return publish
            .query_async::<i64>(&mut connection)
            .await
            .map(|_| true);
    };
    let mut once = PUBLISH_ONCE.key(once_key(channel, key));
    let window = u64::try_from(IDEMPOTENCY_WINDOW.as_millis()).unwrap_or(u64::MAX);
    once.arg(window).arg(channel).arg(payload);
    once.invoke_async::<bool>(&mut connection).await
}

/// Where Redis remembers a key: per channel, and outside of what channels are called.
fn once_key(channel: &str, key: &str) -> String {
    format!("{{intellirouter}}:once:{channel}:{key}")
}

fn failed(error: RedisError) -> PublishError {
    if is_answer(&error) {
        PublishError::Unavailable(error.to_string())
    } else {
        PublishError::Interrupted(error.to_string())
    }
}

/// Keeps the publisher's connection.
pub(super) struct PublisherLink {
    connection: Arc<ArcSwapOption<MultiplexedConnection>>,
}

impl PublisherLink {
    pub(super) fn new(publisher: &Publisher) -> Self {
        Self {
            connection: Arc::clone(&publisher.connection),
        }
    }
}

#[async_trait]
impl Purpose for PublisherLink {
    fn link(&self) -> Link {
        Link::Publisher
    }

    async fn open(
        &mut self,
        dialer: &Dialer,
        pulse: &Arc<Pulse>,
    ) -> RedisResult<MultiplexedConnection> {
        let pulse = Arc::clone(pulse);
        let closed = move |push: redis::PushInfo| {
            if push.kind == PushKind::Disconnection {
                pulse.close();
            }
        };
        dialer.dial(closed).await
    }

    fn opened(&mut self, connection: &MultiplexedConnection) {
        self.connection.store(Some(Arc::new(connection.clone())));
    }

    fn lost(&mut self) {
        self.connection.store(None);
    }
}
