//! Against backends on the loopback that answer as they should not.

mod losses;
mod outcomes;
mod probes;
mod replays;
mod resets;
mod retries;
mod support;
mod timeouts;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Code;

use super::*;
use crate::body::Kind;
use crate::test_util::{backend, call_record, config, drain, grpc_head, send_all, status};

async fn call(
    pool: &Arc<Pool>,
    request: Request<Body>,
    timeout: Option<Duration>,
) -> Result<Response<Body>, Reply> {
    super::call(pool, request, timeout.map(limit), &mut call_record()).await
}

/// As a caller chooses it.
fn limit(whole: Duration) -> Limit {
    Limit {
        whole,
        ends: Instant::now() + whole,
        of_route: false,
    }
}

async fn pool<F, R>(handler: F) -> Arc<Pool>
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let port = backend(handler).await;
    pool_at(&format!("'http://127.0.0.1:{port}'"))
}

fn pool_at(endpoints: &str) -> std::sync::Arc<Pool> {
    Pool::new(upstream_at(endpoints, ""))
}

/// An upstream with these endpoints, and these settings after its own.
pub(super) fn upstream_at(endpoints: &str, settings: &str) -> Arc<Upstream> {
    upstream_after(None, endpoints, settings)
}

/// The same, as the next generation of `old`.
pub(super) fn upstream_after(
    old: Option<&Arc<Upstream>>,
    endpoints: &str,
    settings: &str,
) -> Arc<Upstream> {
    let config = config(&format!(
        "[[upstreams]]\nname = 'b'\nendpoints = [{endpoints}]\n{settings}"
    ));
    Upstream::open(&config.upstreams[0], old, &Default::default()).unwrap()
}

/// So many endpoints that nobody connects to.
pub(super) fn upstream_of(number: usize, settings: &str) -> Arc<Upstream> {
    let urls = (1..=number).map(|port| format!("'http://127.0.0.1:{port}'"));
    upstream_at(&urls.collect::<Vec<_>>().join(", "), settings)
}

/// The refusal that a call to such a backend gets.
async fn refused(pool: &Arc<Pool>) -> Reply {
    match call(pool, Request::new(Body::empty()), None).await {
        Ok(response) => panic!("{:?}", response.headers()),
        Err(reply) => reply,
    }
}

/// What a caller gets of a call that a backend answers at first.
async fn answered(pool: &Arc<Pool>) -> (Vec<u8>, String, bool) {
    let mut body = call(pool, Request::new(Body::empty()), None)
        .await
        .unwrap()
        .into_body();
    let (bytes, trailers, error) = drain(&mut body).await;
    assert!(error.is_none(), "{error:?}");
    let code = trailers.unwrap()["grpc-status"]
        .to_str()
        .unwrap()
        .to_owned();
    (bytes, code, body.is_cut())
}

#[tokio::test]
async fn an_answer_that_is_not_grpc_gets_the_code_of_its_http_status() {
    for (status, code) in [
        (200, Code::Unknown),
        (302, Code::Unknown),
        (400, Code::Internal),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (418, Code::Unknown),
        (429, Code::Unavailable),
        (500, Code::Unknown),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::Unavailable),
    ] {
        let pool = pool(move |_, mut respond: SendResponse<Bytes>| async move {
            let head = Response::builder()
                .status(status)
                .header("content-type", "text/html");
            let mut send = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            let _ = send.send_data(Bytes::from_static(b"<secret inner page>"), true);
        })
        .await;
        let reply = refused(&pool).await;
        assert_eq!((reply.code, reply.label), (code, "not_grpc"), "{status}");
        assert!(!reply.message.contains("secret"));
    }
}

#[tokio::test]
async fn a_grpc_content_type_does_not_make_an_error_page_an_answer() {
    let pool = pool(|_, mut respond: SendResponse<Bytes>| async move {
        let mut head = grpc_head();
        *head.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        head.headers_mut().extend(status("0"));
        let _ = respond.send_response(head, true);
    })
    .await;
    assert_eq!(refused(&pool).await.code, Code::Unavailable);
}

