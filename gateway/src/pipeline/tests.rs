//! The whole path over a real gateway, its own services and a backend that
//! tells what it got; only sockets on the client's side are left out.

use std::pin::Pin;
use std::sync::{LazyLock, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http_body::Frame;
use intellirouter::security::IdentityVerifier;
use tonic::Code;

use super::*;
use crate::body;
use crate::test_util::{
    backend, bearer, client, config, drain, files, grpc_head, receive, status, token_for,
};

/// What the backend saw of the last call.
type Seen = Arc<Mutex<Option<HeaderMap>>>;

/// A worker before a backend that answers every call with OK.
async fn worker(more: &str) -> (Arc<Worker>, Seen) {
    let seen = Seen::default();
    let told = seen.clone();
    let port = backend(
        move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let told = told.clone();
            async move {
                let (head, mut body) = request.into_parts();
                let _ = receive(&mut body).await;
                *told.lock().unwrap() = Some(head.headers);
                let mut answer = grpc_head();
                answer.headers_mut().extend(status("0"));
                let _ = respond.send_response(answer, true);
            }
        },
    )
    .await;
    let text = format!(
        "{more}\n[cors]\norigins = ['https://app.example']\n\
         [[upstreams]]\nname = 'b'\nendpoints = ['http://127.0.0.1:{port}']\n\
         [[routes]]\nmatch = '/p.S/*'\nupstream = 'b'\nroles = ['user']\n\
         [[routes]]\nmatch = '/p.S/Public'\nupstream = 'b'\npublic = true\n\
         [[routes]]\nmatch = '/p.S/Forward'\nupstream = 'b'\nroles = ['*']\nforward_authorization = true\n\
         [[routes]]\nmatch = '/p.S/Quick'\nupstream = 'b'\npublic = true\ntimeout = '0s'\n\
         [[routes]]\nmatch = '/p.Bare/*'\nupstream = 'b'\n"
    );
    let config = config(&text);
    let log = crate::events::open_log(&config.events, intellirouter::events::LogUse::Gateway)
        .await
        .unwrap();
    (
        Worker::new(Gateway::new(config, log, None).unwrap(), 0),
        seen,
    )
}

static USER: LazyLock<HeaderMap> = LazyLock::new(|| bearer(&token_for("alice", &["user"], 3600)));

const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web+proto";

fn request(path: &str, content_type: &str, token: bool) -> Request<Body> {
    let mut request = Request::post(path)
        .version(Version::HTTP_2)
        .body(Body::empty())
        .unwrap();
    if token {
        request.headers_mut().clone_from(&USER);
    }
    if !content_type.is_empty() {
        request
            .headers_mut()
            .insert(CONTENT_TYPE, content_type.parse().unwrap());
    }
    request
}

async fn answer(worker: &Worker, request: Request<Body>) -> (http::response::Parts, Vec<u8>) {
    let (head, mut body) = serve(worker, &client(), request).await.into_parts();
    let (bytes, trailers, error) = drain(&mut body).await;
    assert!(trailers.is_none() && error.is_none());
    (head, bytes)
}

/// The gRPC code of a trailers-only answer.
async fn code(worker: &Worker, request: Request<Body>) -> Code {
    let (head, _) = answer(worker, request).await;
    assert_eq!(head.status, 200);
    Code::from_bytes(head.headers["grpc-status"].as_bytes())
}

struct Panics;

impl http_body::Body for Panics {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        panic!("a fault in a step")
    }
}

fn panicking(path: &str, content_type: &str) -> Request<Body> {
    let mut request = request(path, content_type, true);
    *request.headers_mut() = bearer(&token_for("root", &["admin"], 3600));
    if !content_type.is_empty() {
        request
            .headers_mut()
            .insert(CONTENT_TYPE, content_type.parse().unwrap());
    }
    request.map(|_| Body::new(body::Kind::Local(tonic::body::Body::new(Panics))))
}

