//! Whatever a payload holds, it arrives whole and breaks out of nothing; and
//! what is published twice with one key is there once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use intellirouter_tests::curl::request;
use intellirouter_tests::events::{CHANNEL, Events, json, sse_frame};
use intellirouter_tests::redis::Redis;
use serde_json::Value;

/// Publishes what no argument of a command can hold: `lua` is a string of that
/// language.
fn publish(redis: &Redis, lua: &str) {
    let script = format!("return redis.call('PUBLISH', KEYS[1], {lua})");
    redis.cli(&["EVAL", &script, "1", CHANNEL]);
}

#[test]
fn no_payload_breaks_out_of_its_event() {
    let redis = Redis::start();
    let events = Events::on(&redis);
    let (sse, ndjson) = (events.sse(), events.curl("application/x-ndjson"));
    publish(
        &redis,
        r#""x\nid: 9-9\nevent: ir.gap\ndata: forged\n\ndata: more""#,
    );
    publish(&redis, r#""a\0b\r\nc\rd""#);
    publish(&redis, r#""\255\254""#);
    publish(&redis, r#""""#);
    publish(&redis, r#"'{"n":9}'"#);
    sse_frame(&sse, r#"data: {"n":9}"#);
    let lines = sse.lines();
    for line in [
        "data: id: 9-9",
        "data: event: ir.gap",
        "data: data: forged",
        "data: data: more",
        "data: a\0b",
        "data: c",
        "data: d",
        "data: ",
    ] {
        assert!(
            lines.iter().any(|found| found == line),
            "{line:?} not in {lines:#?}"
        );
    }
    let bytes = STANDARD.encode([255, 254]);
    let bytes = format!("data: {{\"payload_base64\":\"{bytes}\"}}");
    assert!(lines.contains(&bytes), "{lines:#?}");
    assert!(
        !lines
            .iter()
            .any(|line| line == "event: ir.gap" || line == "id: 9-9")
    );
    let events_seen = lines
        .iter()
        .filter(|line| line.starts_with("event: chain_"));
    assert_eq!(events_seen.count(), 5);

    ndjson.line("the last event", |line| {
        (json(line)["data"]["n"] == 9).then_some(())
    });
    for line in ndjson.lines() {
        assert!(json(&line).is_object(), "{line}");
    }
    for (payload, count) in [("not_utf8", 1), ("not_json", 3), ("too_large", 0)] {
        let name = format!("events_malformed_total{{payload=\"{payload}\"}}");
        assert_eq!(events.gateway.figure(&name), count, "{payload}");
    }
}

#[test]
fn a_payload_of_one_mebibyte_arrives_whole_and_one_byte_more_is_refused() {
    let events = Events::new("");
    let sse = events.sse();
    let frame = r#"{"n":9,"text":""}"#;
    let payload = |bytes: usize| {
        let text = "x".repeat(bytes - frame.len());
        frame.replace("\"\"", &format!("\"{text}\""))
    };
    let whole = payload(1024 * 1024);
    events.publish(&whole);
    sse_frame(&sse, &format!("data: {whole}"));
    let answer = events.post(CHANNEL, &payload(1024 * 1024 + 1));
    assert_eq!(answer.status, 413, "{}", answer.text());
}

#[test]
fn what_is_posted_twice_with_one_key_is_published_once() {
    let redis = Redis::start();
    for events in [Events::new(""), Events::on(&redis)] {
        let sse = events.sse();
        let post = |key: &str, payload: &str| {
            let key = format!("idempotency-key: {key}");
            let args = ["-H", &events.header, "-H", &key];
            let path = format!("/events/{CHANNEL}");
            request(&events.gateway, &path, &args, Some(payload.as_bytes()))
        };
        for (payload, duplicate) in [(r#"{"n":1}"#, false), (r#"{"n":2}"#, true)] {
            let answer = post("k1", payload);
            assert_eq!(answer.status, 202, "{}", answer.text());
            let answer: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(answer["duplicate"], duplicate);
        }
        assert_eq!(post("k2", r#"{"n":3}"#).status, 202);
        sse_frame(&sse, r#"data: {"n":3}"#);
        assert!(!sse.lines().iter().any(|line| line.contains(r#"{"n":2}"#)));
        for bad in ["", " ", &"k".repeat(129)] {
            let status = post(bad, "{}").status;
            // curl sends no header for an empty value.
            assert!(status == 400 || bad.trim().is_empty(), "{bad:?}: {status}");
        }
    }
}
