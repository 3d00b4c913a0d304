//! What must pass through the gateway untouched, in front of services that it
//! has no descriptors of.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::{Config, Gateway, Site, grpc, scripts};
use tokio::sync::mpsc;

const PATH: &str = "/foreign.Service/Method";

/// A gateway in front of a backend that works on frames.
async fn in_front_of<H, F>(site: &Site, handle: H) -> (Backend, Gateway)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let backend = Backend::start(site, handle).await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .add("[[routes]]\nmatch = \"/foreign.Short/*\"\nupstream = \"foreign\"\nroles = [\"*\"]\ntimeout = \"1s\"\n")
        .add("[[routes]]\nmatch = \"/foreign.Trusted/*\"\nupstream = \"foreign\"\nroles = [\"*\"]\nforward_authorization = true\n");
    let gateway = site.gateway(&config);
    (backend, gateway)
}

fn bearer(site: &Site) -> String {
    format!("Bearer {}", site.token(&["tester"]))
}

fn ok_head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn ok_trailers() -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])
}

/// Answers with one empty message.
fn answer(mut respond: SendResponse<Bytes>) {
    let mut send = respond.send_response(ok_head(), false).unwrap();
    send.send_data(grpc::frame(false, b""), false).unwrap();
    send.send_trailers(ok_trailers()).unwrap();
}

/// A backend that tells the headers of each call and answers it.
fn tells_headers(
    tell: mpsc::UnboundedSender<HeaderMap>,
) -> impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> std::future::Ready<()> + Clone {
    move |request, respond| {
        tell.send(request.headers().clone()).unwrap();
        answer(respond);
        std::future::ready(())
    }
}

fn interop_cases_pass(client: impl Fn(&str, &std::path::Path) -> std::process::Command) {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let mut command = client(&gateway.target(), &gateway.ca);
    command.arg("--token").arg(site.token(&["tester"]));
    scripts::run(&command, &service);
}

#[test]
fn every_interop_case_passes_with_grpcio() {
    interop_cases_pass(scripts::grpcio);
}

#[test]
fn every_interop_case_passes_with_grpc_js() {
    interop_cases_pass(scripts::grpc_js);
}

