//! One log at one server: who is heard, what is refused, what is bounded, what is shown.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use intellirouter::events::{
    ChannelName, EventLog, GapReason, LogSettings, PublishError, RedisLog, SubscribeError,
};
use tokio::time::timeout;

use crate::reading::{self, PATIENCE, all, channel, expect_event, expect_gap, pattern};
use crate::redis_server::RedisServer;
use crate::support::{CHANNEL, connect, publish, subscribe, until};

#[tokio::test]
async fn what_redis_cli_publishes_arrives() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    assert_eq!(
        server
            .cli(&["PUBLISH", CHANNEL, "{\"by\": \"hand\"}"])
            .trim(),
        "1"
    );
    expect_event(&mut subscription, "{\"by\": \"hand\"}").await;
}

#[tokio::test]
async fn a_message_on_a_channel_that_breaks_the_grammar_is_ignored_and_counted() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    for broken in [
        "intellirouter:a:b",
        "intellirouter:a:b:ir.open",
        "intellirouter:a:b:c\n",
    ] {
        server.cli(&["PUBLISH", broken, "x"]);
    }
    server.cli(&["PUBLISH", CHANNEL, "good"]);
    expect_event(&mut subscription, "good").await;
    let status = log.status();
    assert_eq!((status.ignored, status.recorded), (3, 1));
}

#[tokio::test]
async fn a_message_that_is_too_large_becomes_a_gap_on_its_channel_alone() {
    let server = RedisServer::start();
    let settings = LogSettings {
        max_payload: 10,
        ..LogSettings::default()
    };
    let log = RedisLog::connect(&server.url(), settings).await.unwrap();
    let mut same = log.subscribe(pattern(CHANNEL), None).await.unwrap();
    let other = pattern("intellirouter:memory:*");
    let mut other = log.subscribe(other, None).await.unwrap();
    server.cli(&["PUBLISH", CHANNEL, "more than ten bytes"]);
    server.cli(&["PUBLISH", "intellirouter:memory:chain_engine:x", "small"]);
    assert_eq!(expect_gap(&mut same).await.reason, GapReason::Trimmed);
    expect_event(&mut other, "small").await;
    assert_eq!(log.status().oversized, 1);
}

#[tokio::test]
async fn a_thousand_subscribers_share_one_redis_connection() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscriptions = Vec::new();
    for _ in 0..1000 {
        subscriptions.push(subscribe(&log).await);
    }
    let clients = server.cli(&["CLIENT", "LIST"]);
    let following = clients.lines().filter(|client| client.contains(" psub=1 "));
    assert_eq!(following.count(), 1, "{clients}");
    assert_eq!(server.cli(&["PUBLISH", CHANNEL, "to all"]).trim(), "1");
    for subscription in &mut subscriptions {
        expect_event(subscription, "to all").await;
    }
}

#[tokio::test]
async fn a_redis_that_is_away_at_the_start_is_awaited_and_its_first_connection_is_no_gap() {
    let mut server = RedisServer::down();
    let log = connect(&server).await;
    let status = log.status();
    assert!(!status.connected);
    assert!(
        status.detail.contains(&server.port().to_string()),
        "{}",
        status.detail
    );
    assert!(matches!(
        publish(&log, "early").await,
        Err(PublishError::Unavailable(_))
    ));
    assert!(matches!(
        log.subscribe(all(), None).await.err(),
        Some(SubscribeError::Unavailable(_))
    ));

    server.start_again();
    until(&log, true).await;
    let mut subscription = subscribe(&log).await;
    publish(&log, "first").await.unwrap();
    expect_event(&mut subscription, "first").await;
    assert_eq!(log.status().reconnects, 0);
}

#[tokio::test]
async fn connections_that_are_cut_are_made_again_and_subscribers_see_no_gap() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    // The tail with it; the recorder stands.
    assert_eq!(
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).trim(),
        "2"
    );
    until(&log, false).await;
    until(&log, true).await;
    let mut other = subscribe(&log).await;
    publish(&log, "after").await.unwrap();
    expect_event(&mut subscription, "after").await;
    expect_event(&mut other, "after").await;
    assert_eq!(log.status().reconnects, 1);
}

