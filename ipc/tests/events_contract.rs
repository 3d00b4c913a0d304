//! The contract of `EventLog`, held against every store: one list of promises, run for each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests panic as the tests do"
)]

#[path = "util/reading.rs"]
mod reading;
#[path = "util/redis_server.rs"]
mod redis_server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use intellirouter::events::{
    self, ChannelName, Entry, EventLog, GapReason, LogSettings, MAX_PATTERNS, Position,
    PublishError, SubscribeError,
};

use self::reading::{
    all, batch, channel, expect_event, expect_gap, pattern, payload, payloads, take,
};
use self::redis_server::RedisServer;

/// A log of one kind, and what it needs to live.
struct Store {
    log: Arc<dyn EventLog>,
    _server: Option<RedisServer>,
}

async fn memory(settings: LogSettings) -> Store {
    Store {
        log: events::open("memory:", settings).await.unwrap(),
        _server: None,
    }
}

async fn redis(settings: LogSettings) -> Store {
    let server = RedisServer::start();
    Store {
        log: events::open(&server.url(), settings).await.unwrap(),
        _server: Some(server),
    }
}

/// Makes a test of each promise for each store.
macro_rules! contract {
    ($($promise:ident($settings:expr);)*) => {
        mod memory_log {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(super::memory($settings).await.log).await;
            })*
        }
        mod redis_log {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let store = super::redis($settings).await;
                super::$promise(std::sync::Arc::clone(&store.log)).await;
            })*
        }
    };
}

contract! {
    a_payload_arrives_exactly_as_published_whatever_its_bytes(super::default());
    what_is_published_after_subscribing_is_seen_in_order(super::default());
    an_event_that_several_patterns_match_comes_once_and_others_not_at_all(super::default());
    subscribers_share_one_event_and_its_frames(super::default());
    reconnecting_under_load_loses_and_doubles_nothing(super::default());
    a_position_of_another_life_gives_a_gap(super::default());
    a_publish_is_answered_with_its_position_and_resumes_from_there(super::default());
    a_position_from_the_future_gives_a_gap(super::default());
    a_trimmed_position_gives_a_gap_and_then_everything_that_is_left(super::hundred_events());
    one_that_does_not_read_gets_one_gap_and_goes_on(super::hundred_events());
    a_quiet_channel_resumes_without_a_gap_after_many_events_elsewhere(super::hundred_events());
    what_can_not_be_published_is_refused_with_the_reason(super::default());
    the_largest_payload_passes(super::default());
    a_repeat_with_the_same_key_publishes_nothing(super::default());
    the_same_key_on_another_channel_publishes(super::default());
    a_subscription_needs_a_bounded_number_of_patterns(super::default());
    the_status_counts_what_was_recorded(super::default());
}

fn default() -> LogSettings {
    LogSettings::default()
}

fn hundred_events() -> LogSettings {
    LogSettings {
        retain_events: 100,
        ..LogSettings::default()
    }
}

#[tokio::test]
async fn a_position_on_a_silent_channel_resumes_exactly_after_a_million_events_elsewhere() {
    const EVENTS: u32 = 1_000_000;
    let settings = LogSettings {
        retain_bytes: 16 << 20,
        ..LogSettings::default()
    };
    let log = memory(settings).await.log;
    let silent = pattern("intellirouter:chain_engine:router_core:silent");
    let mut subscription = log.subscribe(silent.clone(), None).await.unwrap();
    let mut out = Vec::new();
    for number in 0..EVENTS {
        publish(&log, "step", number.to_string()).await;
        // As one does that waits for events all the time.
        if number % 1000 == 999 {
            tokio::task::yield_now().await;
            tokio::select! {
                biased;
                () = subscription.next_batch(&mut out) => panic!("nothing matches, got {out:?}"),
                () = std::future::ready(()) => {}
            }
        }
    }
    let position = subscription.position();
    assert_eq!(position.offset, u64::from(EVENTS));
    publish(&log, "silent", "here").await;
    let mut resumed = log.subscribe(silent, Some(position)).await.unwrap();
    expect_event(&mut resumed, "here").await;
}

async fn publish(log: &Arc<dyn EventLog>, event_type: &str, payload: impl Into<Bytes>) {
    let published = log
        .publish(&channel(event_type), payload.into(), None)
        .await;
    assert!(!published.unwrap().duplicate);
}

async fn publish_numbers(log: &Arc<dyn EventLog>, event_type: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        publish(log, event_type, number.to_string()).await;
    }
}

