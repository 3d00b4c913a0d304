//! The gateway's own streams end in time: at the caller's deadline and when
//! the gateway stops.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use http::Request;
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Call, Connection, in_time, read};
use intellirouter_tests::curl::stream;
use intellirouter_tests::events::{Events, PATTERN};
use intellirouter_tests::foreign::{PATH, bearer, endless};
use intellirouter_tests::grpc::{Status, frame};
use intellirouter_tests::reload::{TAKEN, reload};
use intellirouter_tests::web::{WAYS, Web, frames, web_status};
use intellirouter_tests::{Config, Gateway, Process, Site};
use rustix::process::Signal;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SUBSCRIBE: &str = "/intellirouter.events.v1.EventService/Subscribe";
const PUBLISH: &str = "/intellirouter.events.v1.EventService/Publish";

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

/// Of a stream whose client gives no credit: what it gets when the gateway stops
/// and it reads on.
async fn stopped_while_behind(payload: &str, times: usize) {
    let mut events = Events::new("");
    let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
    let request = Request::get(events.gateway.url(&Events::path(PATTERN)))
        .header("authorization", bearer(&events.site))
        .body(())
        .unwrap();
    let mut call = client.begin(request, true).await;
    let mut body = call.head().await.into_body();
    let open = in_time("ir.open", body.data()).await.unwrap().unwrap();
    for _ in 0..times {
        events.publish(payload);
    }
    let mut text = open.to_vec();
    while text.len() < 65_535 {
        let part = in_time("all there is room for", body.data()).await;
        text.extend(part.unwrap().unwrap());
    }
    events.gateway.interrupt();
    let credit = body.flow_control().release_capacity(text.len());
    credit.unwrap();
    let (rest, _) = in_time("the end", read(body))
        .await
        .expect("a whole answer");
    text.extend(rest);
    let text = String::from_utf8(text).unwrap();
    let frames: Vec<&str> = text.split_terminator("\n\n").collect();
    let [_, ref said @ .., end] = frames[..] else {
        panic!("an opening, events, an end: {} frames", frames.len());
    };
    let whole = said.iter().all(|event| event.ends_with(payload));
    assert!(whole && !said.is_empty(), "{} frames", frames.len());
    assert!(end.contains("event: ir.error"), "{end}");
    assert!(end.contains("draining"), "{end}");
    drop(client);
    assert_eq!(events.gateway.process.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_behind_with_its_events_hears_the_rest_of_the_one_begun_and_why_it_ends() {
    // The stream has room for 65,535 bytes.
    let of = |size| format!(r#"{{"text":"{}"}}"#, "x".repeat(size));
    stopped_while_behind(&of(200_000), 3).await;
    // So little is left over that the last word is read on too.
    stopped_while_behind(&of(65_600), 1).await;
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
async fn a_request_for_events_that_never_arrives_does_not_delay_the_exit_and_is_told() {
    let site = Site::new();
    let mut gateway = patient(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let mut calls = Vec::new();
    for path in [SUBSCRIBE, PUBLISH] {
        let headers = [("authorization", bearer.as_str())];
        let mut call = client.call(path, &headers).await;
        // The beginning of a message.
        call.send.send_data(vec![0, 0].into(), false).unwrap();
        calls.push((path, call));
    }
    in_time("the calls at the gateway", async {
        while gateway.figure("open_calls") < 2 {}
    })
    .await;
    let start = std::time::Instant::now();
    gateway.interrupt();
    for (path, call) in calls {
        let status = call.answer().await.status();
        assert_eq!(status.code, 14, "{path}: {status:?}");
    }
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
    // It would be waited for during 30 s otherwise.
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
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

/// A gateway that gives calls this long, in front of a backend that answers
/// with one message and then goes on without end.
async fn before_endless_streams(site: &Site, limits: &str) -> (Backend, Gateway) {
    let backend = Backend::start(site, endless).await;
    let config = Config::default()
        .events("")
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text(&format!("[limits]\n{limits}\n"));
    let gateway = site.gateway(&config);
    (backend, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_at_the_limit_is_cut_with_a_status_and_counted_and_the_exit_is_0() {
    let site = Site::new();
    let (_backend, mut gateway) = before_endless_streams(&site, "drain_timeout = \"1s\"").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut call = begin(&site, &mut client, PATH, &[]).await;
        let body = call.head().await.into_body();
        open.push((call, body));
    }
    gateway.process.signal(Signal::TERM);
    for (_call, body) in open {
        let (_, trailers) = in_time("the end", read(body))
            .await
            .expect("a whole answer");
        let status = Status::read(&trailers.expect("trailers"));
        assert_eq!(status.code, 14, "{status:?}");
        assert!(status.details.retry_info.is_some(), "{status:?}");
    }
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
    let output = gateway.process.output();
    assert!(output.contains("cut=5"), "{output}");
}

#[test]
fn a_page_is_told_in_its_own_dialect_when_its_call_is_cut() {
    let site = Site::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for version in ["--http2", "--http1.1"] {
        let limits = "drain_timeout = \"1s\"";
        let (_backend, mut gateway) = runtime.block_on(before_endless_streams(&site, limits));
        let token = format!("authorization: Bearer {}", site.token(&["tester"]));
        let kind = "content-type: application/grpc-web+proto";
        let body = format!("@{}", site.write("body", "\0\0\0\0\0").display());
        let args = [
            version,
            "-H",
            kind,
            "-H",
            &token,
            "--data-binary",
            &body,
            "-o",
            "-",
        ];
        let mut page = stream(&gateway, PATH, &args);
        runtime.block_on(in_time("the call at the gateway", async {
            while gateway.figure("open_calls") == 0 {}
        }));
        gateway.process.signal(Signal::TERM);
        page.line("the status", |line| {
            line.contains("grpc-status: 14").then_some(())
        });
        assert!(page.wait().success(), "{version}: {}", page.output());
        assert_eq!(gateway.process.wait().code(), Some(0), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ends_in_time_is_not_cut_and_none_is_counted() {
    let site = Site::new();
    let (_backend, mut gateway) = before_endless_streams(&site, "drain_timeout = \"120s\"").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut call = begin(&site, &mut client, PATH, &[("grpc-timeout", "2S")]).await;
    let body = call.head().await.into_body();
    gateway.process.signal(Signal::TERM);
    let (_, trailers) = in_time("the end", read(body))
        .await
        .expect("a whole answer");
    assert_eq!(Status::read(&trailers.unwrap()).code, 4);
    drop((call, client));
    assert_eq!(gateway.process.wait().code(), Some(0));
    let output = gateway.process.output();
    assert!(output.contains("cut=0"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_drains_by_post_and_a_web_page_can_not() {
    let site = Site::new();
    let mut gateway = patient(&site);
    let post = |more: &[&str]| {
        let url = format!("http://127.0.0.1:{}/drain", gateway.admin);
        let mut command = std::process::Command::new("curl");
        command.args([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "20",
        ]);
        command.args(more).arg(url);
        Process::run("curl", &command).1
    };
    assert_eq!(post(&[]), "404", "a GET does nothing");
    assert_eq!(
        post(&["-X", "POST", "-H", "origin: http://evil.example"]),
        "403"
    );
    assert_eq!(
        post(&["-X", "POST", "-H", "sec-fetch-site: cross-site"]),
        "403"
    );
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(client.unary(CHECK, &[], b"").await.status().code, 0);
    client.close().await;
    assert_eq!(post(&["-X", "POST"]), "202");
    assert_eq!(gateway.process.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_the_drain_delay_a_gateway_says_that_it_is_not_ready_and_serves_all_the_same() {
    let site = Site::new();
    let limits = "[limits]\ndrain_delay = \"600s\"\n";
    let mut gateway = site.gateway(&Config::default().with_text(limits));
    gateway.process.signal(Signal::TERM);
    gateway
        .process
        .error_line("draining", |line| line.contains("draining").then_some(()));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let health = client.unary(CHECK, &[], b"").await;
    assert_eq!(health.status().code, 0);
    // HealthCheckResponse.status = NOT_SERVING
    assert_eq!(health.body, [0, 0, 0, 0, 2, 0x08, 2]);
    let mut command = std::process::Command::new("curl");
    let url = format!("http://127.0.0.1:{}/readyz", gateway.admin);
    command.args(["-sS", "-w", "%{http_code}", "--max-time", "20", &url]);
    assert_eq!(Process::run("curl", &command).1, "draining\n503");
    // Asked once more: at once.
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_goaway_twice_so_that_no_call_is_lost_between() {
    let site = Site::new();
    let (_backend, mut gateway) = before_endless_streams(&site, "drain_timeout = \"2s\"").await;
    let mut command = std::process::Command::new(intellirouter_tests::here(".venv/bin/python"));
    command
        .arg(intellirouter_tests::here("clients/goaway_client.py"))
        .args(["--port", &gateway.port.to_string(), "--ca"])
        .arg(&gateway.ca)
        .args(["--token", &site.token(&["tester"]), "--path", PATH]);
    let mut client = Process::spawn("goaway_client", &command);
    client.line("a call", |line| (line == "open").then_some(()));
    gateway.process.signal(Signal::TERM);
    assert!(client.wait().success(), "{}", client.output());
    let seen = client.lines().join("\n");
    // The largest id first: everything is still taken; then the last taken.
    assert!(seen.contains("goaway 2147483647 0\ngoaway 1 0"), "{seen}");
    assert_eq!(gateway.process.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_while_draining_is_taken_and_neither_ends_nor_prolongs_the_drain() {
    let site = Site::new();
    let (backend, mut gateway) = before_endless_streams(&site, "drain_timeout = \"120s\"").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut call = begin(&site, &mut client, PATH, &[]).await;
    let mut body = call.head().await.into_body();
    gateway.process.signal(Signal::TERM);
    gateway
        .process
        .error_line("draining", |line| line.contains("draining").then_some(()));
    let changed = Config::default()
        .events("")
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text("[limits]\ndrain_timeout = \"600s\"\n");
    reload(&site, &gateway, &changed, TAKEN).await;
    assert_eq!(gateway.figure("draining"), 1);
    assert_eq!(gateway.figure("open_calls"), 1);
    assert!(in_time("a message", body.data()).await.unwrap().is_ok());
    // Asked once more: at once.
    gateway.process.signal(Signal::TERM);
    let (_, trailers) = in_time("the end", read(body))
        .await
        .expect("a whole answer");
    assert_eq!(Status::read(&trailers.unwrap()).code, 14);
    assert_eq!(gateway.process.wait().code(), Some(0));
    let output = gateway.process.output();
    assert!(output.contains("cut=1"), "{output}");
}
