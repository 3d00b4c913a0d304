//! Sends a service's events, in order, without making its work wait for the event store.
//!
//! Owns the queue between the work and the store, and the task that empties it. It does not own
//! the events' shapes (the crate `intellirouter`'s). An event is tried until the store has it, each
//! try with the same idempotency key, for 30 seconds at most. What the store did not take by then,
//! what comes while 1,024 events wait, and what is left when a flush is over, is dropped, counted and
//! logged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use intellirouter::events::{ChannelName, EventLog, PublishError, TypedEvent};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

const WAITING: usize = 1024;
const GIVE_UP: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// The way out for events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Item>,
    dropped: Counter,
    /// When the flush that goes on is over.
    end: watch::Sender<Option<Instant>>,
}

#[derive(Debug)]
enum Item {
    Event {
        channel: ChannelName,
        payload: Bytes,
    },
    /// Answered when everything before it is sent or given up, with how many events the end of the
    /// flush came before.
    Flush(oneshot::Sender<u64>),
}

impl Events {
    /// Starts the task that sends. It ends when the last clone is dropped and the queue is empty.
    pub fn start(log: Arc<dyn EventLog>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let events = Self {
            queue,
            dropped: Counter::default(),
            end: watch::Sender::new(None),
        };
        let sender = Sender {
            log,
            waiting,
            dropped: events.dropped.clone(),
            end: events.end.subscribe(),
        };
        tokio::spawn(sender.send_all());
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

    /// Waits until everything that was emitted before is sent, at most `limit`; what is not sent by
    /// then is dropped, counted, and logged as a number. For the end of a service: only one flush
    /// goes on at a time.
    pub async fn flush(&self, limit: Duration) {
        self.end.send_replace(Some(Instant::now() + limit));
        let (tell, told) = oneshot::channel();
        // The end lets go of what waits, so that there is a place soon after it at the latest.
        if self.queue.send(Item::Flush(tell)).await.is_ok()
            && let Ok(count @ 1..) = told.await
        {
            tracing::warn!(
                count,
                "events were dropped: the store did not take them in time"
            );
        }
        self.end.send_replace(None);
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

/// The other end of the queue.
struct Sender {
    log: Arc<dyn EventLog>,
    waiting: mpsc::Receiver<Item>,
    dropped: Counter,
    end: watch::Receiver<Option<Instant>>,
}

impl Sender {
    async fn send_all(mut self) {
        let mut left = 0;
        while let Some(item) = self.waiting.recv().await {
            let (channel, payload) = match item {
                Item::Flush(tell) => {
                    // Whoever flushed may be gone.
                    let _ = tell.send(std::mem::take(&mut left));
                    continue;
                }
                Item::Event { channel, payload } => (channel, payload),
            };
            tokio::select! {
                biased;
                () = over(&mut self.end) => {
                    self.dropped.inc();
                    left += 1;
                }
                sent = send(self.log.as_ref(), &channel, payload) => {
                    if let Err(error) = sent {
                        drop_event(&self.dropped, &channel, &error.to_string());
                    }
                }
            }
        }
    }
}

/// Completes at the end of the flush that goes on, or of the next one.
async fn over(end: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let until = *end.borrow_and_update();
        let passed = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = passed => return,
            changed = end.changed() => if changed.is_err() {
                // Nobody is left who could flush.
                std::future::pending::<()>().await;
            },
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
        PublishError::Unavailable(_)
        | PublishError::TimedOut(_)
        | PublishError::Interrupted(_)
        | PublishError::Unconfirmed { .. } => true,
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