#[tokio::test]
async fn an_end_without_a_status_is_unknown_wherever_it_comes() {
    let headers_only = pool(|_, mut respond: SendResponse<Bytes>| async move {
        let _ = respond.send_response(grpc_head(), true);
    })
    .await;
    let reply = refused(&headers_only).await;
    assert_eq!((reply.code, reply.label), (Code::Unknown, "no_status"));

    let after_data = pool(|_, mut respond: SendResponse<Bytes>| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_data(Bytes::from_static(b"data"), true);
    })
    .await;
    assert_eq!(
        answered(&after_data).await,
        (b"data".to_vec(), "2".into(), false)
    );

    let empty_trailers = pool(|_, mut respond: SendResponse<Bytes>| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_data(Bytes::from_static(b"data"), false);
        let _ = send.send_trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("x-mine"),
            http::HeaderValue::from_static("kept"),
        )]));
    })
    .await;
    let mut body = call(&empty_trailers, Request::new(Body::empty()), None)
        .await
        .unwrap()
        .into_body();
    let trailers = drain(&mut body).await.1.unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-mine"]),
        (&"2".parse().unwrap(), &"kept".parse().unwrap())
    );
}

/// (gRPC over HTTP/2, "Errors".)
const RESETS: [(Reason, Code); 8] = [
    (Reason::NO_ERROR, Code::Internal),
    (Reason::PROTOCOL_ERROR, Code::Internal),
    (Reason::INTERNAL_ERROR, Code::Internal),
    (Reason::FLOW_CONTROL_ERROR, Code::Internal),
    (Reason::REFUSED_STREAM, Code::Unavailable),
    (Reason::CANCEL, Code::Cancelled),
    (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
    (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
];

#[tokio::test]
async fn a_reset_before_the_answer_gets_the_code_of_its_reason() {
    for (reason, code) in RESETS {
        let pool = pool(move |_, mut respond: SendResponse<Bytes>| async move {
            respond.send_reset(reason);
        })
        .await;
        assert_eq!(refused(&pool).await.code, code, "{reason:?}");
    }
}

#[tokio::test]
async fn a_reset_in_mid_stream_ends_it_with_the_code_of_its_reason() {
    for (reason, code) in RESETS {
        let read = Arc::new(Notify::new());
        let told = read.clone();
        let pool = pool(move |_, mut respond: SendResponse<Bytes>| {
            let told = told.clone();
            async move {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                told.notified().await;
                send.send_reset(reason);
            }
        })
        .await;
        let response = call(&pool, Request::new(Body::empty()), None)
            .await
            .unwrap();
        // The headers came; the reset may follow.
        read.notify_one();
        let mut body = response.into_body();
        let trailers = drain(&mut body).await.1.unwrap();
        assert_eq!(
            trailers["grpc-status"],
            (code as i32).to_string(),
            "{reason:?}"
        );
        assert!(body.is_cut());
    }
}

#[tokio::test]
async fn an_early_answer_holds_though_the_rest_of_the_request_is_refused() {
    let pool = pool(|_, mut respond: SendResponse<Bytes>| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_data(Bytes::from_static(b"early"), false);
        let _ = send.send_trailers(status("9"));
        // Dropping the request resets it with NO_ERROR (RFC 9113, 8.1).
    })
    .await;
    let endless = futures_util::stream::repeat_with(|| {
        Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(&[0; 1024])))
    });
    let endless = tonic::body::Body::new(http_body_util::StreamBody::new(endless));
    let request = Request::new(Body::new(Kind::Local(endless)));
    let mut body = call(&pool, request, None).await.unwrap().into_body();
    let (bytes, trailers, _) = drain(&mut body).await;
    assert_eq!(
        (&bytes[..], &trailers.unwrap()["grpc-status"]),
        (&b"early"[..], &"9".parse().unwrap())
    );
}

#[tokio::test]
async fn a_connection_that_is_lost_in_mid_stream_is_unavailable() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let cut = Arc::new(Notify::new());
    let told = cut.clone();
    let serving = async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let _send = respond.send_response(grpc_head(), false).unwrap();
        tokio::select! {
            _ = connection.accept() => {}
            () = told.notified() => {}
        }
        // Here the socket closes.
    };
    let pool = pool_at(&format!("'http://127.0.0.1:{port}'"));
    let calling = async {
        let response = call(&pool, Request::new(Body::empty()), None)
            .await
            .unwrap();
        cut.notify_one();
        drain(&mut response.into_body()).await.1.unwrap()
    };
    let (_, trailers) = tokio::join!(serving, calling);
    assert_eq!(trailers["grpc-status"], "14");
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_unavailable_and_another_is_used() {
    // Bound and not listening, so that nobody else can take the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let nobody = format!("'http://{}'", socket.local_addr().unwrap());
    let reply = refused(&pool_at(&nobody)).await;
    assert_eq!(
        (reply.code, reply.label),
        (Code::Unavailable, "no_endpoint")
    );
    assert!(reply.retry_after.is_some());

    let port = backend(|_, mut respond: SendResponse<Bytes>| async move {
        let mut head = grpc_head();
        head.headers_mut().extend(status("0"));
        let _ = respond.send_response(head, true);
    })
    .await;
    let both = pool_at(&format!("{nobody}, 'http://127.0.0.1:{port}'"));
    for _ in 0..4 {
        assert!(call(&both, Request::new(Body::empty()), None).await.is_ok());
    }
}

