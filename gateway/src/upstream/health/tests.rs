use std::collections::VecDeque;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode};
use prost_reflect::prost::Message as _;
use tonic_health::pb::HealthCheckRequest;

use super::*;
use crate::test_util::{backend, grpc_head, receive, status};
use crate::upstream::tests::{upstream_at, upstream_of};

const MS: Duration = Duration::from_millis(1);

fn config() -> HealthConfig {
    HealthConfig {
        service: "a.Service".into(),
        interval: 1000 * MS,
        timeout: 300 * MS,
        unhealthy_after: 3,
        healthy_after: 2,
    }
}

fn fault() -> Option<String> {
    Some("fault".into())
}

#[test]
fn nothing_known_is_up_and_so_many_failed_checks_in_a_row_are_down() {
    let (health, config) = (Health::default(), config());
    assert_eq!(health.report().is_up, None);
    assert!(health.is_up());
    let checker = health.hand_over();
    for answer in [fault(), fault(), None, fault(), fault()] {
        assert_eq!(health.record(checker, answer, &config), None);
        assert_eq!(health.report().is_up, Some(true));
    }
    let change = health.record(checker, fault(), &config);
    assert_eq!(change, Some(Change::Down));
    assert!(!health.is_up());
    assert_eq!(health.report().last_fault, fault());
}

#[test]
fn so_many_good_checks_in_a_row_bring_it_back_and_each_change_is_told_once() {
    let (health, config) = (Health::default(), config());
    let checker = health.hand_over();
    let mut changes = Vec::new();
    for answer in [0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1] {
        let fault = (answer == 0).then(String::new);
        changes.extend(health.record(checker, fault, &config));
    }
    assert_eq!(changes, [Change::Down, Change::Up]);
}

#[test]
fn who_checked_before_a_reload_has_no_say_after_it() {
    let (health, config) = (Health::default(), config());
    let old = health.hand_over();
    let new = health.hand_over();
    for _ in 0..5 {
        assert_eq!(health.record(old, fault(), &config), None);
    }
    assert!(health.is_up());
    for _ in 0..3 {
        health.record(new, fault(), &config);
    }
    assert!(!health.is_up());
    // Nobody checks any more.
    health.forget();
    health.record(new, fault(), &config);
    assert!(health.is_up());
    assert_eq!(health.report().is_up, None);
}

/// Answers as it is told; after that not at all.
struct Told {
    answers: VecDeque<bool>,
    asked_at: Arc<Mutex<Vec<Instant>>>,
}

impl Ask for Told {
    async fn ask(&mut self) -> Result<(), CheckError> {
        self.asked_at.lock().unwrap().push(Instant::now());
        match self.answers.pop_front() {
            Some(true) => Ok(()),
            Some(false) => Err(CheckError::NotServing),
            None => std::future::pending().await,
        }
    }
}