#[tokio::test]
async fn metadata_reaches_the_service_as_it_was_sent() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, tells_headers(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    // `-bin` values with and without padding, and with two values joined by a
    // comma, are all legal; none is to be decoded and encoded again.
    let sent = [
        ("x-one", "first"),
        ("x-one", "second"),
        ("x-one", "first"),
        ("x-spaces", "a  b"),
        ("x-data-bin", "AAECAw=="),
        ("x-data-bin", "AAECAw"),
        ("x-joined-bin", "AAE,AgM="),
        ("user-agent", "odd-client/1"),
        ("grpc-accept-encoding", "identity,gzip,zstd"),
        ("x-request-id", "r-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let bearer = bearer(&site);
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(sent);
    let answer = client.unary(PATH, &headers, b"").await;
    assert_eq!(answer.status().code, 0);

    let got = told.recv().await.unwrap();
    for (name, _) in sent {
        let wanted: Vec<_> = sent.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        let values: Vec<_> = got.get_all(name).iter().collect();
        assert_eq!(values, wanted, "{name}");
    }
    assert_eq!(got["te"], "trailers");
    assert_eq!(got["content-type"], "application/grpc");
}

#[tokio::test]
async fn the_content_type_keeps_its_suffix() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, tells_headers(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/grpc+thrift")];
    client.unary(PATH, &headers, b"").await;
    assert_eq!(told.recv().await.unwrap()["content-type"], "application/grpc+thrift");
}

#[tokio::test]
async fn response_headers_and_trailers_reach_the_client_as_they_were_sent() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |_, mut respond| async move {
        let mut head = ok_head();
        for value in ["one", "two"] {
            head.headers_mut().append("x-list", value.parse().unwrap());
        }
        head.headers_mut().insert("x-head-bin", "/+8=".parse().unwrap());
        let mut send = respond.send_response(head, false).unwrap();
        send.send_data(grpc::frame(false, b"m"), false).unwrap();
        let mut trailers = ok_trailers();
        trailers.append("x-end-bin", "AAE".parse().unwrap());
        trailers.append("x-end-bin", "AgM".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = client.unary(PATH, &[("authorization", &bearer(&site))], b"").await;
    let head = answer.head.headers();
    assert_eq!(head.get_all("x-list").iter().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(head["x-head-bin"], "/+8=");
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers.get_all("x-end-bin").iter().collect::<Vec<_>>(), ["AAE", "AgM"]);
    assert_eq!(answer.body, grpc::frame(false, b"m"));
}

#[tokio::test]
async fn a_trailers_only_answer_stays_trailers_only() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |_, mut respond| async move {
        let mut head = ok_head();
        head.headers_mut().insert("grpc-status", "5".parse().unwrap());
        head.headers_mut().insert("grpc-message", "no%20such thing".parse().unwrap());
        head.headers_mut().insert("x-reason", "gone".parse().unwrap());
        respond.send_response(head, true).unwrap();
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = client.unary(PATH, &[("authorization", &bearer(&site))], b"").await;
    assert!(answer.trailers.is_none() && answer.body.is_empty());
    assert_eq!(answer.head.headers()["grpc-message"], "no%20such thing");
    assert_eq!(answer.head.headers()["x-reason"], "gone");
    assert_eq!(answer.status().code, 5);
}

#[tokio::test]
async fn compressed_messages_pass_with_their_flag_and_bytes() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, move |request: Request<RecvStream>, mut respond| {
        let tell = tell.clone();
        async move {
            let encoding = request.headers()["grpc-encoding"].clone();
            let (body, _) = read(request.into_body()).await.unwrap();
            tell.send((encoding.clone(), body.clone())).unwrap();
            let mut head = ok_head();
            head.headers_mut().insert("grpc-encoding", encoding);
            let mut send = respond.send_response(head, false).unwrap();
            send.send_data(body.into(), false).unwrap();
            send.send_trailers(ok_trailers()).unwrap();
        }
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str()), ("grpc-encoding", "gzip")];
    // Not even gzip: whoever looked into the message would stumble.
    let message = grpc::frame(true, b"\x1f\x8b not really");
    let mut call = client.call(PATH, &headers).await;
    call.send.send_data(message.clone(), true).unwrap();
    let answer = call.answer().await;
    let (encoding, body) = told.recv().await.unwrap();
    assert_eq!((encoding.as_bytes(), &body[..]), (&b"gzip"[..], &message[..]));
    assert_eq!(answer.head.headers()["grpc-encoding"], "gzip");
    assert_eq!(answer.body, message);
}

#[tokio::test]
async fn large_streams_pass_whole_in_both_directions() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |request, mut respond| async move {
        let mut send = respond.send_response(ok_head(), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(chunk)) = body.data().await {
            body.flow_control().release_capacity(chunk.len()).unwrap();
            send_all(&mut send, chunk).await;
        }
        send.send_trailers(ok_trailers()).unwrap();
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut call = client.call(PATH, &[("authorization", &bearer(&site))]).await;
    let mut sent = Vec::new();
    std::io::repeat(7).take(9_000_001).read_to_end(&mut sent).unwrap();
    for (index, byte) in sent.iter_mut().enumerate() {
        *byte = (index / 251) as u8;
    }
    let chunks: Vec<_> = sent.chunks(100_003).map(Bytes::copy_from_slice).collect();
    let body = call.head().await.into_body();
    let writer = tokio::spawn(async move {
        for chunk in chunks {
            send_all(&mut call.send, chunk).await;
        }
        call.send.send_data(Bytes::new(), true).unwrap();
    });
    let (got, trailers) = in_time("the echo", read(body)).await.unwrap();
    writer.await.unwrap();
    assert!(got == sent, "{} bytes came of {}", got.len(), sent.len());
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

/// Sends as the receiver gives room.
async fn send_all(send: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = std::future::poll_fn(|context| send.poll_capacity(context)).await;
        let room = room.expect("the stream is open").expect("the stream is open");
        let piece = data.split_to(room.min(data.len()));
        send.send_data(piece, false).unwrap();
    }
}

#[tokio::test]
async fn response_headers_are_not_held_back_until_a_message() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |request, mut respond| async move {
        let mut send = respond.send_response(ok_head(), false).unwrap();
        // Says nothing more until the client has said something.
        let (body, _) = read(request.into_body()).await.unwrap();
        send.send_data(body.into(), false).unwrap();
        send.send_trailers(ok_trailers()).unwrap();
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut call = client.call(PATH, &[("authorization", &bearer(&site))]).await;
    let head = call.head().await;
    call.send.send_data(grpc::frame(false, b"now"), true).unwrap();
    let (body, _) = in_time("the echo", read(head.into_body())).await.unwrap();
    assert_eq!(body, grpc::frame(false, b"now"));
}

#[tokio::test]
async fn a_service_may_answer_before_it_has_read_the_request() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |request, respond| async move {
        answer(respond);
        drop(request);
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    // The request side stays open.
    let call = client.call(PATH, &[("authorization", &bearer(&site))]).await;
    let answer = call.answer().await;
    assert_eq!(answer.status().code, 0);
}

#[tokio::test]
async fn the_deadline_is_passed_on_and_never_grows() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, tells_headers(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str()), ("grpc-timeout", "10S")];
    client.unary(PATH, &headers, b"").await;
    let left = timeout_of(&told.recv().await.unwrap()).expect("a deadline is passed on");
    assert!(left <= Duration::from_secs(10) && left > Duration::from_secs(5), "{left:?}");
}

