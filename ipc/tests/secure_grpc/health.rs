//! What the server says of itself.

use intellirouter::security::{SecureChannel, SecureGrpcClientBuilder, SecureGrpcServerBuilder};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::player::{Player, SERVICE};
use crate::raw::{RawClient, status_of};
use crate::support::*;

const WATCHES: usize = 64;

fn builder() -> SecureGrpcServerBuilder {
    SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .with_jwt(jwt(), vec!["reader".to_owned()])
}

/// Shows no token.
async fn client(served: &Served) -> HealthClient<SecureChannel> {
    SecureGrpcClientBuilder::new("localhost")
        .allow_plaintext()
        .build(format!("http://{}", served.address))
        .await
        .unwrap()
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn check(client: &mut HealthClient<SecureChannel>, service: &str) -> Result<i32, Code> {
    let answer = client.check(of(service)).await;
    answer
        .map(|answer| answer.into_inner().status)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn the_server_and_each_service_are_serving_and_anybody_who_connects_may_ask() {
    let served = Served::start(Player::default().router(&builder())).await;
    let mut client = client(&served).await;
    for name in ["", SERVICE] {
        assert_eq!(
            check(&mut client, name).await,
            Ok(Serving as i32),
            "{name:?}"
        );
    }
    assert_eq!(check(&mut client, "a.Stranger").await, Err(Code::NotFound));
    drop(client);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn over_mutual_tls_health_asks_for_a_certificate_but_for_no_token() {
    let pki = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .with_jwt(jwt(), vec![])
        .with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    let served = Served::start(Player::default().router(&builder)).await;
    let mut client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .build_with(format!("https://{}", served.address), HealthClient::new)
        .await
        .unwrap();
    assert_eq!(check(&mut client, "").await, Ok(Serving as i32));
    drop(client);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn an_author_says_that_a_service_takes_no_calls_and_watchers_hear_it() {
    let router = Player::default().router(&builder());
    let health = router.health();
    let served = Served::start(router).await;
    let mut client = client(&served).await;
    let mut watch = client.watch(of(SERVICE)).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await, Some(Serving as i32));

    health.set_serving(SERVICE, false).unwrap();

    assert_eq!(next(&mut watch).await, Some(NotServing as i32));
    assert_eq!(check(&mut client, SERVICE).await, Ok(NotServing as i32));
    assert_eq!(check(&mut client, "").await, Ok(Serving as i32));
    assert!(health.set_serving("a.Stranger", true).is_err());
    drop((client, watch));
    served.stop().await.unwrap();
}

async fn next(watch: &mut tonic::Streaming<HealthCheckResponse>) -> Option<i32> {
    soon(watch.next()).await.map(|one| one.unwrap().status)
}

#[tokio::test]
async fn all_is_not_serving_once_the_drain_begins_and_watchers_do_not_hold_it_up() {
    let router = Player::default().router(&builder());
    let health = router.health();
    let served = Served::start(router).await;
    let mut client = client(&served).await;
    let mut all = client.watch(of("")).await.unwrap().into_inner();
    let mut one = client.watch(of(SERVICE)).await.unwrap().into_inner();
    for watch in [&mut all, &mut one] {
        assert_eq!(next(watch).await, Some(Serving as i32));
    }

    let stopping = tokio::spawn(served.stop());

    for watch in [&mut all, &mut one] {
        assert_eq!(next(watch).await, Some(NotServing as i32));
        assert_eq!(next(watch).await, None);
    }
    assert_eq!(health.is_serving(""), Some(false));
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn watchers_take_no_place_of_a_check() {
    let served = Served::start(Player::default().router(&builder())).await;
    let mut watcher = client(&served).await;
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let mut watch = watcher.watch(of("")).await.unwrap().into_inner();
        assert_eq!(next(&mut watch).await, Some(Serving as i32));
        watches.push(watch);
    }
    let refused = watcher.watch(of("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);

    let mut checker = client(&served).await;
    assert_eq!(check(&mut checker, "").await, Ok(Serving as i32));
    drop((watcher, watches, checker));
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_check_whose_question_does_not_come_ends_after_10_s() {
    let served = Served::start(Player::default().router(&builder())).await;
    let mut client = RawClient::connect(served.address).await;
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let answer = soon(client.call_without_message("/grpc.health.v1.Health/Check", &[])).await;
    let late = (Code::DeadlineExceeded as i32).to_string();
    assert_eq!(status_of(answer).await, late);
    assert_eq!(before.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_health_service_of_the_authors_own_is_served_instead() {
    let builder = builder();
    let (reporter, own) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("own", tonic_health::ServingStatus::NotServing)
        .await;
    let router = builder.add_service(Player::default().router(&builder), own);
    let served = Served::start(router).await;
    let mut client = client(&served).await;
    assert_eq!(check(&mut client, "own").await, Ok(NotServing as i32));
    drop(client);
    served.stop().await.unwrap();
}
