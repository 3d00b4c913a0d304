//! A store that dies, stops, forgets or is out of reach: open subscriptions go on by themselves, and
//! are told whenever something may have been lost, and else not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use intellirouter::events::{
    EventLog, GapReason, LogSubscription, Position, PublishError, RedisLog, SubscribeError,
};

use crate::reading::{self, all, expect_event, expect_gap};
use crate::redis_server::RedisServer;
use crate::support::{
    CHANNEL, Gateway, Proxy, connect, connect_to, gaps, payloads, publish, publish_at_last,
    publisher, read_to, reasons, resume, subscribe, until, until_recording, until_true,
};

/// Publishes and reads one event.
async fn exchange(log: &RedisLog, subscription: &mut LogSubscription, payload: &'static str) {
    publish(log, payload).await.unwrap();
    expect_event(subscription, payload).await;
}

#[tokio::test]
async fn a_redis_that_is_killed_and_comes_back_empty_is_a_gap_and_the_stream_goes_on() {
    let mut server = RedisServer::start();
    let log = connect(&server).await;
    let mut early = subscribe(&log).await;
    exchange(&log, &mut early, "before").await;
    let before = early.position();

    server.kill();
    until(&log, false).await;
    let started = Instant::now();
    assert!(matches!(
        publish(&log, "lost").await,
        Err(PublishError::Unavailable(_))
    ));
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "refused at once"
    );
    let refused = log.subscribe(all(), None).await;
    assert!(matches!(
        refused.err(),
        Some(SubscribeError::Unavailable(_))
    ));
    assert!(!log.status().connected);

    server.start_again();
    // The gap comes without any event.
    let gap = expect_gap(&mut early).await;
    assert_eq!(gap.reason, GapReason::StoreLostData);
    assert_eq!(gap.from, Some(before));
    assert!(gap.to > before);
    until(&log, true).await;
    exchange(&log, &mut early, "after").await;
    let status = log.status();
    assert_eq!((status.reconnects, status.recorded), (1, 2));

    // Who resumes from before the loss is told of it too, here and at a log that knows nothing of
    // what was before; who comes after it is not.
    let start = early.start();
    let other = connect(&server).await;
    let here = read_to(&mut resume(&log, start).await, "after").await;
    assert_eq!(payloads(&here), ["before", "after"]);
    let there = read_to(&mut resume(&other, before).await, "after").await;
    assert_eq!(payloads(&there), ["after"]);
    for got in [&here, &there] {
        assert_eq!(reasons(got), [GapReason::StoreLostData]);
    }
    let mut fresh = resume(&other, gap.to).await;
    expect_event(&mut fresh, "after").await;
}

/// Publishes all the time on a channel of no concern, as Sentinels do; until it is true.
fn noise(port: u16, end: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let mut answer = [0; 64];
            while !end.load(Ordering::Relaxed)
                && server.write_all(b"PUBLISH noise -\r\n").is_ok()
                && matches!(server.read(&mut answer), Ok(1..))
            {}
        }
    })
}

#[tokio::test]
async fn what_others_publish_elsewhere_adds_no_gap_of_its_own_to_that_of_a_loss() {
    let mut server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    let end = Arc::new(AtomicBool::new(false));
    let noise = noise(server.port(), Arc::clone(&end));
    for round in ["1", "2", "3", "4", "5"] {
        server.kill();
        until(&log, false).await;
        server.start_again();
        publish_at_last(&log, round).await;
        until_recording(&log).await;
        let got = read_to(&mut subscription, round).await;
        assert_eq!(reasons(&got), [GapReason::StoreLostData], "{round}");
    }
    publish(&log, "end").await.unwrap();
    let got = read_to(&mut subscription, "end").await;
    assert_eq!(reasons(&got), []);
    end.store(true, Ordering::Relaxed);
    noise.join().unwrap();
}

