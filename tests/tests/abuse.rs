//! What somebody without a token, or with one that allows little, can't take
//! from others: memory, places, methods, headers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use bytes::Bytes;
use http::HeaderMap;
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Call, Connection, in_time, read};
use intellirouter_tests::curl::{Answer, request};
use intellirouter_tests::foreign::{PATH, answer, bearer, in_front_of, ok_trailers, tells_headers};
use intellirouter_tests::web::ORIGIN;
use intellirouter_tests::{Config, Gateway, Site, grpc};
use tokio::sync::mpsc;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const PUBLISH: &str = "/intellirouter.events.v1.EventService/Publish";

/// A backend that answers everything, behind a gateway with this beside.
async fn guarded(site: &Site, more: &str) -> (Backend, Gateway) {
    let backend = Backend::start(site, |_, respond| {
        answer(respond);
        std::future::ready(())
    })
    .await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text(more);
    let gateway = site.gateway(&config);
    (backend, gateway)
}

/// The head of a message of this length, without the message.
fn announced(length: u32) -> Bytes {
    let mut head = vec![0];
    head.extend_from_slice(&length.to_be_bytes());
    head.into()
}

/// Begins a call that announces a message, and sends no more of it.
async fn announce(client: &mut Connection, path: &str, bearer: &str, length: u32) -> Call {
    let mut call = client.call(path, &[("authorization", bearer)]).await;
    call.send.send_data(announced(length), false).unwrap();
    call
}

