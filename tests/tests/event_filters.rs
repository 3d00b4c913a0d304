//! What of its channels a stream gets, and which channels claims open.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use http::Request;
use intellirouter_tests::client::{Connection, in_time};
use intellirouter_tests::curl::request;
use intellirouter_tests::events::{CHANNEL, Events, PATTERN, json, sse_frame};
use intellirouter_tests::redis::Redis;
use intellirouter_tests::{Config, Process, Token, binary};
use rustix::process::Signal;
use serde_json::Value;

const STEP: &str = "intellirouter:chain_engine:router_core:chain_step_completed";

/// The numbers of the events that a stream has brought, once it has the last.
fn numbers(stream: &Process) -> Vec<u64> {
    let number = |line: &str| {
        let at = line.find(r#"\"n\":"#).map(|at| at + 6);
        let at = at.or_else(|| line.find(r#""n":"#).map(|at| at + 4))?;
        let digits: String = line[at..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    };
    stream.line("the last event", |line| {
        (number(line) == Some(9)).then_some(())
    });
    stream
        .lines()
        .iter()
        .filter_map(|line| number(line))
        .collect()
}

/// `intellirouter events tail`, open when this returns.
fn tail(events: &Events, args: &[&str]) -> Process {
    let certs = events.site.certs.path("");
    let url = events.gateway.url("");
    let common = [
        "events",
        "tail",
        "--url",
        &url,
        "--certs",
        certs.to_str().unwrap(),
    ];
    let tail = Process::spawn("tail", &binary::command(&[&common[..], args].concat()));
    tail.line("the opening", |line| line.contains("ir.open").then_some(()));
    tail
}

fn filters_hold_in_every_dialect(events: &Events, redis: Option<&Redis>) {
    let query = "&type=chain_step_completed&type=chain_execution_failed&where=execution_id:abc\
                 &where=step:2";
    let path = format!("{}{query}", Events::path(PATTERN));
    let sse = events.curl_with("text/event-stream", &events.header, &path);
    let ndjson = events.curl_with("application/x-ndjson", &events.header, &path);
    let filter = [
        "--type",
        "chain_step_completed",
        "--type",
        "chain_execution_failed",
        "--where",
        "execution_id:abc",
        "--where",
        "step:2",
    ];
    let grpc = events.python(&[&["subscribe", PATTERN], &filter[..]].concat());
    grpc.line("the opening", |line| {
        (json(line)["kind"] == "opened").then_some(())
    });
    let tail = tail(events, &[&["--channel", PATTERN], &filter[..]].concat());
    let publish = |channel: &str, payload: &str| match redis {
        Some(redis) => drop(redis.cli(&["PUBLISH", channel, payload])),
        None => assert_eq!(events.post(channel, payload).status, 202),
    };
    publish(STEP, r#"{"n":1,"execution_id":"abc","step":2}"#);
    publish(STEP, r#"{"n":2,"execution_id":"abd","step":2}"#);
    publish(STEP, r#"{"n":3,"execution_id":"abc","step":22}"#);
    publish(STEP, r#"{"n":4,"execution_id":"abc"}"#);
    publish(STEP, r#"{"n":5,"in":{"execution_id":"abc","step":2}}"#);
    publish(CHANNEL, r#"{"n":6,"execution_id":"abc","step":2}"#);
    if redis.is_some() {
        // What only Redis lets in.
        publish(STEP, r#"[{"n":7,"execution_id":"abc","step":2}]"#);
        publish(STEP, r#""n":8,"execution_id":"abc","step":2"#);
    }
    publish(STEP, r#"{"n":9,"execution_id":"abc","step":"2"}"#);
    for stream in [&sse, &ndjson, &grpc, &tail] {
        assert_eq!(numbers(stream), [1, 9], "{}", stream.output());
    }
}

#[test]
fn types_and_fields_are_filtered_in_every_dialect() {
    filters_hold_in_every_dialect(&Events::new(""), None);
}

#[test]
fn types_and_fields_are_filtered_through_redis_whatever_is_published_there() {
    let redis = Redis::start();
    filters_hold_in_every_dialect(&Events::on(&redis), Some(&redis));
}

#[test]
fn a_filter_holds_for_what_is_resumed_too() {
    let events = Events::new("");
    let first = events.sse();
    for n in [1, 2, 9] {
        events.publish(&format!(r#"{{"n":{n},"odd":{}}}"#, n % 2 == 1));
    }
    numbers(&first);
    let opened = sse_frame(&first, "event: ir.open");
    let id = intellirouter_tests::events::field(&opened, "id");
    let path = format!(
        "{}&where=odd:true&last_event_id={id}",
        Events::path(PATTERN)
    );
    let again = events.curl_with("text/event-stream", &events.header, &path);
    assert_eq!(numbers(&again), [1, 9]);
}

#[test]
fn a_bad_filter_is_refused_with_the_place() {
    let events = Events::new("");
    let many = "&where=a:1".repeat(9);
    for (query, place) in [
        ("&type=Chain", "type"),
        ("&type=", "type"),
        ("&type=a:b", "type"),
        ("&where=execution_id", "where"),
        ("&where=:abc", "where"),
        (many.as_str(), "where"),
    ] {
        let answer = events.get(&format!("{}{query}", Events::path(PATTERN)), &[]);
        assert_eq!(answer.status, 400, "{query}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["place"], place, "{query}: {problem}");
    }
    let status = events
        .python(&["subscribe", PATTERN, "--type", "Chain"])
        .line("a status", |line| {
            let line = json(line);
            (line["kind"] == "status").then_some(line)
        });
    assert_eq!(status["code"], "INVALID_ARGUMENT", "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_filter_takes_away_is_queued_for_nobody() {
    let events = Events::new("lag_bytes = 65536\nheartbeat = \"300s\"");
    let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
    let (_, bearer) = events.header.split_once(' ').unwrap();
    let path = format!("{}&where=n:9", Events::path(PATTERN));
    let subscribe = Request::get(format!("https://localhost{path}"))
        .header("authorization", bearer)
        .body(())
        .unwrap();
    let mut call = client.begin(subscribe, true).await;
    let mut body = call.head().await.into_body();
    in_time("ir.open", body.data()).await.unwrap().unwrap();
    // 3 MB, far more than the windows and the lag, and no credit is given.
    let payload = format!(r#"{{"n":1,"text":"{}"}}"#, "x".repeat(30_000));
    for _ in 0..100 {
        events.publish(&payload);
    }
    events.publish(r#"{"n":9}"#);
    let next = in_time("the event", body.data()).await.unwrap().unwrap();
    let next = String::from_utf8(next.to_vec()).unwrap();
    assert!(next.contains(r#"data: {"n":9}"#), "{next}");
    assert!(next.len() < 1000, "{next}");
}

#[test]
fn one_subject_has_a_bounded_number_of_different_filters() {
    let events = Events::with(&Config::default().events("filters_per_subject = 2"));
    let sse = |header: &str, condition: &str| {
        let path = format!("{}&where={condition}", Events::path(PATTERN));
        events.curl_with("text/event-stream", header, &path)
    };
    let refused = |condition: &str| {
        let path = format!("{}&where={condition}", Events::path(PATTERN));
        let answer = events.get(&path, &[]);
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        (
            answer.status,
            problem["reason"].as_str().unwrap().to_owned(),
        )
    };
    let (first, _second) = (sse(&events.header, "n:1"), sse(&events.header, "n:2"));
    assert_eq!(refused("n:3"), (429, "too_many_filters".into()));
    let grpc = events.python(&["subscribe", PATTERN, "--where", "n:3"]);
    let status = grpc.line("a status", |line| {
        let line = json(line);
        (line["kind"] == "status").then_some(line)
    });
    assert_eq!(status["code"], "RESOURCE_EXHAUSTED", "{status}");
    // Equal ones are one, no condition is none, and others have their own.
    let _equal = (sse(&events.header, "n:2"), events.sse());
    let bob = events.bearer(&Token::new("bob", &["tester"]));
    let _bobs = sse(&bob, "n:3");
    drop(first);
    events
        .gateway
        .process
        .error_line("its end", |line| line.contains("client_gone").then_some(()));
    drop(sse(&events.header, "n:3"));
}

const RULES: &str = "[events]\n[[events.rules]]\nroles = [\"user\"]\n\
                     subscribe = [\"intellirouter:*:{/org/tenant}:*\", \"intellirouter:{sub}:*\"]\n\
                     publish = [\"intellirouter:ui:{/org/tenant}:click\"]\n";

fn member(events: &Events, subject: &str, tenant: &Value) -> String {
    let org = serde_json::json!({ "tenant": tenant });
    events.bearer(&Token::new(subject, &["user"]).with("org", org))
}

fn status(events: &Events, header: &str, channel: &str) -> u16 {
    let answer = request(
        &events.gateway,
        &Events::path(channel),
        &["-H", header],
        None,
    );
    answer.status
}

#[test]
fn claims_open_the_channels_that_they_name_and_no_other() {
    let events = Events::with(&Config::default().with_text(RULES));
    let acme = member(&events, "alice", &"acme".into());
    for channel in [
        "intellirouter:billing:acme:paid",
        "intellirouter:*:acme:*",
        "intellirouter:alice:*",
    ] {
        drop(events.curl_with("text/event-stream", &acme, &Events::path(channel)));
    }
    for channel in [
        "intellirouter:*",
        "intellirouter:billing:other:paid",
        "intellirouter:*:*:paid",
        "intellirouter:bob:*",
    ] {
        assert_eq!(status(&events, &acme, channel), 403, "{channel}");
    }
    // One that is not allowed refuses all, and is named.
    let both = "intellirouter:*:acme:*&channel=intellirouter:*:other:*";
    let answer = request(&events.gateway, &Events::path(both), &["-H", &acme], None);
    assert_eq!(answer.status, 403);
    assert!(
        answer.text().contains("intellirouter:*:other:*"),
        "{}",
        answer.text()
    );
    let post = |channel: &str| {
        let path = format!("/events/{channel}");
        request(&events.gateway, &path, &["-H", &acme], Some(b"{}")).status
    };
    assert_eq!(post("intellirouter:ui:acme:click"), 202);
    assert_eq!(post("intellirouter:ui:other:click"), 403);
}

#[test]
fn a_claim_that_is_a_wildcard_or_no_segment_opens_nothing() {
    let events = Events::with(&Config::default().with_text(RULES));
    let values: [Value; 4] = ["*".into(), "a:b".into(), vec!["acme"].into(), Value::Null];
    for value in values {
        let header = member(&events, "*", &value);
        for channel in ["intellirouter:*", "intellirouter:a:acme:b"] {
            assert_eq!(status(&events, &header, channel), 403, "{value} {channel}");
        }
    }
}

#[test]
fn a_stream_whose_claim_no_longer_opens_its_channel_ends_with_a_reason() {
    let events = Events::with(&Config::default().with_text(RULES));
    let acme = member(&events, "alice", &"acme".into());
    let path = Events::path("intellirouter:*:acme:*");
    let ends = events.curl_with("text/event-stream", &acme, &path);
    let stays = events.curl_with(
        "text/event-stream",
        &acme,
        &Events::path("intellirouter:alice:*"),
    );
    let without = RULES.replace("\"intellirouter:*:{/org/tenant}:*\", ", "");
    let text = Config::default().with_text(&without).render();
    events.site.write("gateway.toml", &text);
    events.gateway.process.signal(Signal::HUP);
    ends.line("the reason", |line| {
        line.contains("\"reason\":\"role_withdrawn\"").then_some(())
    });
    let path = "/events/intellirouter:alice:x:y";
    let admin = events.bearer(&Token::new("root", &["admin"]));
    let answer = request(&events.gateway, path, &["-H", &admin], Some(b"{\"n\":9}"));
    assert_eq!(answer.status, 202);
    numbers(&stays);
}
