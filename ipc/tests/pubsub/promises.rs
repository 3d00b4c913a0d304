//! What holds for both stores, beside the way of each event.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use intellirouter::events::{
    ChainEngineEventSubscriber, EventSubscription, LogSettings, MemoryEvent, MemoryEventPublisher,
    RedisClient, RedisClientImpl, Subscription, TypedEvent, publish_event,
};
use intellirouter::{IpcError, IpcResult};
use serde::{Deserialize, Serialize};

use super::{Store, UPDATED, message, next, next_error, next_text, soon, updated};

super::for_each_store! {
    a_payload_arrives_exactly_as_published_with_its_channel(Default::default());
    a_pattern_brings_every_channel_that_it_matches_and_no_other(Default::default());
    a_subscription_to_one_channel_takes_no_pattern(Default::default());
    a_name_outside_the_grammar_is_an_invalid_argument(Default::default());
    a_payload_that_is_too_large_is_an_invalid_argument(super::small_payloads());
    a_payload_that_is_no_such_event_is_one_error_and_the_next_one_comes(Default::default());
    a_payload_that_is_not_utf_8_is_one_error_and_the_next_one_comes(Default::default());
    an_event_type_that_is_not_known_is_one_error_that_names_its_channel(Default::default());
    a_wait_that_is_dropped_has_taken_nothing(Default::default());
    of_two_that_wait_each_message_goes_to_one(Default::default());
    a_closed_subscription_ends_also_for_who_waits(Default::default());
    one_that_falls_behind_is_told_once_and_goes_on(super::ten_events());
    an_event_of_the_authors_own_travels_the_same_way(Default::default());
}

fn small_payloads() -> LogSettings {
    LogSettings {
        max_payload: 10,
        ..LogSettings::default()
    }
}

fn ten_events() -> LogSettings {
    LogSettings {
        retain_events: 10,
        ..LogSettings::default()
    }
}

async fn a_payload_arrives_exactly_as_published_with_its_channel(store: Store) {
    let subscription = store.client.subscribe(UPDATED).await.unwrap();
    for payload in ["", "{ \"a\" : 1 }\n", "not JSON, ä and \0"] {
        store.client.publish(UPDATED, payload).await.unwrap();
        let got = soon(subscription.next_message()).await.unwrap();
        assert_eq!(got, Some(message(UPDATED, payload)));
    }
}

async fn a_pattern_brings_every_channel_that_it_matches_and_no_other(store: Store) {
    let pattern = "intellirouter:memory:*";
    let subscription = store.client.psubscribe(pattern).await.unwrap();
    let other = "intellirouter:memory:router_core:x";
    for channel in [UPDATED, "intellirouter:memory_2:chain_engine:x", other] {
        store.client.publish(channel, "text").await.unwrap();
    }
    for expected in [UPDATED, other] {
        let got = soon(subscription.next_message()).await.unwrap();
        assert_eq!(got, Some(message(expected, "text")));
    }
}

async fn a_subscription_to_one_channel_takes_no_pattern(store: Store) {
    let pattern = "intellirouter:memory:chain_engine:*";
    let why = next_error(store.client.subscribe(pattern), IpcError::InvalidArgument).await;
    assert!(why.contains("event type \"*\""), "{why}");
}

async fn a_name_outside_the_grammar_is_an_invalid_argument(store: Store) {
    for name in ["", "news", "intellirouter:a:b", "intellirouter:A:b:c"] {
        let client = &store.client;
        next_error(client.publish(name, "x"), IpcError::InvalidArgument).await;
        next_error(client.subscribe(name), IpcError::InvalidArgument).await;
        next_error(client.psubscribe(name), IpcError::InvalidArgument).await;
    }
}

async fn a_payload_that_is_too_large_is_an_invalid_argument(store: Store) {
    let publishing = store.client.publish(UPDATED, "eleven bytes");
    let why = next_error(publishing, IpcError::InvalidArgument).await;
    assert!(why.contains("at most 10"), "{why}");
}

