//! Deadlines and cancellation reach the service, and nothing else does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::Duration;

use http::HeaderMap;
use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::foreign::{
    PATH, bearer, in_front_of, ok_head, ok_trailers, reports_reset, tells_headers,
};
use intellirouter_tests::{Site, grpc};
use tokio::sync::mpsc;

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
    assert!(
        left <= Duration::from_secs(10) && left > Duration::from_secs(5),
        "{left:?}"
    );
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
    let answer = client
        .unary(
            "/foreign.Short/Method",
            &[("authorization", &bearer(&site))],
            b"",
        )
        .await;
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
    let mut call = client
        .call(PATH, &[("authorization", &bearer(&site))])
        .await;
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
    let _call = client
        .call(PATH, &[("authorization", &bearer(&site))])
        .await;
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
    stays
        .send
        .send_data(grpc::frame(false, b"still here"), true)
        .unwrap();
    assert_eq!(stays.answer().await.body, grpc::frame(false, b"still here"));
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
