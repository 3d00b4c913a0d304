//! What happened in a run, as those who took part saw it.
//!
//! Owns the facts and their names; judges nothing (see `analysis`). All times
//! are of one clock, that of the checker's process.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// When something happened, since the run began.
pub type Moment = Duration;

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts it.
    #[expect(clippy::new_without_default, reason = "it reads the clock")]
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// What it shows.
    pub fn now(self) -> Moment {
        self.0.elapsed()
    }
}

/// A place in the log, as its id says: `epoch-offset`. The checker has its own
/// reading of ids, so that it does not share a fault with the library's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Rises whenever the log may have lost something.
    pub epoch: u64,
    /// Counts the entries of the epoch.
    pub offset: u64,
}

impl Place {
    /// From its two parts.
    pub const fn new(epoch: u64, offset: u64) -> Self {
        Self { epoch, offset }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (epoch, offset) = text.split_once('-').ok_or(text)?;
        match (epoch.parse(), offset.parse()) {
            (Ok(epoch), Ok(offset)) => Ok(Self { epoch, offset }),
            _ => Err(text.into()),
        }
    }
}

/// Names one event: who publishes it, and its number there, which rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index in [`History::publishers`].
    pub publisher: u16,
    /// From 0 on.
    pub number: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}#{}", self.publisher, self.number)
    }
}

/// How an event is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `POST /events/{channel}` with an `Idempotency-Key`, repeated at the other
    /// gateway until it is answered.
    Post,
    /// `EventService.Publish`, the same way.
    Grpc,
    /// The library, straight into Redis.
    Library,
    /// `PUBLISH` on a connection to Redis.
    Plain,
}

/// What the publisher knows in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is published: at this place, which a plain `PUBLISH` is not told. A
    /// plain one counts as acknowledged when Redis says that somebody received
    /// it: none but the gateways subscribe there.
    Acknowledged(Option<Place>),
    /// It is certainly not published, or (plain) nobody was there to hear it.
    Failed,
    /// It may be published.
    Unknown,
}

/// One try to publish one event.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The event.
    pub key: Key,
    /// Index in [`History::channels`].
    pub channel: usize,
    /// Of its payload, in bytes.
    pub size: usize,
    /// When it was begun.
    pub invoked: Moment,
    /// When its outcome was known.
    pub completed: Moment,
    /// See there.
    pub outcome: Outcome,
}

/// Something that a subscriber was told, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `ir.open`, on a connection that was opened with this last id.
    Opened {
        /// The id that was sent along; none on the first connection.
        resumed: Option<Place>,
        /// The id of `ir.open`.
        id: Place,
    },
    /// An event.
    Event {
        /// Its id.
        id: Place,
        /// Which one it is; none if its payload is not one that a publisher sent.
        key: Option<Key>,
    },
    /// `ir.gap`.
    Gap {
        /// The last place before it, if it was said.
        from: Option<Place>,
        /// The first place that is whole again.
        to: Place,
        /// As it was said.
        reason: String,
    },
    /// `ir.position`.
    Position {
        /// Its id.
        id: Place,
    },
    /// Something that no subscriber understands.
    Nonsense {
        /// As it came.
        what: String,
    },
    /// The connection is no more, or was never there.
    Lost {
        /// Why.
        why: String,
    },
}

/// One subscriber: one logical stream over many connections.
#[derive(Clone, Debug)]
pub struct Stream {
    /// For messages: what it speaks and asks for.
    pub name: String,
    /// Indices in [`History::channels`].
    pub channels: Vec<usize>,
    /// In the order in which it came.
    pub items: Vec<(Moment, Item)>,
    /// It has seen the events that end a run.
    pub reached_end: bool,
}

/// What a fault can do to events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: no gap may come of it.
    Nothing,
    /// Messages that were merely `PUBLISH`ed may have met nobody who records.
    Plain,
    /// Everything that the store held.
    Store,
    /// The embedded store is gone with its process.
    Memory,
}

impl Loss {
    /// Whether a gap with this reason may come of it.
    pub fn explains(self, reason: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Plain => reason == "recorder_away",
            Self::Store => matches!(reason, "recorder_away" | "store_lost_data"),
            Self::Memory => reason == "store_restarted",
        }
    }
}

/// What the store promises to keep, where a run can come to the end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Of events with their frames, in bytes.
    pub bytes: usize,
    /// How long.
    pub age: Duration,
}

/// What the nemesis did.
#[derive(Clone, Debug)]
pub struct Fault {
    /// For messages.
    pub what: String,
    /// See there.
    pub loss: Loss,
    /// When it began.
    pub from: Moment,
    /// When all parts stood again.
    pub until: Moment,
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Names of the channels.
    pub channels: Vec<String>,
    /// How each publisher publishes.
    pub publishers: Vec<Via>,
    /// In no particular order.
    pub publishes: Vec<Publish>,
    /// See there.
    pub streams: Vec<Stream>,
    /// In the order of their beginnings.
    pub faults: Vec<Fault>,
    /// None if nothing that is published in a run can be too much or too old.
    pub retention: Option<Retention>,
}

impl History {
    /// All of it as text, a line each, in the order of time.
    pub fn render(&self) -> String {
        let mut lines: Vec<(Moment, String)> = Vec::new();
        for publish in &self.publishes {
            let Publish {
                key,
                channel,
                outcome,
                completed,
                ..
            } = publish;
            let via = self.publishers[usize::from(key.publisher)];
            let text = format!("{via:?} {key} on {channel}: {outcome:?} at {completed:.3?}");
            lines.push((publish.invoked, text));
        }
        for stream in &self.streams {
            let told = stream.items.iter();
            lines.extend(told.map(|(at, item)| (*at, format!("{}: {item:?}", stream.name))));
        }
        for Fault {
            what,
            loss,
            from,
            until,
        } in &self.faults
        {
            lines.push((
                *from,
                format!("nemesis: {what} ({loss:?}) until {until:.3?}"),
            ));
        }
        lines.sort();
        let lines = lines
            .into_iter()
            .map(|(at, text)| format!("{:10.3} {text}\n", at.as_secs_f64()));
        lines.collect()
    }
}
