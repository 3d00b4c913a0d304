//! What a client of HTTP/2 can't do to others, to backends and to the memory
//! of a gateway, whatever frames it sends; and how it is told apart.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::Duration;

use intellirouter_tests::abuse::{Abused, BIG, BIG_BYTES, NEVER};
use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::foreign::PATH;
use intellirouter_tests::grpc;

/// How much a gateway may grow under an attack that leaves it nothing to keep.
const LITTLE_KIB: usize = 16 * 1024;
/// The same where 100 answers of 1 MiB wait unread: some 400 KiB for each.
const UNREAD_KIB: usize = 48 * 1024;

/// How many calls of a connection that gives up all of them may reach a backend
/// before it is closed: 200, those that are open, and those on their way.
const GIVEN_UP: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_in_the_same_breath_reach_no_backend() {
    let abused = Abused::start("").await;
    let args = ["--path", NEVER, "--times", "20"];
    let outcome = abused.attack("rapid_reset", &args).await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(outcome.closed(), 20, "{}", outcome.report);
    abused.counted("reset_flood", 20).await;
    // A few may come apart on their way.
    let (calls, seen) = (outcome.figure("calls"), outcome.backend_calls);
    assert!(seen < calls / 10, "{seen} of {calls}");
    assert_eq!(abused.backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_by_somebody_without_a_token_reach_no_backend_and_are_closed_too() {
    let abused = Abused::start("").await;
    let outcome = abused.attack_by("rapid_reset", &["--times", "20"]).await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(outcome.backend_calls, 0);
    abused.counted("reset_flood", 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_up_calls_faster_than_it_may_is_closed() {
    let abused = Abused::start("").await;
    let args = ["--path", NEVER, "--wave", "100", "--seconds", "20"];
    let outcome = abused.attack("waves", &args).await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(outcome.closed(), 1, "{}", outcome.report);
    abused.counted("reset_flood", 1).await;
    let seen = outcome.backend_calls;
    assert!(seen <= GIVEN_UP, "{seen} calls at the backend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_makes_the_gateway_reset_its_calls_is_closed() {
    for attack in [
        "window_overflow",
        "self_dependency",
        "too_much_data",
        "half_trailers",
    ] {
        let abused = Abused::start("").await;
        let args = ["--path", NEVER, "--seconds", "20"];
        let outcome = abused.attack(attack, &args).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 1, "{}", outcome.report);
        // Which of its faults is one too many differs.
        let reasons = ["reset_flood", "stream_errors", "bad_http2"];
        let counted = reasons.map(|reason| abused.closed(reason));
        assert_eq!(counted.iter().sum::<u64>(), 1, "{attack}: {counted:?}");
        let seen = outcome.backend_calls;
        assert!(seen <= GIVEN_UP, "{attack}: {seen} calls at the backend");
        assert_eq!(abused.backend.connections(), 1, "{attack}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_is_a_connections_ends_it_alone() {
    let abused = Abused::start("").await;
    for attack in ["zero_increment", "data_after_end"] {
        let outcome = abused.attack(attack, &[]).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 1, "{}", outcome.report);
    }
    abused.counted("bad_http2", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_cancelled_calls_cost_the_connection_to_the_backend_nothing() {
    // Whoever is closed may come again as often as it likes.
    let abused = Abused::start("connections_per_address = 1000000\n").await;
    let args = [
        "--path", NEVER, "--wave", "100", "--pause", "0.002", "--times", "1000", "--calls", "50000",
    ];
    let outcome = abused.attack("waves", &args).await;
    outcome.assert_harmless(2 * LITTLE_KIB);
    assert!(outcome.figure("calls") >= 50_000, "{}", outcome.report);
    assert_eq!(abused.backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_to_cancelled_calls_cost_the_connection_to_the_backend_nothing() {
    let abused = Abused::start("connections_per_address = 1000000\n").await;
    let args = [
        "--path", BIG, "--wave", "50", "--pause", "0.02", "--times", "100", "--calls", "5000",
    ];
    let outcome = abused.attack("waves", &args).await;
    outcome.assert_harmless(2 * LITTLE_KIB);
    assert!(outcome.figure("calls") >= 5_000, "{}", outcome.report);
    assert_eq!(abused.backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_a_deadline_of_a_moment_are_no_way_around() {
    let abused = Abused::start("").await;
    let args = [
        "--path",
        NEVER,
        "--header",
        "grpc-timeout=1m",
        "--wave",
        "100",
        "--seconds",
        "20",
    ];
    let outcome = abused.attack("waves", &args).await;
    outcome.assert_harmless(LITTLE_KIB);
    abused.counted("reset_flood", 1).await;
    assert_eq!(abused.backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_block_without_an_end_is_not_kept() {
    let abused = Abused::start("").await;
    for attack in ["continuation", "continuation_empty"] {
        let outcome = abused.attack(attack, &[]).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 1, "{}", outcome.report);
    }
    abused.counted("continuation_flood", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_control_frames_is_closed_whether_its_answers_are_read_or_not() {
    for (attack, reason) in [
        ("settings", "settings_flood"),
        ("settings_unread", "settings_flood"),
        ("ping", "ping_flood"),
        ("ping_unread", "ping_flood"),
        ("pong", "ping_flood"),
        ("priority", "priority_flood"),
        ("unknown", "priority_flood"),
        ("window", "window_flood"),
    ] {
        let abused = Abused::start("").await;
        let outcome = abused.attack(attack, &["--seconds", "20"]).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 1, "{}", outcome.report);
        abused.counted(reason, 1).await;
        // What the attacker sends, nobody has to store.
        let lines = abused.gateway.process.error_lines().len();
        assert!(lines < 30, "{attack}: {lines} log lines");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_empty_frames_is_closed() {
    let abused = Abused::start("").await;
    let outcome = abused.attack("data_empty", &[]).await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(outcome.closed(), 1, "{}", outcome.report);
    abused.counted("small_frames", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_tiny_frames_holds_up_nobody() {
    let abused = Abused::start("").await;
    let outcome = abused.attack("data_tiny", &["--seconds", "3"]).await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(abused.backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_gives_room_for_are_reset_after_the_idle_timeout() {
    let abused = Abused::start("idle_timeout = \"2s\"\n").await;
    let args = ["--big", BIG, "--seconds", "8"];
    let outcome = abused.attack("zero_window", &args).await;
    outcome.assert_harmless(UNREAD_KIB);
    assert_eq!(outcome.figure("data_bytes"), 0);
    assert_eq!(outcome.figure("resets"), 100, "{}", outcome.report);
    let name = "refusals_total{route=\"/foreign.Service/*\",protocol=\"grpc\",reason=\"stalled\"}";
    assert_eq!(abused.gateway.figure(name), 100);
    // And then the connection has no call.
    assert_eq!(outcome.closed(), 1, "{}", outcome.report);
    abused.counted("idle", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_its_whole_answer_however_long_it_takes() {
    let abused = Abused::start("idle_timeout = \"2s\"\n").await;
    let mut client = Connection::open(abused.gateway.port, &abused.gateway.ca).await;
    let bearer = format!("Bearer {}", abused.token);
    let mut call = client.call(BIG, &[("authorization", &bearer)]).await;
    call.send.send_data(grpc::frame(false, b""), true).unwrap();
    let mut body = call.head().await.into_body();
    let mut got = 0;
    // Each pause is shorter than the timeout, all together are longer.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let mut taken = 0;
        while taken < 60_000 {
            let chunk = in_time("a part", body.data()).await.unwrap().unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            taken += chunk.len();
        }
        got += taken;
    }
    let (rest, trailers) = in_time("the rest", read(body)).await.unwrap();
    assert_eq!(got + rest.len(), BIG_BYTES);
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_is_given_byte_by_byte_is_a_flood() {
    let abused = Abused::start("").await;
    let args = ["--big", BIG, "--seconds", "20"];
    let outcome = abused.attack("trickled_window", &args).await;
    outcome.assert_harmless(UNREAD_KIB);
    assert_eq!(outcome.closed(), 1, "{}", outcome.report);
    abused.counted("window_flood", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_its_socket_is_closed_after_the_stall_timeout() {
    let abused = Abused::start("").await;
    let args = ["--big", BIG, "--seconds", "5"];
    let outcome = abused.attack("deaf", &args).await;
    outcome.assert_harmless(UNREAD_KIB);
    abused.counted("stalled", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_list_that_unfolds_beyond_its_limit_is_not_unfolded() {
    let abused = Abused::start("").await;
    for attack in ["hpack_bomb", "header_list"] {
        let outcome = abused.attack(attack, &["--seconds", "20"]).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 1, "{}", outcome.report);
        assert_eq!(outcome.backend_calls, 0);
    }
    abused.counted("header_flood", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_too_many_headers_reach_no_backend() {
    let abused = Abused::start("").await;
    let outcome = abused.attack("many_headers", &["--seconds", "2"]).await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(outcome.backend_calls, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_none_reaches_no_backend() {
    let abused = Abused::start("").await;
    let outcome = abused.attack("malformed", &[]).await;
    outcome.assert_harmless(LITTLE_KIB);
    let reached = &outcome.report["reached"];
    assert_eq!(*reached, serde_json::json!(["well formed"]));
    assert_eq!(outcome.backend_calls, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_to_say_what_it_wants_is_closed() {
    let abused = Abused::start("").await;
    for (attack, reason, times) in [
        ("silent", "handshake_timeout", 1),
        ("slow_preface", "handshake_timeout", 2),
        ("slow_headers", "header_timeout", 1),
    ] {
        let outcome = abused.attack(attack, &["--seconds", "10"]).await;
        outcome.assert_harmless(LITTLE_KIB);
        assert_eq!(outcome.closed(), 1, "{}", outcome.report);
        abused.counted(reason, times).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_no_more_connections_than_it_may() {
    let abused = Abused::start("connections_per_address = 30\n").await;
    // One is that of the others.
    let args = ["--wave", "29", "--seconds", "0.5"];
    let outcome = abused.attack("connections", &args).await;
    outcome.assert_harmless(LITTLE_KIB);
    assert_eq!(outcome.figure("resets"), 10, "{}", outcome.report);
    abused.counted("too_many_from_address", 10).await;
    let lines = abused.gateway.process.error_lines();
    let said = lines
        .iter()
        .filter(|line| line.contains("connection refused"));
    assert!((1..=2).contains(&said.count()), "{lines:?}");
    // When they are gone, there is room again.
    in_time("room", async {
        while abused.gateway.figure("connections") > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    Connection::open(abused.gateway.port, &abused.gateway.ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_closed_for_floods_again_and_again_is_let_in_no_more_for_a_while() {
    // Two floods take 40 places for ten seconds.
    let abused = Abused::start("connections_per_address = 40\n").await;
    let outcome = abused.attack("ping", &["--times", "4"]).await;
    outcome.assert_harmless(LITTLE_KIB);
    abused.counted("ping_flood", 2).await;
    abused.counted("too_many_from_address", 1).await;
    assert_eq!(abused.closed("ping_flood"), 2, "{}", outcome.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gave_up_too_many_calls_is_refused_for_a_while_wherever_it_comes_from() {
    let abused = Abused::start("").await;
    let args = [
        "--path", NEVER, "--wave", "100", "--pause", "0.002", "--times", "10", "--calls", "3000",
    ];
    let outcome = abused.attack("waves", &args).await;
    outcome.assert_harmless(LITTLE_KIB);
    let bearer = format!("Bearer {}", abused.token);
    let headers = [("authorization", bearer.as_str())];
    let mut client = Connection::open(abused.gateway.port, &abused.gateway.ca).await;
    let status = client.unary(PATH, &headers, b"").await.status();
    assert_eq!(status.code, 8, "{status:?}");
    let info = status.details.error_info.unwrap();
    assert_eq!(info.reason, "TOO_MANY_GIVEN_UP");
    let delay = status.details.retry_info.unwrap().retry_delay.unwrap();
    let delay = Duration::try_from(delay).unwrap();
    tokio::time::sleep(delay).await;
    let status = client.unary(PATH, &headers, b"").await.status();
    assert_eq!(status.code, 0, "{status:?}");
}