#[tokio::test]
async fn a_client_that_comes_back_while_the_store_is_away_goes_on_and_a_new_one_is_refused_at_once()
{
    let mut server = RedisServer::start();
    let log = connect(&server).await;
    let mut early = subscribe(&log).await;
    exchange(&log, &mut early, "one").await;
    let one = early.position();
    exchange(&log, &mut early, "two").await;
    let two = early.position();
    server.kill();
    until(&log, false).await;

    let asked = Instant::now();
    let refused = log.subscribe(all(), None).await;
    assert!(refused.is_err_and(|error| matches!(error, SubscribeError::Unavailable(_))));
    let waited = asked.elapsed();
    assert!(waited < Duration::from_millis(500), "{waited:?}");
    let mut back = resume(&log, one).await;
    expect_event(&mut back, "two").await;
    let mut back_at_the_end = resume(&log, two).await;
    // An id that is not known here may be good elsewhere: that is waited for, and not for ever.
    let unknown = Position {
        offset: two.offset + 1,
        ..two
    };
    for after in [unknown, Position::NOWHERE] {
        let asked = Instant::now();
        let refused = log.subscribe(all(), Some(after)).await;
        assert!(refused.is_err_and(|error| matches!(error, SubscribeError::Unavailable(_))));
        let waited = asked.elapsed();
        assert!(waited > Duration::from_millis(1500), "{waited:?}");
        assert!(waited < reading::PATIENCE / 2, "{waited:?}");
    }
    let waiting = log.subscribe(all(), Some(unknown));
    tokio::pin!(waiting);
    assert!((&mut waiting).now_or_never().is_none());
    server.start_again();
    let mut waiting = waiting.await.unwrap();
    until(&log, true).await;
    publish_at_last(&log, "after").await;
    for subscription in [&mut early, &mut back, &mut back_at_the_end, &mut waiting] {
        let got = read_to(subscription, "after").await;
        assert_eq!(reasons(&got), [GapReason::StoreLostData]);
        assert_eq!(payloads(&got), ["after"]);
    }
}

#[tokio::test]
async fn a_log_that_knows_nothing_takes_no_id_for_known_while_the_store_is_away() {
    let mut server = RedisServer::start();
    server.kill();
    let log = connect(&server).await;
    let refused = log.subscribe(all(), Some(Position::NOWHERE)).await;
    assert!(refused.is_err_and(|error| matches!(error, SubscribeError::Unavailable(_))));
    assert!(log.ready(Duration::ZERO).await.is_err());
    server.start_again();
    assert_eq!(log.ready(reading::PATIENCE).await, Ok(()));
    let gap = expect_gap(&mut resume(&log, Position::NOWHERE).await).await;
    assert_eq!(gap.from, Some(Position::NOWHERE));
}

#[tokio::test]
async fn a_redis_that_comes_back_with_its_data_keeps_every_event_and_says_a_gap_where_it_was_away()
{
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let log = connect(&server).await;
    let mut open = subscribe(&log).await;
    let start = open.start();
    exchange(&log, &mut open, "before").await;
    let before = open.position();
    server.kill();
    server.start_again();
    publish_at_last(&log, "after").await;
    let got = read_to(&mut open, "after").await;
    assert_eq!(reasons(&got), [GapReason::StoreLostData]);

    // Also at a log that starts now: what was before is still there.
    let other = connect(&server).await;
    let got = read_to(&mut resume(&other, start).await, "after").await;
    assert_eq!(payloads(&got), ["before", "after"]);
    assert_eq!(reasons(&got), [GapReason::StoreLostData]);
    let got = read_to(&mut resume(&other, before).await, "after").await;
    assert_eq!(payloads(&got), ["after"]);
    assert_eq!(reasons(&got), [GapReason::StoreLostData]);
}

