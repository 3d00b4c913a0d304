//! The publisher: one connection that carries every publish, pipelined.
//!
//! A publish is sent only while the connection stands, waits for Redis's answer at most its
//! timeout, and is never queued for another connection. Payloads without an answer have at most
//! [`MAX_UNANSWERED`] bytes; beyond it a publish is refused at once. One that its caller has given
//! up counts on, in a task of its own, until Redis answers or the connection ends. There are at
//! most 16,384 such tasks, since each takes [`COMMAND_OVERHEAD`].

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{PushKind, RedisError, RedisResult, Script};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::health::Link;
use super::keep::CONNECT_LIMIT;
use super::keep::{Pulse, Purpose, is_answer};
use crate::RedisDialer;
use crate::events::channel::ChannelName;
use crate::events::log::PublishError;
use crate::events::settings::IDEMPOTENCY_WINDOW;

/// The most that may wait for an answer, in bytes. Each payload is counted once; the client library
/// holds two copies of it, three of one with a key.
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
    line: Arc<ArcSwapOption<Line>>,
    room: Arc<Semaphore>,
    limit: Duration,
}

impl Publisher {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            line: Arc::default(),
            room: Arc::new(Semaphore::new(MAX_UNANSWERED as usize)),
            limit,
        }
    }

    /// True when it was published, false when the key was known.
    pub(super) async fn publish(
        &self,
        channel: &ChannelName,
        payload: Bytes,
        key: Option<&str>,
    ) -> Result<bool, PublishError> {
        let deadline = Instant::now() + self.limit;
        let size = u32::try_from(payload.len().saturating_add(COMMAND_OVERHEAD));
        // One that is larger than everything together may go when it is alone.
        let size = size.unwrap_or(MAX_UNANSWERED).min(MAX_UNANSWERED);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(size) else {
            return Err(PublishError::Unavailable(format!(
                "publishes of {MAX_UNANSWERED} bytes wait for an answer; there is no room for more"
            )));
        };
        let publish = Publish {
            channel: channel.clone(),
            payload,
            key: key.map(str::to_owned),
        };
        // Not kept while this waits: the connection must be able to end before its callers do.
        let answer = match self.line.load_full() {
            Some(line) => line.carry(publish, room),
            None => {
                return Err(PublishError::Unavailable(
                    "the connection was lost".to_owned(),
                ));
            }
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            // The runtime of the connection ends.
            Ok(Err(_)) => Err(given_up()),
            Err(_) => Err(PublishError::TimedOut(self.limit)),
        }
    }
}

/// One connection, up to its loss.
struct Line {
    connection: MultiplexedConnection,
    lost: CancellationToken,
    /// That of the connection. Those of callers may end earlier.
    runtime: Handle,
}

impl Line {
    /// Sends in a task of its own. The client library holds a command until it is answered or its
    /// connection ends, whether or not the caller waits, so its room must be held as long.
    fn carry(
        &self,
        publish: Publish,
        room: OwnedSemaphorePermit,
    ) -> JoinHandle<Result<bool, PublishError>> {
        let (connection, lost) = (self.connection.clone(), self.lost.clone());
        self.runtime.spawn(async move {
            let answer = tokio::select! {
                biased;
                answer = publish.send(connection) => answer.map_err(failed),
                // Also ends the task's hold on the connection, which would keep it alive.
                () = lost.cancelled() => Err(given_up()),
            };
            drop(room);
            answer
        })
    }
}

struct Publish {
    channel: ChannelName,
    payload: Bytes,
    key: Option<String>,
}

impl Publish {
    /// The payload goes as soon as the command holds a copy of it: this may wait long.
    async fn send(self, mut connection: MultiplexedConnection) -> RedisResult<bool> {
        let Self {
            channel,
            payload,
            key,
        } = self;
        let channel = channel.as_str();
        let Some(key) = key else {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(channel).arg(payload.as_ref());
            drop(payload);
            return publish
                .query_async::<i64>(&mut connection)
                .await
                .map(|_| true);
        };
        let mut once = PUBLISH_ONCE.key(once_key(channel, &key));
        let window = u64::try_from(IDEMPOTENCY_WINDOW.as_millis()).unwrap_or(u64::MAX);
        once.arg(window).arg(channel).arg(payload.as_ref());
        drop(payload);
        once.invoke_async::<bool>(&mut connection).await
    }
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

fn given_up() -> PublishError {
    PublishError::Interrupted("the connection was given up".to_owned())
}

/// Keeps the publisher's connection.
pub(super) struct PublisherLink {
    line: Arc<ArcSwapOption<Line>>,
    /// Ends what waits on the connection, when it is lost and when nobody keeps it any more.
    standing: Option<DropGuard>,
}

impl PublisherLink {
    pub(super) fn new(publisher: &Publisher) -> Self {
        Self {
            line: Arc::clone(&publisher.line),
            standing: None,
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
        dialer: &RedisDialer,
        pulse: &Arc<Pulse>,
    ) -> RedisResult<MultiplexedConnection> {
        let pulse = Arc::clone(pulse);
        let closed = move |push: redis::PushInfo| {
            if push.kind == PushKind::Disconnection {
                pulse.close();
            }
        };
        dialer.dial(CONNECT_LIMIT, None, closed).await
    }

    fn opened(&mut self, connection: &MultiplexedConnection) {
        let lost = CancellationToken::new();
        self.line.store(Some(Arc::new(Line {
            connection: connection.clone(),
            lost: lost.clone(),
            runtime: Handle::current(),
        })));
        self.standing = Some(lost.drop_guard());
    }

    fn lost(&mut self) {
        self.line.store(None);
        self.standing = None;
    }
}
