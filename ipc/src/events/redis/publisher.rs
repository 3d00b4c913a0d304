//! The publisher: one connection that carries every publish, pipelined.
//!
//! A publish is sent only while the connection stands, and waits for Redis's answer at most its
//! timeout; it is never queued for a store that is away. If the connection breaks before the answer,
//! it is sent once more on the next one, as long as its timeout lasts: the store knows its token for
//! [`TOKEN_MARGIN`] longer than it can take and publishes it once. That takes about 200 bytes of
//! the store for each publish of that time.
//!
//! Payloads without an answer have at most [`MAX_UNANSWERED`] bytes; beyond it a publish is refused
//! at once. One that its caller has given up counts on, in a task of its own, until Redis answers or
//! the connection ends. There are at most 16,384 such tasks, since each takes [`COMMAND_OVERHEAD`].
//!
//! What replicas must have is waited for by [`Confirmer`], within the same timeout.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use redis::{ErrorKind, PushKind, RedisError, RedisResult, ServerErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::confirm::Confirmer;
use super::health::{Health, Link};
use super::keep::{Pulse, Purpose, is_answer, lost};
use super::known::Known;
use super::scripts;
use super::server::Server;
use crate::RedisDialer;
use crate::events::channel::ChannelName;
use crate::events::log::{PublishError, Published};
use crate::events::position::Position;
use crate::events::settings::{IDEMPOTENCY_WINDOW, LogSettings};

/// The most that may wait for an answer, in bytes. Each payload is counted once; the client library
/// holds two copies of it.
const MAX_UNANSWERED: u32 = 16 << 20;

/// What a publish takes beside its payload, in bytes, at most: channel, key and framing.
const COMMAND_OVERHEAD: usize = 1024;

/// How much longer than twice its timeout the store knows a publish.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

const PING_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Publisher {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    limit: Duration,
    /// `None` if no replica must have it.
    confirmer: Option<Arc<Confirmer>>,
}

/// What the publisher and the keeper of its connection share.
struct Shared {
    line: ArcSwapOption<Line>,
    /// Told of each new line.
    opened: Notify,
    known: Arc<Known>,
}

impl Publisher {
    pub(super) fn new(
        settings: &LogSettings,
        known: Arc<Known>,
        dialer: &Arc<RedisDialer>,
    ) -> Self {
        let confirmer = || Arc::new(Confirmer::new(Arc::clone(dialer), settings.replicas));
        Self {
            shared: Arc::new(Shared {
                line: ArcSwapOption::empty(),
                opened: Notify::new(),
                known,
            }),
            room: Arc::new(Semaphore::new(MAX_UNANSWERED as usize)),
            limit: settings.publish_timeout,
            confirmer: (settings.replicas > 0).then(confirmer),
        }
    }

    pub(super) async fn publish(
        &self,
        channel: &ChannelName,
        payload: Bytes,
        key: Option<&str>,
    ) -> Result<Published, PublishError> {
        let publish = Publish {
            channel: channel.clone(),
            payload,
            key: key.map(Into::into),
            token: rand::random(),
            confirmer: self.confirmer.clone(),
            deadline: Instant::now() + self.limit,
            token_life: self.limit * 2 + TOKEN_MARGIN,
        };
        let first = self.shared.line.load_full();
        let first = first.ok_or_else(|| PublishError::Unavailable(AWAY.to_owned()))?;
        match self.attempt(first, publish.clone()).await {
            Err(PublishError::Interrupted(why)) => match self.next_line(publish.deadline).await {
                Some(line) => self.again(line, publish).await,
                None => Err(PublishError::Interrupted(why)),
            },
            outcome => outcome,
        }
    }

    /// Sends it again. What the store refuses now it may have done before.
    async fn again(&self, line: Arc<Line>, publish: Publish) -> Result<Published, PublishError> {
        let outcome = self.attempt(line, publish).await;
        outcome.map_err(|error| match error {
            PublishError::Unavailable(why) => PublishError::Interrupted(why),
            error => error,
        })
    }

