use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

// Not `*`: serde's traits have methods of the same names.
use super::{
    ChainExecutionCompletedEvent, ChainExecutionFailedEvent, ChainStepCompletedEvent,
    ContextAugmentationEvent, ConversationHistoryRetrievedEvent, ConversationUpdatedEvent,
    DocumentIndexedEvent, DocumentRetrievalEvent, EventPayload, MAX_MESSAGE_CHARS,
    ModelHealthCheckEvent, ModelRoutingDecisionEvent, ModelUsageEvent, TypedEvent,
};
use crate::error::{IpcError, IpcResult};

/// The contract's table: channel, and a value of every field beside `timestamp` and `metadata`.
fn table() -> [(&'static str, Value); 11] {
    let error = json!({"code": "TIMEOUT", "message": "too late", "details": {"limit_s": 30}});
    [
        (
            "intellirouter:chain_engine:router_core:chain_execution_completed",
            json!({"execution_id": "e1", "output": "done", "total_tokens": 7, "execution_time_ms": u64::MAX}),
        ),
        (
            "intellirouter:chain_engine:router_core:chain_execution_failed",
            json!({"execution_id": "e1", "error": error, "execution_time_ms": 8}),
        ),
        (
            "intellirouter:chain_engine:router_core:chain_step_completed",
            json!({"execution_id": "e1", "step_id": "s1", "step_index": 0, "output": "", "tokens": u32::MAX}),
        ),
        (
            "intellirouter:rag_manager:persona_layer:document_indexed",
            json!({"document_id": "d1", "chunk_count": 3}),
        ),
        (
            "intellirouter:rag_manager:persona_layer:document_retrieval",
            json!({"query": "why", "document_ids": ["d1", "d2"]}),
        ),
        (
            "intellirouter:rag_manager:persona_layer:context_augmentation",
            json!({"request_id": "r1", "document_count": 2}),
        ),
        (
            "intellirouter:memory:chain_engine:conversation_updated",
            json!({"conversation_id": "c1", "message_id": "m1"}),
        ),
        (
            "intellirouter:memory:chain_engine:conversation_history_retrieved",
            json!({"conversation_id": "c1", "message_count": 4, "token_count": 90}),
        ),
        (
            "intellirouter:router_core:model_registry:model_health_check",
            json!({"model_id": "m1", "healthy": true, "latency_ms": 12.5}),
        ),
        (
            "intellirouter:router_core:model_registry:model_routing_decision",
            json!({"request_id": "r1", "selected_model_id": "m1", "strategy_name": "round_robin", "routing_time_ms": 1}),
        ),
        (
            "intellirouter:router_core:model_registry:model_usage",
            json!({"model_id": "m1", "request_id": "r1", "input_tokens": 1, "output_tokens": 2, "latency_ms": 0.5}),
        ),
    ]
}

/// A row of the table with what every event has.
fn whole(fields: &Value) -> Map<String, Value> {
    let mut whole = fields.as_object().unwrap().clone();
    whole.insert("timestamp".into(), json!("2026-01-02T03:04:05.006Z"));
    whole.insert("metadata".into(), json!({"tenant": "blue"}));
    whole
}

/// What a test does with one event type and its row.
trait Check {
    fn check<E: TypedEvent>(&self, fields: &Value);
}

/// Runs the check for every type, each with the row of its channel.
fn for_every_event(check: &impl Check) {
    let rows = table();
    let mut seen = BTreeSet::new();
    macro_rules! each {
        ($($event:ty)*) => {$(
            let channel = <$event>::channel().to_string();
            let (_, fields) = rows
                .iter()
                .find(|(row, _)| *row == channel)
                .unwrap_or_else(|| panic!("{channel} is not in the contract"));
            check.check::<$event>(fields);
            seen.insert(channel);
        )*};
    }
    each! {
        ChainExecutionCompletedEvent ChainExecutionFailedEvent ChainStepCompletedEvent
        DocumentIndexedEvent DocumentRetrievalEvent ContextAugmentationEvent
        ConversationUpdatedEvent ConversationHistoryRetrievedEvent
        ModelHealthCheckEvent ModelRoutingDecisionEvent ModelUsageEvent
    }
    assert_eq!(seen.len(), rows.len(), "two types share a channel");
}

fn read<E: TypedEvent>(fields: &Map<String, Value>) -> IpcResult<E> {
    E::deserialize(&Value::Object(fields.clone()).to_string())
}

#[test]
fn every_event_has_the_channel_and_exactly_the_fields_of_the_contract() {
    struct Same;
    impl Check for Same {
        fn check<E: TypedEvent>(&self, fields: &Value) {
            let given = whole(fields);
            let text = read::<E>(&given).unwrap().serialize().unwrap();
            let written: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(written, Value::Object(given), "{}", E::EVENT_TYPE);
            assert!(E::channel().validate().is_ok());
        }
    }
    for_every_event(&Same);
}

#[test]
fn a_field_that_the_reader_does_not_know_is_ignored() {
    struct Newer;
    impl Check for Newer {
        fn check<E: TypedEvent>(&self, fields: &Value) {
            let mut given = whole(fields);
            given.insert("added_later".into(), json!({"deep": [1]}));
            assert!(read::<E>(&given).is_ok(), "{}", E::EVENT_TYPE);
        }
    }
    for_every_event(&Newer);
}

#[test]
fn a_missing_field_is_an_error_that_names_it() {
    struct Without;
    impl Check for Without {
        fn check<E: TypedEvent>(&self, fields: &Value) {
            let given = whole(fields);
            for name in given.keys().filter(|name| *name != "metadata") {
                let mut short = given.clone();
                short.remove(name);
                let Err(IpcError::Serialization(why)) = read::<E>(&short) else {
                    panic!("{} was read without {name}", E::EVENT_TYPE);
                };
                assert!(why.contains(&format!("missing field `{name}`")), "{why}");
            }
        }
    }
    for_every_event(&Without);
}

#[test]
fn metadata_and_the_details_of_an_error_may_be_missing() {
    let text = r#"{"execution_id": "e1", "error": {"code": "C", "message": "m"},
        "execution_time_ms": 1, "timestamp": "2026-01-02T03:04:05Z"}"#;
    let event = ChainExecutionFailedEvent::deserialize(text).unwrap();
    assert!(event.metadata.is_empty());
    assert!(event.error.details.is_empty());
}

