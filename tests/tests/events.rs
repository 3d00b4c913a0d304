//! Events, live: whoever publishes, every kind of subscriber gets it, from
//! either store; and who may read and publish what.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::curl::stream;
use intellirouter_tests::events::{CHANNEL, Events, PATTERN, PAYLOAD, field, json, sse_frame};
use intellirouter_tests::redis::Redis;
use intellirouter_tests::{Config, Process};
use serde_json::Value;

/// Publishes once and checks what each of the three kinds of subscriber got.
fn arrives_everywhere(events: &Events, publish: impl FnOnce(&Events)) {
    let (sse, ndjson, grpc) = (
        events.sse(),
        events.curl("application/x-ndjson"),
        events.grpc(),
    );
    publish(events);

    let frame = sse_frame(&sse, &format!("data: {PAYLOAD}"));
    assert_eq!(field(&frame, "event"), "chain_execution_completed");
    let id = field(&frame, "id");
    assert!(!id.is_empty());

    let line = ndjson.line("the event", |line| {
        let line = json(line);
        (line["event"] == "chain_execution_completed").then_some(line)
    });
    assert_eq!(line["data"], json(PAYLOAD));
    assert_eq!(
        (line["channel"].as_str(), line["id"].as_str()),
        (Some(CHANNEL), Some(id))
    );

    let message = grpc.line("the event", |line| {
        let message = json(line);
        (message["kind"] == "event").then_some(message)
    });
    assert_eq!(message["payload"], PAYLOAD);
    assert_eq!(message["channel"], CHANNEL);
    assert_eq!(message["event_type"], "chain_execution_completed");
    assert_eq!(message["id"], id);
}

fn by_post(events: &Events) {
    events.publish(PAYLOAD);
}

fn by_grpc(events: &Events) {
    let client = events.python(&["publish", CHANNEL, PAYLOAD]);
    client.line("the answer", |line| {
        (json(line)["kind"] == "published").then_some(())
    });
}

#[test]
fn what_is_posted_arrives_everywhere_from_the_embedded_store() {
    arrives_everywhere(&Events::new(""), by_post);
}

#[test]
fn what_is_posted_arrives_everywhere_through_redis() {
    let redis = Redis::start();
    arrives_everywhere(&Events::on(&redis), by_post);
}

#[test]
fn what_is_published_by_grpc_arrives_everywhere_from_the_embedded_store() {
    arrives_everywhere(&Events::new(""), by_grpc);
}

#[test]
fn what_is_published_by_grpc_arrives_everywhere_through_redis() {
    let redis = Redis::start();
    arrives_everywhere(&Events::on(&redis), by_grpc);
}

#[test]
fn what_anyone_publishes_on_redis_arrives_everywhere() {
    let redis = Redis::start();
    arrives_everywhere(&Events::on(&redis), |_| {
        redis.cli(&["PUBLISH", CHANNEL, PAYLOAD]);
    });
}

#[test]
fn what_the_gateway_publishes_reaches_plain_redis_subscribers_as_given() {
    let redis = Redis::start();
    let events = Events::on(&redis);
    let mut command = std::process::Command::new("redis-cli");
    command.args(["-p", &redis.port.to_string(), "SUBSCRIBE", CHANNEL]);
    let subscriber = Process::spawn("redis-cli", &command);
    subscriber.line("confirmation", |line| {
        line.contains("subscribe").then_some(())
    });
    events.publish(PAYLOAD);
    subscriber.line("the payload", |line| (line == PAYLOAD).then_some(()));
}

#[test]
fn two_gateways_on_one_redis_carry_each_others_events() {
    let redis = Redis::start();
    let (one, other) = (Events::on(&redis), Events::on(&redis));
    let there = other.sse();
    one.publish(PAYLOAD);
    sse_frame(&there, &format!("data: {PAYLOAD}"));
}

