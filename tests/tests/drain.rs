//! The gateway's own streams end in time: at the caller's deadline and when
//! the gateway stops.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::client::{Call, Connection, in_time, read};
use intellirouter_tests::events::PATTERN;
use intellirouter_tests::foreign::bearer;
use intellirouter_tests::grpc::{Status, frame};
use intellirouter_tests::web::{WAYS, Web, frames, web_status};
use intellirouter_tests::{Config, Gateway, Site};
use rustix::process::Signal;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SUBSCRIBE: &str = "/intellirouter.events.v1.EventService/Subscribe";

/// What a stream's method is asked: a subscription has channels.
fn question(path: &str) -> Vec<u8> {
    if path != SUBSCRIBE {
        return Vec::new();
    }
    let length = u8::try_from(PATTERN.len()).unwrap();
    [&[0x0a, length], PATTERN.as_bytes()].concat()
}

/// A gateway that would wait for calls longer than a test waits for it.
fn patient(site: &Site) -> Gateway {
    let limits = "[limits]\ndrain_timeout = \"120s\"\nhandshake_timeout = \"120s\"\n";
    site.gateway(&Config::default().events("").with_text(limits))
}

async fn begin(site: &Site, client: &mut Connection, path: &str, more: &[(&str, &str)]) -> Call {
    let bearer = bearer(site);
    let headers = [&[("authorization", bearer.as_str())], more].concat();
    let mut call = client.call(path, &headers).await;
    // The request side of a reflection stays open, as its clients keep it.
    let ends = path != REFLECTION;
    if ends {
        let message = frame(false, &question(path));
        call.send.send_data(message, ends).unwrap();
    }
    call
}

#[tokio::test]
async fn the_deadline_of_a_stream_of_the_gateways_own_ends_it() {
    let site = Site::new();
    let gateway = patient(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    for path in [SUBSCRIBE, WATCH, REFLECTION] {
        let call = begin(&site, &mut client, path, &[("grpc-timeout", "1S")]).await;
        let answer = call.answer().await;
        assert_eq!(answer.status().code, 4, "{path}: {:?}", answer.status());
    }
}

#[test]
fn the_deadline_of_a_stream_holds_for_pages_too() {
    let web = Web::new();
    for path in [SUBSCRIBE, WATCH] {
        for way in WAYS {
            let body = frame(false, &question(path));
            let answer = web.call(way, path, &body, &["-H", "grpc-timeout: 1S"]);
            let status = web_status(&frames(way, &answer));
            assert_eq!(status.code, 4, "{path}, {way:?}: {status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_gateway_ends_its_own_streams_with_unavailable_and_exits() {
    let site = Site::new();
    let mut gateway = patient(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut open = Vec::new();
    for path in [SUBSCRIBE, WATCH, REFLECTION] {
        let mut call = begin(&site, &mut client, path, &[]).await;
        let body = call.head().await.into_body();
        open.push((path, call, body));
    }
    gateway.interrupt();
    for (path, mut call, body) in open {
        let (_, trailers) = in_time("the end", read(body))
            .await
            .expect("a whole answer");
        let status = Status::read(&trailers.expect("trailers"));
        assert_eq!(status.code, 14, "{path}: {status:?}");
        // As gRPC clients do with a call that has its status.
        call.send.send_reset(h2::Reason::NO_ERROR);
    }
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_arrives_does_not_delay_the_exit() {
    let site = Site::new();
    let mut gateway = patient(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut calls = Vec::new();
    for path in [CHECK, WATCH] {
        calls.push(client.call(path, &[]).await);
    }
    in_time("the calls at the gateway", async {
        while gateway.figure("open_calls") < 2 {}
    })
    .await;
    gateway.interrupt();
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_has_sent_nothing_does_not_delay_the_exit() {
    let site = Site::new();
    let mut gateway = patient(&site);
    let address = ("127.0.0.1", gateway.port);
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    in_time("the connection at the gateway", async {
        while gateway.figure("connections") == 0 {}
    })
    .await;
    gateway.interrupt();
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_does_not_delay_the_exit() {
    let site = Site::new();
    let mut gateway = patient(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(client.unary(CHECK, &[], b"").await.status().code, 0);
    gateway.interrupt();
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_is_logged_and_cuts_nothing() {
    let site = Site::new();
    let mut gateway = patient(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(client.unary(CHECK, &[], b"").await.status().code, 0);
    gateway.process.signal(Signal::HUP);
    gateway
        .process
        .error_line("SIGHUP", |line| line.contains("SIGHUP").then_some(()));
    assert_eq!(client.unary(CHECK, &[], b"").await.status().code, 0);
    client.close().await;
    gateway.interrupt();
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
}
