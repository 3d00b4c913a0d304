//! What needs a real Redis: other publishers, other subscribers, and its loss.

use std::sync::Arc;

use futures_util::StreamExt;
use intellirouter::IpcError;
use intellirouter::events::{
    ChainEngineEventSubscriber, EventPayload, MemoryEventPublisher, RedisClient, RedisClientImpl,
    RedisLog,
};

use super::{RedisServer, UPDATED, next, next_error, next_text, soon, updated};

#[tokio::test]
async fn what_redis_cli_publishes_arrives_as_an_event() {
    let server = RedisServer::start();
    let client = RedisClientImpl::new(server.url()).await.unwrap();
    let subscriber = ChainEngineEventSubscriber::new(Arc::new(client));
    let subscription = subscriber.subscribe_to_conversation_updated();
    let subscription = subscription.await.unwrap();
    let by_hand = r#"{"conversation_id": "c1", "message_id": "m1",
        "timestamp": "2026-01-02T03:04:05+00:00", "metadata": {"by": "hand"}}"#;
    server.cli(&["PUBLISH", UPDATED, by_hand]);

    let event = next(&subscription).await;
    assert_eq!((&*event.conversation_id, &*event.message_id), ("c1", "m1"));
    assert_eq!(event.timestamp.unix_timestamp(), 1_767_323_045);
    assert_eq!(event.metadata["by"], "hand");
}

#[tokio::test]
async fn a_plain_redis_subscriber_sees_the_event_as_its_json() {
    let server = RedisServer::start();
    let plain = redis::Client::open(server.url()).unwrap();
    let mut plain = plain.get_async_pubsub().await.unwrap();
    plain.subscribe(UPDATED).await.unwrap();
    let client = RedisClientImpl::new(server.url()).await.unwrap();
    let event = updated("m1");
    let publisher = MemoryEventPublisher::new(Arc::new(client));
    publisher
        .publish_conversation_updated(&event)
        .await
        .unwrap();

    let message = soon(plain.on_message().next()).await.unwrap();
    let seen: String = message.get_payload().unwrap();
    assert_eq!(seen, event.serialize().unwrap());
}

#[tokio::test]
async fn two_processes_worth_of_clients_hear_each_other() {
    let server = RedisServer::start();
    let one = RedisClientImpl::new(server.url()).await.unwrap();
    let other = RedisClientImpl::new(server.url()).await.unwrap();
    let subscriber = ChainEngineEventSubscriber::new(Arc::new(one));
    let subscription = subscriber.subscribe_to_conversation_updated();
    let subscription = subscription.await.unwrap();
    let event = updated("m1");
    let publisher = MemoryEventPublisher::new(Arc::new(other));
    publisher
        .publish_conversation_updated(&event)
        .await
        .unwrap();
    assert_eq!(next(&subscription).await, event);
}

#[tokio::test]
async fn a_subscription_outlives_the_client_that_made_it() {
    let server = RedisServer::start();
    let client = RedisClientImpl::new(server.url()).await.unwrap();
    let subscription = client.subscribe(UPDATED).await.unwrap();
    drop(client);
    assert_eq!(server.cli(&["PUBLISH", UPDATED, "still here"]).trim(), "1");
    assert_eq!(next_text(&subscription).await, "still here");
}

#[tokio::test]
async fn a_redis_that_is_killed_and_comes_back_is_one_error_and_then_events_again() {
    let mut server = RedisServer::start();
    let settings = RedisClientImpl::settings();
    let log = Arc::new(RedisLog::connect(&server.url(), settings).await.unwrap());
    let client: Arc<dyn RedisClient> = Arc::new(RedisClientImpl::from_log(log.clone()));
    let publisher = MemoryEventPublisher::new(Arc::clone(&client));
    let subscriber = ChainEngineEventSubscriber::new(Arc::clone(&client));
    let subscription = subscriber.subscribe_to_conversation_updated();
    let subscription = subscription.await.unwrap();
    let publish = |id| publisher.publish_conversation_updated(updated(id));
    publish("before").await.unwrap();
    assert_eq!(next(&subscription).await.message_id, "before");

    server.kill();
    soon(log.wait_for_connection(false)).await;
    next_error(publish("lost"), IpcError::Connection).await;
    soon(async {
        // The loss of the other connection may show a little later.
        while subscriber.subscribe_to_conversation_updated().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let late = subscriber.subscribe_to_conversation_updated();
    next_error(late, IpcError::Connection).await;

    server.start_again();
    soon(log.wait_for_connection(true)).await;
    publish("after").await.unwrap();
    let why = next_error(subscription.next_event(), IpcError::Connection).await;
    assert!(why.contains("(store_lost_data)"), "{why}");
    assert!(why.contains(" from ") && why.contains(" to "), "{why}");
    assert!(why.contains("goes on"), "{why}");
    assert_eq!(next(&subscription).await.message_id, "after");
}

#[tokio::test]
async fn a_client_that_starts_before_its_redis_says_so_and_works_once_it_is_there() {
    let mut server = RedisServer::down();
    let settings = RedisClientImpl::settings();
    let log = Arc::new(RedisLog::connect(&server.url(), settings).await.unwrap());
    let client = RedisClientImpl::from_log(log.clone());
    assert!(!client.status().connected);
    next_error(client.publish(UPDATED, "x"), IpcError::Connection).await;

    server.start_again();
    soon(log.wait_for_connection(true)).await;
    assert!(client.status().connected);
    let subscription = client.subscribe(UPDATED).await.unwrap();
    client.publish(UPDATED, "x").await.unwrap();
    assert_eq!(next_text(&subscription).await, "x");
}
