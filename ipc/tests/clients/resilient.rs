//! Clients with a policy, against a server that fails, stalls, or is not there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use intellirouter::clients::{
    ChainEngineClient, GrpcChainEngineClient, GrpcRouterClient, MockRouterClient,
    ResilientChainEngineClient, ResilientRouterClient, ResponseStream, RouterClient,
};
use intellirouter::generated::intellirouter::chain_engine::v1::ChainExecutionEvent;
use intellirouter::resilience::{
    BreakerSettings, BreakerState, OpenReason, Resilience, ResiliencePolicy,
};
use intellirouter::{IpcError, IpcResult};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::status;
use super::support::Running;

/// Long enough that only a fault of the test makes anyone wait for it.
const NEVER: Duration = Duration::from_secs(60);

fn settings() -> Resilience {
    Resilience {
        try_timeout: NEVER,
        total_timeout: NEVER,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(1),
        breaker: BreakerSettings {
            consecutive_failures: 3,
            open_min: Duration::from_millis(1),
            open_max: Duration::from_millis(1),
            ..BreakerSettings::default()
        },
        ..Resilience::default()
    }
}

fn policy(settings: Resilience) -> Arc<ResiliencePolicy> {
    Arc::new(ResiliencePolicy::new("chain_engine", settings).unwrap())
}

async fn client(server: &Running, policy: &Arc<ResiliencePolicy>) -> ResilientChainEngineClient {
    let grpc = GrpcChainEngineClient::new(server.url()).await.unwrap();
    ResilientChainEngineClient::new(Arc::new(grpc), Arc::clone(policy))
}

async fn execute(client: &dyn ChainEngineClient) -> IpcResult<String> {
    let id = Some("c-1".to_owned());
    let answer = client.execute_chain(id, None, String::new(), HashMap::new(), false, None);
    Ok(answer.await?.execution_id)
}

#[tokio::test]
async fn a_repeatable_call_gets_through_to_a_server_that_fails_twice() {
    let server = Running::start().await;
    let client = client(&server, &policy(settings())).await;
    server.script.fail_next(2);
    let answer = client.get_chain_status("e-1").await.unwrap();
    assert_eq!(answer.execution_id, "e-1");
    assert_eq!(server.script.calls(), 3);
}

#[tokio::test]
async fn a_call_that_may_not_happen_twice_reaches_the_server_once() {
    let server = Running::start().await;
    let client = client(&server, &policy(settings())).await;
    server.script.fail_next(1);
    let error = execute(&client).await.unwrap_err();
    assert_eq!(status(error).message(), "not yet");
    assert_eq!(server.script.calls(), 1);
    assert_eq!(execute(&client).await.unwrap(), "e-1");
}

