//! How many calls, how long, and what a handler's panic costs others.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use intellirouter::generated::intellirouter::rag_manager::v1::AugmentPersonaRequestRequest;
use intellirouter::security::SecureGrpcServerBuilder;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use crate::player::{self, PUBLISH, Player, SUBSCRIBE};
use crate::raw::{RawClient, some_data, status_of};
use crate::support::*;

const OK: &str = "0";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTIONS: usize = 64;
const AUGMENT: &str =
    "/intellirouter.rag_manager.v1.RAGPersonaIntegrationService/AugmentPersonaRequest";

fn open() -> SecureGrpcServerBuilder {
    SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .allow_unauthenticated()
}

fn code(status: Code) -> String {
    (status as i32).to_string()
}

async fn serve(builder: &SecureGrpcServerBuilder) -> (Player, Served, RawClient) {
    let player = Player::default();
    let served = Served::start(player.router(builder)).await;
    let client = RawClient::connect(served.address).await;
    (player, served, client)
}

#[tokio::test]
async fn one_call_over_the_limit_is_refused_at_once_and_told_when_to_come_back() {
    let (player, _served, mut client) = serve(&open().max_calls(1)).await;
    let mut other = client.clone();
    let waiting =
        tokio::spawn(async move { other.call(PUBLISH, &[], player::publish("waits")).await });
    soon(player.entered.notified()).await;

    let refused = client.call(PUBLISH, &[], player::publish("works")).await;
    let details = refused.headers().get("grpc-status-details-bin").unwrap();
    assert!(!details.is_empty());
    assert_eq!(status_of(refused).await, code(Code::ResourceExhausted));
    // Health has places of its own.
    let request = HealthCheckRequest::default();
    assert_eq!(client.status(HEALTH_CHECK, &[], request).await, OK);

    waiting.abort();
    soon(player.dropped.notified()).await;
    eventually(async || {
        let status = client.status(PUBLISH, &[], player::publish("works"));
        (status.await == OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_holds_its_place_until_it_ends() {
    let (player, _served, mut client) = serve(&open().max_calls(1)).await;
    let mut stream = client
        .call(SUBSCRIBE, &[], player::subscribe("stays"))
        .await;
    some_data(&mut stream).await;

    let status = client.status(PUBLISH, &[], player::publish("works")).await;
    assert_eq!(status, code(Code::ResourceExhausted));

    drop(stream);
    soon(player.dropped.notified()).await;
    let status = client.status(PUBLISH, &[], player::publish("works")).await;
    assert_eq!(status, OK);
    // One that ends by itself gives it back as well.
    for _ in 0..3 {
        let status = client.status(SUBSCRIBE, &[], player::subscribe("ends"));
        assert_eq!(status.await, OK);
    }
}

#[tokio::test]
async fn a_call_ends_when_its_callers_time_is_up_and_its_handler_is_dropped() {
    let (player, _served, mut client) = serve(&open()).await;
    let waiting = tokio::spawn(async move {
        let timeout = [("grpc-timeout", "20S")];
        client
            .status(PUBLISH, &timeout, player::publish("waits"))
            .await
    });
    soon(player.entered.notified()).await;
    tokio::time::pause();
    let before = Instant::now();

    assert_eq!(soon(waiting).await.unwrap(), code(Code::DeadlineExceeded));
    soon(player.dropped.notified()).await;
    assert!((19..=20).contains(&before.elapsed().as_secs()));
}

#[tokio::test]
async fn a_stream_ends_when_its_callers_time_is_up_and_is_dropped() {
    let (player, _served, mut client) = serve(&open()).await;
    let timeout = [("grpc-timeout", "20S")];
    let mut stream = client
        .call(SUBSCRIBE, &timeout, player::subscribe("stays"))
        .await;
    some_data(&mut stream).await;
    tokio::time::pause();
    let before = Instant::now();

    assert_eq!(soon(status_of(stream)).await, code(Code::DeadlineExceeded));
    soon(player.dropped.notified()).await;
    assert!((19..=20).contains(&before.elapsed().as_secs()));
}

#[tokio::test]
async fn a_stream_whose_caller_does_not_read_is_dropped_when_its_time_is_up() {
    let player = Player::default();
    let served = Served::start(player.router(&open().max_calls(1))).await;
    let mut client = RawClient::connect_with(served.address, 16 * 1024).await;
    let timeout = [("grpc-timeout", "20S")];
    let _unread = client
        .call(SUBSCRIBE, &timeout, player::subscribe("floods"))
        .await;
    tokio::time::pause();
    let before = Instant::now();

    soon(player.dropped.notified()).await;

    assert!((19..=20).contains(&before.elapsed().as_secs()));
    let status = client.status(PUBLISH, &[], player::publish("works")).await;
    assert_eq!(status, OK, "its place is free again");
}

#[tokio::test]
async fn the_methods_own_limit_holds_where_the_caller_sets_none_or_a_longer_one() {
    let builder = open().with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    for headers in [&[][..], &[("grpc-timeout", "1H")]] {
        let (player, _served, mut client) = serve(&builder).await;
        let entered = player.entered.clone();
        let waiting = tokio::spawn(async move {
            client
                .status(PUBLISH, headers, player::publish("waits"))
                .await
        });
        soon(entered.notified()).await;
        tokio::time::pause();
        let before = Instant::now();
        assert_eq!(soon(waiting).await.unwrap(), code(Code::DeadlineExceeded));
        assert!((29..=30).contains(&before.elapsed().as_secs()));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_malformed_deadline_is_an_invalid_argument() {
    let (_player, _served, mut client) = serve(&open()).await;
    for bad in ["", "5", "5x", "123456789S"] {
        let headers = [("grpc-timeout", bad)];
        let status = client.status(PUBLISH, &headers, player::publish("works"));
        assert_eq!(status.await, code(Code::InvalidArgument), "{bad:?}");
    }
}

#[tokio::test]
async fn a_message_that_can_not_be_read_is_the_callers_fault() {
    let (_player, _served, mut client) = serve(&open()).await;
    // A field cut short, a text that is not UTF-8, no field at all.
    for garbage in [&b"\x0a\x05ab"[..], b"\x0a\x02\xff\xfe", b"\xff\xff\xff"] {
        for path in [PUBLISH, SUBSCRIBE] {
            let answer = client.call_with(path, &[], garbage).await;
            let status = status_of(answer).await;
            assert_eq!(status, code(Code::InvalidArgument), "{path} {garbage:?}");
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_exhausts_a_resource() {
    let (_player, _served, mut client) = serve(&open()).await;
    let answer = client.call_with(PUBLISH, &[], &vec![0; 5 << 20]).await;
    assert_eq!(status_of(answer).await, code(Code::ResourceExhausted));
}

#[tokio::test]
async fn two_deadlines_are_an_invalid_argument_and_no_choice_between_them() {
    let (_player, _served, mut client) = serve(&open()).await;
    for second in ["1m", "1H", "x"] {
        let headers = [("grpc-timeout", "1H"), ("grpc-timeout", second)];
        let status = client.status(PUBLISH, &headers, player::publish("works"));
        assert_eq!(status.await, code(Code::InvalidArgument), "{second}");
    }
}

#[tokio::test]
async fn a_call_without_any_time_left_is_late_and_never_reaches_its_handler() {
    let server = Running::start(&open()).await;
    let mut client = RawClient::connect(server.address).await;
    for none in ["0n", "0S", "00000000H"] {
        let timeout = [("grpc-timeout", none)];
        let request = AugmentPersonaRequestRequest::default();
        let status = client.status(AUGMENT, &timeout, request).await;
        assert_eq!(status, code(Code::DeadlineExceeded), "{none}");
    }
    assert_eq!(server.calls.load(Ordering::SeqCst), 0);
    let request = AugmentPersonaRequestRequest::default();
    assert_eq!(client.status(AUGMENT, &[], request).await, OK);
    assert_eq!(server.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn reflection_takes_no_place_of_a_call() {
    let builder = open()
        .max_calls(1)
        .with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    let (_player, _served, mut client) = serve(&builder).await;
    let mut streams = Vec::new();
    for _ in 0..REFLECTIONS {
        let stream = client.call_without_message(REFLECT, &[]).await;
        assert!(!stream.headers().contains_key("grpc-status"));
        streams.push(stream);
    }
    let refused = client.call_without_message(REFLECT, &[]).await;
    assert_eq!(status_of(refused).await, code(Code::ResourceExhausted));

    let status = client.status(PUBLISH, &[], player::publish("works")).await;
    assert_eq!(status, OK);
}

#[tokio::test]
async fn one_connection_can_take_no_more_than_a_quarter_of_the_places() {
    for (calls, streams) in [(1024, 256), (2000, 500), (1 << 20, 1024), (1, 100)] {
        let served = Served::start(Player::default().router(&open().max_calls(calls))).await;
        assert_eq!(max_streams(served.address).await, streams, "{calls}");
    }
}

/// What the server's first frame says of SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, 6.5).
async fn max_streams(address: SocketAddr) -> u32 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let [_, high, low, kind, ..] = head;
    assert_eq!(kind, 4, "the first frame is SETTINGS");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    stream.read_exact(&mut settings).await.unwrap();
    let found = settings.chunks(6).find(|setting| setting[..2] == [0, 3]);
    u32::from_be_bytes(found.unwrap()[2..].try_into().unwrap())
}

#[tokio::test]
async fn a_panic_is_internal_for_its_call_and_nothing_for_others_of_the_connection() {
    let (player, served, mut client) = serve(&open()).await;
    let mut other = client.clone();
    let mut stream = other.call(SUBSCRIBE, &[], player::subscribe("stays")).await;
    some_data(&mut stream).await;

    for _ in 0..2 {
        let call = client.status(PUBLISH, &[], player::publish("panics"));
        assert_eq!(call.await, code(Code::Internal));
        let panics = client.status(SUBSCRIBE, &[], player::subscribe("panics"));
        assert_eq!(panics.await, code(Code::Internal));
    }

    // The stream and its connection live, and so does the server.
    let more = tokio::time::timeout(Duration::ZERO, some_data(&mut stream)).await;
    assert!(more.is_err(), "still open, with nothing to say");
    assert_eq!(
        client.status(PUBLISH, &[], player::publish("works")).await,
        OK
    );
    drop(stream);
    soon(player.dropped.notified()).await;
    served.stop().await.unwrap();
}

#[test]
fn bounds_that_make_no_sense_are_refused_when_the_server_is_built() {
    let none = open().max_calls(0);
    let error = none.build::<Player>().unwrap_err();
    assert!(error.to_string().contains("max_calls"), "{error}");
    let pki = Pki::new();
    let often = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .reload_tls_every(Duration::ZERO)
        .allow_unauthenticated();
    let error = often.build::<Player>().unwrap_err();
    assert!(error.to_string().contains("reload_tls_every"), "{error}");
}
