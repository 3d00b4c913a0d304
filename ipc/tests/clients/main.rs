//! The clients of the services, against a real server and in place of one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod mocks;
mod resilient;
#[path = "../secure_grpc/support.rs"]
#[allow(dead_code, reason = "another test needs the rest of it")]
mod secure;
mod support;

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use intellirouter::IpcError;
use intellirouter::clients::{
    ChainEngineClient, GrpcChainEngineClient, GrpcRagPersonaIntegrationClient, GrpcRouterClient,
    RagPersonaIntegrationClient, RouterClient,
};
use intellirouter::generated::intellirouter::chain_engine::v1::chain_engine_client;
use intellirouter::generated::intellirouter::chain_engine::v1::{Chain, EventType};
use intellirouter::generated::intellirouter::model_registry::v1::{
    ChatCompletionRequest, RouteRequestRequest,
};
use intellirouter::security::{SecureChannel, SecureGrpcClientBuilder, SecureGrpcServerBuilder};
use support::{Running, rich_error};
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn status(error: IpcError) -> Status {
    match error {
        IpcError::Status(status) => status,
        other => panic!("{other:?} is no status"),
    }
}

fn assert_is_rich(got: &Status) {
    let sent = rich_error();
    assert_eq!((got.code(), got.message()), (sent.code(), sent.message()));
    assert_eq!(got.details(), sent.details());
    let retry = got.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(7)));
    assert_eq!(got.metadata().get("x-request-id").unwrap(), "42");
}

#[tokio::test]
async fn the_arguments_of_a_chain_reach_the_server_as_the_contract_says() {
    let server = Running::start().await;
    let client = GrpcChainEngineClient::new(server.url()).await.unwrap();
    let variables = HashMap::from([("name".to_owned(), "value".to_owned())]);

    let answer = client
        .execute_chain(
            Some("c-1".to_owned()),
            None,
            "hello".to_owned(),
            variables,
            true,
            Some(9),
        )
        .await
        .unwrap();
    assert_eq!(answer.execution_id, "e-1");
    let expected = r#"stored c-1, hello, [("name", "value")], true, 9 s"#;
    assert_eq!(answer.output, expected);

    let chain = Chain {
        id: "c-2".to_owned(),
        ..Default::default()
    };
    let answer = client
        .execute_chain(
            None,
            Some(chain),
            String::new(),
            HashMap::new(),
            false,
            None,
        )
        .await
        .unwrap();
    assert_eq!(answer.output, "given c-2, , [], false, 0 s");
    assert!(client.cancel_chain_execution("e-1").await.unwrap().success);
}

#[tokio::test]
async fn a_chain_that_is_named_twice_or_not_at_all_is_refused_before_it_is_sent() {
    let server = Running::start().await;
    let client = GrpcChainEngineClient::new(server.url()).await.unwrap();
    for (id, chain) in [
        (None, None),
        (Some("c-1".to_owned()), Some(Chain::default())),
    ] {
        let error = client
            .execute_chain(id, chain, String::new(), HashMap::new(), false, None)
            .await
            .unwrap_err();
        assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
    }
    assert_eq!(server.script.calls(), 0);
}

#[tokio::test]
async fn an_error_of_the_server_comes_back_with_code_message_details_and_metadata() {
    let server = Running::start().await;
    let client = GrpcChainEngineClient::new(server.url()).await.unwrap();
    let error = client.get_chain_status("e-404").await.unwrap_err();
    assert_is_rich(&status(error));
}

#[tokio::test]
async fn a_stream_gives_its_events_in_order_and_ends() {
    let server = Running::start().await;
    let client = GrpcChainEngineClient::new(server.url()).await.unwrap();
    let id = Some("c-1".to_owned());
    let events = client
        .stream_chain_execution(id, None, String::new(), HashMap::new(), None)
        .await
        .unwrap();
    let events: Vec<_> = events
        .map_ok(|event| event.r#type())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(events, [EventType::StepStarted, EventType::ChainCompleted]);
}

#[tokio::test]
async fn an_error_within_a_stream_comes_after_what_was_sent_and_keeps_its_details() {
    let server = Running::start().await;
    let client = GrpcChainEngineClient::new(server.url()).await.unwrap();
    let (id, input) = (Some("c-1".to_owned()), "not found".to_owned());
    let mut events = client
        .stream_chain_execution(id, None, input, HashMap::new(), None)
        .await
        .unwrap();
    let first = events.try_next().await.unwrap().unwrap();
    assert_eq!(first.r#type(), EventType::StepStarted);
    assert_is_rich(&events.try_next().await.unwrap_err());
    assert!(events.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn the_router_answers_whole_and_piece_by_piece() {
    let server = Running::start().await;
    let client = GrpcRouterClient::new(server.url()).await.unwrap();
    let request = RouteRequestRequest {
        request: Some(ChatCompletionRequest {
            model: "m-1".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = client.route_request(request.clone()).await.unwrap();
    assert_eq!(answer.response.unwrap().model, "m-1");

    let pieces = client.stream_route_request(request).await.unwrap();
    let pieces: Vec<_> = pieces
        .map_ok(|piece| piece.done)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(pieces, [false, true]);
}

#[tokio::test]
async fn without_a_policy_no_deadline_is_sent() {
    let server = Running::start().await;
    let client = GrpcRouterClient::new(server.url()).await.unwrap();
    client
        .get_routing_strategies(Default::default())
        .await
        .unwrap();
    assert_eq!(server.script.timeouts(), [None]);
}

#[tokio::test]
async fn new_does_not_take_https_and_names_the_builder() {
    for url in ["https://localhost:1", "HTTPS://localhost:1"] {
        let error = GrpcRouterClient::new(url).await.unwrap_err();
        assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("SecureGrpcClientBuilder"), "{text}");
    }
    let error = GrpcRouterClient::new("localhost:1").await.unwrap_err();
    assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_transport_error_worth_a_retry() {
    let server = Running::start().await;
    let url = server.url();
    server.stop().await;
    let error = GrpcRouterClient::new(url).await.unwrap_err();
    assert!(matches!(error, IpcError::Transport(_)), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn the_secure_builder_makes_a_client_with_mutual_tls_and_a_token() {
    let pki = secure::Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .with_jwt(secure::jwt(), vec!["reader".to_owned()]);
    let server = secure::Running::start(&builder).await;
    let url = format!("https://{}", server.address);
    let client = SecureGrpcClientBuilder::<GrpcRagPersonaIntegrationClient>::new("localhost")
        .with_tls(pki.tls("client"))
        .with_jwt(
            secure::jwt(),
            "memory".to_owned(),
            vec!["reader".to_owned()],
        )
        .build(url)
        .await
        .unwrap();

    let answer = client
        .augment_persona_request(Default::default())
        .await
        .unwrap();
    assert_eq!(answer.augmented_request, "memory, 1 certificates");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_generated_client_with_settings_of_its_own_can_stand_below() {
    let server = Running::start().await;
    let generated =
        SecureGrpcClientBuilder::<chain_engine_client::ChainEngineClient<SecureChannel>>::new("")
            .allow_plaintext()
            .build(server.url())
            .await
            .unwrap()
            .max_decoding_message_size(4);
    let client = GrpcChainEngineClient::from(generated);
    assert_eq!(client.get_chain_status("").await.unwrap().execution_id, "");
    let error = client.get_chain_status("e-123456").await.unwrap_err();
    assert_eq!(status(error).code(), Code::OutOfRange);
}