#[tokio::test]
async fn a_server_that_stalls_is_told_the_deadline_and_that_nobody_waits_any_more() {
    let server = Running::start().await;
    let policy = policy(Resilience {
        try_timeout: Duration::from_millis(50),
        max_tries: 2,
        ..settings()
    });
    let client = client(&server, &policy).await;
    let mut given_up = server.script.stall();

    let error = client.get_chain_status("e-1").await.unwrap_err();
    assert!(matches!(error, IpcError::Timeout(_)), "{error:?}");
    for _ in 0..2 {
        given_up.recv().await.unwrap();
    }
    assert_eq!(policy.breaker().describe().failures, 2);
    let timeouts = server.script.timeouts();
    assert_eq!(timeouts.len(), 2);
    for timeout in timeouts {
        // Nanoseconds, the finest unit in which eight digits hold it.
        let nanos: u64 = timeout.unwrap().strip_suffix('n').unwrap().parse().unwrap();
        assert!((1..=50_000_000).contains(&nanos), "{nanos}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_opens_the_breaker_and_one_that_is_back_closes_it() {
    let server = Running::start().await;
    let policy = policy(Resilience {
        breaker: BreakerSettings {
            // Long enough to see the refusal.
            open_min: Duration::from_millis(500),
            open_max: Duration::from_millis(500),
            ..settings().breaker
        },
        ..settings()
    });
    let client = client(&server, &policy).await;
    assert_eq!(execute(&client).await.unwrap(), "e-1");
    let address = server.address;
    server.stop().await;

    // Nothing was sent, so even this call is tried again: three failures.
    let error = status(execute(&client).await.unwrap_err());
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(policy.breaker().describe().state, BreakerState::Open);
    let refusal = status(execute(&client).await.unwrap_err());
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(refusal.message().contains("circuit breaker chain_engine"));
    let wait = refusal.get_details_retry_info().unwrap().retry_delay;
    assert!(wait.unwrap() <= Duration::from_millis(500));

    let server = Running::on(TcpListener::bind(address).await.unwrap());
    let recovered = async {
        while let Err(error) = execute(&client).await {
            let info = status(error).get_details_retry_info();
            let told = info.and_then(|info| info.retry_delay);
            tokio::time::sleep(told.unwrap_or_default()).await;
        }
    };
    tokio::time::timeout(NEVER, recovered).await.unwrap();
    assert_eq!(policy.breaker().describe().state, BreakerState::Closed);
    assert_eq!(server.script.calls(), 1);
}

/// Reads what an HTTP/2 client sends until its first request has come.
async fn read_until_headers(connection: &mut TcpStream) {
    const HEADERS: u8 = 1;
    let mut preface = [0; 24];
    connection.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        connection.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_during_a_call_is_a_failure_that_only_repeatable_calls_survive() {
    for repeatable in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let policy = policy(settings());
        let (grpc, accepted) = tokio::join!(GrpcChainEngineClient::new(url), listener.accept());
        let client = ResilientChainEngineClient::new(Arc::new(grpc.unwrap()), policy.clone());
        let (mut connection, _) = accepted.unwrap();
        let cut = async {
            read_until_headers(&mut connection).await;
            drop(connection);
            Running::on(listener)
        };
        if repeatable {
            let (answer, server) = tokio::join!(client.get_chain_status("e-1"), cut);
            assert_eq!(answer.unwrap().execution_id, "e-1");
            assert_eq!(server.script.calls(), 1);
        } else {
            let (answer, server) = tokio::join!(execute(&client), cut);
            status(answer.unwrap_err());
            assert_eq!(policy.breaker().describe().failures, 1);
            assert_eq!(server.script.calls(), 0);
        }
    }
}

async fn stream(
    client: &dyn ChainEngineClient,
    input: &str,
) -> IpcResult<ResponseStream<ChainExecutionEvent>> {
    let (id, input) = (Some("c-1".to_owned()), input.to_owned());
    client
        .stream_chain_execution(id, None, input, HashMap::new(), None)
        .await
}

#[tokio::test]
async fn a_stream_is_told_the_deadline_of_the_whole_and_counts_as_it_ends() {
    let server = Running::start().await;
    let policy = policy(settings());
    let client = client(&server, &policy).await;

    let events: Vec<_> = stream(&client, "")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(events.len(), 2);
    let timeout = server.script.timeouts().remove(0).unwrap();
    // Milliseconds, the finest unit in which eight digits hold 300 s.
    let millis: u64 = timeout.strip_suffix('m').unwrap().parse().unwrap();
    assert!((240_000..=300_000).contains(&millis), "{millis}");
    let report = policy.breaker().describe();
    assert_eq!((report.calls, report.failures), (1, 0));

    let broken: Result<Vec<_>, _> = stream(&client, "break").await.unwrap().try_collect().await;
    assert_eq!(broken.unwrap_err().message(), "the engine is gone");
    let report = policy.breaker().describe();
    assert_eq!((report.calls, report.failures), (2, 1));

    server.script.fail_next(1);
    assert!(stream(&client, "").await.is_err());
    let report = policy.breaker().describe();
    assert_eq!((report.calls, report.failures), (3, 2));
}

#[tokio::test]
async fn streams_that_begin_well_and_break_off_open_the_breaker() {
    let server = Running::start().await;
    let policy = policy(settings());
    let client = client(&server, &policy).await;
    for _ in 0..3 {
        let broken: Result<Vec<_>, _> = stream(&client, "break").await.unwrap().try_collect().await;
        broken.unwrap_err();
    }
    let report = policy.breaker().describe();
    assert_eq!(report.state, BreakerState::Open);
    assert_eq!(report.reason, Some(OpenReason::ConsecutiveFailures(3)));
}

#[tokio::test]
async fn a_stream_that_stalls_ends_when_the_time_of_its_call_is_over() {
    let server = Running::start().await;
    let policy = policy(Resilience {
        work_timeout: Duration::from_millis(100),
        ..settings()
    });
    let client = client(&server, &policy).await;
    let mut events = stream(&client, "stall").await.unwrap();
    assert!(events.try_next().await.unwrap().is_some());
    let ended = tokio::time::timeout(NEVER, events.try_next());
    let status = ended.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("chain_engine"), "{status}");
    assert_eq!(policy.breaker().describe().failures, 1);
}

#[tokio::test]
async fn clients_of_one_policy_share_its_breaker() {
    let server = Running::start().await;
    let policy = policy(settings());
    let chains = client(&server, &policy).await;
    let grpc = GrpcRouterClient::new(server.url()).await.unwrap();
    let router = ResilientRouterClient::new(Arc::new(grpc), policy.clone());
    server.script.fail_next(2);
    execute(&chains).await.unwrap_err();
    router.route_request(Default::default()).await.unwrap_err();
    assert_eq!(policy.breaker().describe().consecutive_failures, 2);
}

#[tokio::test]
async fn a_mock_can_stand_below_a_policy() {
    let mock = Arc::new(MockRouterClient::new());
    mock.get_routing_strategies
        .fail_once(Status::unavailable("down").into())
        .respond(Default::default());
    let router = ResilientRouterClient::new(mock.clone(), policy(settings()));
    router
        .get_routing_strategies(Default::default())
        .await
        .unwrap();
    assert_eq!(mock.get_routing_strategies.call_count(), 2);
}