/// Checks that get these answers, and the times at which they ask.
fn following(answers: &[bool], random: Random) -> (Arc<Endpoint>, Arc<Mutex<Vec<Instant>>>) {
    let asked_at = Arc::<Mutex<Vec<Instant>>>::default();
    let endpoint = upstream_of(1, "").endpoints()[0].clone();
    let following = Following {
        upstream: "b".into(),
        endpoint: endpoint.clone(),
        config: config(),
        random,
    };
    tokio::spawn(following.run(Told {
        answers: answers.iter().copied().collect(),
        asked_at: asked_at.clone(),
    }));
    (endpoint, asked_at)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_asked_at_once_and_then_every_interval_less_up_to_a_tenth() {
    for (random, expected) in [(|| 0.0) as Random, || 0.5, || 1.0]
        .into_iter()
        .zip([1000, 950, 900])
    {
        let began = Instant::now();
        let (_, asked_at) = following(&[true; 9], random);
        tokio::time::sleep(3500 * MS).await;
        let asked: Vec<_> = asked_at
            .lock()
            .unwrap()
            .iter()
            .map(|at| *at - began)
            .collect();
        let times: Vec<_> = (0..asked.len() as u32).map(|n| n * expected * MS).collect();
        assert_eq!(asked, times);
        assert_eq!(asked.len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_without_an_answer_in_time_has_failed_and_only_one_runs_at_a_time() {
    let (endpoint, asked_at) = following(&[true], || 0.0);
    let health = &endpoint.standing.health;
    // The fourth is the third that fails.
    tokio::time::sleep(3299 * MS).await;
    assert!(health.is_up());
    tokio::time::sleep(2 * MS).await;
    assert!(!health.is_up());
    assert_eq!(asked_at.lock().unwrap().len(), 4);
    assert_eq!(
        health.report().last_fault.unwrap(),
        "no answer within 300ms"
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_healthy_again_begins_without_its_old_latency() {
    let (endpoint, _) = following(&[false, false, false, true, true], || 0.0);
    endpoint.standing.load.observe(9000 * MS, Instant::now());
    tokio::time::sleep(3500 * MS).await;
    assert!(endpoint.standing.load.expected(Instant::now()).is_some());
    assert!(!endpoint.standing.health.is_up());
    tokio::time::sleep(1000 * MS).await;
    assert!(endpoint.standing.health.is_up());
    assert!(endpoint.standing.load.expected(Instant::now()).is_none());
}

/// What a check says of a server that answers with this.
async fn check<F>(answer: F) -> Result<(), String>
where
    F: Fn(&mut SendResponse<Bytes>) + Clone + Send + 'static,
{
    let port = backend(
        move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let answer = answer.clone();
            async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()["content-type"], "application/grpc");
                assert_eq!(request.headers()["te"], "trailers");
                let (frames, _) = receive(&mut request.into_body()).await.unwrap();
                let asked = HealthCheckRequest::decode(&frames.concat()[5..]).unwrap();
                assert_eq!(asked.service, "a.Service");
                answer(&mut respond);
            }
        },
    )
    .await;
    let upstream = upstream_at(&format!("'http://127.0.0.1:{port}'"), "");
    let mut check = Check::new(upstream.endpoints()[0].clone(), &config());
    let first = check.ask().await.map_err(|error| error.to_string());
    // On the same connection, or after a fault on a new one.
    let second = check.ask().await.map_err(|error| error.to_string());
    assert_eq!(first, second);
    first
}

/// Trailers alone, with this status.
async fn check_status(code: &'static str) -> Result<(), String> {
    check(move |respond| {
        let mut head = grpc_head();
        head.headers_mut().extend(status(code));
        respond.send_response(head, true).unwrap();
    })
    .await
}

/// A message and status 0.
async fn check_message(message: &'static [u8]) -> Result<(), String> {
    check(move |respond| {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_data(Bytes::from_static(message), false);
        let _ = send.send_trailers(status("0"));
    })
    .await
}

#[tokio::test]
async fn serving_is_good_and_every_other_answer_is_not() {
    assert_eq!(check_message(b"\0\0\0\0\x02\x08\x01").await, Ok(()));
    let not_serving = Err("the server says that it does not serve".to_owned());
    for status in [
        b"\0\0\0\0\x02\x08\0",
        b"\0\0\0\0\x02\x08\x02",
        b"\0\0\0\0\x02\x08\x03",
    ] {
        assert_eq!(check_message(status).await, not_serving);
    }
    // An unset status is UNKNOWN.
    assert_eq!(check_message(b"\0\0\0\0\0").await, not_serving);
}

#[tokio::test]
async fn a_server_without_a_health_service_or_with_one_that_is_not_for_the_gateway_is_there() {
    for code in ["12", "16", "7"] {
        assert_eq!(check_status(code).await, Ok(()), "{code}");
    }
    for code in [404, 401, 403] {
        let page = check(move |respond| {
            let head = Response::builder().status(code).body(()).unwrap();
            respond.send_response(head, true).unwrap();
        });
        assert_eq!(page.await, Ok(()), "{code}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_failed_check() {
    for (code, text) in [("5", "NotFound"), ("14", "Unavailable"), ("2", "Unknown")] {
        assert_eq!(check_status(code).await, Err(format!("status {text}")));
    }
    let malformed = Err("the answer is no HealthCheckResponse".to_owned());
    for message in [
        &b""[..],
        b"\0\0\0\0",
        b"\0\0\0\0\x03\x08\x01",
        b"\x01\0\0\0\x02\x08\x01",
        b"\0\0\0\0\x01\x08",
        &[0; ANSWER_BYTES + 1],
    ] {
        assert_eq!(check_message(message).await, malformed, "{message:?}");
    }
    let page = check(|respond| {
        let head = Response::builder().status(StatusCode::BAD_GATEWAY);
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    });
    assert_eq!(page.await, Err("HTTP status 502 Bad Gateway".into()));
    let no_status = check(|respond| {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_trailers(HeaderMap::new());
    });
    assert_eq!(no_status.await, Err("the answer has no status".into()));
    let reset = check(|respond| respond.send_reset(h2::Reason::INTERNAL_ERROR));
    assert!(
        reset
            .await
            .unwrap_err()
            .starts_with("the connection or the call broke")
    );
}

#[tokio::test]
async fn an_endpoint_that_can_not_be_connected_to_fails_its_check() {
    // Bound and not listening, so that nobody else can take the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let nobody = format!("'http://{}'", socket.local_addr().unwrap());
    let endpoint = upstream_at(&nobody, "").endpoints()[0].clone();
    let error = Check::new(endpoint, &config()).ask().await.unwrap_err();
    assert!(matches!(error, CheckError::Unconnected { .. }), "{error}");
}
