//! Calling services through their traits: gRPC clients, mocks, streams, and clients that retry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use intellirouter::clients::{
    ChainEngineClient, GrpcRagPersonaIntegrationClient, MockChainEngineClient,
    MockRagPersonaIntegrationClient, RagPersonaIntegrationClient,
    ResilientRagPersonaIntegrationClient,
};
use intellirouter::generated::intellirouter::chain_engine::v1::chain_execution_event::Data;
use intellirouter::generated::intellirouter::chain_engine::v1::{
    ChainExecutionEvent, ChainExecutionResponse, TokenGeneratedEvent,
};
use intellirouter::generated::intellirouter::common::v1::Status as Ending;
use intellirouter::generated::intellirouter::rag_manager::v1::AugmentPersonaRequestResponse;
use intellirouter::resilience::{BreakerSettings, Resilience, ResiliencePolicy};
use intellirouter::security::SecureGrpcClientBuilder;
use intellirouter::{IpcError, IpcResult};
use tokio::sync::oneshot;
use tonic::Status;

use super::secure::bind;
use super::service::{personas, question};
use super::settings::{Settings, example};
use super::support::{Certs, FREE_PORT, soon};

// guide: depend-on-trait
pub struct Summarizer {
    pub chains: Arc<dyn ChainEngineClient>,
}

impl Summarizer {
    pub async fn summarize(&self, text: String) -> IpcResult<String> {
        let chain = Some("summarize".to_owned());
        let variables = HashMap::new();
        let done = self
            .chains
            .execute_chain(chain, None, text, variables, false, Some(60))
            .await?;
        // The call was served; how the chain ended stands in its answer.
        match done.status() {
            Ending::Success => Ok(done.output),
            ended => Err(IpcError::Internal(format!(
                "the chain ended as {}",
                ended.as_str_name()
            ))),
        }
    }
}
// guide: end

// guide: mock-chain
#[tokio::test]
async fn a_summary_is_what_the_chain_gave() {
    let chains = Arc::new(MockChainEngineClient::new());
    let mut execution = ChainExecutionResponse {
        execution_id: "e1".into(),
        output: "short".into(),
        ..Default::default()
    };
    execution.set_status(Ending::Success);
    chains.add_execution(execution);

    let summarizer = Summarizer {
        chains: chains.clone(),
    };
    let summary = summarizer.summarize("long".into()).await.unwrap();

    assert_eq!(summary, "short");
    assert_eq!(chains.execute_chain.calls()[0].input, "long");
}
// guide: end

#[tokio::test]
async fn a_chain_that_failed_is_an_error_of_the_author() {
    let chains = Arc::new(MockChainEngineClient::new());
    let mut execution = ChainExecutionResponse::default();
    execution.set_status(Ending::Timeout);
    chains.add_execution(execution);
    let summarizer = Summarizer { chains };
    let error = summarizer.summarize("long".into()).await.unwrap_err();
    assert!(error.to_string().contains("STATUS_TIMEOUT"), "{error}");
}

#[tokio::test]
async fn a_mock_answers_as_it_is_told() {
    // guide: mock
    let personas = MockRagPersonaIntegrationClient::new();
    let asked = &personas.augment_persona_request;
    // One call each, in this order ...
    asked.respond(AugmentPersonaRequestResponse::default());
    asked.fail_once(IpcError::Timeout("too slow".into()));
    // ... and then every call.
    asked.respond_with(|request| {
        Ok(AugmentPersonaRequestResponse {
            augmented_request: request.request.to_uppercase(),
            ..Default::default()
        })
    });
    // guide: end
    let ask = || personas.augment_persona_request(question("p1"));
    assert_eq!(ask().await.unwrap().augmented_request, "");
    assert!(matches!(ask().await, Err(IpcError::Timeout(_))));
    assert_eq!(ask().await.unwrap().augmented_request, "WHY?");
}

async fn streamed(chains: &dyn ChainEngineClient, text: String) -> IpcResult<String> {
    // guide: stream
    let chain = Some("summarize".to_owned());
    let mut events = chains
        .stream_chain_execution(chain, None, text, HashMap::new(), None)
        .await?;
    let mut summary = String::new();
    while let Some(event) = events.next().await {
        if let Some(Data::TokenGenerated(event)) = event?.data {
            summary.push_str(&event.token);
        }
    }
    // guide: end
    Ok(summary)
}