    /// The line that stands, at the latest at the deadline.
    async fn next_line(&self, deadline: Instant) -> Option<Arc<Line>> {
        let standing = async {
            loop {
                let opened = self.shared.opened.notified();
                let line = self.shared.line.load_full();
                if let Some(line) = line.filter(|line| !line.lost.is_cancelled()) {
                    return line;
                }
                opened.await;
            }
        };
        timeout_at(deadline, standing).await.ok()
    }

    async fn attempt(&self, line: Arc<Line>, publish: Publish) -> Result<Published, PublishError> {
        let size = u32::try_from(publish.payload.len().saturating_add(COMMAND_OVERHEAD));
        // One that is larger than everything together may go when it is alone.
        let size = size.unwrap_or(MAX_UNANSWERED).min(MAX_UNANSWERED);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(size) else {
            return Err(PublishError::Unavailable(format!(
                "publishes of {MAX_UNANSWERED} bytes wait for an answer; there is no room for more"
            )));
        };
        let deadline = publish.deadline;
        let answer = line.carry(publish, Arc::clone(&self.shared.known), room);
        // Not kept while this waits: the connection must be able to end before its callers do.
        drop(line);
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            // The runtime of the connection ends.
            Ok(Err(_)) => Err(given_up()),
            Err(_) => Err(PublishError::TimedOut(self.limit)),
        }
    }

    /// Where the log ends, as the store has it; `None` where its books are of another life. Fails if
    /// it does not say so within `limit`.
    pub(super) async fn end(&self, limit: Duration) -> RedisResult<Option<Position>> {
        let deadline = Instant::now() + limit;
        let line = self.next_line(deadline).await.ok_or_else(lost_line)?;
        let (mut server, given_up) = (line.server.clone(), line.lost.clone());
        // Not kept while this waits, as for a publish.
        drop(line);
        let asked = async {
            tokio::select! {
                end = scripts::end(&mut server.connection, &server.run) => end,
                () = given_up.cancelled() => Err(lost_line()),
            }
        };
        let answer = timeout_at(deadline, asked).await;
        answer.unwrap_or_else(|_| Err(lost("it does not say where its log ends")))
    }
}

const AWAY: &str = "the connection was lost";

/// One connection, up to its loss.
struct Line {
    server: Server,
    lost: CancellationToken,
    pulse: Arc<Pulse>,
    /// That of the connection. Those of callers may end earlier.
    runtime: Handle,
}

impl Line {
    /// Sends in a task of its own. The client library holds a command until it is answered or its
    /// connection ends, whether or not the caller waits, so its room must be held as long.
    fn carry(
        &self,
        publish: Publish,
        known: Arc<Known>,
        room: OwnedSemaphorePermit,
    ) -> JoinHandle<Result<Published, PublishError>> {
        let (server, lost) = (self.server.clone(), self.lost.clone());
        let pulse = Arc::clone(&self.pulse);
        self.runtime.spawn(async move {
            let answer = tokio::select! {
                biased;
                answer = publish.send(server, &known, room) => answer,
                // Also ends the task's hold on the connection, which would keep it alive.
                () = lost.cancelled() => Err(Failure::Redis(lost_line())),
            };
            answer.map_err(|failure| failure.told(&pulse))
        })
    }
}

#[derive(Clone)]
struct Publish {
    channel: ChannelName,
    payload: Bytes,
    key: Option<Box<str>>,
    token: u128,
    confirmer: Option<Arc<Confirmer>>,
    deadline: Instant,
    token_life: Duration,
}

pub(super) enum Failure {
    Redis(RedisError),
    Unconfirmed { acknowledged: usize, wanted: usize },
}