#[tokio::test]
async fn a_health_or_reflection_request_over_4_kib_is_refused_before_it_arrives() {
    let site = Site::new();
    let gateway = site.gateway(&Config::default());
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    for path in [CHECK, WATCH, REFLECTION] {
        for length in [4097, 4 * 1024 * 1024 - 1] {
            let call = announce(&mut client, path, &bearer(&site), length).await;
            let answer = call.answer().await;
            assert!(answer.body.is_empty(), "{path}, {length} bytes");
            // The reflection service ends such a stream without a word.
            if path != REFLECTION {
                let status = answer.status();
                assert!(
                    matches!(status.code, 3 | 8 | 11),
                    "{path}, {length} bytes: {status:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_health_request_of_less_than_4_kib_is_read() {
    let site = Site::new();
    let gateway = site.gateway(&Config::default());
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    // HealthCheckRequest.service, 4000 bytes long.
    let mut message = vec![0x0a, 0xa0, 0x1f];
    message.extend([b'a'; 4000]);
    let status = client.unary(CHECK, &[], &message).await.status();
    assert_eq!(status.code, 5, "{status:?}");
}

#[tokio::test]
async fn at_most_64_payloads_arrive_at_once_by_grpc() {
    let site = Site::new();
    // One worker takes the streams of a connection in their order.
    let config = Config::default()
        .events("")
        .with_text("[workers]\ncount = 1\n");
    let gateway = site.gateway(&config);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str())];
    let mut arriving = Vec::new();
    for _ in 0..64 {
        arriving.push(announce(&mut client, PUBLISH, &bearer, 1000).await);
    }
    let status = client.unary(PUBLISH, &headers, b"").await.status();
    assert_eq!(status.code, 14, "{status:?}");
    assert!(status.details.retry_info.is_some(), "{status:?}");

    arriving.remove(0).send.send_reset(h2::Reason::CANCEL);
    let code = in_time("a place again", async {
        loop {
            let code = client.unary(PUBLISH, &headers, b"").await.status().code;
            if code != 14 {
                return code;
            }
        }
    })
    .await;
    // It is read, and names no channel.
    assert_eq!(code, 3);
}

#[tokio::test]
async fn calls_without_a_token_have_a_tenth_of_the_places_and_leave_the_rest() {
    let site = Site::new();
    let (_backend, gateway) = guarded(&site, "[limits]\nopen_calls = 20\n").await;
    let mut strangers = Connection::open(gateway.port, &gateway.ca).await;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..20 {
        let mut call = strangers.call(WATCH, &[]).await;
        call.send.send_data(grpc::frame(false, b""), true).unwrap();
        let head = call.head().await;
        match head.headers().get("grpc-status") {
            None => open.push((call, head)),
            Some(code) => {
                assert_eq!(code, "14");
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (2, 18));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str())];
    let status = client.unary(PATH, &headers, b"").await.status();
    assert_eq!(status.code, 0, "{status:?}");
}

#[tokio::test]
async fn a_place_for_calls_without_a_token_is_free_again_when_its_call_ends() {
    let site = Site::new();
    let (_backend, gateway) = guarded(&site, "[limits]\nopen_calls = 10\n").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut watch = client.call(WATCH, &[]).await;
    watch.send.send_data(grpc::frame(false, b""), true).unwrap();
    let _body = watch.head().await;
    let mut refused = async || {
        let mut another = client.call(WATCH, &[]).await;
        another
            .send
            .send_data(grpc::frame(false, b""), true)
            .unwrap();
        let head = another.head().await;
        head.headers().contains_key("grpc-status")
    };
    assert!(refused().await);
    watch.send.send_reset(h2::Reason::CANCEL);
    in_time("a place again", async { while refused().await {} }).await;
}

#[tokio::test]
async fn an_http2_connection_without_a_call_is_closed_and_one_with_a_call_is_not() {
    let site = Site::new();
    let (_backend, gateway) = guarded(&site, "[limits]\nidle_timeout = \"1s\"\n").await;
    let mut used = Connection::open(gateway.port, &gateway.ca).await;
    let mut watch = used.call(WATCH, &[]).await;
    watch.send.send_data(grpc::frame(false, b""), true).unwrap();
    let _body = watch.head().await;
    // Two, one after the other: the used one is looked at more than once.
    for _ in 0..2 {
        let idle = Connection::open(gateway.port, &gateway.ca).await;
        idle.closed().await;
    }
    assert_eq!(used.unary(CHECK, &[], b"").await.status().code, 0);
}

#[tokio::test]
async fn a_closed_idle_connection_makes_room_for_another() {
    let site = Site::new();
    let limits = "[limits]\nconnections = 1\nidle_timeout = \"1s\"\n";
    let (_backend, gateway) = guarded(&site, limits).await;
    let idle = Connection::open(gateway.port, &gateway.ca).await;
    idle.closed().await;
    in_time("room", async {
        while gateway.figure("connections") != 0 {}
    })
    .await;
    let mut next = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(next.unary(CHECK, &[], b"").await.status().code, 0);
}

#[tokio::test]
async fn what_is_not_exactly_a_method_reaches_no_backend_by_a_prefix_rule() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let backend = Backend::start(&site, tells_headers(tell)).await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text(
            "[[routes]]\nmatch = \"/foreign.Service/Restricted\"\nupstream = \"foreign\"\n\
             roles = [\"keeper\"]\n[[routes]]\nmatch = \"/foreign.Open/*\"\n\
             upstream = \"foreign\"\npublic = true\n",
        );
    let gateway = site.gateway(&config);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str())];
    for path in [
        "/foreign.Service/Restricted/",
        "/foreign.Service/%52estricted",
        "/foreign.Service//Restricted",
        "/foreign.Service/./Restricted",
        "/foreign.Service/x/../Restricted",
        "/foreign.Service/Restricted;a=b",
        "/foreign.Service/Restricted%00",
        "/foreign.Service/../foreign.Admin/Secret",
        "/foreign.Service/..%2fforeign.Admin/Secret",
        "/foreign.Service/",
        "/foreign.Service/Method?a=b",
        "/foreign.Service/Method?",
        "/foreign.Open/../foreign.Service/Restricted",
        "/foreign.Open/Method?a=b",
        "//foreign.Service/Method",
    ] {
        let answer = client.unary(path, &headers, b"").await;
        assert_eq!(answer.status().code, 12, "{path}: {:?}", answer.status());
    }
    assert!(told.try_recv().is_err(), "the backend was called");
    // The same rules let exact names through.
    assert_eq!(client.unary(PATH, &headers, b"").await.status().code, 0);
    let open = client.unary("/foreign.Open/Method", &[], b"").await;
    assert_eq!(open.status().code, 0);
}

