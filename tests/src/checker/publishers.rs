//! Publishers: each publishes one event after the other, and writes down what it was told.
//!
//! Through a gateway an event has an idempotency key, and is repeated at the other gateway until it is
//! answered for, [`TRIES`] times at most. In Redis itself each event is tried once (the library may repeat it
//! by itself).

mod plain;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use intellirouter::events::{ChannelName, EventLog as _, LogSettings, LogUse, RedisLog};
use intellirouter_proto::intellirouter::events::v1::{PublishRequest, PublishResponse};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use self::plain::Plain;
use super::history::{Key, Outcome, Publish, Via};
use super::payload;
use super::subscribers::{Phase, Shared};
use super::wire::{Entrance, Http1, Http2, piece, within};

const TRIES: usize = 8;
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One publisher.
pub struct Publisher {
    /// Index in the history.
    pub index: u16,
    /// See there.
    pub via: Via,
    /// Indices of the channels that it publishes on.
    pub channels: Vec<usize>,
    /// Ports of the gateways, or of Redis.
    pub doors: Vec<u16>,
    /// Of Redis, for the library.
    pub url: String,
    /// One event in so many takes several packets.
    pub large: u32,
    /// The longest pause between two events, in milliseconds.
    pub pause: u64,
    /// In which phase it ends.
    pub until: Phase,
    /// Of its random choices.
    pub seed: u64,
}

/// How one try ended.
enum Answer {
    Done(Outcome),
    /// Nothing was published.
    Refused,
    Unsure,
}

enum Way {
    Post(Option<Box<Http1<TlsStream<TcpStream>>>>),
    Grpc(Option<Http2>),
    Library(Box<RedisLog>),
    Plain(Plain),
}

impl Publisher {
    /// Publishes until its phase has come.
    pub async fn publish_all(self, shared: Arc<Shared>) -> Vec<Publish> {
        let mut chance = StdRng::seed_from_u64(self.seed);
        let mut phase = shared.phase.clone();
        let mut way = self.way().await;
        let mut all = Vec::new();
        for number in 0.. {
            if *phase.borrow() >= self.until {
                break;
            }
            let key = Key {
                publisher: self.index,
                number,
            };
            let channel = *self
                .channels
                .choose(&mut chance)
                .expect("there is a channel");
            let large = chance.random_ratio(1, self.large);
            let size = chance.random_range(if large { 2000..40_000 } else { 0..300 });
            let payload = payload::write(key, size);
            let size = payload.len();
            let wish = Wish {
                shared: &shared,
                channel: &shared.channels[channel],
                payload,
                key: format!("{}-{key}", self.seed),
            };
            let invoked = shared.clock.now();
            let outcome = self.publish(&mut way, &wish, &mut chance).await;
            let completed = shared.clock.now();
            all.push(Publish {
                key,
                channel,
                size,
                invoked,
                completed,
                outcome,
            });
            let pause = Duration::from_millis(chance.random_range(0..self.pause));
            let ended = phase.wait_for(|phase| *phase >= self.until);
            let _ = tokio::time::timeout(pause, ended).await;
        }
        all
    }

    async fn way(&self) -> Way {
        match self.via {
            Via::Post => Way::Post(None),
            Via::Grpc => Way::Grpc(None),
            Via::Plain => Way::Plain(Plain::new(self.doors[0])),
            Via::Library => {
                let settings = LogSettings {
                    usage: LogUse::Service,
                    ..LogSettings::default()
                };
                Way::Library(Box::new(
                    RedisLog::connect(&self.url, settings)
                        .await
                        .expect("the URL is good"),
                ))
            }
        }
    }

    async fn publish(&self, way: &mut Way, wish: &Wish<'_>, chance: &mut StdRng) -> Outcome {
        let tries = if matches!(way, Way::Post(_) | Way::Grpc(_)) {
            TRIES
        } else {
            1
        };
        let mut unsure = false;
        for _ in 0..tries {
            let door = *self.doors.choose(chance).expect("there is a door");
            match way.attempt(wish, door).await {
                Answer::Done(outcome) => return outcome,
                Answer::Unsure => unsure = true,
                Answer::Refused => {}
            }
            if tries > 1 {
                tokio::time::sleep(Duration::from_millis(chance.random_range(50..400))).await;
            }
        }
        if unsure {
            Outcome::Unknown
        } else {
            Outcome::Failed
        }
    }
}

