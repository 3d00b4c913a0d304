//! What a subscriber holds: the messages of its channels, one by one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::{IpcError, IpcResult};
use crate::events::event::Event;
use crate::events::log::{Entry, EventLog, Gap};
use crate::events::subscription::LogSubscription;

/// A message of a channel.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The channel that it was published on.
    pub channel: String,
    /// Its payload, exactly as published.
    pub payload: String,
}

/// The payload is the publisher's business and stays out of logs.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("channel", &self.channel)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Open channels. It ends when it is closed or dropped, and by nothing else: a store that is lost
/// does not end it, nor does dropping the client that made it.
///
/// Nothing is queued for a subscriber that does not read; one that falls behind what the log keeps
/// is told of the gap. At most 64 messages are held ready, with 64 KiB and one payload more.
pub struct Subscription {
    reader: Mutex<Reader>,
    closed: CancellationToken,
    /// Keeps the connection to the store: without it nothing would come any more.
    _log: Arc<dyn EventLog>,
}

struct Reader {
    log: LogSubscription,
    ready: VecDeque<Entry>,
}

impl Subscription {
    pub(super) fn new(followed: LogSubscription, log: Arc<dyn EventLog>) -> Self {
        Self {
            reader: Mutex::new(Reader {
                log: followed,
                ready: VecDeque::new(),
            }),
            closed: CancellationToken::new(),
            _log: log,
        }
    }

    /// Waits for the next message.
    ///
    /// `Ok(None)` comes after [`Subscription::close`] alone. Cancel safe: a call that is dropped
    /// before it returns has taken nothing. Of several calls at the same time each message goes to
    /// one.
    ///
    /// # Errors
    /// None of them ends the subscription: the next call goes on, so `while let Ok(…)` stops too
    /// early.
    /// - [`IpcError::Connection`]: messages may be missing here. The text says between which
    ///   positions and why: `store_lost_data` (the store was restarted, replaced or emptied),
    ///   `recorder_away` (nobody heard what others published on it), `slow` (the subscriber fell
    ///   behind), `trimmed` (one was too large, or the store was out of reach for too long).
    /// - [`IpcError::Serialization`]: this one message is not UTF-8.
    pub async fn next_message(&self) -> IpcResult<Option<Message>> {
        // Asked first, so that a closed subscription brings nothing that was ready before.
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Ok(None),
            entry = self.next_entry() => read(entry).map(Some),
        }
    }

    /// Ends the subscription: calls that wait, and all later ones, return `Ok(None)`.
    pub fn close(&self) {
        self.closed.cancel();
    }

    async fn next_entry(&self) -> Entry {
        let mut reader = self.reader.lock().await;
        loop {
            if let Some(entry) = reader.ready.pop_front() {
                return entry;
            }
            // Dropped while it waits, it has taken nothing; after it there is no await.
            let mut batch = Vec::new();
            reader.log.next_batch(&mut batch).await;
            reader.ready = batch.into();
        }
    }
}

fn read(entry: Entry) -> IpcResult<Message> {
    match entry {
        Entry::Event(event) => message(&event),
        Entry::Gap(gap) => Err(missing(gap)),
    }
}

fn message(event: &Event) -> IpcResult<Message> {
    let channel = event.channel().to_string();
    match std::str::from_utf8(event.payload()) {
        Ok(payload) => Ok(Message {
            channel,
            payload: payload.to_owned(),
        }),
        Err(error) => Err(IpcError::Serialization(format!(
            "channel {channel}: the payload is not UTF-8: {error}"
        ))),
    }
}

fn missing(gap: Gap) -> IpcError {
    let from = gap.from.map_or("the start".to_owned(), |at| at.to_string());
    IpcError::Connection(format!(
        "events may be missing from {from} to {} ({}); the subscription goes on",
        gap.to,
        gap.reason.as_str()
    ))
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("closed", &self.closed.is_cancelled())
            .finish_non_exhaustive()
    }
}
