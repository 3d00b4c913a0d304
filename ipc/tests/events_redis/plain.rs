//! What anyone publishes plainly on Redis: it reaches the subscribers of every gateway, once and in
//! one order, whatever becomes of the gateway that records.

use std::time::{Duration, Instant};

use bytes::Bytes;
use intellirouter::events::{EventLog, GapReason, LogSettings, LogUse, RedisLog};
use redis::AsyncCommands;
use tokio::time::timeout;

use crate::reading::{channel, expect_event};
use crate::redis_server::RedisServer;
use crate::support::{
    CHANNEL, Gateway, Proxy, by_position, connect, connect_to, gaps, payloads, publish, publisher,
    read_to, reasons, resume, subscribe, until, until_recording, until_true,
};

#[tokio::test]
async fn a_plain_publish_reaches_every_gateway_once_in_one_order_with_an_id_that_resumes() {
    let server = RedisServer::start();
    let logs = [connect(&server).await, connect(&server).await];
    let mut subscriptions = [subscribe(&logs[0]).await, subscribe(&logs[1]).await];
    let client = redis::Client::open(server.url()).unwrap();
    let mut plain = client.get_multiplexed_async_connection().await.unwrap();
    for number in 0..200 {
        let both = (
            publish(&logs[number % 2], format!("own {number}")),
            plain.publish::<_, _, i64>(CHANNEL, format!("plain {number}")),
        );
        let (own, heard) = tokio::join!(both.0, both.1);
        own.unwrap();
        assert_eq!(heard.unwrap(), 2, "both recorders hear it");
    }
    plain.publish::<_, _, i64>(CHANNEL, "end").await.unwrap();
    let first = read_to(&mut subscriptions[0], "end").await;
    let second = read_to(&mut subscriptions[1], "end").await;
    assert!(gaps(&first).is_empty() && gaps(&second).is_empty());
    let ids = by_position(&first);
    assert_eq!(ids.len(), 401);
    assert_eq!(ids, by_position(&second));
    let of = |kind: &str| -> Vec<_> {
        let all = payloads(&first);
        all.into_iter().filter(|p| p.starts_with(kind)).collect()
    };
    let in_order = |kind: &str| -> Vec<_> { (0..200).map(|n| format!("{kind} {n}")).collect() };
    assert_eq!(of("plain"), in_order("plain"));
    assert_eq!(of("own"), in_order("own"));

    let middle = ids.keys().nth(200).unwrap();
    for log in &logs {
        let rest = read_to(&mut resume(log, *middle).await, "end").await;
        assert_eq!(rest.len(), 200);
        assert!(gaps(&rest).is_empty());
    }
}

#[tokio::test]
async fn a_plain_redis_subscriber_sees_the_payload_exactly_as_published() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut plain = client.get_async_pubsub().await.unwrap();
    plain.psubscribe("intellirouter:*").await.unwrap();
    let payload = Bytes::from_static(b"\0\xff two\nlines");
    for key in [None, Some("key")] {
        log.publish(&channel("step"), payload.clone(), key)
            .await
            .unwrap();
        let message = futures_util::StreamExt::next(&mut plain.on_message())
            .await
            .unwrap();
        assert_eq!(message.get_payload_bytes(), &payload[..]);
        assert_eq!(message.get_channel_name(), CHANNEL);
    }
}

/// Publishes plainly, one after the other, until dropped; says how many.
struct Hand {
    numbers: tokio::sync::watch::Receiver<u32>,
    task: tokio::task::JoinHandle<()>,
}

