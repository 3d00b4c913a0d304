//! Resuming: at the same log, at another one, at one that starts later; and from what is no place.

use std::collections::BTreeSet;
use std::sync::Arc;

use intellirouter::events::{Entry, EventLog, GapReason, LogSettings, Position, RedisLog};

use crate::reading::{self, expect_event, pattern};
use crate::redis_server::RedisServer;
use crate::support::{
    CHANNEL, Gateway, Proxy, by_position, connect, connect_to, gaps, payloads, publish,
    publish_numbers, publisher, read_to, reasons, resume, subscribe, until,
};

/// Reads on at one log after the other, a few batches at each, until so many events have come.
async fn hop(logs: &[Arc<RedisLog>], from: Position, count: usize) -> Vec<Entry> {
    let mut after = from;
    let mut seen = Vec::new();
    for log in logs.iter().cycle() {
        let mut subscription = resume(log, after).await;
        for _ in 0..3 {
            if seen.len() < count {
                seen.extend(reading::batch(&mut subscription).await);
            }
        }
        after = subscription.position();
        if seen.len() >= count {
            return seen;
        }
    }
    unreachable!("the logs go round for ever")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hopping_between_logs_under_full_load_brings_every_event_once_in_order() {
    const EVENTS: u32 = 10_000;
    let server = RedisServer::start();
    let logs = [
        Arc::new(connect(&server).await),
        Arc::new(connect(&server).await),
    ];
    let mut witness = subscribe(&logs[0]).await;
    let start = witness.start();
    let publishing = {
        let sources = [Arc::new(publisher(&server).await), Arc::clone(&logs[1])];
        tokio::spawn(async move { publish_numbers(&sources, 0..EVENTS).await })
    };
    let reading = {
        let logs = logs.clone();
        tokio::spawn(async move { hop(&logs, start, EVENTS as usize).await })
    };
    // One that starts while all this goes on.
    let mut seen_there = Vec::new();
    while seen_there.len() < EVENTS as usize / 4 {
        seen_there.extend(reading::batch(&mut witness).await);
    }
    let later = connect(&server).await;
    let mut late = resume(&later, start).await;
    let mut seen_late = Vec::new();
    while seen_late.len() < EVENTS as usize {
        seen_late.extend(reading::batch(&mut late).await);
    }
    while seen_there.len() < EVENTS as usize {
        seen_there.extend(reading::batch(&mut witness).await);
    }
    let hopped = reading.await.unwrap();
    publishing.await.unwrap();

    for seen in [&hopped, &seen_there, &seen_late] {
        assert!(gaps(seen).is_empty(), "{:?}", gaps(seen));
        let ids = by_position(seen);
        assert_eq!(ids.len(), EVENTS as usize, "an event came twice");
        assert_eq!(ids, by_position(&hopped), "all see the same order");
        let numbers: BTreeSet<_> = payloads(seen).into_iter().collect();
        assert_eq!(numbers.len(), EVENTS as usize);
    }
}

#[tokio::test]
async fn a_gateway_that_restarts_resumes_without_a_gap_whether_it_ended_well_or_was_killed() {
    let server = RedisServer::start();
    let source = publisher(&server).await;
    let first = connect(&server).await;
    let mut subscription = subscribe(&first).await;
    publish(&source, "one").await.unwrap();
    server.cli(&["PUBLISH", CHANNEL, "by hand"]);
    read_to(&mut subscription, "by hand").await;
    let seen = subscription.position();
    first.close().await;
    drop(first);

    publish(&source, "two").await.unwrap();
    let second = Gateway::start(&server);
    publish(&source, "three").await.unwrap();
    second.kill();
    publish(&source, "four").await.unwrap();

    let third = connect(&server).await;
    let got = read_to(&mut resume(&third, seen).await, "four").await;
    assert_eq!(payloads(&got), ["two", "three", "four"]);
    assert!(gaps(&got).is_empty(), "{:?}", gaps(&got));
}

#[tokio::test]
async fn what_was_published_plainly_while_no_gateway_was_there_is_said_by_a_gap() {
    let server = RedisServer::start();
    let first = connect(&server).await;
    publish(&first, "before").await.unwrap();
    let seen = subscribe(&first).await.position();
    first.close().await;
    server.cli(&["PUBLISH", CHANNEL, "unheard"]);
    let second = connect(&server).await;
    server.cli(&["PUBLISH", CHANNEL, "heard"]);
    let got = read_to(&mut resume(&second, seen).await, "heard").await;
    assert_eq!(reasons(&got), [GapReason::RecorderAway]);
    assert_eq!(payloads(&got).last().map(String::as_str), Some("heard"));
    let gap = gaps(&got)[0];
    assert!(gap.from.is_some_and(|from| from < gap.to), "{gap:?}");
    // Who resumes from the gap's end has been told.
    let again = read_to(&mut resume(&second, gap.to).await, "heard").await;
    assert!(gaps(&again).is_empty());
}

#[tokio::test]
async fn an_id_that_no_event_ever_had_is_never_taken_for_one() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut witness = subscribe(&log).await;
    for number in 0..5 {
        publish(&log, number.to_string()).await.unwrap();
    }
    read_to(&mut witness, "4").await;
    let last = witness.position();
    let at = |epoch, offset| Position { epoch, offset };
    for made_up in [
        Position::NOWHERE,
        at(1, 1),
        at(last.epoch - 1, last.offset),
        at(last.epoch + 1, 0),
        at(last.epoch + 1, last.offset),
        at(last.epoch, last.offset + 1),
        at(last.epoch, u64::MAX),
        at(u64::MAX, u64::MAX),
    ] {
        let mut subscription = resume(&log, made_up).await;
        let Entry::Gap(gap) = reading::batch(&mut subscription).await[0] else {
            panic!("{made_up} was taken for an id");
        };
        assert_eq!(gap.from, Some(made_up));
        assert_eq!(gap.reason, GapReason::StoreLostData);
        assert_ne!(subscription.start(), last);
    }
    // And what is to come is whole after each of them.
    let mut future = resume(&log, at(last.epoch, last.offset + 3)).await;
    for number in 5..10 {
        publish(&log, number.to_string()).await.unwrap();
    }
    let got = read_to(&mut future, "9").await;
    assert_eq!(gaps(&got).len(), 1);
    assert_eq!(payloads(&got), ["5", "6", "7", "8", "9"]);
}