#[test]
fn a_timestamp_is_written_as_rfc_3339_in_utc_whatever_its_offset_was() {
    let mut event = ConversationUpdatedEvent::new("c1".into(), "m1".into());
    event.timestamp = OffsetDateTime::from_unix_timestamp(1_767_323_045)
        .unwrap()
        .to_offset(UtcOffset::from_hms(5, 30, 0).unwrap());
    let text = event.serialize().unwrap();
    assert!(
        text.contains(r#""timestamp":"2026-01-02T03:04:05Z""#),
        "{text}"
    );

    let other = text.replace("03:04:05Z", "01:04:05-02:00");
    let read = ConversationUpdatedEvent::deserialize(&other).unwrap();
    assert_eq!(read, event);
    assert_eq!(read.timestamp.offset(), UtcOffset::UTC);
}

#[test]
fn a_timestamp_that_utc_can_not_hold_is_an_error_and_no_panic() {
    let event = |at: &str| {
        let fields = json!({"conversation_id": "c", "message_id": "m", "timestamp": at});
        ConversationUpdatedEvent::deserialize(&fields.to_string())
    };
    for at in [
        "9999-12-31T23:59:59-00:01",
        "2026-01-02",
        "yesterday",
        "1767323045",
    ] {
        let error = event(at).unwrap_err();
        assert!(matches!(error, IpcError::Serialization(_)), "{at}: {error}");
    }
    let mut last = event("9999-12-31T23:59:59Z").unwrap();
    let zone = UtcOffset::from_hms(-1, 0, 0).unwrap();
    last.timestamp = last.timestamp.replace_offset(zone);
    assert!(matches!(
        last.serialize(),
        Err(IpcError::Serialization(why)) if why.contains("9999")
    ));
}

#[test]
fn a_new_event_happens_now_and_has_no_metadata() {
    let before = OffsetDateTime::now_utc();
    let event = DocumentIndexedEvent::new("d1".into(), 3);
    assert!((before..=OffsetDateTime::now_utc()).contains(&event.timestamp));
    assert!(event.metadata.is_empty());
    assert_eq!((event.document_id.as_str(), event.chunk_count), ("d1", 3));
    let text = event.serialize().unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    let at = written["timestamp"].as_str().unwrap();
    assert_eq!(
        OffsetDateTime::parse(at, &Rfc3339).unwrap(),
        event.timestamp
    );
}

#[test]
fn a_latency_that_json_can_not_write_is_refused() {
    for latency in [f32::NAN, f32::INFINITY] {
        let event = ModelHealthCheckEvent::new("m1".into(), true, latency);
        let error = event.serialize().unwrap_err();
        assert!(matches!(error, IpcError::Serialization(_)), "{error}");
    }
}

#[test]
fn a_message_about_a_huge_field_stays_short() {
    let huge = "x".repeat(1 << 20);
    let fields =
        json!({"document_id": "d1", "chunk_count": huge, "timestamp": "2026-01-02T03:04:05Z"});
    let error = DocumentIndexedEvent::deserialize(&fields.to_string()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("invalid type: string"), "{text}");
    assert!(text.len() < MAX_MESSAGE_CHARS * 4 + 64, "{}", text.len());
}
