//! What must pass through the gateway untouched, in front of services that it
//! has no descriptors of.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::io::Read;

use bytes::Bytes;
use h2::RecvStream;
use http::Request;
use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::foreign::{
    PATH, answer, bearer, in_front_of, ok_head, ok_trailers, tells_headers,
};
use intellirouter_tests::{Config, Site, grpc, scripts};
use tokio::sync::mpsc;

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
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    let bearer = bearer(&site);
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(sent);
    let answer = client.unary(PATH, &headers, b"").await;
    assert_eq!(answer.status().code, 0);

    let got = told.recv().await.unwrap();
    for (name, _) in sent {
        let wanted: Vec<_> = sent
            .iter()
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| *v)
            .collect();
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
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/grpc+thrift"),
    ];
    client.unary(PATH, &headers, b"").await;
    assert_eq!(
        told.recv().await.unwrap()["content-type"],
        "application/grpc+thrift"
    );
}

#[tokio::test]
async fn response_headers_and_trailers_reach_the_client_as_they_were_sent() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |_, mut respond| async move {
        let mut head = ok_head();
        for value in ["one", "two"] {
            head.headers_mut().append("x-list", value.parse().unwrap());
        }
        head.headers_mut()
            .insert("x-head-bin", "/+8=".parse().unwrap());
        let mut send = respond.send_response(head, false).unwrap();
        send.send_data(grpc::frame(false, b"m"), false).unwrap();
        let mut trailers = ok_trailers();
        trailers.append("x-end-bin", "AAE".parse().unwrap());
        trailers.append("x-end-bin", "AgM".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = client
        .unary(PATH, &[("authorization", &bearer(&site))], b"")
        .await;
    let head = answer.head.headers();
    assert_eq!(
        head.get_all("x-list").iter().collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert_eq!(head["x-head-bin"], "/+8=");
    let trailers = answer.trailers.unwrap();
    assert_eq!(
        trailers.get_all("x-end-bin").iter().collect::<Vec<_>>(),
        ["AAE", "AgM"]
    );
    assert_eq!(answer.body, grpc::frame(false, b"m"));
}

#[tokio::test]
async fn a_trailers_only_answer_stays_trailers_only() {
    let site = Site::new();
    let (_backend, gateway) = in_front_of(&site, |_, mut respond| async move {
        let mut head = ok_head();
        head.headers_mut()
            .insert("grpc-status", "5".parse().unwrap());
        head.headers_mut()
            .insert("grpc-message", "no%20such thing".parse().unwrap());
        head.headers_mut()
            .insert("x-reason", "gone".parse().unwrap());
        respond.send_response(head, true).unwrap();
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = client
        .unary(PATH, &[("authorization", &bearer(&site))], b"")
        .await;
    assert!(answer.trailers.is_none() && answer.body.is_empty());
    assert_eq!(answer.head.headers()["grpc-message"], "no%20such thing");
    assert_eq!(answer.head.headers()["x-reason"], "gone");
    assert_eq!(answer.status().code, 5);
}

#[tokio::test]
async fn compressed_messages_pass_with_their_flag_and_bytes() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) =
        in_front_of(&site, move |request: Request<RecvStream>, mut respond| {
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
    let headers = [
        ("authorization", bearer.as_str()),
        ("grpc-encoding", "gzip"),
    ];
    // Not even gzip: whoever looked into the message would stumble.
    let message = grpc::frame(true, b"\x1f\x8b not really");
    let mut call = client.call(PATH, &headers).await;
    call.send.send_data(message.clone(), true).unwrap();
    let answer = call.answer().await;
    let (encoding, body) = told.recv().await.unwrap();
    assert_eq!(
        (encoding.as_bytes(), &body[..]),
        (&b"gzip"[..], &message[..])
    );
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
    let mut call = client
        .call(PATH, &[("authorization", &bearer(&site))])
        .await;
    let mut sent = Vec::new();
    std::io::repeat(7)
        .take(9_000_001)
        .read_to_end(&mut sent)
        .unwrap();
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
    let mut call = client
        .call(PATH, &[("authorization", &bearer(&site))])
        .await;
    let head = call.head().await;
    call.send
        .send_data(grpc::frame(false, b"now"), true)
        .unwrap();
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
    let call = client
        .call(PATH, &[("authorization", &bearer(&site))])
        .await;
    let answer = call.answer().await;
    assert_eq!(answer.status().code, 0);
}

#[tokio::test]
async fn authorization_is_forwarded_only_where_the_route_says_so() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_backend, gateway) = in_front_of(&site, tells_headers(tell)).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    for (path, forwarded) in [
        (PATH, None),
        ("/foreign.Trusted/Method", Some(bearer.as_str())),
    ] {
        client.unary(path, &[("authorization", &bearer)], b"").await;
        let got = told.recv().await.unwrap();
        assert_eq!(
            got.get("authorization").map(|v| v.to_str().unwrap()),
            forwarded,
            "{path}"
        );
    }
}

/// Sends as the receiver gives room.
async fn send_all(send: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = std::future::poll_fn(|context| send.poll_capacity(context)).await;
        let room = room
            .expect("the stream is open")
            .expect("the stream is open");
        let piece = data.split_to(room.min(data.len()));
        send.send_data(piece, false).unwrap();
    }
}
