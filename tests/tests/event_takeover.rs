//! Events over Redis when a gateway dies, is stopped or is cut off: who reads on, here or at another
//! one, gets everything once, in one order, and no gap; also of what others publish plainly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::Instant;

use intellirouter_tests::curl::{request, stream};
use intellirouter_tests::events::{CHANNEL, Events, PATTERN, field, json, sse_frame};
use intellirouter_tests::redis::Redis;
use intellirouter_tests::relay::Relay;
use intellirouter_tests::{Config, DEADLINE, Gateway, Process};
use rustix::process::Signal;

fn over(url: &str) -> Config {
    Config::default().events(&format!("store = \"{url}\""))
}

/// Follows [`PATTERN`], after an id if there is one; open when this returns.
fn follow(events: &Events, gateway: &Gateway, after: Option<&str>) -> Process {
    let id = after.map(|id| format!("last-event-id: {id}"));
    let mut args = vec!["-H", &events.header];
    if let Some(id) = &id {
        args.extend(["-H", id]);
    }
    let sse = stream(gateway, &Events::path(PATTERN), &args);
    sse_frame(&sse, "event: ir.open");
    sse
}

fn data(n: u32) -> String {
    format!(r#"{{"n":{n}}}"#)
}

fn plain(redis: &Redis, numbers: std::ops::Range<u32>) {
    for n in numbers {
        redis.cli(&["PUBLISH", CHANNEL, &data(n)]);
    }
}

/// What a stream has brought up to this number: its ids and numbers. A gap is a failure.
fn numbers(sse: &Process, last: u32) -> Vec<(String, u64)> {
    sse_frame(sse, &format!("data: {}", data(last)));
    let (mut id, mut got) = (String::new(), Vec::new());
    for line in sse.lines() {
        assert_ne!(line, "event: ir.gap", "{}", sse.output());
        if let Some(text) = line.strip_prefix("id: ") {
            id = text.to_owned();
        } else if let Some(n) = line
            .strip_prefix("data: ")
            .and_then(|data| json(data)["n"].as_u64())
        {
            got.push((id.clone(), n));
        }
    }
    got
}

/// Waits until this gateway is the one that records.
fn records(gateway: &Gateway) {
    let end = Instant::now() + DEADLINE;
    while !gateway.page("/readyz").contains(", recording") {
        assert!(Instant::now() < end, "{}", gateway.page("/readyz"));
    }
}

/// Every stream has every number once, in order, under the same ids.
fn all_alike(streams: &[&Process], count: u32) {
    let first = numbers(streams[0], count - 1);
    let got: Vec<u64> = first.iter().map(|(_, n)| *n).collect();
    assert_eq!(got, (0..u64::from(count)).collect::<Vec<_>>());
    for sse in &streams[1..] {
        assert_eq!(numbers(sse, count - 1), first);
    }
}

#[test]
fn a_stream_resumes_without_loss_after_its_gateway_was_killed_and_restarted_and_at_another() {
    let redis = Redis::start();
    let config = over(&redis.url());
    let mut events = Events::with(&config);
    let other = events.sibling(&config);
    let sse = events.sse();
    for n in 0..5 {
        events.publish(&data(n));
    }
    let frame = sse_frame(&sse, &format!("data: {}", data(4)));
    let id = field(&frame, "id").to_owned();
    events.gateway.process.kill();
    plain(&redis, 5..10);
    events.gateway = events.sibling(&config);
    for n in 10..15 {
        events.publish(&data(n));
    }
    let streams = [&events.gateway, &other].map(|gateway| follow(&events, gateway, Some(&id)));
    // What was published plainly is recorded when the dead gateway's lease has ended, and not before.
    let [here, there] = streams.each_ref().map(|sse| {
        sse_frame(sse, &format!("data: {}", data(14)));
        numbers(sse, 9)
    });
    assert_eq!(here, there);
    let (plain, own): (Vec<u64>, Vec<u64>) = here.iter().map(|(_, n)| *n).partition(|n| *n < 10);
    assert_eq!(plain, (5..10).collect::<Vec<_>>());
    assert_eq!(own, (10..15).collect::<Vec<_>>());
}

#[test]
fn plain_messages_come_once_in_one_order_though_the_recording_gateway_is_killed() {
    let redis = Redis::start();
    let config = over(&redis.url());
    let mut events = Events::with(&config);
    records(&events.gateway);
    let other = events.sibling(&config);
    let sse = follow(&events, &other, None);
    let begin = field(&sse_frame(&sse, "event: ir.open"), "id").to_owned();
    plain(&redis, 0..50);
    events.gateway.process.kill();
    plain(&redis, 50..100);
    records(&other);
    plain(&redis, 100..150);
    events.gateway = events.sibling(&config);
    let late = follow(&events, &events.gateway, Some(&begin));
    all_alike(&[&sse, &late], 150);
}

#[test]
fn plain_messages_come_once_in_one_order_though_the_recording_gateway_is_stopped_and_goes_on() {
    let redis = Redis::start();
    let config = over(&redis.url());
    let events = Events::with(&config);
    records(&events.gateway);
    let other = events.sibling(&config);
    let streams = [&events.gateway, &other].map(|gateway| follow(&events, gateway, None));
    plain(&redis, 0..50);
    events.gateway.process.signal(Signal::STOP);
    plain(&redis, 50..100);
    records(&other);
    plain(&redis, 100..150);
    events.gateway.process.signal(Signal::CONT);
    plain(&redis, 150..200);
    all_alike(&streams.each_ref(), 200);
}

#[test]
fn plain_messages_come_once_in_one_order_though_the_recording_gateway_is_cut_off() {
    let redis = Redis::start();
    let relay = Relay::to(redis.port);
    let events = Events::with(&over(&format!("redis://127.0.0.1:{}", relay.port)));
    records(&events.gateway);
    let other = events.sibling(&over(&redis.url()));
    let streams = [&events.gateway, &other].map(|gateway| follow(&events, gateway, None));
    plain(&redis, 0..50);
    // Where nobody listens.
    relay.lead_to(1);
    relay.cut();
    plain(&redis, 50..100);
    records(&other);
    plain(&redis, 100..150);
    relay.lead_to(redis.port);
    plain(&redis, 150..200);
    all_alike(&streams.each_ref(), 200);
}

#[test]
fn while_the_store_is_away_a_newcomer_is_told_when_to_come_again_and_one_that_resumes_goes_on() {
    let mut redis = Redis::start();
    let events = Events::with(&over(&redis.url()));
    let sse = events.sse();
    events.publish(&data(0));
    let frame = sse_frame(&sse, &format!("data: {}", data(0)));
    events.publish(&data(1));
    sse_frame(&sse, &format!("data: {}", data(1)));
    redis.kill();
    let end = Instant::now() + DEADLINE;
    let refused = loop {
        assert!(Instant::now() < end, "{}", events.gateway.process.output());
        if events.gateway.page("/readyz").contains("event store away") {
            break events.get(&Events::path(PATTERN), &[]);
        }
    };
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    // The log is in the gateway's memory too.
    let back = follow(&events, &events.gateway, Some(field(&frame, "id")));
    sse_frame(&back, &format!("data: {}", data(1)));
    redis.restart();
    for sse in [&sse, &back] {
        let gap = sse_frame(sse, "event: ir.gap");
        assert_eq!(json(field(&gap, "data"))["reason"], "store_lost_data");
    }
    let end = Instant::now() + DEADLINE;
    while events.post(CHANNEL, &data(2)).status != 202 {
        assert!(Instant::now() < end, "{}", events.gateway.process.output());
    }
    for sse in [&sse, &back] {
        sse_frame(sse, &format!("data: {}", data(2)));
    }
}

#[test]
fn a_ticket_is_not_used_up_while_the_store_does_not_answer() {
    let redis = Redis::start();
    let events = Events::with(&over(&redis.url()));
    let wish = serde_json::json!({"channels": [PATTERN]}).to_string();
    let ask = ["-H", &events.header, "-H", "content-type: application/json"];
    let answer = request(
        &events.gateway,
        "/events/ticket",
        &ask,
        Some(wish.as_bytes()),
    );
    assert_eq!(answer.status, 201, "{}", answer.text());
    let url = json(&answer.text())["url"].as_str().unwrap().to_owned();
    redis.freeze();
    let end = Instant::now() + DEADLINE;
    while !events.gateway.page("/readyz").contains("tail of") {
        assert!(Instant::now() < end, "{}", events.gateway.page("/readyz"));
    }
    let refused = request(&events.gateway, &url, &[], None);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    redis.thaw();
    let sse = stream(&events.gateway, &url, &[]);
    sse_frame(&sse, "event: ir.open");
}