async fn a_payload_arrives_exactly_as_published_whatever_its_bytes(log: Arc<dyn EventLog>) {
    let sent: Vec<&[u8]> = vec![
        b"",
        b"{\"a\": 1}",
        b"two\nlines\r\nid: 1-1\n\nevent: ir.gap",
        b"\0\xff\xfe not text \x80",
        "ünïcode \u{1f980}".as_bytes(),
    ];
    let mut subscription = log.subscribe(all(), None).await.unwrap();
    for payload in &sent {
        publish(&log, "step", Bytes::copy_from_slice(payload)).await;
    }
    assert_eq!(payloads(&mut subscription, sent.len()).await, sent);
}

async fn what_is_published_after_subscribing_is_seen_in_order(log: Arc<dyn EventLog>) {
    let mut subscription = log.subscribe(all(), None).await.unwrap();
    let start = subscription.start();
    assert_eq!(subscription.position(), start);
    publish_numbers(&log, "step", 0..300).await;
    let mut before = start;
    for (number, entry) in (0..300).zip(take(&mut subscription, 300).await) {
        let Entry::Event(event) = entry else {
            panic!("a gap")
        };
        assert_eq!(event.payload(), number.to_string().as_bytes());
        assert_eq!(event.channel(), &channel("step"));
        assert_eq!(event.event_type(), "step");
        assert!(event.position() > before, "positions go up");
        before = event.position();
    }
    assert_eq!(subscription.position(), before);
    assert_eq!(subscription.lag_bytes(), 0);
}

async fn an_event_that_several_patterns_match_comes_once_and_others_not_at_all(
    log: Arc<dyn EventLog>,
) {
    let mut patterns = pattern("intellirouter:chain_engine:*");
    patterns.extend(pattern("intellirouter:*:router_core:done"));
    let mut subscription = log.subscribe(patterns, None).await.unwrap();
    let elsewhere = ChannelName::new("memory", "router_core", "step");
    log.publish(&elsewhere, Bytes::from_static(b"other"), None)
        .await
        .unwrap();
    publish(&log, "done", "mine").await;
    publish(&log, "step", "mine too").await;
    expect_events(&mut subscription, &["mine", "mine too"]).await;
}

async fn expect_events(subscription: &mut events::LogSubscription, expected: &[&str]) {
    let got = payloads(subscription, expected.len()).await;
    assert_eq!(
        got,
        expected.iter().map(|s| s.as_bytes()).collect::<Vec<_>>()
    );
}

async fn subscribers_share_one_event_and_its_frames(log: Arc<dyn EventLog>) {
    let mut first = log.subscribe(all(), None).await.unwrap();
    let mut second = log.subscribe(all(), None).await.unwrap();
    publish(&log, "step", "shared").await;
    let (one, other) = (batch(&mut first).await, batch(&mut second).await);
    let (Entry::Event(one), Entry::Event(other)) = (&one[0], &other[0]) else {
        panic!("a gap");
    };
    assert!(Arc::ptr_eq(one, other));
    let frame = one.frame(2, |event| Bytes::from(event.position().to_string()));
    let again = other.frame(2, |_| panic!("encoded twice"));
    assert_eq!(frame, again);
}

async fn reconnecting_under_load_loses_and_doubles_nothing(log: Arc<dyn EventLog>) {
    const EVENTS: u32 = 5000;
    let mut after = log.subscribe(all(), None).await.unwrap().start();
    let publisher = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { publish_numbers(&log, "step", 0..EVENTS).await })
    };
    let mut seen = Vec::new();
    while seen.len() < EVENTS as usize {
        let mut subscription = log.subscribe(all(), Some(after)).await.unwrap();
        for _ in 0..3 {
            if seen.len() < EVENTS as usize {
                seen.extend(batch(&mut subscription).await.iter().map(payload));
            }
        }
        after = subscription.position();
    }
    publisher.await.unwrap();
    let sent: Vec<_> = (0..EVENTS).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(seen, sent);
}

async fn a_position_of_another_life_gives_a_gap(log: Arc<dyn EventLog>) {
    let now = log.subscribe(all(), None).await.unwrap().start();
    for epoch in [0, now.epoch - 1, now.epoch + 1, u64::MAX] {
        let asked = Position { epoch, offset: 3 };
        let mut subscription = log.subscribe(all(), Some(asked)).await.unwrap();
        let gap = expect_gap(&mut subscription).await;
        let reasons = [GapReason::StoreRestarted, GapReason::StoreLostData];
        assert!(reasons.contains(&gap.reason), "{gap:?}");
        assert_eq!(gap.from, Some(asked));
        assert_eq!(gap.to, subscription.position());
        assert_eq!(gap.to.epoch, now.epoch);
    }
}

