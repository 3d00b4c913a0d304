//! What others do to the log itself, or to what the server counts: it never stands still for ever,
//! and whatever may be lost is said.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use intellirouter::events::{EventLog, GapReason, LogSubscription};
use tokio::time::timeout;

use crate::reading::{self, channel, expect_event};
use crate::redis_server::RedisServer;
use crate::support::{
    CHANNEL, Gateway, connect, gaps, payloads, publish, publish_at_last, publisher, read_to,
    reasons, resume, subscribe, until, until_recording, until_true,
};

const LOG: &str = "{intellirouter}:log";

/// Ids that the log would come to much later, or never.
const HIGH: [&str; 4] = [
    "*",
    "99999999999999-7",
    "99999999999999-0",
    "18446744073709551615-18446744073709551615",
];

/// Everything up to the first event with this payload; a gap stands before it.
async fn read_over_a_gap(subscription: &mut LogSubscription, last: &str) {
    let got = read_to(subscription, last).await;
    assert!(
        reasons(&got).contains(&GapReason::StoreLostData),
        "no gap: {got:?}"
    );
    assert_eq!(payloads(&got), [last]);
}

#[tokio::test]
async fn an_entry_of_somebody_else_with_a_higher_id_stops_no_publish_and_is_a_gap() {
    for id in HIGH {
        let server = RedisServer::start();
        // Without a gateway, nobody else puts it right.
        let log = publisher(&server).await;
        publish(&log, "before").await.unwrap();
        server.cli(&["XADD", LOG, id, "by", "hand"]);
        let client = redis::Client::open(server.url()).unwrap();
        let mut plain = client.get_async_pubsub().await.unwrap();
        plain.psubscribe("intellirouter:*").await.unwrap();
        let first = publish(&log, "after").await;
        let first = first.unwrap_or_else(|error| panic!("{id}: {error}"));
        let second = publish(&log, "again").await.unwrap();
        assert!(second.position > first.position, "{id}");
        let mut messages = plain.on_message();
        for expected in ["after", "again"] {
            let message = messages.next().await.unwrap();
            assert_eq!(message.get_payload_bytes(), expected.as_bytes());
        }
        let gateway = connect(&server).await;
        let mut resumed = resume(&gateway, first.position).await;
        expect_event(&mut resumed, "again").await;
    }
}

#[tokio::test]
async fn an_entry_of_somebody_else_is_a_gap_to_who_is_open_and_the_stream_goes_on() {
    for id in HIGH {
        let server = RedisServer::start();
        let log = connect(&server).await;
        let mut subscription = subscribe(&log).await;
        publish(&log, "before").await.unwrap();
        expect_event(&mut subscription, "before").await;
        server.cli(&["XADD", LOG, id, "by", "hand"]);
        // Without any publish.
        let got = reading::batch(&mut subscription).await;
        assert_eq!(reasons(&got)[0], GapReason::StoreLostData, "{id}");
        publish_at_last(&log, "own").await;
        let got = read_to(&mut subscription, "own").await;
        assert_eq!(payloads(&got), ["own"], "{id}");
        // The recorder begins anew too; what it misses meanwhile is a gap.
        let mut got = Vec::new();
        while payloads(&got).is_empty() {
            server.cli(&["PUBLISH", CHANNEL, "plain"]);
            let more = reading::batch(&mut subscription);
            if let Ok(more) = timeout(Duration::from_millis(200), more).await {
                got.extend(more);
            }
        }
        // Nobody asks for the same thing again and again.
        let asked = || -> u64 {
            let info = server.cli(&["INFO", "stats"]);
            let count = info.split("total_commands_processed:").nth(1).unwrap();
            count.lines().next().unwrap().parse().unwrap()
        };
        let before = asked();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let more = asked() - before;
        assert!(more < 100, "{more} commands in half a second after {id}");
    }
}

#[tokio::test]
async fn a_deleted_entry_with_a_higher_id_stops_neither_publishes_nor_records() {
    for plain in [false, true] {
        let server = RedisServer::start();
        let log = connect(&server).await;
        let mut subscription = subscribe(&log).await;
        publish(&log, "before").await.unwrap();
        expect_event(&mut subscription, "before").await;
        let id = "99999999999999-7";
        let there_and_gone = format!(
            "redis.call('XADD', KEYS[1], '{id}', 'a', 'b') redis.call('XDEL', KEYS[1], '{id}')"
        );
        server.cli(&["EVAL", &there_and_gone, "1", LOG]);
        if plain {
            server.cli(&["PUBLISH", CHANNEL, "plain"]);
            // It is lost, and that is said.
            let got = reading::batch(&mut subscription).await;
            assert_eq!(reasons(&got), [GapReason::StoreLostData]);
            publish_at_last(&log, "after").await;
            let got = read_to(&mut subscription, "after").await;
            assert_eq!(payloads(&got).last().unwrap(), "after");
        } else {
            publish(&log, "after").await.unwrap();
            read_over_a_gap(&mut subscription, "after").await;
        }
    }
}

