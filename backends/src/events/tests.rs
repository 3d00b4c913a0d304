#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::SystemTime;

use async_trait::async_trait;
use intellirouter::events::{
    ChannelPattern, EventPayload, LogSubscription, ModelHealthCheckEvent, Position, Published,
    StoreStatus, SubscribeError,
};
use time::OffsetDateTime;

use super::*;

/// Fails with the given errors, one after the other, then takes everything.
#[derive(Default)]
struct FailsFirst {
    errors: Mutex<Vec<PublishError>>,
    /// What was tried: payload and key.
    tried: Mutex<Vec<(Bytes, String)>>,
    taken: Mutex<Vec<Bytes>>,
}

impl FailsFirst {
    fn with(errors: impl IntoIterator<Item = PublishError>) -> Arc<Self> {
        let mut errors: Vec<_> = errors.into_iter().collect();
        errors.reverse();
        Arc::new(Self {
            errors: Mutex::new(errors),
            ..Self::default()
        })
    }

    fn taken(&self) -> Vec<Bytes> {
        self.taken.lock().unwrap().clone()
    }
}

#[async_trait]
impl EventLog for FailsFirst {
    async fn publish(
        &self,
        _channel: &ChannelName,
        payload: Bytes,
        key: Option<&str>,
    ) -> Result<Published, PublishError> {
        let key = key.unwrap_or_default().to_owned();
        self.tried.lock().unwrap().push((payload.clone(), key));
        if let Some(error) = self.errors.lock().unwrap().pop() {
            return Err(error);
        }
        self.taken.lock().unwrap().push(payload);
        Ok(Published {
            position: Position::NOWHERE,
            duplicate: false,
        })
    }

    async fn subscribe(
        &self,
        _patterns: Vec<ChannelPattern>,
        _after: Option<Position>,
    ) -> Result<LogSubscription, SubscribeError> {
        Err(SubscribeError::NoPattern)
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            connected: true,
            since: SystemTime::now(),
            detail: String::new(),
            recorded: 0,
            ignored: 0,
            oversized: 0,
            not_utf8: 0,
            not_json: 0,
            reconnects: 0,
        }
    }
}

fn event(model_id: &str) -> ModelHealthCheckEvent {
    ModelHealthCheckEvent {
        model_id: model_id.to_owned(),
        healthy: true,
        latency_ms: 1.0,
        timestamp: OffsetDateTime::UNIX_EPOCH,
        metadata: Default::default(),
    }
}

fn payload(model_id: &str) -> Bytes {
    event(model_id).serialize().unwrap().into()
}

fn away() -> PublishError {
    PublishError::Unavailable("away".to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_event_is_tried_with_the_same_key_until_the_store_takes_it() {
    let unsure = PublishError::TimedOut(Duration::from_secs(2));
    let log = FailsFirst::with([away(), unsure, away()]);
    let events = Events::start(log.clone());
    events.emit(&event("a"));
    events.flush(GIVE_UP).await;
    assert_eq!(log.taken(), [payload("a")]);
    let tried = log.tried.lock().unwrap();
    assert_eq!(tried.len(), 4);
    assert!(tried.iter().all(|try_| *try_ == tried[0]));
    assert_eq!(events.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_keep_their_order_while_the_store_is_away() {
    let log = FailsFirst::with((0..20).map(|_| away()));
    let events = Events::start(log.clone());
    for id in ["a", "b", "c"] {
        events.emit(&event(id));
    }
    events.flush(GIVE_UP).await;
    assert_eq!(log.taken(), ["a", "b", "c"].map(payload));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_store_never_takes_is_dropped_after_half_a_minute_and_counted() {
    let log = FailsFirst::with((0..10_000).map(|_| away()));
    let events = Events::start(log.clone());
    let started = Instant::now();
    events.emit(&event("a"));
    events.flush(Duration::from_secs(3600)).await;
    let waited = started.elapsed();
    assert!(
        waited >= GIVE_UP && waited < GIVE_UP + 2 * PAUSE,
        "{waited:?}"
    );
    assert_eq!((events.dropped(), log.taken().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_store_would_take_is_dropped_at_once_and_the_next_goes_out() {
    let large = PublishError::TooLarge { bytes: 2, limit: 1 };
    let log = FailsFirst::with([large]);
    let events = Events::start(log.clone());
    events.emit(&event("a"));
    events.emit(&event("b"));
    events.flush(GIVE_UP).await;
    assert_eq!(log.taken(), [payload("b")]);
    assert_eq!(events.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_queue_is_full_is_dropped_and_counted_without_a_wait() {
    let events = Events::start(FailsFirst::with([]));
    // Nothing is taken from the queue before this test waits for something.
    for _ in 0..WAITING + 3 {
        events.emit(&event("a"));
    }
    assert_eq!(events.dropped(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_at_its_limit_when_the_store_stays_away() {
    let events = Events::start(FailsFirst::with((0..10_000).map(|_| away())));
    events.emit(&event("a"));
    let started = Instant::now();
    events.flush(Duration::from_secs(2)).await;
    assert_eq!(started.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn what_still_waits_when_a_flush_ends_is_dropped_and_counted() {
    let events = Events::start(FailsFirst::with((0..10_000).map(|_| away())));
    // As many as there is room for: the flush itself has to wait for a place.
    for _ in 0..WAITING {
        events.emit(&event("a"));
    }
    events.flush(PAUSE).await;
    assert_eq!(events.dropped(), WAITING as u64);
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_flush_is_tried_as_long_as_ever() {
    let log = FailsFirst::with((0..10).map(|_| away()));
    let events = Events::start(log.clone());
    events.emit(&event("a"));
    events.flush(PAUSE).await;
    events.emit(&event("b"));
    events.flush(GIVE_UP).await;
    assert_eq!((log.taken(), events.dropped()), (vec![payload("b")], 1));
}