/// One event to be published.
struct Wish<'w> {
    shared: &'w Shared,
    channel: &'w str,
    payload: String,
    /// The idempotency key.
    key: String,
}

impl Way {
    /// A connection is kept as long as it answers.
    async fn attempt(&mut self, wish: &Wish<'_>, door: u16) -> Answer {
        let entrance = &wish.shared.entrance;
        match self {
            Self::Post(kept) => {
                let open = kept.take();
                let connection = match open {
                    Some(connection) => Ok(connection),
                    None => entrance.http1(door).await.map(Box::new),
                };
                let Ok(mut connection) = connection else {
                    return Answer::Refused;
                };
                let answer = within("answer", PATIENCE, post(&mut connection, wish)).await;
                let Ok((status, body)) = answer else {
                    return Answer::Unsure;
                };
                *kept = Some(connection);
                posted(status, &body)
            }
            Self::Grpc(kept) => {
                let open = kept.take();
                let connection = match open {
                    Some(connection) => Ok(connection),
                    None => entrance.http2(door).await,
                };
                let Ok(mut connection) = connection else {
                    return Answer::Refused;
                };
                let answer =
                    within("answer", PATIENCE, call(&mut connection, entrance, wish)).await;
                let Ok(answer) = answer else {
                    return Answer::Unsure;
                };
                *kept = Some(connection);
                answer
            }
            Self::Library(log) => through_library(log, wish).await,
            Self::Plain(plain) => plain.publish(wish.channel, &wish.payload).await,
        }
    }
}

async fn post(
    connection: &mut Http1<TlsStream<TcpStream>>,
    wish: &Wish<'_>,
) -> io::Result<(u16, Vec<u8>)> {
    let Wish {
        channel,
        payload,
        key,
        shared,
    } = wish;
    let (bearer, length) = (&shared.entrance.bearer, payload.len());
    let request = format!(
        "POST /events/{channel} HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer}\r\n\
         idempotency-key: {key}\r\ncontent-length: {length}\r\n\r\n{payload}"
    );
    connection.write(request.as_bytes()).await?;
    let head = connection.head().await?;
    let body = connection.body(&head).await?;
    Ok((head.status(), body))
}

fn posted(status: u16, body: &[u8]) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let id = body["id"].as_str().and_then(|id| id.parse().ok());
    match (status, id, body["reason"].as_str()) {
        (202, Some(place), _) => Answer::Done(Outcome::Acknowledged(Some(place))),
        (503, _, Some("store_away")) => Answer::Refused,
        (503, ..) => Answer::Unsure,
        other => panic!("a good publish was answered with {other:?}: {body}"),
    }
}

async fn call(connection: &mut Http2, entrance: &Entrance, wish: &Wish<'_>) -> io::Result<Answer> {
    let request = PublishRequest {
        channel: wish.channel.into(),
        payload: wish.payload.clone().into(),
        idempotency_key: wish.key.clone(),
    };
    let path = "/intellirouter.events.v1.EventService/Publish";
    let answer = connection
        .call(path, &entrance.bearer, &request.encode_to_vec())
        .await?;
    let (head, mut body) = answer.into_parts();
    let mut message = Vec::new();
    while let Some(data) = piece(&mut body).await? {
        message.extend_from_slice(&data);
    }
    let trailers = body
        .trailers()
        .await
        .map_err(io::Error::other)?
        .unwrap_or(head.headers);
    let text = |name| {
        trailers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    match text("grpc-status") {
        "0" => {
            let response = PublishResponse::decode(message.get(5..).unwrap_or_default());
            let place = response.ok().and_then(|response| response.id.parse().ok());
            let place = place.expect("an answer holds an id");
            Ok(Answer::Done(Outcome::Acknowledged(Some(place))))
        }
        "14" if text("grpc-message").contains("nothing was published") => Ok(Answer::Refused),
        "14" | "" => Ok(Answer::Unsure),
        other => panic!(
            "a good publish was answered with {other}: {}",
            text("grpc-message")
        ),
    }
}

async fn through_library(log: &RedisLog, wish: &Wish<'_>) -> Answer {
    let channel = ChannelName::parse(wish.channel).expect("the channel is good");
    match log
        .publish(&channel, Bytes::from(wish.payload.clone()), None)
        .await
    {
        Ok(published) => {
            let place = published.position.to_string().parse();
            Answer::Done(Outcome::Acknowledged(place.ok()))
        }
        Err(error) if error.outcome_unknown() => Answer::Unsure,
        Err(_) => Answer::Refused,
    }
}
