//! Both ends of the connection to a backend are proved, and a connection that
//! breaks never looks like a clean end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use bytes::Bytes;
use h2::RecvStream;
use intellirouter_tests::backend::Backend;
use intellirouter_tests::certs::Authority;
use intellirouter_tests::client::{Answer, Connection, in_time, read};
use intellirouter_tests::curl::stream;
use intellirouter_tests::grpc::{Status, frame};
use intellirouter_tests::messages::OutputRequest;
use intellirouter_tests::service::Interop;
use intellirouter_tests::web::{web_frames, web_status};
use intellirouter_tests::{Config, Gateway, Site};
use prost::Message;

const EMPTY: &str = "/interop.testing.Interop/EmptyCall";
const STREAM: &str = "/interop.testing.Interop/StreamingOutputCall";

async fn call(site: &Site, gateway: &Gateway, path: &str) -> Answer {
    let bearer = format!("Bearer {}", site.token(&["tester"]));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    client.unary(path, &[("authorization", &bearer)], b"").await
}

#[tokio::test]
async fn a_backend_with_a_certificate_of_another_ca_is_unavailable() {
    let site = Site::new();
    let (cert, key) = Authority::new("another").issue(site.dir(), "imposter");
    let service = site.interop_with(&cert, &key);
    let gateway = site.gateway(&Config::interop(service.port));
    let status = call(&site, &gateway, EMPTY).await.status();
    assert_eq!(status.code, 14, "{status:?}");
    assert!(status.details.retry_info.is_some() && status.details.error_info.is_some());
    // What exactly is wrong is for the log, not for the caller.
    assert!(!status.message.contains("ertificate"), "{}", status.message);
    let log = gateway.process.error_line("reason", |line| {
        line.to_lowercase()
            .contains("certificate")
            .then(|| line.to_owned())
    });
    assert!(log.contains("interop"), "the log names the upstream: {log}");
}

#[tokio::test]
async fn a_backend_whose_certificate_has_another_name_is_unavailable() {
    let site = Site::new();
    let service = site.interop();
    let mut config = Config::interop(service.port);
    config.rest = config
        .rest
        .replace("server_name = \"localhost\"", "server_name = \"elsewhere\"");
    let gateway = site.gateway(&config);
    assert_eq!(call(&site, &gateway, EMPTY).await.status().code, 14);
}

