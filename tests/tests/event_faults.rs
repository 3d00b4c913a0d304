//! Events when a part misbehaves or ends: Redis, a reader, a token, the
//! gateway itself. What may be lost is said, and nobody waits for another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::Duration;

use h2::RecvStream;
use http::Request;
use intellirouter_tests::client::{Connection, in_time};
use intellirouter_tests::curl::stream;
use intellirouter_tests::events::{CHANNEL, Events, PATTERN, PAYLOAD, field, json, sse_frame};
use intellirouter_tests::grpc::frame;
use intellirouter_tests::redis::Redis;
use intellirouter_tests::token::now;
use intellirouter_tests::{Config, Process, Token};

const SUBSCRIBE: &str = "/intellirouter.events.v1.EventService/Subscribe";

#[test]
fn a_quiet_stream_has_a_heartbeat() {
    let events = Events::new("heartbeat = \"1s\"");
    let (sse, ndjson) = (events.sse(), events.curl("application/x-ndjson"));
    sse.line("a comment", |line| line.starts_with(':').then_some(()));
    ndjson.line("a heartbeat", |line| {
        (json(line)["event"] == "ir.heartbeat").then_some(())
    });
}

#[test]
fn a_stream_ends_when_its_token_does() {
    let events = Events::new("");
    let token = Token::new("alice", &["tester"])
        .with("exp", now() + 2)
        .hs256(events.site.secret().as_bytes());
    let header = format!("authorization: Bearer {token}");
    let mut sse = events.curl_with("text/event-stream", &header, &Events::path(PATTERN));
    let frame = sse_frame(&sse, "event: ir.error");
    assert_eq!(json(field(&frame, "data"))["reason"], "token_expired");
    assert!(sse.wait().success());
}

#[test]
fn a_draining_gateway_ends_its_streams_with_a_reason() {
    let events = Events::new("");
    let (mut sse, mut ndjson, mut grpc) = (
        events.sse(),
        events.curl("application/x-ndjson"),
        events.grpc(),
    );
    events.gateway.interrupt();
    let frame = sse_frame(&sse, "event: ir.error");
    assert_eq!(json(field(&frame, "data"))["reason"], "draining");
    assert!(!field(&frame, "retry").is_empty());
    let line = ndjson.line("the reason", |line| {
        let line = json(line);
        (line["event"] == "ir.error").then_some(line)
    });
    assert_eq!(line["data"]["reason"], "draining");
    assert!(line["retry"].is_u64(), "{line}");
    grpc.line("the reason", |line| {
        (json(line)["reason"] == "draining").then_some(())
    });
    for client in [&mut sse, &mut ndjson] {
        assert!(client.wait().success(), "{}", client.output());
    }
    grpc.wait();
    let Events { mut gateway, .. } = events;
    assert!(gateway.process.wait().success());
}

/// Opens many SSE streams on few connections and waits until each is open.
async fn many(
    events: &Events,
    connections: usize,
    each: usize,
) -> Vec<(Connection, Vec<RecvStream>)> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
        let mut bodies = Vec::new();
        for _ in 0..each {
            let mut call = client.begin(subscribe(events), true).await;
            let mut body = call.head().await.into_body();
            let first = in_time("ir.open", body.data()).await.unwrap().unwrap();
            assert!(first.windows(7).any(|part| part == b"ir.open"));
            bodies.push(body);
        }
        open.push((client, bodies));
    }
    open
}