impl Hand {
    async fn start(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        let mut plain = client.get_multiplexed_async_connection().await.unwrap();
        let (said, numbers) = tokio::sync::watch::channel(0);
        let task = tokio::spawn(async move {
            for number in 0_u32.. {
                let payload = number.to_string();
                plain.publish::<_, _, i64>(CHANNEL, payload).await.unwrap();
                said.send_replace(number + 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { numbers, task }
    }

    /// Waits until so many more were published.
    async fn after(&mut self, more: u32) {
        let goal = *self.numbers.borrow() + more;
        self.numbers.wait_for(|said| *said >= goal).await.unwrap();
    }

    async fn end(self) -> u32 {
        self.task.abort();
        let _ = self.task.await;
        *self.numbers.borrow()
    }
}

/// The numbers, each once and in order, without a gap. The last may be published and not counted.
fn all_once_in_order(entries: &[intellirouter::events::Entry], count: u32) {
    assert!(gaps(entries).is_empty(), "{:?}", gaps(entries));
    let got = payloads(entries);
    let got: Vec<_> = got.iter().filter(|payload| *payload != "end").collect();
    let expected: Vec<_> = (0..got.len()).map(|n| n.to_string()).collect();
    assert_eq!(got, expected.iter().collect::<Vec<_>>());
    assert!(got.len() as u32 >= count, "{} of {count}", got.len());
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_recording_gateway_is_killed() {
    let server = RedisServer::start();
    let recording = Gateway::start(&server);
    let log = connect(&server).await;
    assert!(
        log.status().detail.contains("standby"),
        "{:?}",
        log.status()
    );
    let mut subscription = subscribe(&log).await;
    let mut hand = Hand::start(&server).await;
    hand.after(300).await;
    recording.kill();
    hand.after(300).await;
    until_recording(&log).await;
    hand.after(300).await;
    let count = hand.end().await;
    server.cli(&["PUBLISH", CHANNEL, "end"]);
    all_once_in_order(&read_to(&mut subscription, "end").await, count);
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_recording_gateway_is_stopped_and_goes_on() {
    let server = RedisServer::start();
    let recording = Gateway::start(&server);
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    let mut hand = Hand::start(&server).await;
    for _ in 0..2 {
        hand.after(200).await;
        recording.stop();
        hand.after(200).await;
        until_recording(&log).await;
        hand.after(200).await;
        recording.go_on();
        hand.after(500).await;
    }
    let count = hand.end().await;
    server.cli(&["PUBLISH", CHANNEL, "end"]);
    all_once_in_order(&read_to(&mut subscription, "end").await, count);
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_recording_gateway_is_cut_off() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server).await;
    let recording = connect_to(&proxy.url()).await;
    until_recording(&recording).await;
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    let mut there = subscribe(&recording).await;
    let mut hand = Hand::start(&server).await;
    hand.after(200).await;
    proxy.freeze();
    until_recording(&log).await;
    hand.after(200).await;
    proxy.cut();
    until(&recording, false).await;
    hand.after(200).await;
    proxy.mend();
    until(&recording, true).await;
    hand.after(200).await;
    let count = hand.end().await;
    server.cli(&["PUBLISH", CHANNEL, "end"]);
    all_once_in_order(&read_to(&mut subscription, "end").await, count);
    // The subscribers of the one that was cut off have missed nothing either.
    all_once_in_order(&read_to(&mut there, "end").await, count);
}

#[tokio::test]
async fn a_gateway_that_ends_well_hands_over_at_once() {
    let server = RedisServer::start();
    let recording = connect(&server).await;
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    server.cli(&["PUBLISH", CHANNEL, "before"]);
    expect_event(&mut subscription, "before").await;
    let started = std::time::Instant::now();
    recording.close().await;
    until_recording(&log).await;
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "the lease was given back"
    );
    server.cli(&["PUBLISH", CHANNEL, "after"]);
    expect_event(&mut subscription, "after").await;
}

#[tokio::test]
async fn a_recorder_that_is_cut_off_alone_says_a_gap_only_if_something_was_published() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server).await;
    let log = connect_to(&proxy.url()).await;
    let mut subscription = subscribe(&log).await;
    for missed in [false, true] {
        proxy.cut();
        until(&log, false).await;
        if missed {
            server.cli(&["PUBLISH", CHANNEL, "unheard"]);
        }
        proxy.mend();
        until(&log, true).await;
        server.cli(&["PUBLISH", CHANNEL, "heard"]);
        let got = read_to(&mut subscription, "heard").await;
        let expected = [GapReason::RecorderAway];
        assert_eq!(reasons(&got), &expected[..usize::from(missed)]);
        assert_eq!(payloads(&got), ["heard"]);
    }
}

#[tokio::test]
async fn a_service_that_follows_records_only_as_long_as_no_gateway_is_there() {
    let server = RedisServer::start();
    let settings = LogSettings {
        usage: LogUse::Service,
        retain_events: 10,
        ..LogSettings::default()
    };
    let service = RedisLog::connect(&server.url(), settings).await.unwrap();
    assert_eq!(
        server.cli(&["PUBLISH", CHANNEL, "x"]).trim(),
        "0",
        "one that publishes alone hears nothing"
    );
    let mut subscription = subscribe(&service).await;
    until_recording(&service).await;
    server.cli(&["PUBLISH", CHANNEL, "to the service"]);
    expect_event(&mut subscription, "to the service").await;
    let gateway = connect(&server).await;
    until_recording(&gateway).await;
    until_true("the end of the service's recording", || {
        service.status().detail.contains("standby")
    })
    .await;
    server.cli(&["PUBLISH", CHANNEL, "to both"]);
    expect_event(&mut subscription, "to both").await;
    let kept = server.cli(&["HGET", "{intellirouter}:books", "keep_events"]);
    assert_eq!(kept.trim(), "1000000", "the gateway's to say");
}

#[tokio::test]
async fn a_refused_publish_does_not_swallow_a_plain_one() {
    let server = RedisServer::start();
    server.cli(&[
        "ACL",
        "SETUSER",
        "writer",
        "on",
        ">pw",
        "+@all",
        "~*",
        "resetchannels",
        "&{intellirouter}:mark",
        "&intellirouter:memory:*",
    ]);
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    let url = server.url().replace("redis://", "redis://writer:pw@");
    let settings = LogSettings {
        usage: LogUse::Service,
        ..LogSettings::default()
    };
    let writer = RedisLog::connect(&url, settings).await.unwrap();
    for _ in 0..3 {
        assert!(publish(&writer, "forbidden").await.is_err());
        server.cli(&["PUBLISH", CHANNEL, "plain"]);
        expect_event(&mut subscription, "plain").await;
    }
    // Nor does it make the count of what was heard wrong: a restart says no gap.
    let seen = subscription.position();
    log.close().await;
    let again = connect(&server).await;
    let source = publisher(&server).await;
    publish(&source, "next").await.unwrap();
    let got = read_to(&mut resume(&again, seen).await, "next").await;
    assert!(gaps(&got).is_empty(), "{:?}", gaps(&got));
    assert_eq!(got.len(), 1);
}

#[tokio::test]
async fn a_mark_that_no_gateway_made_hides_no_message() {
    for mark in ["void 1000006", "void 18446744073709551615", "own 1000006"] {
        let server = RedisServer::start();
        let log = connect(&server).await;
        until_recording(&log).await;
        let mut subscription = subscribe(&log).await;
        server.cli(&["PUBLISH", "{intellirouter}:mark", mark]);
        server.cli(&["PUBLISH", CHANNEL, "one"]);
        server.cli(&["PUBLISH", CHANNEL, "two"]);
        // Whatever came with the mark is there, or a gap is.
        let (mut got, began) = (Vec::new(), Instant::now());
        while !payloads(&got).iter().any(|payload| payload == "again") {
            assert!(began.elapsed() < Duration::from_secs(20), "{mark}: {got:?}");
            server.cli(&["PUBLISH", CHANNEL, "again"]);
            let batch = subscription.next_batch(&mut got);
            let _ = timeout(Duration::from_millis(100), batch).await;
        }
        let payloads = payloads(&got);
        let has = |payload: &str| payloads.iter().any(|p| p == payload);
        assert!(
            (has("one") && has("two")) || !gaps(&got).is_empty(),
            "{mark}: {got:?}"
        );
    }
}
