//! The connection to the Redis of the events through which gateways keep passes and ask each other.
//!
//! One connection per gateway, beside those of the event log. It follows one channel outside
//! `intellirouter:*`, on which a gateway asks all others for a stream and each answers; so who asks
//! knows when none has it. Pings find a connection that is dead. While it is away, what needs it waits
//! for at most 2 s and is then refused; it is tried again every 50 to 100 ms, and where Redis answers
//! but refuses, after up to 2 s.
//!
//! Limits: connecting 2 s, an answer of Redis 1 s, one of the other gateways 2 s; 1,024 questions
//! of this gateway at a time, 64 of others, 1,024 messages that wait to be read. What is beyond is not
//! answered.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use intellirouter::RedisDialer;
use intellirouter::resilience::Backoff;
use redis::aio::MultiplexedConnection;
use redis::{
    Cmd, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult, ScriptInvocation, Value,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::EventsConfig;
use crate::gateway::StartError;
use crate::layers::authenticate::VerifiedWord;
use crate::reply::Reply;

/// How long a start waits for the first connection.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(3);
const CHANNEL: &str = "{intellirouter}:door";
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const WAIT_LIMIT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_secs(3);
const MAX_ASKED: usize = 1024;
const MAX_ANSWERING: usize = 64;
const MAX_UNREAD: usize = 1024;
/// Gateways whose answers wait to be read.
const MAX_ANSWERS: usize = 256;

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Done,
    Unknown,
    NotYours,
    NotLonger,
    Withdrawn,
    NotAccepted,
}

/// A question to all gateways.
#[derive(Serialize, Deserialize)]
pub(super) struct Ask {
    #[serde(with = "as_text")]
    id: Uuid,
    #[serde(with = "as_text")]
    from: Uuid,
    #[serde(with = "as_text")]
    pub(super) stream: Uuid,
    pub(super) word: VerifiedWord,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Message {
    Renew(Ask),
    Answer {
        #[serde(with = "as_text")]
        id: Uuid,
        verdict: Verdict,
    },
}

/// Names in messages.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use uuid::Uuid;