#[tokio::test]
async fn a_passed_deadline_ends_the_call_here_and_at_the_backend() {
    for answers in [false, true] {
        let reset = Arc::new(Notify::new());
        let told = reset.clone();
        let pool = pool(move |_, mut respond: SendResponse<Bytes>| {
            let told = told.clone();
            async move {
                let mut open = None;
                if answers {
                    open = respond.send_response(grpc_head(), false).ok();
                }
                let reason = match &mut open {
                    Some(send) => std::future::poll_fn(|cx| send.poll_reset(cx)).await,
                    None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
                };
                assert_eq!(reason.unwrap(), Reason::CANCEL);
                told.notify_one();
            }
        })
        .await;
        let timeout = Some(Duration::from_millis(100));
        let code = match call(&pool, Request::new(Body::empty()), timeout).await {
            Err(reply) => reply.code as i32,
            Ok(response) => {
                let trailers = drain(&mut response.into_body()).await.1.unwrap();
                trailers["grpc-status"].to_str().unwrap().parse().unwrap()
            }
        };
        assert_eq!(code, Code::DeadlineExceeded as i32);
        reset.notified().await;
    }
}

#[tokio::test]
async fn a_request_that_breaks_a_rule_ends_the_call_with_that_refusal() {
    use crate::layers::grpc_web::{Encoding, to_grpc};
    let reset = Arc::new(Notify::new());
    let told = reset.clone();
    let pool = pool(move |request: Request<RecvStream>, _respond| {
        let told = told.clone();
        async move {
            let error = crate::test_util::receive(&mut request.into_body())
                .await
                .unwrap_err();
            assert_eq!(error.reason(), Some(Reason::CANCEL));
            told.notify_one();
        }
    })
    .await;
    let request = to_grpc(Request::new(Body::full(vec![0xff; 10])), Encoding::Binary);
    let reply = call(&pool, request, None).await.err().unwrap();
    assert_eq!(
        (reply.code, reply.label),
        (Code::InvalidArgument, "bad_grpc_web")
    );
    reset.notified().await;
}

#[tokio::test]
async fn both_directions_flow_at_the_same_time() {
    let pool = pool(
        |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            let mut recv = request.into_body();
            while let Some(Ok(data)) = recv.data().await {
                let _ = recv.flow_control().release_capacity(data.len());
                assert!(send_all(&mut send, data).await);
            }
            let _ = send.send_trailers(status("0"));
        },
    )
    .await;
    // Far more than all windows on the way hold.
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    let chunks = futures_util::stream::iter(
        (0..64).map(move |_| Ok::<_, tonic::Status>(Frame::data(chunk.clone()))),
    );
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(chunks));
    let response = call(&pool, Request::new(Body::new(Kind::Local(body))), None)
        .await
        .unwrap();
    let (bytes, trailers, _) = drain(&mut response.into_body()).await;
    assert_eq!(bytes.len(), 4 << 20);
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

/// Calls share a connection, and h2 would close it for what one does not take.
#[tokio::test]
async fn tiny_frames_that_nobody_takes_cost_other_calls_nothing() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let pool = pool(
        move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let tell = tell.clone();
            async move {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                if request.uri().path() == "/unread" {
                    // As many as the stream's window takes.
                    for _ in 0..128 * 1024 {
                        send_all(&mut send, Bytes::from_static(b"x")).await;
                    }
                    let _ = tell.send(());
                    send_all(&mut send, Bytes::from_static(&[0; 4096])).await;
                    let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
                } else {
                    let _ = send.send_trailers(status("0"));
                }
            }
        },
    )
    .await;
    let mut unread = Vec::new();
    for _ in 0..3 {
        let request = Request::builder().uri("/unread").body(Body::empty());
        unread.push(call(&pool, request.unwrap(), None).await.unwrap());
        told.recv().await.unwrap();
    }
    assert_eq!(answered(&pool).await.1, "0");
    // They live: what each was sent is still to be had, and more.
    for response in unread {
        let mut body = response.into_body();
        let mut got = 0;
        while got < 130 * 1024 {
            let frame = std::future::poll_fn(|cx| {
                body.release(usize::MAX);
                body.poll_next(cx)
            });
            got += frame.await.unwrap().unwrap().into_data().unwrap().len();
        }
    }
}