async fn a_publish_is_answered_with_its_position_and_resumes_from_there(log: Arc<dyn EventLog>) {
    let mut open = log.subscribe(all(), None).await.unwrap();
    for number in 0..50_u32 {
        let payload = Bytes::from(number.to_string());
        let published = log.publish(&channel("step"), payload, None).await.unwrap();
        // At once: the tail of a store need not have come to it.
        let subscription = log
            .subscribe(all(), Some(published.position))
            .await
            .unwrap();
        assert_eq!(subscription.start(), published.position);
        let Entry::Event(event) = take(&mut open, 1).await.remove(0) else {
            panic!("a gap");
        };
        assert_eq!(event.position(), published.position);
    }
}

async fn a_position_from_the_future_gives_a_gap(log: Arc<dyn EventLog>) {
    let now = log.subscribe(all(), None).await.unwrap().start();
    for offset in [now.offset + 1, u64::MAX] {
        let asked = Position { offset, ..now };
        let mut subscription = log.subscribe(all(), Some(asked)).await.unwrap();
        assert_ne!(subscription.start(), asked);
        let gap = expect_gap(&mut subscription).await;
        assert_eq!(gap.reason, GapReason::StoreLostData);
        assert_eq!((gap.from, gap.to), (Some(asked), now));
    }
}

async fn a_trimmed_position_gives_a_gap_and_then_everything_that_is_left(log: Arc<dyn EventLog>) {
    let mut witness = log.subscribe(all(), None).await.unwrap();
    let start = witness.start();
    publish_numbers(&log, "step", 0..150).await;
    read_up_to(&mut witness, b"149").await;
    let mut subscription = log.subscribe(all(), Some(start)).await.unwrap();
    let first = batch(&mut subscription).await;
    let Entry::Gap(gap) = first[0] else {
        panic!("no gap")
    };
    assert_eq!(gap.reason, GapReason::Trimmed);
    assert_eq!(gap.from, Some(start));
    assert_eq!(gap.to.offset, start.offset + 50);
    let mut rest: Vec<_> = first[1..].iter().map(payload).collect();
    while rest.len() < 100 {
        rest.extend(batch(&mut subscription).await.iter().map(payload));
    }
    assert_eq!(rest, numbers(50..150));
}

async fn one_that_does_not_read_gets_one_gap_and_goes_on(log: Arc<dyn EventLog>) {
    let mut slow = log.subscribe(all(), None).await.unwrap();
    let mut witness = log.subscribe(all(), None).await.unwrap();
    let start = slow.start();
    publish_numbers(&log, "step", 0..150).await;
    read_up_to(&mut witness, b"149").await;
    assert!(slow.lag_bytes() > 150);
    let mut got = batch(&mut slow).await;
    while got.len() < 101 {
        got.extend(batch(&mut slow).await);
    }
    let Entry::Gap(gap) = got[0] else {
        panic!("no gap")
    };
    assert_eq!((gap.reason, gap.from), (GapReason::Slow, Some(start)));
    assert_eq!(gap.to.offset, start.offset + 50);
    let rest: Vec<_> = got[1..].iter().map(payload).collect();
    assert_eq!(rest, numbers(50..150));
    publish(&log, "step", "next").await;
    expect_event(&mut slow, "next").await;
}

fn numbers(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range.map(|n| n.to_string().into_bytes()).collect()
}

/// Reads until the event with this payload has come.
async fn read_up_to(subscription: &mut events::LogSubscription, last: &[u8]) {
    let is_last = |entry: &Entry| matches!(entry, Entry::Event(e) if e.payload() == last);
    while !batch(subscription).await.iter().any(is_last) {}
}