#[tokio::test]
async fn a_panic_in_a_step_is_internal_in_each_dialect_and_other_calls_live() {
    let (worker, _) = worker("").await;
    let calls = || worker.gateway.calls.count();
    let (head, _) = answer(&worker, panicking("/p.S/M", GRPC)).await;
    assert_eq!(
        (&head.headers["grpc-status"], head.status.as_u16()),
        (&"13".parse().unwrap(), 200)
    );
    assert!(
        !head.headers["grpc-message"]
            .to_str()
            .unwrap()
            .contains("step")
    );

    let (head, frame) = answer(&worker, panicking("/p.S/M", WEB)).await;
    assert_eq!(head.status, 200);
    assert!(frame[0] == 0x80 && String::from_utf8_lossy(&frame).contains("grpc-status: 13\r\n"));

    let (head, problem) = answer(&worker, panicking("/events/intellirouter:a:b:c", "")).await;
    assert_eq!(head.status, 500);
    assert!(String::from_utf8_lossy(&problem).contains("\"reason\":\"internal\""));

    assert_eq!(calls(), 0, "what panicked is no longer counted as open");
    assert_eq!(code(&worker, request("/p.S/M", GRPC, true)).await, Code::Ok);
}

#[tokio::test]
async fn who_may_not_call_learns_nothing_of_what_there_is() {
    let (worker, _) = worker("").await;
    for path in ["/p.S/M", "/p.Bare/M", "/no.Such/Method"] {
        assert_eq!(
            code(&worker, request(path, GRPC, false)).await,
            Code::Unauthenticated,
            "{path}"
        );
    }
    assert_eq!(
        code(&worker, request("/no.Such/Method", GRPC, true)).await,
        Code::Unimplemented
    );
}

#[tokio::test]
async fn a_method_without_a_rule_is_refused_to_admin_too() {
    let (worker, _) = worker("").await;
    let mut request = request("/p.Bare/M", GRPC, false);
    let token = bearer(&token_for("root", &["admin"], 3600));
    request.headers_mut().extend(token);
    assert_eq!(code(&worker, request).await, Code::PermissionDenied);
}

#[tokio::test]
async fn the_backend_learns_who_calls_from_the_gateway_alone() {
    let (worker, seen) = worker("").await;
    let forged = |path, token| {
        let mut request = request(path, GRPC, token);
        request
            .headers_mut()
            .insert(IDENTITY_HEADER, "forged".parse().unwrap());
        request
    };
    assert_eq!(code(&worker, forged("/p.S/M", true)).await, Code::Ok);
    let headers = seen.lock().unwrap().take().unwrap();
    assert!(!headers.contains_key(AUTHORIZATION));
    let pem = std::fs::read(&files().identity_public).unwrap();
    let verifier = IdentityVerifier::from_public_pem(&pem, "intellirouter-gateway", "b").unwrap();
    let claims = verifier
        .verify(headers[IDENTITY_HEADER].to_str().unwrap())
        .unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.roles),
        ("alice", vec!["user".to_owned()])
    );

    assert_eq!(code(&worker, forged("/p.S/Public", false)).await, Code::Ok);
    assert!(
        !seen
            .lock()
            .unwrap()
            .take()
            .unwrap()
            .contains_key(IDENTITY_HEADER)
    );

    assert_eq!(code(&worker, forged("/p.S/Forward", true)).await, Code::Ok);
    let headers = seen.lock().unwrap().take().unwrap();
    assert_eq!(headers[AUTHORIZATION], USER[AUTHORIZATION]);
}

#[tokio::test]
async fn te_reaches_the_backend_from_a_client_that_also_names_a_host() {
    let (worker, seen) = worker("").await;
    let mut request = request("/p.S/M", GRPC, true);
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    request
        .headers_mut()
        .insert("host", "localhost".parse().unwrap());
    assert_eq!(code(&worker, request).await, Code::Ok);
    let headers = seen.lock().unwrap().take().unwrap();
    assert_eq!(
        headers.get("te").map(|value| value.as_bytes()),
        Some(&b"trailers"[..])
    );
    assert!(!headers.contains_key("host"));
}

