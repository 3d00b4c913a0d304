//! Events: publishers, subscribers, event types of an author's own.

use std::sync::Arc;
use std::time::Duration;

use intellirouter::events::{
    ChainEngineEvent, ChainEngineEventPublisher, ChainEngineEventSubscriber,
    ChainExecutionCompletedEvent, ChannelName, ConversationUpdatedEvent, EventSubscription,
    MemoryEventPublisher, Message, RedisClient, RedisClientImpl, RouterCoreEventSubscriber,
    TypedEvent, publish_event,
};
use intellirouter::{IpcError, IpcResult};
use serde::{Deserialize, Serialize};

use tokio::sync::mpsc;

use super::redis_server::RedisServer;
use super::support::soon;

async fn open(store: &str) -> IpcResult<Arc<dyn RedisClient>> {
    // guide: events-open
    let redis: Arc<dyn RedisClient> = Arc::new(RedisClientImpl::new(store).await?);
    // guide: end
    Ok(redis)
}

async fn publish(redis: &Arc<dyn RedisClient>) -> IpcResult<()> {
    // guide: events-publish
    let publisher = ChainEngineEventPublisher::new(Arc::clone(redis));
    let mut event = ChainExecutionCompletedEvent::new("e1".into(), "42".into(), 128, 950);
    event.metadata.insert("tenant".into(), "blue".into());
    publisher.publish_chain_execution_completed(&event).await?;
    // guide: end
    Ok(())
}

/// Tells the test what the loop of the guide does.
struct Dashboard(mpsc::UnboundedSender<String>);

impl Dashboard {
    fn tell(&self, text: impl ToString) {
        self.0.send(text.to_string()).unwrap();
    }

    fn show(&self, event: ChainExecutionCompletedEvent) {
        self.tell(event.output);
    }

    fn reload(&self) {
        self.tell("reload");
    }

    fn skip(&self, why: &IpcError) {
        self.tell(why);
    }
}

async fn subscribe(
    redis: &Arc<dyn RedisClient>,
) -> IpcResult<EventSubscription<ChainExecutionCompletedEvent>> {
    // guide: events-subscribe
    let subscriber = RouterCoreEventSubscriber::new(Arc::clone(redis));
    let completed = subscriber.subscribe_to_chain_execution_completed().await?;
    // guide: end
    Ok(completed)
}

// guide: events-loop
async fn follow(
    completed: &EventSubscription<ChainExecutionCompletedEvent>,
    dashboard: &Dashboard,
) {
    loop {
        match completed.next_event().await {
            Ok(Some(event)) => dashboard.show(event),
            // Somebody called `close`.
            Ok(None) => return,
            // Events may be missing here: read the present state again, then go on.
            Err(IpcError::Connection(_)) => dashboard.reload(),
            // This one payload could not be read.
            Err(error) => dashboard.skip(&error),
        }
    }
}
// guide: end

#[tokio::test]
async fn the_loop_of_a_subscriber_goes_on_after_a_bad_payload_and_a_loss() {
    let server = RedisServer::start();
    let redis = open(&server.url()).await.unwrap();
    let completed = subscribe(&redis).await.unwrap();
    let (dashboard, mut told) = mpsc::unbounded_channel();
    let dashboard = Dashboard(dashboard);
    let driving = async {
        publish(&redis).await.unwrap();
        assert_eq!(soon(told.recv()).await.unwrap(), "42");
        let channel = ChainExecutionCompletedEvent::channel();
        server.cli(&["PUBLISH", channel.as_str(), "not JSON"]);
        let skipped = soon(told.recv()).await.unwrap();
        assert!(skipped.contains(channel.as_str()), "{skipped}");
        server.cli(&["FLUSHALL"]);
        assert_eq!(soon(told.recv()).await.unwrap(), "reload");
        publish(&redis).await.unwrap();
        assert_eq!(soon(told.recv()).await.unwrap(), "42");
        completed.close();
    };
    tokio::join!(follow(&completed, &dashboard), driving);
}