#[tokio::test]
async fn request_trailers_do_not_reach_the_backend() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, move |request, respond| {
        let tell = tell.clone();
        async move {
            tell.send(read(request.into_body()).await).unwrap();
            answer(respond);
        }
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str())];
    let mut call = client.call(PATH, &headers).await;
    let message = grpc::frame(false, b"hello");
    call.send.send_data(message.clone(), false).unwrap();
    let trailers = HeaderMap::from_iter([
        (
            "x-intellirouter-identity".parse().unwrap(),
            "evil".parse().unwrap(),
        ),
        (
            "authorization".parse().unwrap(),
            "Bearer leak".parse().unwrap(),
        ),
        ("x-custom".parse().unwrap(), "1".parse().unwrap()),
    ]);
    call.send.send_trailers(trailers).unwrap();
    assert_eq!(call.answer().await.status().code, 0);
    let (body, trailers) = told.recv().await.unwrap().expect("the request is whole");
    assert_eq!(body, message);
    assert_eq!(trailers.unwrap_or_default(), HeaderMap::new());
}

/// A gRPC-Web call of a page of `origin`, to a backend that lets all pages in.
fn page(gateway: &Gateway, bearer: &str, version: &str, origin: &str) -> Answer {
    let (token, origin) = (
        format!("authorization: {bearer}"),
        format!("origin: {origin}"),
    );
    let kind = "content-type: application/grpc-web+proto";
    let args = [version, "-H", kind, "-H", &token, "-H", &origin];
    request(gateway, PATH, &args, Some(&grpc::frame(false, b"")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_does_not_decide_which_pages_may_read_answers() {
    let site = Site::new();
    let backend = Backend::start(&site, |_, mut respond| async move {
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("access-control-allow-origin", "*")
            .header("access-control-allow-credentials", "true")
            .header("access-control-expose-headers", "*");
        let mut send = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        send.send_trailers(ok_trailers()).unwrap();
    })
    .await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text(&format!("[cors]\norigins = [\"{ORIGIN}\"]\n"));
    let gateway = site.gateway(&config);
    let bearer = bearer(&site);
    for version in ["--http2", "--http1.1"] {
        for origin in ["https://evil.example", "null", ORIGIN] {
            let answer = page(&gateway, &bearer, version, origin);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let values = |name: &str| -> Vec<String> {
                let found = answer.headers.iter().filter(|(key, _)| key == name);
                found.map(|(_, value)| value.clone()).collect()
            };
            let expected: &[&str] = if origin == ORIGIN { &[ORIGIN] } else { &[] };
            assert_eq!(values("access-control-allow-origin"), expected, "{origin}");
            assert!(values("access-control-allow-credentials").is_empty());
            let exposed = values("access-control-expose-headers");
            assert!(!exposed.contains(&"*".to_owned()), "{origin}: {exposed:?}");
        }
    }
}

#[tokio::test]
async fn refused_strangers_take_no_place_from_those_who_have_a_token() {
    let site = Site::new();
    let (_backend, gateway) = guarded(&site, "[limits]\nopen_calls = 20\n").await;
    let mut strangers = Connection::open(gateway.port, &gateway.ca).await;
    // A refused page is listened to for a moment.
    let head = || {
        http::Request::post(format!("https://localhost:{}{PATH}", gateway.port))
            .header("content-type", "application/grpc-web+proto")
            .body(())
            .unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(strangers.begin(head(), false).await);
    }
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    for _ in 0..10 {
        let headers = [("authorization", bearer.as_str())];
        let status = client.unary(PATH, &headers, b"").await.status();
        assert_eq!(status.code, 0, "{status:?}");
    }
}

#[tokio::test]
async fn strangers_who_watch_the_health_do_not_keep_it_from_being_checked() {
    let site = Site::new();
    let gateway = site.gateway(&Config::default().with_text("[limits]\nopen_calls = 20\n"));
    let mut strangers = Connection::open(gateway.port, &gateway.ca).await;
    let mut watching = Vec::new();
    for _ in 0..20 {
        let mut call = strangers.call(WATCH, &[]).await;
        call.send.send_data(grpc::frame(false, b""), true).unwrap();
        let head = call.head().await;
        watching.push((call, head));
    }
    let mut probe = Connection::open(gateway.port, &gateway.ca).await;
    let status = probe.unary(CHECK, &[], b"").await.status();
    assert_eq!(status.code, 0, "{status:?}");
}
