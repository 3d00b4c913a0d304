//! Mocks in place of services.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::TryStreamExt;
use intellirouter::IpcError;
use intellirouter::clients::{
    ChainEngineClient, MemoryClient, MockChainEngineClient, MockMemoryClient, MockRouterClient,
    RouterClient,
};
use intellirouter::generated::intellirouter::chain_engine::v1::chain_execution_event::Data;
use intellirouter::generated::intellirouter::chain_engine::v1::chain_execution_request::ChainIdentifier;
use intellirouter::generated::intellirouter::chain_engine::v1::{
    ChainExecutionEvent, ChainExecutionResponse, EventType, StepResult,
};
use intellirouter::generated::intellirouter::common::v1::{ErrorDetails, Status as Ending};
use intellirouter::generated::intellirouter::memory::v1::{
    GetConversationRequest, GetConversationResponse,
};
use intellirouter::generated::intellirouter::model_registry::v1::RouteRequestStreamResponse;
use tonic::{Code, Status};

use super::status;

fn execution(id: &str, ending: Ending) -> ChainExecutionResponse {
    ChainExecutionResponse {
        execution_id: id.to_owned(),
        status: ending.into(),
        output: format!("output of {id}"),
        total_tokens: 12,
        start_time: Some(at(10, 0)),
        end_time: Some(at(11, 500_000_000)),
        step_results: vec![StepResult {
            step_id: "s-1".to_owned(),
            status: ending.into(),
            tokens: 12,
            ..Default::default()
        }],
        error: (ending == Ending::Error).then(|| ErrorDetails {
            code: "MODEL_FAILED".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn at(seconds: i64, nanos: i32) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos }
}

async fn execute(client: &dyn ChainEngineClient) -> Result<ChainExecutionResponse, IpcError> {
    let id = Some("c-1".to_owned());
    client
        .execute_chain(id, None, "in".to_owned(), HashMap::new(), false, None)
        .await
}

async fn stream(client: &dyn ChainEngineClient) -> Vec<ChainExecutionEvent> {
    let id = Some("c-1".to_owned());
    let events = client
        .stream_chain_execution(id, None, String::new(), HashMap::new(), None)
        .await
        .unwrap();
    events.try_collect().await.unwrap()
}

#[tokio::test]
async fn a_chain_engine_returns_the_added_executions_in_order_and_then_says_that_none_is_left() {
    let mock = Arc::new(MockChainEngineClient::new());
    mock.add_execution(execution("e-1", Ending::Success));
    mock.add_execution(execution("e-2", Ending::Error));
    let client: Arc<dyn ChainEngineClient> = mock.clone();

    assert_eq!(execute(&*client).await.unwrap().execution_id, "e-1");
    assert_eq!(execute(&*client).await.unwrap().execution_id, "e-2");
    let error = execute(&*client).await.unwrap_err();
    assert!(error.to_string().contains("execute_chain"), "{error}");

    let calls = mock.execute_chain.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[0].input, "in");
    let chain = ChainIdentifier::ChainId("c-1".to_owned());
    assert_eq!(calls[0].chain_identifier, Some(chain));
}

#[tokio::test]
async fn a_chain_engine_tells_the_status_of_what_was_added_and_of_nothing_else() {
    let mock = MockChainEngineClient::new();
    mock.add_execution(execution("e-1", Ending::Error));
    let found = mock.get_chain_status("e-1").await.unwrap();
    assert_eq!(found.status(), Ending::Error);
    assert_eq!(found.error.unwrap().code, "MODEL_FAILED");
    assert_eq!((found.completed_steps, found.total_steps), (1, 1));
    assert_eq!(found.update_time, Some(at(11, 500_000_000)));

    let error = mock.get_chain_status("e-2").await.unwrap_err();
    assert_eq!(status(error).code(), Code::NotFound);
    let error = mock.cancel_chain_execution("e-2").await.unwrap_err();
    assert_eq!(status(error).code(), Code::NotFound);
}

#[tokio::test]
async fn a_chain_engine_cancels_what_is_in_progress_once_and_what_has_ended_never() {
    let mock = MockChainEngineClient::new();
    mock.add_execution(execution("running", Ending::InProgress))
        .add_execution(execution("done", Ending::Success));
    let running = mock.get_chain_status("running").await.unwrap();
    assert_eq!(running.current_step_id, "s-1");
    assert_eq!((running.completed_steps, running.total_steps), (0, 1));

    assert!(
        mock.cancel_chain_execution("running")
            .await
            .unwrap()
            .success
    );
    let cancelled = mock.get_chain_status("running").await.unwrap();
    assert_eq!(cancelled.status(), Ending::Cancelled);
    assert!(
        !mock
            .cancel_chain_execution("running")
            .await
            .unwrap()
            .success
    );
    assert!(!mock.cancel_chain_execution("done").await.unwrap().success);
}

#[tokio::test]
async fn a_chain_engine_streams_the_events_that_fit_an_execution() {
    let mock = MockChainEngineClient::new();
    mock.add_execution(execution("e-1", Ending::Success))
        .add_execution(execution("e-2", Ending::Error))
        .add_execution(execution("e-3", Ending::InProgress));

    let done = stream(&mock).await;
    let types: Vec<_> = done.iter().map(|event| event.r#type()).collect();
    let expected = [
        EventType::StepStarted,
        EventType::StepCompleted,
        EventType::ChainCompleted,
    ];
    assert_eq!(types, expected);
    assert!(done.iter().all(|event| event.execution_id == "e-1"));
    let Some(Data::ChainCompleted(end)) = &done[2].data else {
        panic!("{:?}", done[2]);
    };
    assert_eq!(end.output, "output of e-1");
    assert_eq!((end.total_tokens, end.execution_time_ms), (12, 1500));

    let failed = stream(&mock).await;
    let Some(Data::ChainFailed(end)) = &failed[2].data else {
        panic!("{:?}", failed[2]);
    };
    assert_eq!(end.error.as_ref().unwrap().code, "MODEL_FAILED");
    assert_eq!(failed[1].r#type(), EventType::StepFailed);

    let running = stream(&mock).await;
    let types: Vec<_> = running.iter().map(|event| event.r#type()).collect();
    assert_eq!(types, [EventType::StepStarted]);
}

#[tokio::test]
async fn any_method_of_any_mock_answers_as_it_is_programmed() {
    let mock = Arc::new(MockMemoryClient::new());
    mock.get_conversation
        .fail_once(Status::unavailable("down").into())
        .respond_with(|request| {
            Ok(GetConversationResponse {
                status: request.conversation_id.len() as i32,
                ..Default::default()
            })
        });
    let client: Arc<dyn MemoryClient> = mock.clone();
    let request = GetConversationRequest {
        conversation_id: "abc".to_owned(),
        ..Default::default()
    };
    let error = client.get_conversation(request.clone()).await.unwrap_err();
    assert_eq!(status(error).code(), Code::Unavailable);
    let answer = client.get_conversation(request.clone()).await.unwrap();
    assert_eq!(answer.status, 3);
    assert_eq!(mock.get_conversation.calls(), [request.clone(), request]);

    let error = client.get_history(Default::default()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("MockMemoryClient::get_history"), "{text}");
}

#[tokio::test]
async fn a_programmed_stream_ends_after_its_first_error() {
    let mock = MockRouterClient::new();
    let piece = || Ok(RouteRequestStreamResponse::default());
    let items = vec![piece(), Err(Status::unavailable("cut")), piece()];
    mock.stream_route_request.respond(items);
    let mut pieces = mock.stream_route_request(Default::default()).await.unwrap();
    assert!(pieces.try_next().await.unwrap().is_some());
    assert_eq!(pieces.try_next().await.unwrap_err().message(), "cut");
    assert!(pieces.try_next().await.unwrap().is_none());
}