async fn a_payload_that_is_no_such_event_is_one_error_and_the_next_one_comes(store: Store) {
    let subscriber = ChainEngineEventSubscriber::new(Arc::clone(&store.client));
    let one = subscriber.subscribe_to_conversation_updated();
    let one = one.await.unwrap();
    let all = subscriber.subscribe_to_all_memory_events().await.unwrap();
    let bad = r#"{"conversation_id": "c1"}"#;
    store.client.publish(UPDATED, bad).await.unwrap();
    let event = updated("m1");
    publish_event(&*store.client, &event).await.unwrap();

    for why in [
        next_error(one.next_event(), IpcError::Serialization).await,
        next_error(all.next_event(), IpcError::Serialization).await,
    ] {
        assert!(why.contains(UPDATED), "{why}");
        assert!(why.contains("missing field `message_id`"), "{why}");
    }
    assert_eq!(next(&one).await, event);
    assert_eq!(next(&all).await, MemoryEvent::ConversationUpdated(event));
}

async fn a_payload_that_is_not_utf_8_is_one_error_and_the_next_one_comes(store: Store) {
    let subscription = store.client.subscribe(UPDATED).await.unwrap();
    store.publish_bytes(UPDATED, b"\xff\xfe").await;
    store.client.publish(UPDATED, "fine").await.unwrap();

    let why = next_error(subscription.next_message(), IpcError::Serialization).await;
    assert!(why.contains(UPDATED) && why.contains("UTF-8"), "{why}");
    assert_eq!(next_text(&subscription).await, "fine");
}

async fn an_event_type_that_is_not_known_is_one_error_that_names_its_channel(store: Store) {
    let subscriber = ChainEngineEventSubscriber::new(Arc::clone(&store.client));
    let all = subscriber.subscribe_to_all_memory_events().await.unwrap();
    let newer = "intellirouter:memory:chain_engine:conversation_archived";
    store.client.publish(newer, "{}").await.unwrap();
    let event = updated("m1");
    publish_event(&*store.client, &event).await.unwrap();

    let why = next_error(all.next_event(), IpcError::Serialization).await;
    assert!(why.contains(newer) && why.contains("not known"), "{why}");
    assert_eq!(next(&all).await, MemoryEvent::ConversationUpdated(event));
}

async fn a_wait_that_is_dropped_has_taken_nothing(store: Store) {
    let subscription = store.client.subscribe(UPDATED).await.unwrap();
    assert!(subscription.next_message().now_or_never().is_none());
    let sent: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    for payload in &sent {
        store.client.publish(UPDATED, payload).await.unwrap();
    }
    let mut got = Vec::new();
    let reading = async {
        while got.len() < sent.len() {
            // Each wait is polled once and dropped.
            match subscription.next_message().now_or_never() {
                Some(message) => got.push(message.unwrap().unwrap().payload),
                None => tokio::task::yield_now().await,
            }
        }
    };
    soon(reading).await;
    assert_eq!(got, sent);
}

async fn of_two_that_wait_each_message_goes_to_one(store: Store) {
    let subscription = store.client.subscribe(UPDATED).await.unwrap();
    let subscription = Arc::new(subscription);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let subscription = Arc::clone(&subscription);
            tokio::spawn(async move {
                let mut got = Vec::new();
                while let Some(message) = subscription.next_message().await.unwrap() {
                    if message.payload == "end" {
                        subscription.close();
                    } else {
                        got.push(message.payload);
                    }
                }
                got
            })
        })
        .collect();
    let sent: BTreeSet<_> = (0..200).map(|n| n.to_string()).collect();
    for payload in &sent {
        store.client.publish(UPDATED, payload).await.unwrap();
    }
    store.client.publish(UPDATED, "end").await.unwrap();

    let mut got = Vec::new();
    for reader in readers {
        got.extend(soon(reader).await.unwrap());
    }
    assert_eq!(got.len(), sent.len(), "one came twice, or not at all");
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), sent);
}

async fn a_closed_subscription_ends_also_for_who_waits(store: Store) {
    let subscription = Arc::new(store.client.subscribe(UPDATED).await.unwrap());
    let waiting = {
        let subscription = Arc::clone(&subscription);
        async move { subscription.next_message().await }
    };
    let (got, ()) = soon(async { tokio::join!(waiting, async { subscription.close() }) }).await;
    assert_eq!(got.unwrap(), None);
    store.client.publish(UPDATED, "too late").await.unwrap();
    assert_eq!(soon(subscription.next_message()).await.unwrap(), None);

    let typed = ChainEngineEventSubscriber::new(Arc::clone(&store.client));
    let typed = typed.subscribe_to_conversation_updated().await.unwrap();
    typed.close();
    assert_eq!(soon(typed.next_event()).await.unwrap(), None);
}