fn subscribe(events: &Events) -> Request<()> {
    let (_, bearer) = events.header.split_once(' ').unwrap();
    Request::get(format!("https://localhost{}", Events::path(PATTERN)))
        .header("authorization", bearer)
        .body(())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_subscribers_need_no_more_redis_connections_than_one() {
    let redis = Redis::start();
    let events = Events::on(&redis);
    let first = events.sse();
    let before = redis.clients();
    // Publisher, tail and recorder of the log, and the one for tickets and renewals.
    assert!((1..=4).contains(&before.len()), "{before:?}");
    let mut open = many(&events, 2, 100).await;
    assert_eq!(redis.clients().len(), before.len(), "{:?}", redis.clients());

    events.publish(PAYLOAD);
    sse_frame(&first, &format!("data: {PAYLOAD}"));
    for (_, bodies) in &mut open {
        for body in bodies {
            let mut text = Vec::new();
            while !text.windows(4).any(|part| part == b"\"e1\"") {
                let chunk = in_time("the event", body.data()).await.unwrap().unwrap();
                text.extend_from_slice(&chunk);
            }
        }
    }
}

#[test]
fn a_redis_that_was_away_is_survived_and_said() {
    let mut redis = Redis::start();
    let events = Events::on(&redis);
    let (sse, ndjson, grpc) = (
        events.sse(),
        events.curl("application/x-ndjson"),
        events.grpc(),
    );
    redis.cli(&["PUBLISH", CHANNEL, r#"{"n":1}"#]);
    sse_frame(&sse, r#"data: {"n":1}"#);
    redis.kill();
    redis.restart();

    let frame = sse_frame(&sse, "event: ir.gap");
    let gap = json(field(&frame, "data"));
    assert!(
        ["store_lost_data", "recorder_away"].contains(&gap["reason"].as_str().unwrap()),
        "{gap}"
    );
    ndjson.line("a gap", |line| {
        (json(line)["event"] == "ir.gap").then_some(())
    });
    grpc.line("a gap", |line| (json(line)["kind"] == "gap").then_some(()));

    redis.cli(&["PUBLISH", CHANNEL, r#"{"n":2}"#]);
    sse_frame(&sse, r#"data: {"n":2}"#);
    let lines = sse.lines();
    let at = |what: &str| lines.iter().position(|line| line == what).unwrap();
    assert!(
        at("event: ir.gap") < at(r#"data: {"n":2}"#),
        "the gap comes first"
    );
}

#[test]
fn publishing_while_redis_is_away_is_unavailable_and_works_again_after() {
    let mut redis = Redis::start();
    let events = Events::on(&redis);
    let sse = events.sse();
    redis.kill();
    let answer = events.post(CHANNEL, "{}");
    assert_eq!(answer.status, 503, "{}", answer.text());
    let retry: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(retry > 0);
    redis.restart();
    // The subscriber's own connection tells when the gateway is back.
    sse_frame(&sse, "event: ir.gap");
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    while events.post(CHANNEL, PAYLOAD).status != 202 {
        assert!(
            std::time::Instant::now() < end,
            "{}",
            events.gateway.process.output()
        );
    }
    sse_frame(&sse, &format!("data: {PAYLOAD}"));
}

#[test]
fn a_redis_that_hangs_is_not_waited_for_for_ever() {
    let redis = Redis::start();
    let events = Events::with(&Config::default().events(&format!(
        "store = \"{}\"\npublish_timeout = \"1s\"",
        redis.url()
    )));
    let sse = events.sse();
    redis.freeze();
    assert_eq!(events.post(CHANNEL, "{}").status, 503);
    redis.thaw();
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    while events.post(CHANNEL, PAYLOAD).status != 202 {
        assert!(
            std::time::Instant::now() < end,
            "{}",
            events.gateway.process.output()
        );
    }
    sse_frame(&sse, &format!("data: {PAYLOAD}"));
}

/// Publishes `count` events of about 10 kB.
async fn flood(events: &Events, count: usize) {
    let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
    for n in 0..count {
        publish(events, &mut client, n).await;
    }
    client.close().await;
}

/// Publishes an event of about 10 kB with this number.
async fn publish(events: &Events, client: &mut Connection, n: usize) {
    let (_, bearer) = events.header.split_once(' ').unwrap();
    let payload = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(10_000));
    let request = Request::post(format!("https://localhost/events/{CHANNEL}"))
        .header("authorization", bearer)
        .body(())
        .unwrap();
    let mut call = client.begin(request, false).await;
    call.send.send_data(payload.into(), true).unwrap();
    assert_eq!(call.answer().await.head.status(), 202);
}

/// Closes readers that are behind, and none for taking nothing.
fn patient() -> Config {
    Config::default()
        .events("lag_bytes = 65536")
        .with_text("[limits]\nstall_timeout = \"600s\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_too_slow_is_closed_with_a_reason_and_disturbs_nobody() {
    let events = Events::with(&patient());
    let mut quick = events.sse();
    let mut publisher = Connection::open(events.gateway.port, &events.gateway.ca).await;
    let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
    let mut sse = client.begin(subscribe(&events), true).await;
    let mut sse = sse.head().await.into_body();
    let (_, bearer) = events.header.split_once(": ").unwrap();
    let mut grpc = client.call(SUBSCRIBE, &[("authorization", bearer)]).await;
    grpc.send.send_data(question(), true).unwrap();
    let mut grpc = grpc.head().await.into_body();
    for body in [&mut sse, &mut grpc] {
        let first = in_time("the opening", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(first.len()).unwrap();
    }
    // 3 MB, of which nothing is read: far more than the windows and the lag.
    // Each alone: also one that had everything when its window was shut is slow.
    for n in 0..300 {
        publish(&events, &mut publisher, n).await;
        let number = format!("\"n\":{n},");
        while !quick.next_line().expect("the event").contains(&number) {}
    }

    for (mut body, last) in [(sse, "event: ir.error\n"), (grpc, "slow")] {
        let text = async {
            let mut text = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                text.extend_from_slice(&chunk);
            }
            text
        };
        let text = in_time("the end", text).await;
        let text = String::from_utf8_lossy(&text);
        let end = text.find(last).expect("a reason");
        assert!(text[end..].contains("slow"), "{}", &text[end..]);
        assert!(
            text.len() < 2_000_000,
            "{} bytes were kept for it",
            text.len()
        );
    }
}

/// A message of `EventService.Subscribe` for [`PATTERN`].
fn question() -> bytes::Bytes {
    let question = [&[0x0a, PATTERN.len() as u8], PATTERN.as_bytes()].concat();
    frame(false, &question)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_grpc_web_over_http1_that_is_too_slow_is_told() {
    let events = Events::with(&patient());
    let file = events.site.dir().join("question");
    std::fs::write(&file, question()).unwrap();
    let file = format!("@{}", file.display());
    let args = [
        "--http1.1",
        "-H",
        &events.header,
        "-H",
        "content-type: application/grpc-web+proto",
        "--data-binary",
        &file,
    ];
    let mut reader = stream(&events.gateway, SUBSCRIBE, &args);
    while open_streams(&events) == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Stopped, it takes no more than the buffers of its socket, some MB.
    reader.signal(rustix::process::Signal::STOP);
    flood(&events, 1500).await;
    reader.signal(rustix::process::Signal::CONT);
    assert!(reader.wait().success());
    let lines = reader.lines();
    let last = lines.iter().rev().take(5);
    assert!(last.clone().any(|line| line.contains("slow")), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_in_the_moment_of_an_event_is_noticed_without_another() {
    let events = Events::new("heartbeat = \"300s\"");
    let mut publisher = Connection::open(events.gateway.port, &events.gateway.ca).await;
    for n in 0..20 {
        let args = ["--http1.1", "-H", &events.header];
        let mut leaver = stream(&events.gateway, &Events::path(PATTERN), &args);
        leaver.line("ir.open", |line| line.contains("ir.open").then_some(()));
        let leaves = tokio::task::spawn_blocking(move || leaver.kill());
        publish(&events, &mut publisher, n).await;
        leaves.await.unwrap();
        all_streams_close(&events).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_takes_no_byte_any_more_is_cut() {
    let config = Config::default()
        .events("lag_bytes = 65536")
        .with_text("[limits]\nstall_timeout = \"1s\"\n");
    let events = Events::with(&config);
    let stuck = events.sse();
    // Stopped, it takes no more than the buffers of its socket, some MB.
    stuck.signal(rustix::process::Signal::STOP);
    flood(&events, 1500).await;
    all_streams_close(&events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_never_read_again_is_cut_though_its_connection_lives() {
    let config = Config::default()
        .events("lag_bytes = 65536")
        .with_text("[limits]\nstall_timeout = \"1s\"\n");
    let events = Events::with(&config);
    let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
    let mut call = client.begin(subscribe(&events), true).await;
    // Held and never read: its window stays shut.
    let _body = call.head().await.into_body();
    flood(&events, 100).await;
    all_streams_close(&events).await;
    let mut other = client.begin(subscribe(&events), true).await;
    assert_eq!(
        other.head().await.status(),
        200,
        "the connection itself is good"
    );
}

/// What the limits in `docs/operating.md` say of one reader: a batch of 64 KiB and an event, a window
/// of 128 KiB and a send buffer of 64 KiB; and a connection with nothing under way.
const READER_KIB: usize = 64 + 10 + 128 + 64 + 48;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stop_take_a_bounded_number_of_bytes_and_give_them_back() {
    const READERS: usize = 100;
    let config = Config::default()
        .events("lag_bytes = 65536\npayload_bytes = 65536\nretain_bytes = 1048576")
        .with_text("[limits]\nstall_timeout = \"6s\"\n");
    let events = Events::with(&config);
    // Full with what is kept for resume.
    flood(&events, 150).await;
    let mut held = Vec::new();
    let mut left = Vec::new();
    for _ in 0..4 {
        let before = events.gateway.memory_kib();
        let open = many(&events, READERS, 1).await;
        // 2 MB, of which none is read.
        flood(&events, 200).await;
        assert_eq!(open_streams(&events), READERS as u64, "none is cut yet");
        held.push(events.gateway.memory_kib().saturating_sub(before));
        all_streams_close(&events).await;
        drop(open);
        left.push(events.gateway.memory_kib());
    }
    let slow = "event_streams_closed_total{reason=\"slow\"}";
    assert_eq!(events.gateway.figure(slow), 4 * READERS as u64);
    let of_one = held[0] / READERS;
    assert!(of_one <= READER_KIB, "{of_one} KiB for one: {held:?} KiB");
    // What the first gave back serves three times as many after them.
    let grown = left[3].saturating_sub(left[0]);
    assert!(grown < held[0], "held {held:?} KiB, left {left:?} KiB");
}

/// Waits until the gateway counts no event stream.
async fn all_streams_close(events: &Events) {
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    while open_streams(events) != 0 {
        assert!(
            std::time::Instant::now() < end,
            "{}",
            events.gateway.process.output()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The number of open event streams, as the admin page tells.
fn open_streams(events: &Events) -> u64 {
    let mut command = std::process::Command::new("curl");
    command.args([
        "-sS",
        &format!("http://127.0.0.1:{}/metrics", events.gateway.admin),
    ]);
    let (_, metrics, _) = Process::run("curl", &command);
    let line = metrics
        .lines()
        .find(|line| !line.starts_with('#') && line.contains("event_streams "));
    let value = line.unwrap_or_else(|| panic!("no gauge of streams in\n{metrics}"));
    value.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn an_open_stream_goes_on_within_a_tenth_of_a_second_of_the_return_of_the_store() {
    let mut redis = Redis::start();
    let events = Events::on(&redis);
    let sse = events.sse();
    let gaps = || {
        let lines = sse.lines();
        lines.iter().filter(|line| *line == "event: ir.gap").count()
    };
    let mut took = Vec::new();
    for round in 0..9 {
        redis.kill();
        let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
        while !events.gateway.page("/readyz").contains("event store away") {
            assert!(std::time::Instant::now() < end, "the loss is not noticed");
        }
        redis.restart();
        let returned = std::time::Instant::now();
        while gaps() == round {
            assert!(returned.elapsed() < intellirouter_tests::DEADLINE);
            std::thread::sleep(Duration::from_millis(1));
        }
        took.push(returned.elapsed());
        // And newcomers are let in.
        drop(events.sse());
    }
    took.sort();
    println!("on again after {took:?}");
    // A busy machine only adds to it.
    assert!(took[2] <= Duration::from_millis(100), "{took:?}");
}