#[test]
fn events_arrive_in_the_order_published_and_each_once() {
    let redis = Redis::start();
    let events = Events::on(&redis);
    let sse = events.sse();
    for n in 0..20 {
        let payload = format!(r#"{{"n":{n}}}"#);
        if n % 2 == 0 {
            events.publish(&payload);
        } else {
            redis.cli(&["PUBLISH", CHANNEL, &payload]);
        }
    }
    sse_frame(&sse, r#"data: {"n":19}"#);
    let got: Vec<_> = sse
        .lines()
        .into_iter()
        .filter(|line| line.contains(r#"{"n":"#))
        .collect();
    let wanted: Vec<_> = (0..20).map(|n| format!(r#"data: {{"n":{n}}}"#)).collect();
    assert_eq!(got, wanted);
}

#[test]
fn who_comes_back_gets_all_that_is_retained_however_much_that_is() {
    // A reader that is further behind than this while it is connected is closed.
    let events = Events::new("lag_bytes = 1048576");
    let first = events.sse();
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(500_000));
    events.publish(&payload);
    let id = field(&sse_frame(&first, "event: chain_execution_completed"), "id").to_owned();
    drop(first);
    for _ in 0..10 {
        events.publish(&payload);
    }
    events.publish(r#"{"last":true}"#);
    // On its own channel, and on one that was silent meanwhile.
    let silent = "intellirouter:chain_engine:router_core:chain_step_completed";
    for channel in [PATTERN, silent] {
        let path = format!("{}&last_event_id={id}", Events::path(channel));
        let again = events.curl_with("text/event-stream", &events.header, &path);
        if channel == silent {
            let event = events.post(silent, r#"{"last":true}"#);
            assert_eq!(event.status, 202, "{}", event.text());
        }
        let mut got = 0;
        again.line("the last event", |line| {
            assert!(
                !line.contains("ir.error") && !line.contains("ir.gap"),
                "{line}"
            );
            got += usize::from(line.starts_with("event: chain_"));
            line.contains(r#"{"last":true}"#).then_some(())
        });
        assert_eq!(got, if channel == PATTERN { 11 } else { 1 }, "{channel}");
    }
}

#[test]
fn a_stream_begins_with_ir_open_and_tells_proxies_to_keep_off() {
    let events = Events::new("");
    let accept = ["-H", "accept: text/event-stream", "--dump-header", "-"];
    let curl = stream(
        &events.gateway,
        &Events::path(PATTERN),
        &[&["-H", &events.header][..], &accept].concat(),
    );
    let frame = sse_frame(&curl, "event: ir.open");
    assert!(!field(&frame, "id").is_empty());
    let lines = curl.lines();
    let head: Vec<_> = lines
        .iter()
        .map(|line| line.trim_end().to_ascii_lowercase())
        .collect();
    assert!(
        head.iter()
            .any(|line| line == "content-type: text/event-stream"),
        "{head:?}"
    );
    assert!(
        head.iter().any(|line| line == "x-accel-buffering: no"),
        "{head:?}"
    );
    let cache = head
        .iter()
        .find_map(|line| line.strip_prefix("cache-control: "))
        .unwrap();
    assert!(
        cache.contains("no-transform") && cache.contains("no-store"),
        "{cache}"
    );
    let first = lines
        .iter()
        .position(|line| line.starts_with("event: "))
        .unwrap();
    assert_eq!(lines[first], "event: ir.open");
}

#[test]
fn a_stream_gets_the_channels_that_it_asked_for_and_no_other() {
    let events = Events::new("");
    let path = "/events?channel=intellirouter:chain_engine:router_core:chain_step_completed\
                &channel=intellirouter:chain_engine:*:chain_execution_failed";
    let sse = events.curl_with("text/event-stream", &events.header, path);
    for (event, payload) in [
        ("chain_execution_completed", r#"{"n":1}"#),
        ("chain_step_completed", r#"{"n":2}"#),
        ("chain_execution_failed", r#"{"n":3}"#),
    ] {
        let channel = format!("intellirouter:chain_engine:router_core:{event}");
        assert_eq!(events.post(&channel, payload).status, 202);
    }
    sse_frame(&sse, r#"data: {"n":3}"#);
    let got: Vec<_> = sse
        .lines()
        .into_iter()
        .filter(|line| line.contains(r#"{"n":"#))
        .collect();
    assert_eq!(got, [r#"data: {"n":2}"#, r#"data: {"n":3}"#]);
}

/// Nothing is published here but what a test waits for.
const SILENT: &str = "intellirouter:chain_engine:router_core:chain_step_completed";

/// Publishes on the silent channel; who resumes from `id` gets that alone, and no gap.
fn resumes(events: &Events, id: &str, payload: &str) {
    assert_eq!(events.post(SILENT, payload).status, 202);
    let path = format!("{}&last_event_id={id}", Events::path(SILENT));
    let again = events.curl_with("text/event-stream", &events.header, &path);
    sse_frame(&again, &format!("data: {payload}"));
    let lines = again.lines();
    let mut said = lines.iter().filter(|line| line.starts_with("event: "));
    assert_eq!(said.next().unwrap(), "event: ir.open");
    assert_eq!(said.next().unwrap(), "event: chain_step_completed");
    assert_eq!(said.next(), None);
}

fn a_silent_stream_can_be_resumed(events: &Events) {
    let noise = || (0..5).for_each(|n| events.publish(&format!(r#"{{"n":{n}}}"#)));
    let follow = || events.curl_with("text/event-stream", &events.header, &Events::path(SILENT));
    // Cut before its first event.
    let first = follow();
    noise();
    let opened = sse_frame(&first, "event: ir.open");
    drop(first);
    resumes(events, field(&opened, "id"), r#"{"silent":1}"#);

    // A position is told every 30 s, and comments in between.
    let quiet = follow();
    noise();
    for count in 1..=2 {
        let mut comments = 0;
        quiet.line("a comment", |line| {
            comments += usize::from(line.starts_with(':'));
            (comments == count).then_some(())
        });
    }
    let position = sse_frame(&quiet, "event: ir.position");
    drop(quiet);
    let opened = field(&opened, "id");
    assert_ne!(field(&position, "id"), opened);
    resumes(events, field(&position, "id"), r#"{"silent":2}"#);
}

#[test]
fn one_cut_before_its_first_event_and_one_on_a_silent_channel_resume_on_the_embedded_store() {
    a_silent_stream_can_be_resumed(&Events::new("heartbeat = \"10s\""));
}

#[test]
fn one_cut_before_its_first_event_and_one_on_a_silent_channel_resume_through_redis() {
    let redis = Redis::start();
    let config = format!("store = \"{}\"\nheartbeat = \"10s\"", redis.url());
    a_silent_stream_can_be_resumed(&Events::new(&config));
}

#[test]
fn events_come_over_http1_too() {
    let events = Events::new("");
    let args = ["--http1.1", "-H", &events.header];
    let curl = stream(&events.gateway, &Events::path(PATTERN), &args);
    sse_frame(&curl, "event: ir.open");
    events.publish(PAYLOAD);
    sse_frame(&curl, &format!("data: {PAYLOAD}"));
}

#[test]
fn a_channel_that_is_not_allowed_is_refused_by_name() {
    let events = Events::new("");
    let other = "intellirouter:rag_manager:persona_layer:document_indexed";
    let answer = events.get(&Events::path(other), &[]);
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains(other), "{}", answer.text());

    // One that is allowed beside it changes nothing.
    let both = format!("{}&channel={other}", Events::path(PATTERN));
    assert_eq!(events.get(&both, &[]).status, 403);

    let answer = events.post(other, "{}");
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains(other), "{}", answer.text());

    for args in [vec!["subscribe", other], vec!["publish", other, "{}"]] {
        let status = events.python(&args).line("a status", |line| {
            let line = json(line);
            (line["kind"] == "status").then_some(line)
        });
        assert_eq!(status["code"], "PERMISSION_DENIED", "{args:?}");
        assert!(
            status["message"].as_str().unwrap().contains(other),
            "{status}"
        );
    }
}

#[test]
fn a_pattern_that_reaches_beyond_what_is_allowed_is_refused() {
    let events = Events::new("");
    for pattern in [
        "intellirouter:*",
        "intellirouter:*:router_core:chain_execution_completed",
        "intellirouter:chain*:router_core:x",
        "intellirouter:chain_engine*",
    ] {
        let answer = events.get(&Events::path(pattern), &[]);
        assert!(
            matches!(answer.status, 400 | 403),
            "{pattern}: {}",
            answer.status
        );
    }
}

#[test]
fn only_those_who_may_publish_can() {
    let config = Config::default().with_text(&format!(
        "[events]\n[[events.rules]]\nroles = [\"tester\"]\nsubscribe = [\"{PATTERN}\"]\n",
    ));
    let events = Events::with(&config);
    assert_eq!(events.post(CHANNEL, "{}").status, 403);
    drop(events.sse());
}

#[test]
fn a_bad_request_is_refused_with_the_place() {
    let events = Events::new("payload_bytes = 1000");
    for (path, place) in [
        ("/events", "channel"),
        ("/events?channel=", "channel"),
        ("/events?channel=Not:A:Channel", "channel"),
        (
            "/events?channel=intellirouter:chain_engine:*&token=abc",
            "query",
        ),
        (
            "/events?channel=intellirouter:chain_engine:*&envelope=xml",
            "envelope",
        ),
    ] {
        let answer = events.get(path, &[]);
        assert_eq!(answer.status, 400, "{path}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["place"], place, "{path}: {problem}");
    }
    for payload in ["", "not json", "[1]", "{\"a\":", "{} {}"] {
        assert_eq!(events.post(CHANNEL, payload).status, 400, "{payload}");
    }
    assert_eq!(
        events.post("intellirouter:chain_engine:*", "{}").status,
        400
    );
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(1000));
    assert_eq!(events.post(CHANNEL, &large).status, 413);
}

#[test]
fn a_format_that_nobody_speaks_is_not_acceptable() {
    let events = Events::new("");
    let answer = events.get(&Events::path(PATTERN), &["-H", "accept: application/xml"]);
    assert_eq!(answer.status, 406);
}

#[test]
fn a_wrong_method_is_refused_with_the_right_one() {
    let events = Events::new("");
    let answer = events.get(&Events::path(PATTERN), &["-X", "DELETE"]);
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
    let answer = events.get(&format!("/events/{CHANNEL}"), &[]);
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
}
