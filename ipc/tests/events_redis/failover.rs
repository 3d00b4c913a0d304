//! A master that is replaced: found by Sentinel, with what its replica had; and replicas that must
//! have an event before its publish is answered.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use intellirouter::events::{
    EventLog, GapReason, LogSettings, LogUse, PublishError, Published, RedisLog,
};

use crate::reading::{channel, expect_event};
use crate::redis_server::RedisServer;
use crate::support::{
    connect_to, gaps, payloads, publish, publish_at_last, read_to, reasons, resume, subscribe,
    until, until_true,
};

/// A Sentinel that watches one master under the name `main`, alone.
struct Sentinel {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Sentinel {
    fn watch(master: &RedisServer) -> Self {
        Self::watch_with(master, "")
    }

    fn watch_with(master: &RedisServer, more: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n{more}\n",
            master.port()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("redis-server")
            .arg(&config)
            .arg("--sentinel")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let watches =
            lines.any(|line| line.is_ok_and(|line| line.contains("+monitor master main")));
        assert!(watches, "the Sentinel did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            port,
            _directory: directory,
        }
    }

    fn url(&self) -> String {
        // The first one is not there.
        format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", self.port)
    }

    /// Waits until it knows so many replicas that could be promoted.
    async fn knows_replicas(&self, count: usize) {
        until_true("the replicas", || {
            let output = Command::new("redis-cli")
                .args(["-p", &self.port.to_string(), "SENTINEL", "replicas", "main"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.matches("master-link-status\nok").count() == count
        })
        .await;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn replica_of(master: &RedisServer) -> RedisServer {
    RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())])
}

/// Waits until the replica has everything, by what it says itself. WAIT would ask
/// for what its own connection has written: nothing.
async fn in_step(master: &RedisServer) {
    until_true("the replica", || {
        let info = master.cli(&["INFO", "replication"]);
        let after = |text: &str| {
            let rest = info.split(text).nth(1)?;
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        };
        let (written, there) = (after("master_repl_offset:"), after(",offset="));
        info.contains("state=online") && written.is_some() && written == there
    })
    .await;
}

#[tokio::test]
async fn a_master_that_dies_is_replaced_by_its_replica_with_every_event_and_a_gap() {
    let mut master = RedisServer::start();
    let replica = replica_of(&master);
    in_step(&master).await;
    let sentinel = Sentinel::watch(&master);
    sentinel.knows_replicas(1).await;
    let log = connect_to(&sentinel.url()).await;
    assert!(log.status().connected, "{:?}", log.status());
    assert!(
        log.status().detail.contains("main of"),
        "{:?}",
        log.status()
    );
    let mut subscription = subscribe(&log).await;
    let start = subscription.start();
    publish(&log, "before").await.unwrap();
    expect_event(&mut subscription, "before").await;
    let before = subscription.position();
    in_step(&master).await;

    master.kill();
    until(&log, false).await;
    publish_at_last(&log, "after").await;
    let got = read_to(&mut subscription, "after").await;
    assert_eq!(reasons(&got), [GapReason::StoreLostData]);
    assert_eq!(gaps(&got)[0].from, Some(before));
    assert!(replica.cli(&["ROLE"]).starts_with("master"));

    // Another gateway that comes now has all of it.
    let other = connect_to(&sentinel.url()).await;
    let got = read_to(&mut resume(&other, start).await, "after").await;
    assert_eq!(payloads(&got), ["before", "after"]);
}

#[tokio::test]
async fn a_replica_that_lagged_gives_no_lost_id_to_a_new_event() {
    let master = RedisServer::start();
    let replica = replica_of(&master);
    in_step(&master).await;
    let sentinel = Sentinel::watch(&master);
    sentinel.knows_replicas(1).await;
    let log = connect_to(&sentinel.url()).await;
    let mut subscription = subscribe(&log).await;
    publish(&log, "kept").await.unwrap();
    expect_event(&mut subscription, "kept").await;
    let kept = subscription.position();
    in_step(&master).await;
    // The replica gets nothing from here on: its link is closed before it can read what was sent.
    replica.pause();
    master.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    for _ in 0..10 {
        publish(&log, "lost").await.unwrap();
    }
    publish(&log, "lost last").await.unwrap();
    let got = read_to(&mut subscription, "lost last").await;
    let lost = subscription.position();
    assert_eq!(got.len(), 11);
    drop(master);
    replica.resume();

    publish_at_last(&log, "after").await;
    let got = read_to(&mut subscription, "after").await;
    assert!(reasons(&got).contains(&GapReason::StoreLostData), "{got:?}");
    // Whether the replica had them or not in the end: what a client has seen is never given to
    // another event, and who comes back with it is told.
    let other = connect_to(&sentinel.url()).await;
    for after in [kept, lost] {
        let got = read_to(&mut resume(&other, after).await, "after").await;
        assert_eq!(reasons(&got), [GapReason::StoreLostData], "{got:?}");
        assert!(gaps(&got)[0].to > lost);
    }
}

#[tokio::test]
async fn a_sentinel_that_asks_for_a_password_gets_that_of_the_url() {
    let master = RedisServer::start_with(&["--requirepass", "s3cret"]);
    let sentinel = Sentinel::watch_with(
        &master,
        "requirepass s3cret\nsentinel auth-pass main s3cret",
    );
    let url = sentinel
        .url()
        .replace("redis+sentinel://", "redis+sentinel://:s3cret@");
    let log = connect_to(&url).await;
    assert!(log.status().connected, "{:?}", log.status());
    assert!(!format!("{log:?}").contains("s3cret"));
    let refused = connect_to(&url.replace("s3cret", "wr0ng")).await;
    assert!(!refused.status().connected);
    assert!(!format!("{refused:?}").contains("wr0ng"));
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_said() {
    let master = RedisServer::start();
    let sentinel = Sentinel::watch(&master);
    let log = connect_to(&sentinel.url().replace("/main", "/other")).await;
    let detail = log.status().detail;
    assert!(detail.contains("no Sentinel names a master"), "{detail}");
}

#[tokio::test]
async fn a_publish_that_must_be_confirmed_by_replicas_is_an_error_if_too_few_do() {
    let master = RedisServer::start();
    let settings = LogSettings {
        replicas: 1,
        usage: LogUse::Service,
        publish_timeout: Duration::from_millis(500),
        ..LogSettings::default()
    };
    let log = RedisLog::connect(&master.url(), settings).await.unwrap();
    let mut subscription = subscribe(&log).await;
    let unconfirmed = publish(&log, "alone").await.unwrap_err();
    let expected = PublishError::Unconfirmed {
        acknowledged: 0,
        wanted: 1,
    };
    assert!(unconfirmed == expected || matches!(unconfirmed, PublishError::TimedOut(_)));
    assert!(unconfirmed.outcome_unknown());
    expect_event(&mut subscription, "alone").await;

    let replica = replica_of(&master);
    in_step(&master).await;
    publish(&log, "with one").await.unwrap();
    expect_event(&mut subscription, "with one").await;
    replica.pause();
    let payload = || bytes::Bytes::from_static(b"unsure");
    let step = channel("step");
    let unsure = log.publish(&step, payload(), Some("key")).await;
    assert!(unsure.unwrap_err().outcome_unknown());
    // A repeat is no more sure as long as the replica does not have the first.
    let repeated = log.publish(&step, payload(), Some("key")).await;
    assert!(repeated.unwrap_err().outcome_unknown());
    replica.resume();
    in_step(&master).await;
    let repeated = log.publish(&step, payload(), Some("key")).await.unwrap();
    assert!(repeated.duplicate);
    expect_event(&mut subscription, "unsure").await;
}

/// A log that wants one replica to have each event, and waits for it so long.
async fn with_a_replica(master: &RedisServer, publish_timeout: Duration) -> Arc<RedisLog> {
    let settings = LogSettings {
        replicas: 1,
        usage: LogUse::Service,
        publish_timeout,
        ..LogSettings::default()
    };
    let log = RedisLog::connect(&master.url(), settings).await.unwrap();
    Arc::new(log)
}

/// What becomes of so many publishes at once.
async fn publish_at_once(
    log: &Arc<RedisLog>,
    count: usize,
) -> Vec<Result<Published, PublishError>> {
    let publishing = (0..count).map(|number| publish(log, number.to_string()));
    futures_util::future::join_all(publishing).await
}

#[tokio::test]
async fn while_a_replica_is_away_publishes_do_not_wait_for_one_another() {
    let master = RedisServer::start();
    let limit = Duration::from_secs(1);
    let log = with_a_replica(&master, limit).await;
    let mut subscription = subscribe(&log).await;
    let began = Instant::now();
    for outcome in publish_at_once(&log, 30).await {
        assert!(outcome.unwrap_err().outcome_unknown());
    }
    let took = began.elapsed();
    assert!(took < limit * 2, "{took:?}");
    // They are published nevertheless, and so is the next one, at once.
    assert!(publish(&log, "last").await.unwrap_err().outcome_unknown());
    let got = read_to(&mut subscription, "last").await;
    assert_eq!(payloads(&got).len(), 31);
    let took = began.elapsed();
    assert!(took < limit * 3, "{took:?}");

    let replica = replica_of(&master);
    in_step(&master).await;
    publish(&log, "with one").await.unwrap();
    drop(replica);
}

#[tokio::test]
async fn publishes_that_wait_at_the_same_time_are_confirmed_together() {
    let master = RedisServer::start();
    let _replica = replica_of(&master);
    in_step(&master).await;
    let log = with_a_replica(&master, Duration::from_secs(10)).await;
    for outcome in publish_at_once(&log, 500).await {
        outcome.unwrap();
    }
    let info = master.cli(&["INFO", "commandstats"]);
    let waits = info.split("cmdstat_wait:calls=").nth(1).unwrap();
    let waits: usize = waits.split(',').next().unwrap().parse().unwrap();
    assert!((1..=100).contains(&waits), "{waits} for 500 publishes");
}

#[tokio::test]
async fn a_replica_that_lags_is_waited_for_and_what_it_then_has_is_confirmed() {
    let master = RedisServer::start();
    let replica = replica_of(&master);
    in_step(&master).await;
    let log = with_a_replica(&master, Duration::from_secs(10)).await;
    replica.pause();
    let publishing = tokio::spawn({
        let log = Arc::clone(&log);
        async move { publish_at_once(&log, 20).await }
    });
    // Longer than a connection may be silent.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!publishing.is_finished());
    assert!(log.status().connected, "{:?}", log.status());
    replica.resume();
    for outcome in publishing.await.unwrap() {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn the_connection_that_waits_for_replicas_is_made_again_when_it_is_lost() {
    let master = RedisServer::start();
    let _replica = replica_of(&master);
    in_step(&master).await;
    let log = with_a_replica(&master, Duration::from_secs(10)).await;
    for payload in ["one", "two"] {
        publish(&log, payload).await.unwrap();
        let clients = master.cli(&["CLIENT", "LIST"]);
        let waiting = clients.lines().find(|client| client.contains("cmd=wait"));
        let id = waiting.unwrap().split(' ').next().unwrap();
        master.cli(&["CLIENT", "KILL", "ID", id.trim_start_matches("id=")]);
    }
    assert!(log.status().connected, "{:?}", log.status());
}
