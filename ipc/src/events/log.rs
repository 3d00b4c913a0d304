//! What an event log promises, whatever the store behind it.
//!
//! Both stores pass the same tests (`tests/events_contract.rs`). The contract:
//!
//! - **One order.** All subscribers of a log see the same entries in the same order, each that
//!   matches their patterns once. Payloads arrive exactly as published.
//! - **Nothing is lost in silence.** Where events may be missing, the stream holds a [`Gap`]. After
//!   it the stream goes on by itself.
//! - **Resume.** A subscriber names the last position that it has seen. If everything after it is
//!   still there, it gets exactly that, with no seam between what was recorded and what is live;
//!   else a gap comes first. An id that the log doesn't know is never taken for a known one.
//! - **No subscriber harms another.** A subscriber is a cursor; nothing is queued for it. One that
//!   falls behind what is retained gets a gap and goes on with the oldest entry that is left.
//! - **A publish ends in bounded time**, and `Ok` means that the store has answered for it. It is
//!   never queued for a store that is away.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::channel::ChannelName;
use super::event::Event;
use super::pattern::ChannelPattern;
use super::position::Position;
use super::subscription::LogSubscription;

/// How many patterns one subscription may have.
pub const MAX_PATTERNS: usize = 64;

/// A log of events: many publish to it, many follow it. See the module for its promises.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Publishes `payload` on `channel`, and returns when the store has answered.
    ///
    /// With an idempotency key (1 to 128 visible ASCII characters, remembered for
    /// [`IDEMPOTENCY_WINDOW`](super::IDEMPOTENCY_WINDOW) per channel) a repeat publishes nothing
    /// and says so. A call that is dropped before it returns may or may not have published.
    async fn publish(
        &self,
        channel: &ChannelName,
        payload: Bytes,
        idempotency_key: Option<&str>,
    ) -> Result<Published, PublishError>;

    /// Follows every channel that one of `patterns` matches: from now on, or after the position
    /// `after`. Returns once the place in the log is fixed: what is published afterwards is seen.
    ///
    /// While the store is away one that begins is refused at once. One that comes back goes on
    /// where its place is known here; else it waits for the store, a few seconds at most.
    ///
    /// A runtime that follows a log needs tokio's time driver.
    async fn subscribe(
        &self,
        patterns: Vec<ChannelPattern>,
        after: Option<Position>,
    ) -> Result<LogSubscription, SubscribeError>;

    /// Waits until the store can be followed, at most so long.
    async fn ready(&self, _limit: Duration) -> Result<(), SubscribeError> {
        Ok(())
    }

    /// How the store is doing.
    fn status(&self) -> StoreStatus;

    /// Ends what the log does for others, such as recording, so that they need not wait until it
    /// is missed; within a second. For the end of a process: after it nothing is published or
    /// followed any more.
    async fn close(&self) {}
}

/// The store's answer to a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where the event stands in the log.
    pub position: Position,
    /// The idempotency key was known: nothing was published, `position` is that of the first.
    pub duplicate: bool,
}

/// Why events may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// They were older, larger or more than what is retained.
    Trimmed,
    /// The log doesn't hold the position asked for; it may have held it once.
    StoreLostData,
    /// The position belongs to another life of the log.
    StoreRestarted,
    /// For a while nobody recorded what others publish on Redis itself.
    RecorderAway,
    /// The subscriber read too slowly.
    Slow,
}

impl GapReason {
    /// The name that clients see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::StoreLostData => "store_lost_data",
            Self::StoreRestarted => "store_restarted",
            Self::RecorderAway => "recorder_away",
            Self::Slow => "slow",
        }
    }
}

/// A place in the stream where events may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last position before it, where that is known.
    pub from: Option<Position>,
    /// From here on the stream is whole again; also what to resume from.
    pub to: Position,
    /// Why.
    pub reason: GapReason,
}

/// What a subscription hands over.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An event of a channel that matches.
    Event(Arc<Event>),
    /// Events of such channels may be missing here.
    Gap(Gap),
}

/// How a store is doing, and what it has done since it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether events can be published and followed now.
    pub connected: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// In words, for operators; never holds a credential.
    pub detail: String,
    /// Events recorded.
    pub recorded: u64,
    /// Messages ignored because their channel breaks the grammar.
    pub ignored: u64,
    /// Messages that were larger than the largest payload and became a gap on their channel.
    pub oversized: u64,
    /// Events recorded whose payload is not UTF-8.
    pub not_utf8: u64,
    /// Events recorded whose payload is text and no JSON.
    pub not_json: u64,
    /// Times that a lost connection was made again.
    pub reconnects: u64,
}

/// Why an event was not published, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The channel breaks the grammar. Nothing was published.
    #[error("{0}")]
    InvalidChannel(String),
    /// The payload is too large. Nothing was published.
    #[error("the payload has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its size, in bytes.
        bytes: usize,
        /// The largest size, in bytes.
        limit: usize,
    },
    /// The idempotency key is not 1 to 128 visible ASCII characters. Nothing was published.
    #[error("an idempotency key must be 1 to 128 visible ASCII characters")]
    BadIdempotencyKey,
    /// The store is away or refused. Nothing was published.
    #[error("the event store is not available: {0}")]
    Unavailable(String),
    /// The store did not answer in time. The event may have been published.
    #[error("the event store did not answer within {0:?}; the event may have been published")]
    TimedOut(Duration),
    /// The connection broke before the answer. The event may have been published.
    #[error("the event store was lost before it answered; the event may have been published: {0}")]
    Interrupted(String),
    /// Too few replicas have confirmed that they have the event. It is published, but may be lost
    /// if the store fails now.
    #[error(
        "the event is published, but {acknowledged} of {wanted} replicas of the event store have \
         confirmed it; it may be lost"
    )]
    Unconfirmed {
        /// How many have.
        acknowledged: usize,
        /// How many must; see [`LogSettings::replicas`](super::LogSettings::replicas).
        wanted: usize,
    },
}

impl PublishError {
    /// Whether the event may have been published, or may be lost, nevertheless. Then only a repeat
    /// with the same idempotency key is safe.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::TimedOut(_) | Self::Interrupted(_) | Self::Unconfirmed { .. }
        )
    }
}

/// Why a subscription was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// No pattern was given.
    #[error("a subscription needs at least one channel pattern")]
    NoPattern,
    /// Too many patterns were given.
    #[error("a subscription may have {MAX_PATTERNS} channel patterns; {0} were given")]
    TooManyPatterns(usize),
    /// The store is away: what is published now could not be seen.
    #[error("the event store is not available: {0}")]
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_never_came_leaves_the_outcome_open() {
        assert!(PublishError::TimedOut(Duration::from_secs(2)).outcome_unknown());
        assert!(PublishError::Interrupted(String::new()).outcome_unknown());
        let unconfirmed = PublishError::Unconfirmed {
            acknowledged: 0,
            wanted: 1,
        };
        assert!(unconfirmed.outcome_unknown());
        assert!(!PublishError::Unavailable(String::new()).outcome_unknown());
        assert!(!PublishError::BadIdempotencyKey.outcome_unknown());
    }
}
