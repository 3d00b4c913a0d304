//! Which endpoint of a backend a call goes to, and what the others cost it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Call, Connection, in_time};
use intellirouter_tests::foreign::{PATH, answer, bearer};
use intellirouter_tests::{Config, Gateway, Site, grpc};
use tokio::sync::{Barrier, mpsc};

/// A method that the backend answers once all who are to meet have come.
const MEET: &str = "/foreign.Service/Meet";

/// One worker, and an upstream with these endpoints.
fn gateway(site: &Site, endpoints: &[u16], connect_timeout: Duration) -> Gateway {
    let list: Vec<String> = endpoints
        .iter()
        .map(|port| format!("\"https://127.0.0.1:{port}\""))
        .collect();
    let mut config = Config::default()
        .upstream("foreign", endpoints[0])
        .with_text(&format!(
            "connect_timeout = \"{}ms\"\n",
            connect_timeout.as_millis()
        ))
        .route("/foreign.Service/*", "foreign")
        .with_text("[workers]\ncount = 1\n");
    config.rest = config.rest.replace(&list[0], &list.join(", "));
    site.gateway(&config)
}

/// A backend that takes so many calls on a connection, and lets so many meet.
async fn backend(site: &Site, calls: u32, meeting: usize) -> Backend {
    let barrier = Arc::new(Barrier::new(meeting));
    let mut http2 = h2::server::Builder::new();
    http2.max_concurrent_streams(calls);
    Backend::start_with(site, &http2, move |request, respond| {
        let barrier = Arc::clone(&barrier);
        async move {
            if request.uri().path() == MEET {
                barrier.wait().await;
            }
            answer(respond);
        }
    })
    .await
}

/// Begins so many calls at once on one connection.
async fn begin(site: &Site, client: &mut Connection, path: &str, count: usize) -> Vec<Call> {
    let bearer = bearer(site);
    let mut calls = Vec::new();
    for _ in 0..count {
        let mut call = client.call(path, &[("authorization", &bearer)]).await;
        call.send.send_data(grpc::frame(false, b""), true).unwrap();
        calls.push(call);
    }
    calls
}

/// How so many calls end that are made at once.
async fn codes(site: &Site, client: &mut Connection, path: &str, count: usize) -> Vec<i32> {
    let calls = begin(site, client, path, count).await;
    join_all(
        calls
            .into_iter()
            .map(|call| async { call.answer().await.status().code }),
    )
    .await
}

#[tokio::test]
async fn an_endpoint_that_finishes_tls_and_is_silent_is_unavailable() {
    let site = Site::new();
    let silent = Backend::silent(&site).await;
    let gateway = gateway(&site, &[silent.port], Duration::from_secs(1));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(codes(&site, &mut client, PATH, 4).await, [14; 4]);
}

#[tokio::test]
async fn no_call_goes_to_a_silent_endpoint_while_another_answers() {
    let site = Site::new();
    let silent = Backend::silent(&site).await;
    let good = backend(&site, 100, 1).await;
    let gateway = gateway(&site, &[silent.port, good.port], Duration::from_secs(1));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    for _ in 0..2 {
        assert_eq!(codes(&site, &mut client, PATH, 16).await, [0; 16]);
    }
}

#[tokio::test]
async fn the_first_calls_already_keep_to_what_a_backend_takes_on_a_connection() {
    let site = Site::new();
    // All four are there at the same time, each on a connection of its own:
    // half of those that there may be, the other half is for other callers.
    let good = backend(&site, 1, 4).await;
    let gateway = gateway(&site, &[good.port], Duration::from_secs(10));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(codes(&site, &mut client, MEET, 4).await, [0; 4]);
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_call_anything_while_another_is_connected() {
    let site = Site::new();
    let connect_timeout = Duration::from_secs(2);
    let (tell, mut told) = mpsc::unbounded_channel();
    let (good, dead) = (backend(&site, 100, 1).await, Backend::dead(tell).await);
    let gateway = gateway(&site, &[good.port, dead.port], connect_timeout);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(codes(&site, &mut client, PATH, 1).await, [0]);
    // Over a whole attempt and its back-off, into the next attempt.
    let mut attempts = 0;
    in_time("a second attempt at the dead endpoint", async {
        while attempts < 2 {
            let asked = Instant::now();
            assert_eq!(codes(&site, &mut client, PATH, 4).await, [0; 4]);
            let took = asked.elapsed();
            assert!(took < connect_timeout, "{took:?}");
            attempts += usize::from(told.try_recv().is_ok());
        }
    })
    .await;
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_call_anything_while_another_can_have_one_more_connection() {
    let site = Site::new();
    let connect_timeout = Duration::from_secs(10);
    let (tell, _told) = mpsc::unbounded_channel();
    let (good, dead) = (backend(&site, 1, 4).await, Backend::dead(tell).await);
    let gateway = gateway(&site, &[good.port, dead.port], connect_timeout);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(codes(&site, &mut client, PATH, 1).await, [0]);
    let asked = Instant::now();
    assert_eq!(codes(&site, &mut client, MEET, 4).await, [0; 4]);
    let took = asked.elapsed();
    assert!(took < connect_timeout, "{took:?}");
}
