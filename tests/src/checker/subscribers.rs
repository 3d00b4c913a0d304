//! Subscribers: each follows its channels over many connections, as EventSource does, and writes down what it is
//! told.
//!
//! A subscriber remembers the last id that it was told, in whatever frame, and resumes from it at any
//! gateway. It leaves a connection on which nothing comes for [`SILENCE`], and may have other [habits](Habit).

mod decode;
mod grpc;
mod http;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::history::{Clock, Item, Place, Stream};
use super::wire::Entrance;

/// Heartbeats come each second.
const SILENCE: Duration = Duration::from_secs(5);

/// What a subscriber speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Server-sent events over HTTP/1.1.
    Sse,
    /// A line of JSON per event, over HTTP/1.1.
    Ndjson,
    /// The server stream of `EventService.Subscribe`.
    Grpc,
}

/// How a subscriber treats its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Keeps each as long as it lives.
    Steady,
    /// Leaves after some seconds, and comes again at once.
    Restless,
    /// Leaves soon, and stays away for some seconds.
    Dozing,
    /// Stops reading for some seconds, time and again.
    Stalling,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    /// Everybody publishes.
    Load,
    /// Only the last words are published, until every subscriber has seen them.
    Ending,
    /// Who is not ready gives up.
    Over,
}

/// What all who take part share.
pub struct Shared {
    /// Of the run.
    pub clock: Clock,
    /// To the gateways.
    pub entrance: Entrance,
    /// See there.
    pub phase: watch::Receiver<Phase>,
    /// Names of the channels.
    pub channels: Vec<String>,
    /// Publishers of last words: who has an event of each has everything.
    pub last_words: Vec<u16>,
}

/// One subscriber.
pub struct Subscriber {
    /// For messages.
    pub name: String,
    /// See there.
    pub dialect: Dialect,
    /// Indices in [`Shared::channels`].
    pub channels: Vec<usize>,
    /// Ports that it may connect to.
    pub doors: Vec<u16>,
    /// See there.
    pub habit: Habit,
    /// Of its random choices.
    pub seed: u64,
}

impl Subscriber {
    /// Follows until it has seen the last words, or all is over.
    pub async fn follow(self, shared: Arc<Shared>) -> Stream {
        let mut chance = StdRng::seed_from_u64(self.seed);
        let mut over = shared.phase.clone();
        let stream = Stream {
            name: self.name.clone(),
            channels: self.channels.clone(),
            items: Vec::new(),
            reached_end: false,
        };
        let missing = shared.last_words.clone();
        let mut notes = Notes {
            stream,
            last: None,
            resumed: None,
            missing,
            clock: shared.clock,
            stalls: (self.habit == Habit::Stalling).then(|| Stalls::new(chance.random())),
        };
        while !notes.missing.is_empty() && *over.borrow() < Phase::Over {
            let life = Duration::from_millis(match self.habit {
                Habit::Restless => chance.random_range(500..8000),
                Habit::Dozing => chance.random_range(500..3000),
                Habit::Steady | Habit::Stalling => u64::MAX,
            });
            let door = *self.doors.choose(&mut chance).expect("there is a door");
            notes.resumed = notes.last;
            let why = tokio::select! {
                ended = tokio::time::timeout(life, self.connection(&shared, door, &mut notes)) => match ended {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "left".into(),
                },
                _ = over.wait_for(|phase| *phase == Phase::Over) => "gave up".into(),
            };
            notes.add(Item::Lost { why });
            // As clients do that are not all to come at once.
            let mut away = chance.random_range(0..300);
            if self.habit == Habit::Dozing {
                away += chance.random_range(2500..8000);
            }
            let away = Duration::from_millis(away);
            let ended = over.wait_for(|phase| *phase == Phase::Over);
            let _ = tokio::time::timeout(away, ended).await;
        }
        notes.stream.reached_end = notes.missing.is_empty();
        notes.stream
    }

    /// One that stops reading takes little that it does not read.
    fn entrance(&self, shared: &Shared) -> Entrance {
        let entrance = shared.entrance.clone();
        match self.habit {
            Habit::Stalling => entrance.narrow(),
            _ => entrance,
        }
    }

    async fn connection(&self, shared: &Shared, door: u16, notes: &mut Notes) -> io::Result<()> {
        match self.dialect {
            Dialect::Grpc => grpc::follow(self, shared, door, notes).await,
            Dialect::Sse | Dialect::Ndjson => http::follow(self, shared, door, notes).await,
        }
    }
}

/// What a subscriber has written down.
struct Notes {
    stream: Stream,
    /// The last id that it was told.
    last: Option<Place>,
    /// The id that this connection was opened with.
    resumed: Option<Place>,
    /// Of whom it has not heard the last words.
    missing: Vec<u16>,
    clock: Clock,
    /// When it stops reading, if ever.
    stalls: Option<Stalls>,
}

/// When a subscriber stops reading, and for how long.
struct Stalls {
    chance: StdRng,
    next: Instant,
}

impl Stalls {
    fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let next = Instant::now() + Duration::from_millis(chance.random_range(1000..4000));
        Self { chance, next }
    }

    async fn pass(&mut self) {
        if self.next <= Instant::now() {
            tokio::time::sleep(Duration::from_millis(self.chance.random_range(2000..7000))).await;
            *self = Self::new(self.chance.random());
        }
    }
}

impl Notes {
    /// Before each reading.
    async fn stall(&mut self) {
        if let Some(stalls) = &mut self.stalls {
            stalls.pass().await;
        }
    }

    fn add(&mut self, mut item: Item) {
        match &mut item {
            Item::Opened { resumed, id } => {
                *resumed = self.resumed;
                self.last = Some(*id);
            }
            Item::Event { id, key } => {
                self.last = Some(*id);
                self.missing
                    .retain(|last| key.is_none_or(|key| key.publisher != *last));
            }
            Item::Gap { to: id, .. } | Item::Position { id } => self.last = Some(*id),
            Item::Lost { .. } | Item::Nonsense { .. } => {}
        }
        self.stream.items.push((self.clock.now(), item));
    }

    /// Adds all; true when nothing more is wanted.
    fn add_all(&mut self, items: Vec<Item>) -> bool {
        for item in items {
            self.add(item);
        }
        self.missing.is_empty()
    }
}
