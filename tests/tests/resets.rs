//! Calls that are given up, in front of a backend that ends a connection for
//! them: Node's own HTTP/2, which bears 1,000 resets and 33 more each second.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::cell::RefCell;
use std::process::Command;
use std::time::{Duration, Instant};

use intellirouter_tests::client::{Call, Connection, in_time};
use intellirouter_tests::{Config, Gateway, Process, Site, Token, grpc, here};
use serde_json::Value;

const UNARY: &str = "/foreign.Service/Unary";
const BEGINS: &str = "/foreign.Service/Begins";
const NEVER: &str = "/foreign.Service/Never";

struct Resets {
    site: Site,
    gateway: Gateway,
    backend: RefCell<Process>,
}

impl Resets {
    fn start() -> Self {
        let site = Site::new();
        let mut command = Command::new("node");
        command.arg(here("clients/resets_server.mjs"));
        for name in ["backend.crt", "backend.key", "ca.crt"] {
            command.arg(site.certs.path(name));
        }
        let mut backend = Process::spawn("backend", &command);
        let first = backend.next_line().expect("it tells its port");
        let first: Value = serde_json::from_str(&first).unwrap();
        let port = u16::try_from(first["port"].as_u64().unwrap()).unwrap();
        let config = Config::default()
            .upstream("foreign", port)
            .route("/foreign.Service/*", "foreign")
            .with_text("[workers]\ncount = 1\n");
        let gateway = site.gateway(&config);
        Self {
            site,
            gateway,
            backend: RefCell::new(backend),
        }
    }

    fn bearer(&self, subject: &str) -> String {
        let token = Token::new(subject, &["tester"]);
        format!("Bearer {}", token.hs256(self.site.secret().as_bytes()))
    }

    async fn connect(&self) -> Connection {
        Connection::open(self.gateway.port, &self.gateway.ca).await
    }

    /// What the backend has seen.
    fn seen(&self, name: &str) -> u64 {
        let mut backend = self.backend.borrow_mut();
        backend.send("figures");
        let line = backend.next_line().expect("it answers");
        let figures: Value = serde_json::from_str(&line).unwrap();
        figures[name].as_u64().unwrap()
    }

    async fn until(&self, name: &str, least: u64) {
        in_time(name, async {
            while self.seen(name) < least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Begins so many calls of a method on a connection.
    async fn begin(client: &mut Connection, path: &str, bearer: &str, number: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        for _ in 0..number {
            let mut call = client.call(path, &[("authorization", bearer)]).await;
            call.send.send_data(grpc::frame(false, b""), true).unwrap();
            calls.push(call);
        }
        calls
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_many_callers_leave_do_not_end_the_connection_that_all_share() {
    let test = Resets::start();
    let (mut other, bearer) = (test.connect().await, test.bearer("somebody else"));
    for subject in 0..9 {
        let mut client = test.connect().await;
        let mut calls =
            Resets::begin(&mut client, BEGINS, &test.bearer(&subject.to_string()), 75).await;
        for call in &mut calls {
            assert_eq!(call.head().await.status(), 200);
        }
        drop(calls);
        let mut calls =
            Resets::begin(&mut client, BEGINS, &test.bearer(&subject.to_string()), 75).await;
        for call in &mut calls {
            assert_eq!(call.head().await.status(), 200);
        }
        drop(calls);
        let answer = other.unary(UNARY, &[("authorization", &bearer)], b"").await;
        assert_eq!(answer.status().code, 0);
    }
    // 1,350 are left; what may go at once is gone, and others go on their way.
    test.until("resets", 530).await;
    let answer = other.unary(UNARY, &[("authorization", &bearer)], b"").await;
    assert_eq!(answer.status().code, 0);
    assert!(test.seen("resets") < 1_000, "{}", test.seen("resets"));
    assert_eq!((test.seen("sessions"), test.seen("closed")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_every_answer_as_soon_as_it_begins_is_refused() {
    let test = Resets::start();
    let bearer = test.bearer("mallory");
    let mut client = test.connect().await;
    let mut refused = None;
    for left in 0..1_000 {
        let mut calls = Resets::begin(&mut client, BEGINS, &bearer, 1).await;
        let head = calls[0].head().await;
        if let Some(status) = head.headers().get("grpc-status") {
            assert_eq!(status, "8");
            refused = Some(left);
            break;
        }
    }
    assert!(refused.is_some_and(|left| left > 300), "{refused:?}");
    assert_eq!((test.seen("sessions"), test.seen("closed")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_slowly_is_refused_once_others_would_lack_its_places() {
    let test = Resets::start();
    let bearer = test.bearer("mallory");
    let mut client = test.connect().await;
    let mut calls = 0;
    let name = "refusals_total{route=\"/foreign.Service/*\",protocol=\"grpc\",\
                reason=\"too_many_given_up\"}";
    while test.gateway.figure_or_0(name) == 0 {
        assert!(calls < 2_000, "never refused");
        let wave = Resets::begin(&mut client, NEVER, &bearer, 90).await;
        calls += wave.len();
        // Longer than what counts by itself.
        tokio::time::sleep(Duration::from_millis(150)).await;
        drop(wave);
    }
    assert_eq!((test.seen("sessions"), test.seen("closed")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_alone_stops_at_its_backend_at_once() {
    let test = Resets::start();
    let bearer = test.bearer("alice");
    let mut client = test.connect().await;
    let mut took = Vec::new();
    for (number, path) in [NEVER, BEGINS].iter().cycle().take(20).enumerate() {
        let number = number as u64;
        let mut calls = Resets::begin(&mut client, path, &bearer, 1).await;
        test.until("calls", number + 1).await;
        if *path == BEGINS {
            calls[0].head().await;
        }
        let given_up = Instant::now();
        drop(calls);
        test.until("resets", number + 1).await;
        took.push(given_up.elapsed());
    }
    took.sort();
    assert!(took[10] < Duration::from_millis(50), "{took:?}");
}