#[tokio::test]
async fn a_key_of_another_type_in_place_of_the_log_is_a_gap_and_the_log_goes_on() {
    for somebody_publishes in [true, false] {
        let server = RedisServer::start();
        let log = connect(&server).await;
        let mut subscription = subscribe(&log).await;
        publish(&log, "before").await.unwrap();
        expect_event(&mut subscription, "before").await;
        server.cli(&["SET", LOG, "mine"]);
        if somebody_publishes {
            publish(&log, "after").await.unwrap();
        } else {
            until_true("the stream", || {
                server.cli(&["TYPE", LOG]).trim() != "string"
            })
            .await;
            publish_at_last(&log, "after").await;
        }
        read_over_a_gap(&mut subscription, "after").await;
    }
}

#[tokio::test]
async fn a_publish_that_can_not_be_appended_is_refused_and_leaves_nothing_behind() {
    let server = RedisServer::start();
    server.cli(&["ACL", "SETUSER", "w", "on", ">pw", "+@all", "~*", "&*"]);
    let url = server.url().replace("redis://", "redis://w:pw@");
    let log = crate::support::connect_to(&url).await;
    let mut subscription = subscribe(&log).await;
    server.cli(&["ACL", "SETUSER", "w", "-xadd"]);
    assert!(publish(&log, "refused").await.is_err());
    server.cli(&["ACL", "SETUSER", "w", "+xadd"]);
    publish_at_last(&log, "taken").await;
    let got = read_to(&mut subscription, "taken").await;
    assert_eq!(payloads(&got), ["taken"]);
    assert!(gaps(&got).is_empty(), "{:?}", gaps(&got));
}

#[tokio::test]
async fn a_count_that_was_reset_and_came_to_the_same_number_again_hides_no_missed_message() {
    let server = RedisServer::start();
    let recording = Gateway::start(&server);
    let log = publisher(&server).await;
    let own = publish(&log, "own").await.unwrap().position;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    recording.kill();
    let calls = || -> u64 {
        let info = server.cli(&["INFO", "commandstats"]);
        let calls = info.split("cmdstat_publish:calls=").nth(1);
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
    };
    let before = calls();
    server.cli(&["CONFIG", "RESETSTAT"]);
    for number in 0..before {
        server.cli(&["PUBLISH", CHANNEL, &format!("unheard {number}")]);
    }
    assert_eq!(calls(), before);
    let after = connect(&server).await;
    let mut subscription = resume(&after, own).await;
    until_recording(&after).await;
    server.cli(&["PUBLISH", CHANNEL, "after"]);
    let got = read_to(&mut subscription, "after").await;
    assert_eq!(reasons(&got), [GapReason::RecorderAway]);
}

#[tokio::test]
async fn a_reset_of_the_counts_under_a_recorder_that_hears_everything_is_no_gap() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    server.cli(&["PUBLISH", CHANNEL, "before"]);
    server.cli(&["CONFIG", "RESETSTAT"]);
    server.cli(&["PUBLISH", CHANNEL, "between"]);
    let began = Instant::now();
    until_true("two ticks", || {
        began.elapsed() > Duration::from_millis(2500)
    })
    .await;
    log.close().await;
    let log = connect(&server).await;
    let mut after = subscribe(&log).await;
    until_recording(&log).await;
    server.cli(&["PUBLISH", CHANNEL, "after"]);
    let got = read_to(&mut after, "after").await;
    assert!(gaps(&got).is_empty(), "{:?}", gaps(&got));
}

#[tokio::test]
async fn a_recorder_that_redis_cuts_off_for_being_too_slow_says_what_it_missed() {
    let server = RedisServer::start();
    server.cli(&[
        "CONFIG",
        "SET",
        "client-output-buffer-limit",
        "pubsub 1mb 0 0",
    ]);
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    until_recording(&log).await;
    // One is on its way into the log while the others are too many at once.
    let flood = "redis.call('PUBLISH', KEYS[1], 'first') \
                 for n = 1, 200 do redis.call('PUBLISH', KEYS[1], string.rep('x', 50000)) end";
    server.cli(&["PUBLISH", CHANNEL, "before"]);
    server.cli(&["EVAL", flood, "1", CHANNEL]);
    until(&log, false).await;
    until(&log, true).await;
    until_recording(&log).await;
    let last = channel("last");
    log.publish(&last, "after".into(), None).await.unwrap();
    let got = read_to(&mut subscription, "after").await;
    let missed = payloads(&got).iter().filter(|p| p.len() == 50000).count();
    assert!(missed < 200, "nothing was lost, so this shows nothing");
    assert_eq!(payloads(&got)[0], "before");
    assert_eq!(reasons(&got), [GapReason::RecorderAway], "{missed} of 200");
}