async fn next_of_all(redis: &Arc<dyn RedisClient>) -> IpcResult<Option<String>> {
    let subscriber = RouterCoreEventSubscriber::new(Arc::clone(redis));
    // guide: events-all
    let all = subscriber.subscribe_to_all_chain_engine_events().await?;
    // guide: end
    publish(redis).await?;
    // guide: events-all-match
    let line = match all.next_event().await? {
        Some(ChainEngineEvent::ExecutionCompleted(event)) => event.output,
        Some(ChainEngineEvent::ExecutionFailed(event)) => event.error.message,
        Some(other) => format!("{other:?}"),
        None => return Ok(None),
    };
    // guide: end
    Ok(Some(line))
}

#[tokio::test]
async fn all_events_of_a_module_come_as_one_type() {
    let redis = open("memory:").await.unwrap();
    let line = soon(next_of_all(&redis)).await.unwrap();
    assert_eq!(line.as_deref(), Some("42"));
}

// guide: events-own
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct InvoicePaid {
    invoice_id: String,
    cents: u64,
}

impl TypedEvent for InvoicePaid {
    const SOURCE: &'static str = "billing";
    const DESTINATION: &'static str = "ledger";
    const EVENT_TYPE: &'static str = "invoice_paid";
}
// guide: end

async fn own(redis: &dyn RedisClient, event: InvoicePaid) -> IpcResult<Option<InvoicePaid>> {
    // guide: events-own-use
    let paid = EventSubscription::<InvoicePaid>::open(redis).await?;
    publish_event(redis, &event).await?;
    let got = paid.next_event().await?;
    // guide: end
    Ok(got)
}

#[tokio::test]
async fn an_event_type_of_the_authors_own_needs_three_names() {
    let redis = open("memory:").await.unwrap();
    let event = |cents| InvoicePaid {
        invoice_id: "i1".to_owned(),
        cents,
    };
    let got = soon(own(&*redis, event(5))).await.unwrap();
    assert_eq!(got, Some(event(5)));
}

async fn text(redis: &dyn RedisClient) -> IpcResult<Option<Message>> {
    // guide: events-text
    let everything = redis.psubscribe("intellirouter:*").await?;
    let channel = ChannelName::new("billing", "ledger", "note").to_string();
    redis.publish(&channel, "any text").await?;
    let message = everything.next_message().await?;
    // guide: end
    Ok(message)
}

#[tokio::test]
async fn plain_text_goes_the_same_way() {
    let redis = open("memory:").await.unwrap();
    let message = soon(text(&*redis)).await.unwrap().unwrap();
    assert_eq!(message.channel, "intellirouter:billing:ledger:note");
    assert_eq!(message.payload, "any text");
}

// guide: events-test
async fn a_changed_conversation_is_heard(store: &str) {
    let redis: Arc<dyn RedisClient> = Arc::new(RedisClientImpl::new(store).await.unwrap());
    let subscriber = ChainEngineEventSubscriber::new(Arc::clone(&redis));
    // First subscribe, then publish: what comes after `subscribe_to_…` returned is seen.
    let updated = subscriber
        .subscribe_to_conversation_updated()
        .await
        .unwrap();

    let event = ConversationUpdatedEvent::new("c1".into(), "m1".into());
    let publisher = MemoryEventPublisher::new(redis);
    publisher
        .publish_conversation_updated(&event)
        .await
        .unwrap();

    let heard = tokio::time::timeout(Duration::from_secs(30), updated.next_event()).await;
    assert_eq!(heard.unwrap().unwrap(), Some(event));
}

#[tokio::test]
async fn over_the_embedded_store() {
    a_changed_conversation_is_heard("memory:").await;
}

#[tokio::test]
async fn over_a_real_redis() {
    let server = RedisServer::start();
    a_changed_conversation_is_heard(&server.url()).await;
}
// guide: end