#[tokio::test]
async fn a_position_ahead_of_the_tail_is_waited_for_and_loses_nothing() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server).await;
    let behind = connect_to(&proxy.url()).await;
    let source = publisher(&server).await;
    proxy.freeze();
    let position = publish(&source, "seen elsewhere").await.unwrap().position;
    publish(&source, "next").await.unwrap();
    proxy.mend();
    let mut subscription = resume(&behind, position).await;
    expect_event(&mut subscription, "next").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_on_a_quiet_channel_resumes_after_much_more_than_is_retained_elsewhere() {
    const EVENTS: u32 = 20_000;
    let server = RedisServer::start();
    let settings = LogSettings {
        retain_events: 2000,
        ..LogSettings::default()
    };
    let log = RedisLog::connect(&server.url(), settings.clone()).await;
    let log = Arc::new(log.unwrap());
    let quiet = pattern("intellirouter:memory:*");
    let mut subscription = log.subscribe(quiet.clone(), None).await.unwrap();
    let mut witness = subscribe(&log).await;
    let publishing = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { publish_numbers(&[log], 0..EVENTS).await })
    };
    let mut seen = 0;
    while seen < EVENTS as usize {
        let mut out = Vec::new();
        tokio::select! {
            biased;
            () = subscription.next_batch(&mut out) => panic!("nothing matches, got {out:?}"),
            got = reading::batch(&mut witness) => seen += got.len(),
        }
    }
    publishing.await.unwrap();
    // It was polled after the last one had come.
    let mut out = Vec::new();
    tokio::select! {
        biased;
        () = subscription.next_batch(&mut out) => panic!("nothing matches, got {out:?}"),
        () = std::future::ready(()) => {}
    }
    let position = subscription.position();
    assert_eq!(position, witness.position());
    let other = RedisLog::connect(&server.url(), settings).await.unwrap();
    for log in [&*log, &other] {
        let mut resumed = log.subscribe(quiet.clone(), Some(position)).await.unwrap();
        server.cli(&["PUBLISH", "intellirouter:memory:chain_engine:x", "here"]);
        let got = read_to(&mut resumed, "here").await;
        assert!(gaps(&got).is_empty(), "{:?}", gaps(&got));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_what_is_retained_and_little_more() {
    let server = RedisServer::start();
    let settings = LogSettings {
        retain_events: 640,
        ..LogSettings::default()
    };
    let log = RedisLog::connect(&server.url(), settings.clone()).await;
    let log = Arc::new(log.unwrap());
    let start = subscribe(&log).await.start();
    publish_numbers(&[Arc::clone(&log)], 0..5000).await;
    let kept: u32 = server
        .cli(&["XLEN", "{intellirouter}:log"])
        .trim()
        .parse()
        .unwrap();
    assert!((640..=640 + 640 / 32 + 1).contains(&kept), "{kept}");
    let segments: u32 = server
        .cli(&["LLEN", "{intellirouter}:segments"])
        .trim()
        .parse()
        .unwrap();
    assert!(segments <= 34, "{segments}");
    // A log that starts now says what is gone.
    let other = RedisLog::connect(&server.url(), settings).await.unwrap();
    let mut subscription = resume(&other, start).await;
    let got = reading::batch(&mut subscription).await;
    assert_eq!(reasons(&got), [GapReason::Trimmed]);
    assert_eq!(gaps(&got)[0].from, Some(start));
}

#[tokio::test]
async fn the_store_forgets_what_is_too_old_also_when_nothing_more_comes() {
    let server = RedisServer::start();
    let settings = LogSettings {
        retain_age: std::time::Duration::from_millis(1500),
        ..LogSettings::default()
    };
    let log = RedisLog::connect(&server.url(), settings).await.unwrap();
    let start = subscribe(&log).await.start();
    let last = publish(&log, "old").await.unwrap().position;
    crate::support::until_true("the end of the old", || {
        server.cli(&["XLEN", "{intellirouter}:log"]).trim() == "0"
    })
    .await;
    let other = connect(&server).await;
    let mut from_start = resume(&other, start).await;
    let mut from_last = resume(&other, last).await;
    publish(&other, "new").await.unwrap();
    let got = read_to(&mut from_start, "new").await;
    assert_eq!(reasons(&got), [GapReason::Trimmed]);
    expect_event(&mut from_last, "new").await;
}

#[tokio::test]
async fn an_event_has_the_same_time_at_every_log() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let start = subscribe(&log).await.start();
    publish(&log, "x").await.unwrap();
    let later = connect(&server).await;
    let mut times = Vec::new();
    for log in [&log, &later] {
        until(log, true).await;
        let Entry::Event(event) = reading::batch(&mut resume(log, start).await)
            .await
            .remove(0)
        else {
            panic!("a gap");
        };
        times.push(event.recorded_at());
    }
    assert_eq!(times[0], times[1]);
    assert!(times[0].elapsed().unwrap() < reading::PATIENCE);
}
