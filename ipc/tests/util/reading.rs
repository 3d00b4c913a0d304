//! Reads a subscription with a limit on the wait, so that a lost event fails a test by name.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::Duration;

use intellirouter::events::{ChannelName, ChannelPattern, Entry, Gap, LogSubscription};

/// Longer than anything that is waited for may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn channel(event_type: &str) -> ChannelName {
    ChannelName::new("chain_engine", "router_core", event_type)
}

pub(crate) fn pattern(text: &str) -> Vec<ChannelPattern> {
    vec![ChannelPattern::parse(text).unwrap()]
}

pub(crate) fn all() -> Vec<ChannelPattern> {
    pattern("intellirouter:*")
}

/// The next batch, of at least one entry.
pub(crate) async fn batch(subscription: &mut LogSubscription) -> Vec<Entry> {
    let mut out = Vec::new();
    tokio::time::timeout(PATIENCE, subscription.next_batch(&mut out))
        .await
        .expect("nothing came");
    assert!(!out.is_empty(), "a batch without an entry");
    out
}

/// The next `count` entries.
pub(crate) async fn take(subscription: &mut LogSubscription, count: usize) -> Vec<Entry> {
    let mut got = Vec::new();
    while got.len() < count {
        got.extend(batch(subscription).await);
    }
    assert_eq!(got.len(), count, "more came than was expected");
    got
}

/// The payloads of the next `count` entries, all events.
pub(crate) async fn payloads(subscription: &mut LogSubscription, count: usize) -> Vec<Vec<u8>> {
    let entries = take(subscription, count).await;
    entries.iter().map(payload).collect()
}

/// The one entry of the next batch: an event with this payload.
pub(crate) async fn expect_event(subscription: &mut LogSubscription, expected: &str) {
    let got = take(subscription, 1).await;
    assert_eq!(String::from_utf8_lossy(&payload(&got[0])), expected);
}

/// The one entry of the next batch: a gap.
pub(crate) async fn expect_gap(subscription: &mut LogSubscription) -> Gap {
    match take(subscription, 1).await.remove(0) {
        Entry::Gap(gap) => gap,
        Entry::Event(event) => panic!("an event instead of a gap: {event:?}"),
    }
}

pub(crate) fn payload(entry: &Entry) -> Vec<u8> {
    match entry {
        Entry::Event(event) => event.payload().to_vec(),
        Entry::Gap(gap) => panic!("an unexpected gap: {gap:?}"),
    }
}