fn token(text: &str) -> ChainExecutionEvent {
    let token = TokenGeneratedEvent {
        step_id: "s1".to_owned(),
        token: text.to_owned(),
    };
    ChainExecutionEvent {
        data: Some(Data::TokenGenerated(token)),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_or_to_its_error() {
    let chains = MockChainEngineClient::new();
    let stream = &chains.stream_chain_execution;
    stream.respond(vec![Ok(token("sh")), Ok(token("ort"))]);
    stream.respond(vec![Ok(token("sh")), Err(Status::unavailable("cut"))]);
    let summary = streamed(&chains, "long".to_owned()).await;
    assert_eq!(summary.unwrap(), "short");
    let cut = streamed(&chains, "long".to_owned()).await;
    assert!(matches!(cut, Err(IpcError::Status(_))), "{cut:?}");
}

async fn connect(
    settings: &Settings,
    port: u16,
) -> IpcResult<Arc<dyn RagPersonaIntegrationClient>> {
    // guide: grpc-client
    let personas = SecureGrpcClientBuilder::<GrpcRagPersonaIntegrationClient>::new("localhost")
        .with_tls(settings.tls())
        .with_jwt(
            settings.jwt()?,
            "chain_engine".into(),
            vec!["service".into()],
        )
        .build(format!("https://localhost:{port}"))
        .await?;
    let personas: Arc<dyn RagPersonaIntegrationClient> = Arc::new(personas);
    // guide: end
    Ok(personas)
}

fn settings(certs: &Certs) -> Settings {
    let mut settings = example(certs);
    settings.listen = FREE_PORT;
    settings
}

// guide: integration-test
#[tokio::test]
async fn a_request_is_put_into_the_words_of_its_persona() {
    let certs = Certs::new();
    let settings = settings(&certs);
    let server = bind(&settings, personas()).await.unwrap();
    // Port 0 in the settings: the system picked a free one, and it listens already.
    let port = server.local_addr().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve_with_shutdown(async {
        let _ = stopped.await;
    }));

    let client = connect(&settings, port).await.unwrap();
    let answer = client.augment_persona_request(question("p1")).await;

    let text = answer.unwrap().augmented_request;
    assert_eq!(text, "Be brief.\nchain_engine asks: Why?");
    drop(stop);
    serving.await.unwrap().unwrap();
}
// guide: end

fn resilient(
    personas: Arc<dyn RagPersonaIntegrationClient>,
) -> IpcResult<Arc<dyn RagPersonaIntegrationClient>> {
    // guide: resilient
    let policy = ResiliencePolicy::new(
        "personas",
        Resilience {
            total_timeout: Duration::from_secs(5),
            breaker: BreakerSettings {
                consecutive_failures: 3,
                ..Default::default()
            },
            ..Default::default()
        },
    )?;
    let personas: Arc<dyn RagPersonaIntegrationClient> = Arc::new(
        ResilientRagPersonaIntegrationClient::new(personas, Arc::new(policy)),
    );
    // guide: end
    Ok(personas)
}

#[tokio::test(start_paused = true)]
async fn a_resilient_client_tries_again_and_stops_calling_who_keeps_failing() {
    let mock = Arc::new(MockRagPersonaIntegrationClient::new());
    let asked = &mock.augment_persona_request;
    asked.fail_once(Status::unavailable("restarting").into());
    asked.respond(AugmentPersonaRequestResponse::default());
    asked.fail(Status::unavailable("down"));
    let client = resilient(mock.clone()).unwrap();

    soon(client.augment_persona_request(question("p1")))
        .await
        .unwrap();
    assert_eq!(asked.call_count(), 2);
    for _ in 0..5 {
        let failed = soon(client.augment_persona_request(question("p1"))).await;
        assert!(failed.unwrap_err().is_retryable());
    }
    assert_eq!(asked.call_count(), 2 + 3, "the breaker did not open");
}