#[tokio::test]
async fn a_backend_refuses_a_client_certificate_of_another_ca() {
    let site = Site::new();
    let service = site.interop();
    Authority::new("another").issue(site.dir(), "stranger");
    let mut config = Config::interop(service.port);
    config.rest = config.rest.replace("certs/gateway-client", "stranger");
    let gateway = site.gateway(&config);
    let status = call(&site, &gateway, EMPTY).await.status();
    assert_eq!(status.code, 14, "{status:?}");
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_unavailable_and_is_used_when_it_comes() {
    let site = Site::new();
    let port = intellirouter_tests::redis::free_port();
    let gateway = site.gateway(&Config::interop(port));
    let status = call(&site, &gateway, EMPTY).await.status();
    assert_eq!(status.code, 14, "{status:?}");
    assert!(status.details.retry_info.is_some(), "{status:?}");
    let path = |name| site.certs.path(name);
    let _service = Interop::start_on(
        port,
        &path("backend.crt"),
        &path("backend.key"),
        &path("ca.crt"),
    );
    // The gateway may wait a little before it tries an endpoint again.
    in_time("the backend in use", async {
        while call(&site, &gateway, EMPTY).await.status().code != 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Two messages, of which the second would come after a minute.
fn slow_stream() -> Bytes {
    frame(
        false,
        &OutputRequest {
            sizes: vec![9, 9],
            interval_ms: 60_000,
        }
        .encode_to_vec(),
    )
}

/// Begins a slow stream and waits for its first message.
async fn begin(site: &Site, client: &mut Connection, content_type: &str) -> (Vec<u8>, RecvStream) {
    let bearer = format!("Bearer {}", site.token(&["tester"]));
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", content_type),
    ];
    let mut call = client.call(STREAM, &headers).await;
    call.send.send_data(slow_stream(), true).unwrap();
    let mut body = call.head().await.into_body();
    let mut first = Vec::new();
    while first.len() < 5 || first.len() < 5 + first[4] as usize {
        let chunk = in_time("the first message", body.data())
            .await
            .expect("a message comes");
        first.extend_from_slice(&chunk.unwrap());
    }
    (first, body)
}

#[tokio::test]
async fn a_backend_killed_in_mid_stream_is_unavailable_for_grpc() {
    let site = Site::new();
    let mut service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let (_, body) = begin(&site, &mut client, "application/grpc").await;
    service.process.kill();
    let (rest, trailers) = in_time("the end", read(body))
        .await
        .expect("trailers, not a reset");
    assert!(rest.is_empty());
    let status = Status::read(&trailers.expect("never a clean end"));
    assert_eq!(status.code, 14, "{status:?}");
    assert!(status.details.retry_info.is_some(), "{status:?}");
}

#[tokio::test]
async fn a_backend_killed_in_mid_stream_is_unavailable_for_grpc_web() {
    let site = Site::new();
    let mut service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let (_, body) = begin(&site, &mut client, "application/grpc-web").await;
    service.process.kill();
    let (rest, _) = in_time("the end", read(body))
        .await
        .expect("a frame, not a reset");
    assert_eq!(web_status(&web_frames(&rest)).code, 14);
}

#[test]
fn a_backend_killed_in_mid_stream_is_unavailable_for_grpc_web_over_http1() {
    let site = Site::new();
    let mut service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    site.write("request", "");
    std::fs::write(site.dir().join("request"), slow_stream()).unwrap();
    let data = format!("@{}", site.dir().join("request").display());
    let answer = site.dir().join("answer");
    let token = format!("authorization: Bearer {}", site.token(&["tester"]));
    let args = [
        "--http1.1",
        "-H",
        "content-type: application/grpc-web",
        "-H",
        &token,
        "-H",
        "x-call-id: cut",
        "--data-binary",
        &data,
        "--output",
        answer.to_str().unwrap(),
    ];
    let mut curl = stream(&gateway, STREAM, &args);
    service.begun("cut");
    // The first message must be through before the cut.
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    while std::fs::metadata(&answer).map_or(0, |file| file.len()) < 5 {
        assert!(
            std::time::Instant::now() < end,
            "no message\n{}",
            gateway.process.output()
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    service.process.kill();
    let status = curl.wait();
    let frames = web_frames(&std::fs::read(&answer).unwrap());
    assert!(
        status.success(),
        "the body ends well, because its last frame tells"
    );
    assert_eq!(web_status(&frames).code, 14);
}

#[tokio::test]
async fn a_stream_that_ends_without_a_status_is_an_error() {
    let site = Site::new();
    let backend = Backend::start(&site, |_, mut respond| async move {
        let head = http::Response::builder().header("content-type", "application/grpc");
        let mut send = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        send.send_data(frame(false, b"half"), true).unwrap();
    })
    .await;
    let config = Config::default()
        .upstream("odd", backend.port)
        .route("/odd.Service/*", "odd");
    let gateway = site.gateway(&config);
    let answer = call(&site, &gateway, "/odd.Service/Method").await;
    assert_eq!(answer.body, frame(false, b"half"));
    assert_ne!(answer.status().code, 0);
}

#[tokio::test]
async fn an_answer_that_is_not_grpc_is_an_error_with_a_fitting_code() {
    let site = Site::new();
    let backend = Backend::start(&site, |_, mut respond| async move {
        let head = http::Response::builder()
            .status(502)
            .header("content-type", "text/html");
        let mut send = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        send.send_data("<html>bad gateway</html>".into(), true)
            .unwrap();
    })
    .await;
    let config = Config::default()
        .upstream("odd", backend.port)
        .route("/odd.Service/*", "odd");
    let gateway = site.gateway(&config);
    let answer = call(&site, &gateway, "/odd.Service/Method").await;
    assert_eq!(answer.status().code, 14);
    assert!(answer.body.is_empty(), "no HTML reaches a gRPC client");
}

#[tokio::test]
async fn a_reset_by_the_backend_is_an_error_for_its_call_alone() {
    let site = Site::new();
    let backend = Backend::start(&site, |request, mut respond| async move {
        if request.headers().contains_key("x-reset") {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            return;
        }
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0");
        let (body, _) = read(request.into_body()).await.unwrap();
        assert!(!body.is_empty());
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    })
    .await;
    let config = Config::default()
        .upstream("odd", backend.port)
        .route("/odd.Service/*", "odd");
    let gateway = site.gateway(&config);
    let bearer = format!("Bearer {}", site.token(&["tester"]));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let path = "/odd.Service/Method";
    let mut open = client.call(path, &[("authorization", &bearer)]).await;
    let headers = [("authorization", bearer.as_str()), ("x-reset", "1")];
    assert_eq!(client.unary(path, &headers, b"").await.status().code, 13);
    open.send.send_data(frame(false, b""), true).unwrap();
    assert_eq!(open.answer().await.status().code, 0);
}