#[tokio::test]
async fn a_redis_that_is_emptied_under_an_open_stream_is_a_gap_even_if_nobody_publishes() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    exchange(&log, &mut subscription, "before").await;
    let before = subscription.position();
    server.cli(&["FLUSHALL"]);
    let gap = expect_gap(&mut subscription).await;
    assert_eq!(gap.reason, GapReason::StoreLostData);
    assert!(
        gap.to.epoch > before.epoch,
        "an old id is never given out again"
    );
    until(&log, true).await;
    exchange(&log, &mut subscription, "after").await;
    assert!(subscription.position() > gap.to);
}

#[tokio::test]
async fn a_redis_that_is_emptied_under_load_gives_no_old_id_to_a_new_event() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    for _ in 0..20 {
        publish(&log, "before").await.unwrap();
    }
    server.cli(&["FLUSHALL"]);
    for _ in 0..20 {
        publish(&log, "after").await.unwrap();
    }
    publish(&log, "end").await.unwrap();
    let got = read_to(&mut subscription, "end").await;
    let lost = |reason: &&GapReason| **reason == GapReason::StoreLostData;
    assert_eq!(reasons(&got).iter().filter(lost).count(), 1, "{got:?}");
    let after = payloads(&got).iter().filter(|p| *p == "after").count();
    assert_eq!(after, 20);
}

#[tokio::test]
async fn a_redis_that_is_stopped_for_a_while_loses_nothing_and_says_no_gap() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    exchange(&log, &mut subscription, "before").await;
    server.pause();
    let paused = Instant::now();
    let unanswered = publish(&log, "maybe").await;
    let waited = paused.elapsed();
    let limit = Duration::from_secs(2);
    assert_eq!(unanswered, Err(PublishError::TimedOut(limit)));
    assert!(waited >= limit && waited < limit * 2, "{waited:?}");
    // Noticed while idle too, so that nothing is queued for a store that does not answer.
    until(&log, false).await;
    let noticed = paused.elapsed();
    assert!(
        noticed < Duration::from_secs(6),
        "noticed after {noticed:?}"
    );
    until_true("the refusal of what is new", || {
        log.status().detail.contains("publisher")
    })
    .await;
    until_true("ten seconds", || {
        paused.elapsed() >= Duration::from_secs(10)
    })
    .await;
    server.resume();
    publish_at_last(&log, "after").await;
    let got = read_to(&mut subscription, "after").await;
    assert!(gaps(&got).is_empty(), "{:?}", gaps(&got));
    let got = payloads(&got);
    assert!(got == ["after"] || got == ["maybe", "after"], "{got:?}");
}

#[tokio::test]
async fn a_redis_that_sleeps_makes_a_publish_wait_and_nothing_else() {
    let server = RedisServer::start_with(&["--enable-debug-command", "yes"]);
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    let sleeping = {
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        tokio::spawn(async move {
            let mut sleep = redis::cmd("DEBUG");
            sleep.arg("SLEEP").arg("1");
            sleep.query_async::<()>(&mut connection).await
        })
    };
    tokio::task::yield_now().await;
    publish(&log, "waits").await.unwrap();
    expect_event(&mut subscription, "waits").await;
    let _ = sleeping.await.unwrap();
    assert!(log.status().connected);
}

#[tokio::test]
async fn a_log_that_was_cut_off_gets_everything_that_it_missed_and_no_gap() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server).await;
    let _recording = Gateway::start(&server);
    let log = connect_to(&proxy.url()).await;
    let source = publisher(&server).await;
    let mut subscription = subscribe(&log).await;
    publish(&source, "before").await.unwrap();
    expect_event(&mut subscription, "before").await;
    proxy.cut();
    until(&log, false).await;
    publish(&source, "own").await.unwrap();
    server.cli(&["PUBLISH", CHANNEL, "plain"]);
    proxy.mend();
    let got = read_to(&mut subscription, "plain").await;
    assert_eq!(payloads(&got), ["own", "plain"]);
    assert!(gaps(&got).is_empty(), "{:?}", gaps(&got));
}