impl Publish {
    /// The payload goes as soon as the command holds a copy of it: this may wait long.
    async fn send(
        mut self,
        mut server: Server,
        known: &Known,
        mut room: OwnedSemaphorePermit,
    ) -> Result<Published, Failure> {
        let (confirmer, deadline) = (self.confirmer.take(), self.deadline);
        let call = self.into_call(&server.run, known.get());
        let answer = call.invoke_async(&mut server.connection).await;
        drop(call);
        let answer = answer.and_then(scripts::Publish::answer);
        let (position, duplicate) = answer.map_err(Failure::Redis)?;
        known.raise(position);
        if let Some(confirmer) = confirmer {
            // What waits for replicas has no payload any more.
            let _waits = room.split(COMMAND_OVERHEAD);
            drop(room);
            confirmer.confirm(&server, deadline).await?;
        }
        Ok(Published {
            position,
            duplicate,
        })
    }

    fn into_call(self, run: &str, known: Position) -> redis::ScriptInvocation<'static> {
        let publish = scripts::Publish {
            channel: self.channel.as_str(),
            payload: &self.payload,
            token: self.token,
            key: self.key.as_deref(),
            token_life: self.token_life,
            key_life: IDEMPOTENCY_WINDOW,
        };
        publish.prepare(run, known)
    }
}

impl Failure {
    /// What the caller is told. A server that has become a replica is given up.
    fn told(self, pulse: &Pulse) -> PublishError {
        match self {
            Self::Unconfirmed {
                acknowledged,
                wanted,
            } => PublishError::Unconfirmed {
                acknowledged,
                wanted,
            },
            Self::Redis(error) if is_answer(&error) => {
                if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
                    pulse.close();
                }
                PublishError::Unavailable(error.to_string())
            }
            Self::Redis(error) => PublishError::Interrupted(error.to_string()),
        }
    }
}

fn lost_line() -> RedisError {
    lost("the connection was given up")
}

fn given_up() -> PublishError {
    PublishError::Interrupted(lost_line().to_string())
}

/// Keeps the publisher's connection.
pub(super) struct PublisherLink {
    shared: Arc<Shared>,
    health: Arc<Health>,
    /// Ends what waits on the connection, when it is lost and when nobody keeps it any more.
    standing: Option<DropGuard>,
}

impl PublisherLink {
    pub(super) fn new(publisher: &Publisher, health: Arc<Health>) -> Self {
        Self {
            shared: Arc::clone(&publisher.shared),
            health,
            standing: None,
        }
    }
}

#[async_trait]
impl Purpose for PublisherLink {
    type Live = Server;

    fn link(&self) -> Link {
        Link::Publisher
    }

    async fn open(&mut self, dialer: &RedisDialer, pulse: &Arc<Pulse>) -> RedisResult<Server> {
        let told = Arc::clone(pulse);
        let closed = move |push: redis::PushInfo| {
            if push.kind == PushKind::Disconnection {
                told.close();
            }
        };
        let server = pulse.answer(Server::connect(dialer, closed)).await?;
        self.health.recorder_first(&server.run).await;
        let lost = CancellationToken::new();
        self.shared.line.store(Some(Arc::new(Line {
            server: server.clone(),
            lost: lost.clone(),
            pulse: Arc::clone(pulse),
            runtime: Handle::current(),
        })));
        self.standing = Some(lost.drop_guard());
        self.shared.opened.notify_waiters();
        Ok(server)
    }

    async fn serve(&mut self, mut live: Server, pulse: &Arc<Pulse>) -> RedisError {
        let ping = redis::cmd("PING");
        loop {
            tokio::select! {
                error = pulse.closed() => return error,
                () = sleep(PING_EVERY) => {}
            }
            let answer = ping.query_async::<redis::Value>(&mut live.connection);
            match pulse.answer(answer).await {
                Err(error) if !is_answer(&error) => return error,
                _ => {}
            }
        }
    }

    fn run(live: &Server) -> &Arc<str> {
        &live.run
    }

    fn lost(&mut self) {
        self.shared.line.store(None);
        self.standing = None;
    }
}
