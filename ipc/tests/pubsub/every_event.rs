//! Each event of the contract, from its publisher to its subscriber.

use std::sync::Arc;

// By the path that the contract names.
use intellirouter::modules::ipc::redis_pubsub::{
    ChainEngineEvent, ChainEngineEventPublisher, ChainEngineEventSubscriber,
    ChainExecutionCompletedEvent, ChainExecutionFailedEvent, ChainStepCompletedEvent,
    ContextAugmentationEvent, ConversationHistoryRetrievedEvent, DocumentIndexedEvent,
    DocumentRetrievalEvent, EventError, MemoryEvent, MemoryEventPublisher, ModelHealthCheckEvent,
    ModelRegistryEventSubscriber, ModelRoutingDecisionEvent, ModelUsageEvent,
    PersonaLayerEventSubscriber, RagManagerEvent, RagManagerEventPublisher, RouterCoreEvent,
    RouterCoreEventPublisher, RouterCoreEventSubscriber,
};

use super::{Store, next, updated};

super::for_each_store! {
    events_of_the_chain_engine_reach_the_router_core(Default::default());
    events_of_the_rag_manager_reach_the_persona_layer(Default::default());
    events_of_the_memory_reach_the_chain_engine(Default::default());
    events_of_the_router_core_reach_the_model_registry(Default::default());
}

fn text(of: &str) -> String {
    of.to_owned()
}

async fn events_of_the_chain_engine_reach_the_router_core(store: Store) {
    let subscriber = RouterCoreEventSubscriber::new(Arc::clone(&store.client));
    let completed = subscriber.subscribe_to_chain_execution_completed();
    let completed = completed.await.unwrap();
    let failed = subscriber.subscribe_to_chain_execution_failed();
    let failed = failed.await.unwrap();
    let step = subscriber
        .subscribe_to_chain_step_completed()
        .await
        .unwrap();
    let all = subscriber.subscribe_to_all_chain_engine_events();
    let all = all.await.unwrap();

    let s = ChainStepCompletedEvent::new(text("e1"), text("s1"), 0, text("half"), 3);
    let c = ChainExecutionCompletedEvent::new(text("e1"), text("whole"), 7, 120);
    let error = EventError {
        code: text("TIMEOUT"),
        message: text("too late"),
        ..EventError::default()
    };
    let f = ChainExecutionFailedEvent::new(text("e2"), error, 30_000);
    let publisher = ChainEngineEventPublisher::new(Arc::clone(&store.client));
    // By reference, by value and shared.
    publisher.publish_chain_step_completed(&s).await.unwrap();
    let given = publisher.publish_chain_execution_completed(c.clone());
    given.await.unwrap();
    let shared = Arc::new(f.clone());
    publisher
        .publish_chain_execution_failed(shared)
        .await
        .unwrap();

    assert_eq!(next(&step).await, s);
    assert_eq!(next(&completed).await, c);
    assert_eq!(next(&failed).await, f);
    assert_eq!(next(&all).await, ChainEngineEvent::StepCompleted(s));
    assert_eq!(next(&all).await, ChainEngineEvent::ExecutionCompleted(c));
    assert_eq!(next(&all).await, ChainEngineEvent::ExecutionFailed(f));
}

async fn events_of_the_rag_manager_reach_the_persona_layer(store: Store) {
    let subscriber = PersonaLayerEventSubscriber::new(Arc::clone(&store.client));
    let indexed = subscriber.subscribe_to_document_indexed().await.unwrap();
    let retrieval = subscriber.subscribe_to_document_retrieval().await.unwrap();
    let augmented = subscriber.subscribe_to_context_augmentation();
    let augmented = augmented.await.unwrap();
    let all = subscriber.subscribe_to_all_rag_manager_events();
    let all = all.await.unwrap();

    let i = DocumentIndexedEvent::new(text("d1"), 3);
    let r = DocumentRetrievalEvent::new(text("why"), vec![text("d1"), text("d2")]);
    let mut a = ContextAugmentationEvent::new(text("r1"), 2);
    a.metadata.insert(text("tenant"), text("blue"));
    let publisher = RagManagerEventPublisher::new(Arc::clone(&store.client));
    publisher.publish_document_indexed(&i).await.unwrap();
    publisher.publish_document_retrieval(&r).await.unwrap();
    publisher.publish_context_augmentation(&a).await.unwrap();

    assert_eq!(next(&indexed).await, i);
    assert_eq!(next(&retrieval).await, r);
    assert_eq!(next(&augmented).await, a);
    assert_eq!(next(&all).await, RagManagerEvent::DocumentIndexed(i));
    assert_eq!(next(&all).await, RagManagerEvent::DocumentRetrieval(r));
    assert_eq!(next(&all).await, RagManagerEvent::ContextAugmentation(a));
}

async fn events_of_the_memory_reach_the_chain_engine(store: Store) {
    let subscriber = ChainEngineEventSubscriber::new(Arc::clone(&store.client));
    let changed = subscriber.subscribe_to_conversation_updated();
    let changed = changed.await.unwrap();
    let history = subscriber.subscribe_to_conversation_history_retrieved();
    let history = history.await.unwrap();
    let all = subscriber.subscribe_to_all_memory_events().await.unwrap();

    let u = updated("m1");
    let h = ConversationHistoryRetrievedEvent::new(text("c1"), 4, 90);
    let publisher = MemoryEventPublisher::new(Arc::clone(&store.client));
    publisher.publish_conversation_updated(&u).await.unwrap();
    let given = publisher.publish_conversation_history_retrieved(&h);
    given.await.unwrap();

    assert_eq!(next(&changed).await, u);
    assert_eq!(next(&history).await, h);
    assert_eq!(next(&all).await, MemoryEvent::ConversationUpdated(u));
    let retrieved = MemoryEvent::ConversationHistoryRetrieved(h);
    assert_eq!(next(&all).await, retrieved);
}

async fn events_of_the_router_core_reach_the_model_registry(store: Store) {
    let subscriber = ModelRegistryEventSubscriber::new(Arc::clone(&store.client));
    let health = subscriber.subscribe_to_model_health_check().await.unwrap();
    let decision = subscriber.subscribe_to_model_routing_decision();
    let decision = decision.await.unwrap();
    let usage = subscriber.subscribe_to_model_usage().await.unwrap();
    let all = subscriber.subscribe_to_all_router_core_events();
    let all = all.await.unwrap();

    let h = ModelHealthCheckEvent::new(text("m1"), true, 12.5);
    let d = ModelRoutingDecisionEvent::new(text("r1"), text("m1"), text("round_robin"), 1);
    let u = ModelUsageEvent::new(text("m1"), text("r1"), 10, 20, 250.0);
    let publisher = RouterCoreEventPublisher::new(Arc::clone(&store.client));
    publisher.publish_model_health_check(&h).await.unwrap();
    publisher.publish_model_routing_decision(&d).await.unwrap();
    publisher.publish_model_usage(&u).await.unwrap();

    assert_eq!(next(&health).await, h);
    assert_eq!(next(&decision).await, d);
    assert_eq!(next(&usage).await, u);
    assert_eq!(next(&all).await, RouterCoreEvent::ModelHealthCheck(h));
    assert_eq!(next(&all).await, RouterCoreEvent::ModelRoutingDecision(d));
    assert_eq!(next(&all).await, RouterCoreEvent::ModelUsage(u));
}