#[tokio::test]
async fn a_key_is_known_to_every_process_that_publishes_to_the_same_redis() {
    let server = RedisServer::start();
    let (one, other) = (connect(&server).await, connect(&server).await);
    let mut subscription = subscribe(&one).await;
    let payload = Bytes::from_static(b"once");
    let first = one
        .publish(&channel("step"), payload.clone(), Some("k"))
        .await;
    let second = other.publish(&channel("step"), payload, Some("k")).await;
    assert!(!first.unwrap().duplicate);
    assert!(second.unwrap().duplicate);
    publish(&other, "next").await.unwrap();
    let got = reading::payloads(&mut subscription, 2).await;
    assert_eq!(got, [b"once".to_vec(), b"next".to_vec()]);
}

#[tokio::test]
async fn a_key_is_remembered_for_five_minutes_in_redis_and_a_publish_for_seconds() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    log.publish(&channel("step"), Bytes::new(), Some("k"))
        .await
        .unwrap();
    for (keys, life) in [("once", 240_000..=300_000), ("sent", 1..=9000)] {
        let key = server.cli(&["KEYS", &format!("{{intellirouter}}:{keys}:*")]);
        let left: u64 = server.cli(&["PTTL", key.trim()]).trim().parse().unwrap();
        assert!(life.contains(&left), "{left} ms");
    }
}

#[tokio::test]
async fn a_publish_that_redis_refuses_is_an_error_and_its_key_stays_free() {
    let server = RedisServer::start();
    server.cli(&[
        "ACL",
        "SETUSER",
        "writer",
        "on",
        ">pw",
        "+@all",
        "~*",
        "allchannels",
    ]);
    let url = server.url().replace("redis://", "redis://writer:pw@");
    let log = RedisLog::connect(&url, LogSettings::default())
        .await
        .unwrap();
    let forbidden = channel("forbidden");
    server.cli(&[
        "ACL",
        "SETUSER",
        "writer",
        "resetchannels",
        "&intellirouter:*",
        "&{intellirouter}:mark",
    ]);
    server.cli(&["ACL", "SETUSER", "writer", "-publish"]);
    for key in [None, Some("k")] {
        let refused = log.publish(&forbidden, Bytes::new(), key).await;
        assert!(
            matches!(refused, Err(PublishError::Unavailable(_))),
            "{refused:?}"
        );
    }
    server.cli(&["ACL", "SETUSER", "writer", "+publish"]);
    until(&log, true).await;
    let repeated = log
        .publish(&forbidden, Bytes::new(), Some("k"))
        .await
        .unwrap();
    assert!(!repeated.duplicate, "nothing was published under this key");
}

