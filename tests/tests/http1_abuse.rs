//! What a client of HTTP/1.1 can't do: keep connections and calls by being
//! slow, cost others anything by not reading, or hide a request in another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::abuse::{Abused, HUGE, NEVER, PIPELINED, SMUGGLED, TINY};
use intellirouter_tests::curl::request;
use intellirouter_tests::foreign::PATH;
use intellirouter_tests::scripts::run_alone;
use intellirouter_tests::{Config, Site, grpc};
use serde_json::json;

/// How much a gateway may grow when there is nothing to keep, in KiB.
const LITTLE_KIB: usize = 16 * 1024;
/// The same for four answers that are not read.
const UNREAD_KIB: usize = 48 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_do_not_come_in_time_are_not_waited_for() {
    let abused = Abused::start("").await;
    for attack in ["slow_headers", "no_headers"] {
        let outcome = abused.attack_http1(attack, &[]).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 10, "{}", outcome.report);
    }
    abused.counted("header_timeout", 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_in_time_ends_its_call_and_its_connection() {
    for attack in ["slow_body", "trickled_body", "endless_chunks"] {
        let abused = Abused::start("").await;
        // The call itself has all the time of the world.
        let outcome = abused.attack_http1(attack, &["--path", NEVER]).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 10, "{}", outcome.report);
        // In gRPC-Web, a refusal has HTTP status 200.
        assert_eq!(outcome.report["statuses"], json!({"200": 10}));
        abused.counted("body_timeout", 10).await;
        assert_eq!(abused.backend.connections(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_bounded_and_closed_after_the_stall_timeout() {
    for (path, number) in [(HUGE, 4), (TINY, 1)] {
        let abused = Abused::start("").await;
        let connections = number.to_string();
        let args = [
            "--path",
            path,
            "--connections",
            &connections,
            "--seconds",
            "6",
        ];
        let outcome = abused.attack_http1("unread", &args).await;
        outcome.assert_harmless(UNREAD_KIB);
        abused.counted("stalled", number).await;
        assert_eq!(abused.backend.connections(), 1, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_can_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read() {
    let abused = Abused::start("").await;
    let mut script = abused.script("smuggling.py");
    script.args(["--token", &abused.token]);
    let outcome = abused
        .beside_others(move || {
            run_alone(&script);
            json!({"attack": "smuggling"})
        })
        .await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(abused.called(SMUGGLED), 0);
    // What stands plainly in a second request does come through.
    assert_eq!(abused.called(PIPELINED), 1);
    assert!(abused.closed("bad_http1") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ambiguous_request_is_logged_and_counted_once_and_goes_nowhere() {
    let site = Site::new();
    let config = Config::default().with_text("[workers]\ncount = 1\n");
    let gateway = site.gateway(&config);
    // Without a Host.
    let answer = request(
        &gateway,
        "/nowhere?secret=1",
        &["--http1.1", "-H", "Host:"],
        None,
    );
    assert_eq!(answer.status, 400);
    let named = |name: &str| format!("{name}{{route=\"unknown\",protocol=\"http\",");
    let calls = named("calls_total") + "code=\"INVALID_ARGUMENT\"}";
    assert_eq!(gateway.figure(&calls), 1);
    let refusals: u64 = gateway
        .metrics()
        .lines()
        .filter(|line| line.contains(&named("refusals_total")))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(refusals, 1);
    gateway.process.error_line("the call", |line| {
        (line.contains("/nowhere") && line.contains("INVALID_ARGUMENT")).then_some(())
    });
    let lines = gateway.process.error_lines();
    let logged = lines.iter().filter(|line| line.contains("/nowhere"));
    assert_eq!(logged.count(), 1);
    assert!(!lines.iter().any(|line| line.contains("secret")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_at_a_hop_ends_there_though_a_request_of_http_1_0_names_no_host() {
    let abused = Abused::start("").await;
    let bearer = format!("Authorization: Bearer {}", abused.token);
    let mut args = vec!["--http1.0", "--no-alpn", "-H", "Host:", "-H", &bearer];
    for header in [
        "Content-Type: application/grpc-web+proto",
        "Connection: keep-alive, x-mine",
        "Keep-Alive: 5",
        "X-Mine: 1",
        "Upgrade: h2c",
        "Proxy-Connection: close",
    ] {
        args.extend(["-H", header]);
    }
    let answer = request(&abused.gateway, PATH, &args, Some(&grpc::frame(false, b"")));
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().contains("grpc-status: 0"),
        "{}",
        answer.text()
    );
    assert_eq!(abused.called(PATH), 1);
}