#[tokio::test]
async fn headers_of_an_http1_hop_end_here() {
    let (worker, seen) = worker("").await;
    let mut request = request("/p.S/M", WEB, true);
    *request.version_mut() = Version::HTTP_11;
    for (name, value) in [
        ("host", "localhost"),
        ("connection", "keep-alive, x-hop"),
        ("keep-alive", "5"),
        ("te", "gzip"),
        ("x-hop", "nominated by connection"),
        ("x-mine", "stays"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    answer(&worker, request).await;
    let headers = seen.lock().unwrap().take().unwrap();
    for name in ["host", "connection", "keep-alive", "x-hop"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(
        (&headers["te"], &headers["x-mine"]),
        (&"trailers".parse().unwrap(), &"stays".parse().unwrap())
    );
}

#[tokio::test]
async fn what_is_no_call_is_refused_with_the_fitting_status() {
    let (worker, _) = worker("").await;
    let status = async |method: Method, path: &str, content_type: &str| {
        let mut request = request(path, content_type, false);
        *request.method_mut() = method;
        answer(&worker, request).await.0.status.as_u16()
    };
    assert_eq!(
        status(Method::POST, "/p.S/M", "application/json").await,
        415
    );
    assert_eq!(
        status(Method::POST, "/p.S/M", "application/grpcweb").await,
        415
    );
    assert_eq!(
        status(Method::POST, "/some/deep/path", "application/json").await,
        404
    );
    assert_eq!(status(Method::GET, "/p.S/M", "").await, 404);
    assert_eq!(status(Method::GET, "/", "").await, 404);
    assert_eq!(
        code(&worker, {
            let mut request = request("/p.S/M", GRPC, true);
            *request.method_mut() = Method::GET;
            request
        })
        .await,
        Code::Internal
    );
}

#[tokio::test]
async fn a_bad_grpc_web_frame_is_an_invalid_argument_at_a_backend_and_at_our_own_services() {
    let (worker, _) = worker("").await;
    for path in [
        "/p.S/M",
        "/grpc.health.v1.Health/Check",
        "/intellirouter.events.v1.EventService/Publish",
    ] {
        let request = request(path, WEB, true).map(|_| Body::full(vec![0xff; 10]));
        let (_, frame) = answer(&worker, request).await;
        let text = String::from_utf8_lossy(&frame).into_owned();
        assert!(text.contains("grpc-status: 3\r\n"), "{path}: {text}");
        assert!(
            text.contains("request%20frame%20flag") || text.contains("request frame flag"),
            "{path}: {text}"
        );
    }
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_a_refusal_can_be_read_by_pages() {
    let (worker, _) = worker("").await;
    let mut preflight = request("/p.S/M", "", false);
    *preflight.method_mut() = Method::OPTIONS;
    for (name, value) in [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
    ] {
        preflight.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(answer(&worker, preflight).await.0.status, 204);
    let mut refused = request("/p.S/M", WEB, false);
    refused
        .headers_mut()
        .insert("origin", "https://app.example".parse().unwrap());
    let (head, _) = answer(&worker, refused).await;
    assert_eq!(
        head.headers["access-control-allow-origin"],
        "https://app.example"
    );
}

#[tokio::test]
async fn beyond_the_most_open_calls_a_call_is_refused_and_not_queued() {
    let (worker, _) = worker("[limits]\nopen_calls = 1").await;
    let mut stream = request("/events?channel=intellirouter:*", "", false);
    *stream.method_mut() = Method::GET;
    stream
        .headers_mut()
        .extend(bearer(&token_for("root", &["admin"], 3600)));
    let open = serve(&worker, &client(), stream).await;
    assert_eq!(open.status(), 200);
    assert_eq!(
        code(&worker, request("/p.S/M", GRPC, true)).await,
        Code::Unavailable
    );
    drop(open);
    assert_eq!(code(&worker, request("/p.S/M", GRPC, true)).await, Code::Ok);
}

#[tokio::test]
async fn a_passed_deadline_is_said_in_grpc() {
    let (worker, _) = worker("").await;
    assert_eq!(
        code(&worker, request("/p.S/Quick", GRPC, false)).await,
        Code::DeadlineExceeded
    );
    let mut bad = request("/p.S/M", GRPC, true);
    bad.headers_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(code(&worker, bad).await, Code::InvalidArgument);
}