#[tokio::test]
async fn more_than_may_wait_for_an_answer_is_refused() {
    let server = RedisServer::start();
    let log = Arc::new(connect(&server).await);
    server.pause();
    let started = Instant::now();
    let attempts: Vec<_> = (0..40)
        .map(|_| {
            let log = Arc::clone(&log);
            let payload = Bytes::from(vec![0; 1 << 20]);
            tokio::spawn(async move { log.publish(&channel("step"), payload, None).await })
        })
        .collect();
    let mut refused = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Err(PublishError::Unavailable(_)) => refused += 1,
            Err(PublishError::TimedOut(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(
        refused,
        40 - 15,
        "16 MiB have room for 15 with their overhead"
    );
}

/// Begins publishes of 1 MiB until there is no room for more, and gives each of them up.
async fn give_up_all_that_fit(log: &RedisLog) {
    let large = || Bytes::from(vec![0; 1 << 20]);
    for number in 0..15 {
        let begun = log.publish(&channel("step"), large(), None).now_or_never();
        assert_eq!(begun, None, "publish {number}");
    }
    let refused = log.publish(&channel("step"), large(), None).await;
    assert!(
        matches!(&refused, Err(PublishError::Unavailable(why)) if why.contains("no room")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_publish_that_its_caller_gives_up_keeps_its_room_until_redis_answers() {
    let server = RedisServer::start();
    let log = connect(&server).await;
    let mut subscription = subscribe(&log).await;
    server.pause();
    give_up_all_that_fit(&log).await;
    server.resume();
    assert_eq!(reading::payloads(&mut subscription, 15).await.len(), 15);
    // On another connection than the messages come the answers, and with them the room.
    let answered = async {
        let large = Bytes::from(vec![0; 1 << 20]);
        while log
            .publish(&channel("step"), large.clone(), None)
            .await
            .is_err()
        {}
    };
    timeout(PATIENCE, answered)
        .await
        .expect("the room did not come back");
}

#[tokio::test]
async fn a_connection_that_is_given_up_gives_back_the_room_of_all_that_waited_on_it() {
    let mut server = RedisServer::start();
    let log = connect(&server).await;
    server.pause();
    give_up_all_that_fit(&log).await;
    // Silent, not closed: nothing but this end can tell that no answer will come.
    until(&log, false).await;
    server.kill();
    server.start_again();
    until(&log, true).await;
    server.pause();
    give_up_all_that_fit(&log).await;
}

#[tokio::test]
async fn a_dropped_log_closes_its_connections() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).unwrap();
    let mut watcher = client.get_multiplexed_async_connection().await.unwrap();
    drop(connect(&server).await);
    let closed = async {
        loop {
            let list: String = redis::cmd("CLIENT")
                .arg("LIST")
                .query_async(&mut watcher)
                .await
                .unwrap();
            if list.lines().count() == 1 {
                return;
            }
        }
    };
    timeout(PATIENCE, closed)
        .await
        .expect("connections were left open");
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn loss_and_return_are_logged_and_credentials_are_shown_nowhere() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // Where there is one subscriber alone, a line that the thread of another test reaches first is
    // turned off for all.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());

    let mut server = RedisServer::start_with(&["--requirepass", "s3cret"]);
    let wrong = server.url().replace("redis://", "redis://:wr0ng@");
    let refused = RedisLog::connect(&wrong, LogSettings::default())
        .await
        .unwrap();
    assert!(!refused.status().connected);

    let right = server.url().replace("redis://", "redis://:s3cret@");
    let log = RedisLog::connect(&right, LogSettings::default())
        .await
        .unwrap();
    assert!(log.status().connected, "{:?}", log.status());
    server.kill();
    until(&log, false).await;
    let down = format!("{log:?} {:?}", publish(&log, "x").await);
    server.start_again();
    until(&log, true).await;

    let text = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    for line in [
        "event store not reachable",
        "event store lost",
        "event store connected",
    ] {
        assert!(text.contains(line), "{line:?} not in: {text}");
    }
    for shown in [text, down, format!("{refused:?} {log:?}")] {
        assert!(
            !shown.contains("s3cret") && !shown.contains("wr0ng"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn over_tls_only_a_server_of_the_given_authority_is_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (
            directory.path().join(name),
            directory.path().join(format!("{name}k")),
        );
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    };
    let ((cert, key), (stranger, _)) = (make("server"), make("stranger"));
    let server = RedisServer::start_tls(&cert, &key);
    let url = format!("rediss://localhost:{}", server.port());

    let trusting = LogSettings {
        ca_file: Some(cert),
        ..LogSettings::default()
    };
    let log = RedisLog::connect(&url, trusting).await.unwrap();
    assert!(log.status().connected, "{:?}", log.status());
    let mut subscription = subscribe(&log).await;
    publish(&log, "over TLS").await.unwrap();
    expect_event(&mut subscription, "over TLS").await;

    let other = LogSettings {
        ca_file: Some(stranger),
        ..LogSettings::default()
    };
    let status = RedisLog::connect(&url, other).await.unwrap().status();
    assert!(!status.connected);
    assert!(status.detail.contains("certificate"), "{}", status.detail);
}

#[tokio::test]
async fn two_logs_of_one_redis_see_the_same_order() {
    let server = RedisServer::start();
    let (one, other) = (connect(&server).await, connect(&server).await);
    let mut subscriptions = [subscribe(&one).await, subscribe(&other).await];
    let (a, b) = (
        ChannelName::new("a", "x", "y"),
        ChannelName::new("b", "x", "y"),
    );
    let publishing = |log: RedisLog, channel: ChannelName| {
        tokio::spawn(async move {
            for n in 0..500_u32 {
                let payload = Bytes::from(format!("{channel} {n}"));
                log.publish(&channel, payload, None).await.unwrap();
            }
            log
        })
    };
    let tasks = (publishing(one, a), publishing(other, b));
    let seen = reading::payloads(&mut subscriptions[0], 1000).await;
    assert_eq!(seen, reading::payloads(&mut subscriptions[1], 1000).await);
    tasks.0.await.unwrap();
    tasks.1.await.unwrap();
}