async fn one_that_falls_behind_is_told_once_and_goes_on(store: Store) {
    let behind = store.client.subscribe(UPDATED).await.unwrap();
    let current = store.client.subscribe(UPDATED).await.unwrap();
    for number in 0..15 {
        let payload = number.to_string();
        store.client.publish(UPDATED, &payload).await.unwrap();
        assert_eq!(next_text(&current).await, payload);
    }
    let why = next_error(behind.next_message(), IpcError::Connection).await;
    assert!(why.contains("(slow)") && why.contains("goes on"), "{why}");
    for number in 5..15 {
        assert_eq!(next_text(&behind).await, number.to_string());
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Invoiced {
    cents: u64,
}

impl TypedEvent for Invoiced {
    const SOURCE: &'static str = "billing";
    const DESTINATION: &'static str = "ledger";
    const EVENT_TYPE: &'static str = "invoiced";
}

async fn an_event_of_the_authors_own_travels_the_same_way(store: Store) {
    let client = &*store.client;
    let subscription = EventSubscription::<Invoiced>::open(client).await.unwrap();
    let raw = client.subscribe("intellirouter:billing:ledger:invoiced");
    let raw = raw.await.unwrap();
    publish_event(client, &Invoiced { cents: 5 }).await.unwrap();
    assert_eq!(next(&subscription).await, Invoiced { cents: 5 });
    assert_eq!(next_text(&raw).await, r#"{"cents":5}"#);
}

/// A store that is never there.
struct Unreachable;

#[async_trait]
impl RedisClient for Unreachable {
    async fn publish(&self, _: &str, _: &str) -> IpcResult<()> {
        Err(IpcError::Connection("nobody there".to_owned()))
    }

    async fn subscribe(&self, _: &str) -> IpcResult<Subscription> {
        Err(IpcError::Connection("nobody there".to_owned()))
    }

    async fn psubscribe(&self, _: &str) -> IpcResult<Subscription> {
        Err(IpcError::Connection("nobody there".to_owned()))
    }
}

#[tokio::test]
async fn what_the_client_fails_with_reaches_the_author() {
    let client: Arc<dyn RedisClient> = Arc::new(Unreachable);
    let publisher = MemoryEventPublisher::new(Arc::clone(&client));
    let publishing = publisher.publish_conversation_updated(updated("m1"));
    next_error(publishing, IpcError::Connection).await;
    let subscriber = ChainEngineEventSubscriber::new(client);
    let one = subscriber.subscribe_to_conversation_updated();
    next_error(one, IpcError::Connection).await;
    let all = subscriber.subscribe_to_all_memory_events();
    next_error(all, IpcError::Connection).await;
}

#[tokio::test]
async fn an_event_that_json_can_not_hold_is_not_published() {
    use intellirouter::events::{ModelHealthCheckEvent, RouterCoreEventPublisher};

    let client: Arc<dyn RedisClient> = Arc::new(Unreachable);
    let publisher = RouterCoreEventPublisher::new(client);
    let event = ModelHealthCheckEvent::new("m1".to_owned(), true, f32::NAN);
    let publishing = publisher.publish_model_health_check(event);
    let why = next_error(publishing, IpcError::Serialization).await;
    assert!(why.contains("model_health_check"), "{why}");
}

#[tokio::test]
async fn a_url_that_names_no_store_is_an_invalid_argument_and_its_password_stays_hidden() {
    let opening = RedisClientImpl::new("kafka://user:s3cret@host");
    let why = next_error(opening, IpcError::InvalidArgument).await;
    assert!(why.contains("kafka") && !why.contains("s3cret"), "{why}");
}

#[tokio::test]
async fn the_settings_of_a_client_are_valid() {
    RedisClientImpl::settings().validate().unwrap();
    assert!(RedisClientImpl::new("memory:").await.is_ok());
}