async fn a_quiet_channel_resumes_without_a_gap_after_many_events_elsewhere(log: Arc<dyn EventLog>) {
    let quiet = pattern("intellirouter:chain_engine:router_core:quiet");
    let mut witness = log.subscribe(all(), None).await.unwrap();
    let mut subscription = log.subscribe(quiet.clone(), None).await.unwrap();
    for round in 0..5 {
        publish_numbers(&log, "step", round * 90..(round + 1) * 90).await;
        read_up_to(&mut witness, ((round + 1) * 90 - 1).to_string().as_bytes()).await;
        let mut out = Vec::new();
        tokio::select! {
            biased;
            () = subscription.next_batch(&mut out) => panic!("nothing matches, got {out:?}"),
            () = std::future::ready(()) => {}
        }
    }
    let seen = subscription.position();
    assert_eq!(seen, witness.position());
    drop(subscription);
    let mut resumed = log.subscribe(quiet, Some(seen)).await.unwrap();
    publish(&log, "quiet", "here").await;
    expect_event(&mut resumed, "here").await;
}

async fn what_can_not_be_published_is_refused_with_the_reason(log: Arc<dyn EventLog>) {
    let mut subscription = log.subscribe(all(), None).await.unwrap();
    let (limit, bytes) = (1 << 20, (1 << 20) + 1);
    let large = log
        .publish(&channel("step"), Bytes::from(vec![0; bytes]), None)
        .await;
    assert_eq!(large, Err(PublishError::TooLarge { bytes, limit }));
    for key in ["", "with space", "ä", &"x".repeat(129)] {
        let refused = log.publish(&channel("step"), Bytes::new(), Some(key)).await;
        assert_eq!(refused, Err(PublishError::BadIdempotencyKey), "{key:?}");
    }
    for event_type in ["", "a:b", "*", "ir.open", "UPPER"] {
        let refused = log.publish(&channel(event_type), Bytes::new(), None).await;
        assert!(
            matches!(refused, Err(PublishError::InvalidChannel(_))),
            "{event_type:?}"
        );
    }
    publish(&log, "step", "nothing before").await;
    expect_event(&mut subscription, "nothing before").await;
}

async fn the_largest_payload_passes(log: Arc<dyn EventLog>) {
    let mut subscription = log.subscribe(all(), None).await.unwrap();
    let largest = Bytes::from(vec![b'x'; 1 << 20]);
    publish(&log, "step", largest.clone()).await;
    assert_eq!(payloads(&mut subscription, 1).await, [largest.to_vec()]);
}

async fn a_repeat_with_the_same_key_publishes_nothing(log: Arc<dyn EventLog>) {
    let mut subscription = log.subscribe(all(), None).await.unwrap();
    let attempts: Vec<_> = (0..10)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                log.publish(&channel("step"), Bytes::from_static(b"once"), Some("key-1"))
                    .await
            })
        })
        .collect();
    let mut positions = Vec::new();
    let mut duplicates = 0;
    for attempt in attempts {
        let published = attempt.await.unwrap().unwrap();
        duplicates += usize::from(published.duplicate);
        positions.push(published.position);
    }
    assert_eq!(duplicates, 9);
    positions.dedup();
    assert_eq!(
        positions.len(),
        1,
        "a duplicate has the position of the first"
    );
    publish(&log, "step", "other").await;
    expect_events(&mut subscription, &["once", "other"]).await;
}

async fn the_same_key_on_another_channel_publishes(log: Arc<dyn EventLog>) {
    for event_type in ["one", "two"] {
        let published = log
            .publish(&channel(event_type), Bytes::new(), Some("key"))
            .await;
        assert!(!published.unwrap().duplicate);
    }
}

async fn a_subscription_needs_a_bounded_number_of_patterns(log: Arc<dyn EventLog>) {
    let none = log.subscribe(Vec::new(), None).await;
    assert_eq!(none.err(), Some(SubscribeError::NoPattern));
    let many = vec![all().remove(0); MAX_PATTERNS + 1];
    let refused = log.subscribe(many.clone(), None).await;
    assert_eq!(
        refused.err(),
        Some(SubscribeError::TooManyPatterns(MAX_PATTERNS + 1))
    );
    assert!(log.subscribe(many[1..].to_vec(), None).await.is_ok());
}

async fn the_status_counts_what_was_recorded(log: Arc<dyn EventLog>) {
    let before = log.status();
    assert!(before.connected, "{before:?}");
    assert!(before.since.elapsed().unwrap() < Duration::from_secs(60));
    let mut subscription = log.subscribe(all(), None).await.unwrap();
    publish_numbers(&log, "step", 0..3).await;
    take(&mut subscription, 3).await;
    let after = log.status();
    assert_eq!(after.recorded, before.recorded + 3);
    assert_eq!(
        (after.ignored, after.oversized, after.reconnects),
        (0, 0, 0)
    );
}