#[tokio::test]
async fn a_log_that_was_away_for_longer_than_the_store_retains_says_what_it_missed() {
    let server = RedisServer::start();
    let settings = intellirouter::events::LogSettings {
        retain_events: 64,
        ..Default::default()
    };
    let retaining = RedisLog::connect(&server.url(), settings).await.unwrap();
    let proxy = Proxy::to(&server).await;
    let log = connect_to(&proxy.url()).await;
    let mut subscription = subscribe(&log).await;
    exchange(&retaining, &mut subscription, "before").await;
    let before = subscription.position();
    proxy.cut();
    until(&log, false).await;
    for _ in 0..200 {
        publish(&retaining, "much").await.unwrap();
    }
    publish(&retaining, "last").await.unwrap();
    proxy.mend();
    let got = read_to(&mut subscription, "last").await;
    assert_eq!(reasons(&got), [GapReason::Trimmed]);
    assert_eq!(gaps(&got)[0].from, Some(before));
    assert!(payloads(&got).len() >= 64);
}

#[tokio::test]
async fn a_publish_whose_answer_was_lost_is_sent_again_and_published_once() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server).await;
    let log = connect_to(&proxy.url()).await;
    let witness = connect(&server).await;
    let mut subscription = subscribe(&witness).await;
    for round in 0..5 {
        // The command passes or not; the answer does not.
        let publishing = publish(&log, format!("{round}"));
        tokio::pin!(publishing);
        assert!((&mut publishing).now_or_never().is_none());
        if round % 2 == 0 {
            expect_event(&mut subscription, &round.to_string()).await;
        }
        proxy.cut();
        until(&log, false).await;
        proxy.mend();
        let published = publishing.await.unwrap();
        assert!(!published.duplicate, "it is the same publish");
        if round % 2 != 0 {
            expect_event(&mut subscription, &round.to_string()).await;
        }
        until(&log, true).await;
    }
    exchange(&log, &mut subscription, "nothing twice").await;
}

#[tokio::test]
async fn a_redis_that_returns_is_found_at_once() {
    let mut server = RedisServer::start();
    let log = connect(&server).await;
    server.kill();
    until(&log, false).await;
    let mut took = Vec::new();
    for _ in 0..9 {
        server.start_again();
        let returned = Instant::now();
        until(&log, true).await;
        took.push(returned.elapsed());
        server.kill();
        until(&log, false).await;
    }
    took.sort();
    println!("found after {took:?}");
    // Not the longest: a busy machine has its part in it.
    assert!(took[4] <= Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn a_redis_that_becomes_a_replica_is_given_up_and_nothing_is_published_there() {
    let server = RedisServer::start();
    let other = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    exchange(&log, &mut subscription, "before").await;
    let port = other.port().to_string();
    server.cli(&["REPLICAOF", "127.0.0.1", &port]);
    until(&log, false).await;
    until_true("the reason", || {
        log.status().detail.contains("not a master")
    })
    .await;
    assert!(publish(&log, "no").await.is_err());
    // It is the same process with the same run id, and has lost everything.
    until_true("the other's data", || {
        server.cli(&["EXISTS", "{intellirouter}:log"]).trim() == "0"
    })
    .await;
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    publish_at_last(&log, "after").await;
    let got = read_to(&mut subscription, "after").await;
    assert_eq!(reasons(&got), [GapReason::StoreLostData]);
    assert_eq!(reading::payload(got.last().unwrap()), b"after");
}

#[tokio::test]
async fn a_full_store_takes_events_again_once_old_ones_have_to_go() {
    let server = RedisServer::start();
    let settings = intellirouter::events::LogSettings {
        retain_age: Duration::from_secs(4),
        ..Default::default()
    };
    let log = RedisLog::connect(&server.url(), settings).await.unwrap();
    until_recording(&log).await;
    let payload = "x".repeat(100_000);
    for _ in 0..100 {
        publish(&log, payload.clone()).await.unwrap();
    }
    server.cli(&["CONFIG", "SET", "maxmemory", "6mb"]);
    assert!(publish(&log, "refused").await.is_err());
    let began = Instant::now();
    while publish(&log, "taken").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "still full");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
