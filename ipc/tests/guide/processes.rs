//! The same services in one process, and in processes of their own.

use std::sync::Arc;

use intellirouter::events::{
    ChainEngineEventSubscriber, ConversationUpdatedEvent, LogSettings, MemoryEventPublisher,
    RedisClientImpl, open,
};
use intellirouter::security::BoundServer;
use intellirouter::{IpcError, IpcResult};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::secure::bind;
use super::service::personas;
use super::settings::example;
use super::support::{Certs, FREE_PORT, soon};

// guide: one-process
pub async fn serve_all(
    servers: impl IntoIterator<Item = BoundServer>,
    stop: CancellationToken,
) -> IpcResult<()> {
    let mut running = JoinSet::new();
    for server in servers {
        running.spawn(server.serve_with_shutdown(stop.clone().cancelled_owned()));
    }
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        // One that ends takes the others with it; each finishes its calls first.
        stop.cancel();
        let ended = ended.map_err(|error| IpcError::Internal(error.to_string()));
        result = result.and(ended.and_then(|served| served));
    }
    result
}
// guide: end

async fn shared() -> IpcResult<(MemoryEventPublisher, ChainEngineEventSubscriber)> {
    // guide: one-log
    let log = open("memory:", LogSettings::default()).await?;
    let redis = Arc::new(RedisClientImpl::from_log(log));
    let publisher = MemoryEventPublisher::new(redis.clone());
    let subscriber = ChainEngineEventSubscriber::new(redis);
    // guide: end
    Ok((publisher, subscriber))
}

#[tokio::test]
async fn several_servers_of_one_process_end_together() {
    let certs = Certs::new();
    let mut settings = example(&certs);
    settings.listen = FREE_PORT;
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(bind(&settings, personas()).await.unwrap());
    }
    let stop = CancellationToken::new();
    let stopping = async {
        stop.cancel();
    };
    let serving = serve_all(servers, stop.clone());
    let (served, ()) = soon(async { tokio::join!(serving, stopping) }).await;
    served.unwrap();
}

#[tokio::test]
async fn modules_of_one_process_hear_each_other_over_one_embedded_log() {
    let (publisher, subscriber) = shared().await.unwrap();
    let heard = subscriber.subscribe_to_conversation_updated();
    let heard = heard.await.unwrap();
    let event = ConversationUpdatedEvent::new("c1".to_owned(), "m1".to_owned());
    publisher
        .publish_conversation_updated(&event)
        .await
        .unwrap();
    assert_eq!(soon(heard.next_event()).await.unwrap(), Some(event));
}