    pub(super) fn serialize<S: Serializer>(name: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(text: D) -> Result<Uuid, D::Error> {
        let text = String::deserialize(text)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// See the module's comment.
pub(crate) struct Link {
    dialer: RedisDialer,
    /// This gateway's own name, to know its own questions by.
    name: Uuid,
    connection: watch::Sender<Option<MultiplexedConnection>>,
    asked: Mutex<HashMap<Uuid, mpsc::Sender<Verdict>>>,
}

impl Link {
    pub(super) fn new(config: &EventsConfig) -> Result<Arc<Self>, StartError> {
        let read = |path| std::fs::read(path);
        let authorities = config.ca_file.as_deref().map(read).transpose();
        let authorities =
            authorities.map_err(|error| StartError::setting("events.ca_file", error))?;
        let dialer = RedisDialer::new(&config.store, authorities)
            .map_err(|error| StartError::setting("events.store", error))?;
        Ok(Arc::new(Self {
            dialer,
            name: Uuid::new_v4(),
            connection: watch::Sender::new(None),
            asked: Mutex::default(),
        }))
    }

    pub(super) fn is_away(&self) -> bool {
        self.connection.borrow().is_none()
    }

    /// Waits until it is connected; tells whether it is.
    pub(super) async fn wait(&self, limit: Duration) -> bool {
        let mut connection = self.connection.subscribe();
        let connected = connection.wait_for(Option::is_some);
        timeout(limit, connected).await.is_ok()
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Reply> {
        let mut connection = self.connection.subscribe();
        let connected = connection.wait_for(Option::is_some);
        let found = timeout(WAIT_LIMIT, connected).await.ok();
        let found = found.and_then(|found| found.ok()?.clone());
        found.ok_or_else(away)
    }

    /// One command and its answer.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Reply> {
        let mut connection = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        answer.map_err(failed)
    }

    /// One run of a script and its answer.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Reply> {
        let mut connection = self.connection().await?;
        let answer = script.invoke_async(&mut connection).await;
        answer.map_err(failed)
    }

    /// Asks all other gateways to renew a stream.
    pub(super) async fn ask(&self, stream: Uuid, word: VerifiedWord) -> Result<Verdict, Reply> {
        let deadline = Instant::now() + WAIT_LIMIT;
        let id = Uuid::new_v4();
        let mut answers = self.expect(id)?;
        let ask = Message::Renew(Ask {
            id,
            from: self.name,
            stream,
            word,
        });
        let heard = self.tell(&publish(&ask)?).await?;
        // This gateway hears itself.
        for _ in 1..heard {
            let answer = timeout_at(deadline, answers.receiver.recv());
            match answer.await.ok().flatten() {
                Some(Verdict::Unknown) => {}
                Some(verdict) => return Ok(verdict),
                None => {
                    let message = "a gateway did not answer in time; ask again";
                    return Err(Reply::unavailable("renewal_unsure", message));
                }
            }
        }
        Ok(Verdict::Unknown)
    }

    /// Publishes to all gateways, and tells how many there are. Not as PUBLISH answers: that counts
    /// whoever follows patterns too.
    async fn tell(&self, publish: &Cmd) -> Result<u64, Reply> {
        let mut connection = self.connection().await?;
        let mut both = redis::pipe();
        both.atomic().cmd("PUBSUB").arg("NUMSUB").arg(CHANNEL);
        both.add_command(publish.clone()).ignore();
        let answer: RedisResult<((Value, u64),)> = both.query_async(&mut connection).await;
        let ((_, heard),) = answer.map_err(failed)?;
        Ok(heard)
    }

    fn expect(&self, id: Uuid) -> Result<Answers<'_>, Reply> {
        let (sender, receiver) = mpsc::channel(MAX_ANSWERS);
        let mut asked = self.asked();
        if asked.len() >= MAX_ASKED {
            let message = "too many streams are being renewed";
            return Err(Reply::unavailable("too_many_renewals", message));
        }
        asked.insert(id, sender);
        Ok(Answers {
            link: self,
            id,
            receiver,
        })
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Uuid, mpsc::Sender<Verdict>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the connection; `answer` judges what others ask.
    pub(super) async fn follow<F>(&self, answer: impl Fn(Ask) -> F) -> std::convert::Infallible
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut failures = 0_u32;
        loop {
            let mut refused = false;
            let end = match self.dial().await {
                Ok((connection, inbox, gone)) => {
                    failures = 0;
                    self.connection.send_replace(Some(connection.clone()));
                    let end = self.serve(connection, inbox, gone, &answer).await;
                    self.connection.send_replace(None);
                    end
                }
                Err(error) => {
                    refused = !error.is_io_error();
                    error.to_string()
                }
            };
            failures = failures.saturating_add(1);
            if failures == 1 {
                let address = self.dialer.address();
                tracing::warn!(
                    address,
                    reason = end,
                    "no tickets or renewals by other gateways"
                );
            }
            // One that is away is found at once when it returns.
            let tries = if refused { failures } else { 1 };
            tokio::time::sleep(backoff.delay(tries)).await;
        }
    }

    async fn dial(
        &self,
    ) -> RedisResult<(
        MultiplexedConnection,
        mpsc::Receiver<Vec<u8>>,
        CancellationToken,
    )> {
        let (sender, inbox) = mpsc::channel(MAX_UNREAD);
        let gone = CancellationToken::new();
        let closed = gone.clone();
        let on_push = move |push: PushInfo| match push.kind {
            PushKind::Disconnection => closed.cancel(),
            // The channel, the payload. One that finds no room is not answered.
            PushKind::Message => {
                if let Some(Value::BulkString(payload)) = push.data.into_iter().nth(1) {
                    let _ = sender.try_send(payload);
                }
            }
            _ => {}
        };
        let dialer = &self.dialer;
        let connection = dialer.dial(CONNECT_LIMIT, Some(ANSWER_LIMIT), on_push);
        let mut connection = connection.await?;
        connection.subscribe(CHANNEL).await?;
        Ok((connection, inbox, gone))
    }

    /// Until the connection is lost; tells why.
    async fn serve<F>(
        &self,
        mut connection: MultiplexedConnection,
        mut inbox: mpsc::Receiver<Vec<u8>>,
        gone: CancellationToken,
        answer: &impl Fn(Ask) -> F,
    ) -> String
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answering = JoinSet::new();
        loop {
            tokio::select! {
                () = gone.cancelled() => return "the connection was closed".to_owned(),
                Some(message) = inbox.recv() => match serde_json::from_slice(&message) {
                    Ok(Message::Renew(ask))
                        if ask.from != self.name && answering.len() < MAX_ANSWERING =>
                    {
                        let (id, verdict) = (ask.id, answer(ask));
                        let connection = connection.clone();
                        answering.spawn(reply(connection, id, verdict));
                    }
                    Ok(Message::Answer { id, verdict }) => {
                        if let Some(asker) = self.asked().get(&id) {
                            let _ = asker.try_send(verdict);
                        }
                    }
                    _ => {}
                },
                Some(_) = answering.join_next() => {}
                _ = ping.tick() => {
                    let ping: RedisResult<()> = redis::cmd("PING").query_async(&mut connection).await;
                    if let Err(error) = ping {
                        return error.to_string();
                    }
                }
            }
        }
    }
}

async fn reply(
    mut connection: MultiplexedConnection,
    id: Uuid,
    verdict: impl Future<Output = Verdict>,
) {
    let answer = Message::Answer {
        id,
        verdict: verdict.await,
    };
    if let Ok(command) = publish(&answer) {
        // Who gets no answer asks again.
        let _: RedisResult<()> = command.query_async(&mut connection).await;
    }
}

fn publish(message: &Message) -> Result<Cmd, Reply> {
    let message = serde_json::to_vec(message).map_err(|_| Reply::internal())?;
    let mut command = redis::cmd("PUBLISH");
    command.arg(CHANNEL).arg(message);
    Ok(command)
}

/// Where the answers to one question arrive, as long as somebody waits for them.
struct Answers<'l> {
    link: &'l Link,
    id: Uuid,
    receiver: mpsc::Receiver<Verdict>,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.link.asked().remove(&self.id);
    }
}

fn failed(error: RedisError) -> Reply {
    tracing::warn!(%error, "the event store did not keep or give a ticket");
    away()
}

fn away() -> Reply {
    Reply::unavailable("store_away", "the event store is away")
}