#[tokio::test]
async fn the_timeout_of_a_route_caps_what_the_caller_asks_for() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, tells_headers(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    for asked in [None, Some(("grpc-timeout", "1H"))] {
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(asked);
        client.unary("/foreign.Short/Method", &headers, b"").await;
        let left = timeout_of(&told.recv().await.unwrap()).expect("the route has a timeout");
        assert!(left <= Duration::from_secs(1), "{left:?} for {asked:?}");
    }
}

#[tokio::test]
async fn a_call_past_its_deadline_ends_for_the_client_and_for_the_service() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, reports_reset(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer =
        client.unary("/foreign.Short/Method", &[("authorization", &bearer(&site))], b"").await;
    assert_eq!(answer.status().code, 4);
    assert_eq!(told.recv().await.unwrap(), "called");
    assert_eq!(in_time("the reset", told.recv()).await.unwrap(), "reset");
}

#[tokio::test]
async fn a_reset_before_the_first_byte_reaches_the_service() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, reports_reset(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut call = client.call(PATH, &[("authorization", &bearer(&site))]).await;
    assert_eq!(in_time("the call", told.recv()).await.unwrap(), "called");
    call.send.send_reset(h2::Reason::CANCEL);
    assert_eq!(in_time("the reset", told.recv()).await.unwrap(), "reset");
}

#[tokio::test]
async fn a_lost_client_connection_ends_its_calls_at_the_service() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, reports_reset(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let _call = client.call(PATH, &[("authorization", &bearer(&site))]).await;
    assert_eq!(in_time("the call", told.recv()).await.unwrap(), "called");
    drop(client);
    assert_eq!(in_time("the reset", told.recv()).await.unwrap(), "reset");
}

#[tokio::test]
async fn a_cancelled_call_leaves_the_others_of_its_connection_alone() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |request, mut respond| async move {
        let mut send = respond.send_response(ok_head(), false).unwrap();
        if let Ok((body, _)) = read(request.into_body()).await {
            send.send_data(body.into(), false).unwrap();
            send.send_trailers(ok_trailers()).unwrap();
        }
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let headers = [("authorization", bearer.as_str())];
    let mut stays = client.call(PATH, &headers).await;
    // More than any budget for resets that a server may have by default.
    for _ in 0..300 {
        let mut call = client.call(PATH, &headers).await;
        call.head().await;
        call.send.send_reset(h2::Reason::CANCEL);
    }
    stays.send.send_data(grpc::frame(false, b"still here"), true).unwrap();
    assert_eq!(stays.answer().await.body, grpc::frame(false, b"still here"));
}

#[tokio::test]
async fn authorization_is_forwarded_only_where_the_route_says_so() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, tells_headers(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    for (path, forwarded) in [(PATH, None), ("/foreign.Trusted/Method", Some(bearer.as_str()))] {
        client.unary(path, &[("authorization", &bearer)], b"").await;
        let got = told.recv().await.unwrap();
        assert_eq!(got.get("authorization").map(|v| v.to_str().unwrap()), forwarded, "{path}");
    }
}

/// A backend that never answers, and tells when it is called and when the
/// call is reset.
fn reports_reset(
    tell: mpsc::UnboundedSender<&'static str>,
) -> impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> futures_util::future::BoxFuture<'static, ()>
+ Clone {
    move |_request, mut respond| {
        let tell = tell.clone();
        Box::pin(async move {
            tell.send("called").unwrap();
            let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            tell.send("reset").unwrap();
        })
    }
}

/// The value of `grpc-timeout`.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().unwrap();
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().unwrap();
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        other => panic!("unit {other}"),
    })
}
