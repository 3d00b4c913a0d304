//! Which endpoint gets calls, seen from outside: health checks, breakers, and
//! what operators are told of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use intellirouter_tests::backend::{Backend, send_all};
use intellirouter_tests::client::{Connection, in_time, tls};
use intellirouter_tests::foreign::{PATH, answer, bearer, ok_head, ok_trailers};
use intellirouter_tests::{Config, Gateway, Site, grpc};
use serde_json::Value;

/// A backend with a health service that says what it is told to.
struct Checked {
    backend: Backend,
    serves: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl Checked {
    async fn start(site: &Site) -> Self {
        let serves = Arc::new(AtomicBool::new(true));
        let calls = Arc::new(AtomicUsize::new(0));
        let (says, counts) = (serves.clone(), calls.clone());
        let backend = Backend::start(site, move |request, mut respond| {
            if request.uri().path() == "/grpc.health.v1.Health/Check" {
                // SERVING or NOT_SERVING.
                let status = if says.load(Ordering::SeqCst) { 1 } else { 2 };
                let mut send = respond.send_response(ok_head(), false).unwrap();
                send.send_data(grpc::frame(false, &[8, status]), false)
                    .unwrap();
                send.send_trailers(ok_trailers()).unwrap();
            } else {
                counts.fetch_add(1, Ordering::SeqCst);
                answer(respond);
            }
            std::future::ready(())
        })
        .await;
        Self {
            backend,
            serves,
            calls,
        }
    }

    fn serves(&self, serves: bool) {
        self.serves.store(serves, Ordering::SeqCst);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// In front of these, with these settings of the upstream.
fn gateway(site: &Site, ports: &[u16], settings: &str) -> Gateway {
    let list: Vec<String> = ports
        .iter()
        .map(|port| format!("\"https://127.0.0.1:{port}\""))
        .collect();
    let mut config = Config::default()
        .upstream("foreign", ports[0])
        .with_text(settings)
        .route("/foreign.Service/*", "foreign");
    config.rest = config.rest.replace(&list[0], &list.join(", "));
    site.gateway(&config)
}

/// What `/upstreams` says of an endpoint.
fn endpoint(gateway: &Gateway, port: u16) -> Value {
    let page: Value = serde_json::from_str(&gateway.page("/upstreams")).unwrap();
    let endpoints = page[0]["endpoints"].as_array().unwrap();
    let name = format!("https://127.0.0.1:{port}");
    let found = endpoints.iter().find(|one| one["endpoint"] == name);
    found.unwrap().clone()
}

async fn until(gateway: &Gateway, port: u16, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    in_time(what, async {
        loop {
            let told = endpoint(gateway, port);
            if holds(&told) {
                return told;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn figure(gateway: &Gateway, name: &str, port: u16) -> u64 {
    let labels = format!("upstream=\"foreign\",endpoint=\"https://127.0.0.1:{port}\"");
    gateway.figure(&format!("{name}{{{labels}}}"))
}

async fn codes(client: &mut Connection, bearer: &str, count: usize) -> Vec<i32> {
    let mut codes = Vec::new();
    for _ in 0..count {
        let answer = client.unary(PATH, &[("authorization", bearer)], b"").await;
        codes.push(answer.status().code);
    }
    codes
}

const CHECKS: &str = "[upstreams.health]\ninterval = \"100ms\"\nunhealthy_after = 1\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_says_that_it_does_not_serve_gets_no_calls_until_it_does() {
    let site = Site::new();
    let (first, second) = (Checked::start(&site).await, Checked::start(&site).await);
    let ports = [first.backend.port, second.backend.port];
    let gateway = gateway(&site, &ports, CHECKS);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);

    first.serves(false);
    let told = until(&gateway, ports[0], "an unhealthy endpoint", |told| {
        told["health"]["state"] == "unhealthy"
    })
    .await;
    let fault = &told["health"]["last_fault"];
    assert_eq!(fault, "the server says that it does not serve");
    assert_eq!(figure(&gateway, "upstream_healthy", ports[0]), 0);
    assert_eq!(figure(&gateway, "upstream_healthy", ports[1]), 1);
    let before = first.calls();
    assert_eq!(codes(&mut client, &bearer, 50).await, [0; 50]);
    assert_eq!(first.calls(), before);

    second.serves(false);
    until(&gateway, ports[1], "both unhealthy", |told| {
        told["health"]["state"] == "unhealthy"
    })
    .await;
    let refused = client.unary(PATH, &[("authorization", &bearer)], b"").await;
    assert_eq!(refused.status().code, 14);
    assert_eq!(second.calls(), 50);

    first.serves(true);
    until(&gateway, ports[0], "a healthy endpoint", |told| {
        told["health"]["state"] == "healthy"
    })
    .await;
    assert_eq!(codes(&mut client, &bearer, 10).await, [0; 10]);
    assert!(first.calls() > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_health_service_counts_as_healthy() {
    let site = Site::new();
    let backend = Backend::start(
        &site,
        |request: http::Request<_>, mut respond: h2::server::SendResponse<Bytes>| {
            if request.uri().path() == PATH {
                answer(respond);
            } else {
                let mut head = ok_head();
                head.headers_mut()
                    .insert("grpc-status", "12".parse().unwrap());
                respond.send_response(head, true).unwrap();
            }
            std::future::ready(())
        },
    )
    .await;
    let gateway = gateway(&site, &[backend.port], CHECKS);
    until(&gateway, backend.port, "a check", |told| {
        assert_ne!(told["health"]["state"], "unhealthy");
        told["health"]["state"] == "healthy"
    })
    .await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(codes(&mut client, &bearer(&site), 3).await, [0; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_breaker_is_open_and_when_it_probes_is_told() {
    let site = Site::new();
    let backend = Checked::start(&site).await;
    let port = backend.backend.port;
    let breaker = "[upstreams.breaker]\nopen_min = \"30s\"\nconsecutive_failures = 3\n";
    let gateway = gateway(&site, &[port], breaker);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    assert_eq!(codes(&mut client, &bearer, 1).await, [0]);
    let told = endpoint(&gateway, port);
    assert_eq!(told["breaker"]["state"], "closed");
    assert_eq!(told["breaker"]["next_probe_in_ms"], Value::Null);
    assert_eq!(figure(&gateway, "upstream_breaker_opened_total", port), 0);

    backend.backend.kill().await;
    let told = in_time("an open breaker", async {
        loop {
            assert_eq!(codes(&mut client, &bearer, 1).await, [14]);
            let told = endpoint(&gateway, port);
            if told["breaker"]["state"] == "open" {
                return told;
            }
        }
    })
    .await;
    assert_eq!(told["breaker"]["reason"], "3 failures in a row");
    assert_eq!(told["breaker"]["opened"], 1);
    let next = told["breaker"]["next_probe_in_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&next), "{next}");
    assert!(told["last_connect_failure"]["error"].is_string());

    let refused = figure(&gateway, "upstream_breaker_refused_total", port);
    assert_eq!(codes(&mut client, &bearer, 5).await, [14; 5]);
    let after = figure(&gateway, "upstream_breaker_refused_total", port);
    assert_eq!(after - refused, 5);
    assert_eq!(figure(&gateway, "upstream_breaker_state", port), 2);
    assert_eq!(figure(&gateway, "upstream_breaker_opened_total", port), 1);
}

/// Known to have one message each way; of [`PATH`] nothing is known.
const UNARY: &str = "/intellirouter.model_registry.v1.ModelRegistryService/GetModel";

/// A backend whose answers are longer than anything takes unread, and a gateway that gives
/// them a second.
async fn long_answers(site: &Site) -> (Backend, Gateway) {
    let backend = Backend::start(site, |_, mut respond| async move {
        let mut send = respond.send_response(ok_head(), false).unwrap();
        let message = grpc::frame(false, &[0; 2 * 1024 * 1024]);
        if send_all(&mut send, message).await {
            // Its caller may leave before that.
            let _ = send.send_trailers(ok_trailers());
        }
    })
    .await;
    let mut config = Config::default()
        .upstream("foreign", backend.port)
        .with_text("[upstreams.breaker]\nconsecutive_failures = 3\n");
    for path in [PATH, UNARY] {
        config = config
            .route(path, "foreign")
            .with_text("timeout = \"1s\"\n");
    }
    (backend, site.gateway(&config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_do_not_read_their_answers_are_no_failure_of_a_backend() {
    let site = Site::new();
    let (backend, gateway) = long_answers(&site).await;
    let bearer = bearer(&site);
    let headers = [("authorization", &*bearer)];
    let tls = tls(&gateway.ca, None);
    // Without any room, with the usual one, and with room for all that was sent so far.
    for window in [0, 65_535, 1024 * 1024] {
        let mut client = Connection::open_narrow(gateway.port, &tls, window).await;
        let mut unread = Vec::new();
        for path in [PATH, UNARY].repeat(5) {
            let mut call = client.call(path, &headers).await;
            call.send.send_data(grpc::frame(false, b""), true).unwrap();
            unread.push(call.head().await);
        }
        // A few leave at once, others when their time is over, the last with their connection.
        unread.truncate(8);
        until(&gateway, backend.port, "the end of their time", |told| {
            told["calls_in_flight"] == 0
        })
        .await;
        for path in [PATH, UNARY].repeat(2) {
            let mut call = client.call(path, &headers).await;
            call.send.send_data(grpc::frame(false, b""), true).unwrap();
            unread.push(call.head().await);
        }
        client.close().await;
        let told = until(&gateway, backend.port, "the end of them all", |told| {
            told["calls_in_flight"] == 0
        })
        .await;
        assert_eq!(told["breaker"]["failures"], 0, "{told}");
        assert_eq!(told["breaker"]["opened"], 0, "{told}");
    }
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    for path in [PATH, UNARY] {
        let answer = client.unary(path, &headers, b"").await;
        assert_eq!(answer.status().code, 0);
    }
    let told = endpoint(&gateway, backend.port);
    assert!(told["breaker"]["calls"].as_u64() >= Some(38), "{told}");
}
