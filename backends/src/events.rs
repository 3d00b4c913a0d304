//! Sends a service's events, in order, without making its work wait for the event store.
//!
//! Owns the queue between the work and the store, and the task that empties it. It does not own
//! the events' shapes (the crate `intellirouter`'s). An event is tried until the store has it, each
//! try with the same idempotency key, for 30 seconds at most. What the store did not take by then,
//! and what comes while 1,024 events wait, is dropped, counted and logged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use intellirouter::events::{ChannelName, EventLog, PublishError, TypedEvent};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

const WAITING: usize = 1024;
const GIVE_UP: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// The way out for events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Item>,
    dropped: Counter,
}

#[derive(Debug)]
enum Item {
    Event {
        channel: ChannelName,
        payload: Bytes,
    },
    /// Answered when everything before it is sent or given up.
    Flush(oneshot::Sender<()>),
}

impl Events {
    /// Starts the task that sends. It ends when the last clone is dropped and the queue is empty.
    pub fn start(log: Arc<dyn EventLog>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let events = Self {
            queue,
            dropped: Counter::default(),
        };
        tokio::spawn(send_all(log, waiting, events.dropped.clone()));
        events
    }

    /// Sends `event` when its turn comes. Never waits and never fails.
    pub fn emit<E: TypedEvent>(&self, event: &E) {
        let channel = E::channel();
        let item = match event.serialize() {
            Ok(payload) => Item::Event {
                channel: channel.clone(),
                payload: payload.into(),
            },
            Err(error) => return drop_event(&self.dropped, &channel, &error.to_string()),
        };
        if self.queue.try_send(item).is_err() {
            drop_event(&self.dropped, &channel, "too many events wait");
        }
    }

    /// Waits until everything that was emitted before is sent or given up, at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let (tell, told) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Item::Flush(tell)).await.is_ok() {
                let _ = told.await;
            }
        };
        // What is not sent by then is named by whoever drops it.
        let _ = timeout(limit, flushed).await;
    }

    /// How many events were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Adds the count of dropped events of the service with this name.
    pub fn register(&self, service: &str, registry: &mut Registry) {
        registry.register(
            format!("{service}_events_dropped"),
            "Events that the store did not take in time",
            self.dropped.clone(),
        );
    }
}

async fn send_all(log: Arc<dyn EventLog>, mut waiting: mpsc::Receiver<Item>, dropped: Counter) {
    while let Some(item) = waiting.recv().await {
        match item {
            Item::Flush(tell) => {
                let _ = tell.send(());
            }
            Item::Event { channel, payload } => {
                if let Err(error) = send(log.as_ref(), &channel, payload).await {
                    drop_event(&dropped, &channel, &error.to_string());
                }
            }
        }
    }
}

async fn send(
    log: &dyn EventLog,
    channel: &ChannelName,
    payload: Bytes,
) -> Result<(), PublishError> {
    let key = uuid::Uuid::new_v4().to_string();
    let started = Instant::now();
    loop {
        match log.publish(channel, payload.clone(), Some(&key)).await {
            Ok(_) => return Ok(()),
            Err(error) if !may_pass(&error) || started.elapsed() >= GIVE_UP => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Whether the store may take the same event later.
fn may_pass(error: &PublishError) -> bool {
    match error {
        PublishError::Unavailable(_) | PublishError::TimedOut(_) | PublishError::Interrupted(_) => {
            true
        }
        PublishError::InvalidChannel(_)
        | PublishError::TooLarge { .. }
        | PublishError::BadIdempotencyKey => false,
    }
}

fn drop_event(dropped: &Counter, channel: &ChannelName, why: &str) {
    dropped.inc();
    tracing::warn!(%channel, why, "an event was dropped");
}

#[cfg(test)]
mod tests;
