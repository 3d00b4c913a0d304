//! What these tests share: logs, publishers, a wire that can be cut, and a gateway that can be
//! stopped from outside.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use intellirouter::events::{
    Entry, EventLog, Gap, GapReason, LogSettings, LogSubscription, LogUse, Position, PublishError,
    Published, RedisLog,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::reading::{self, PATIENCE, all, channel};
use crate::redis_server::RedisServer;

pub(crate) const CHANNEL: &str = "intellirouter:chain_engine:router_core:step";

pub(crate) async fn connect(server: &RedisServer) -> RedisLog {
    connect_to(&server.url()).await
}

pub(crate) async fn connect_to(url: &str) -> RedisLog {
    RedisLog::connect(url, LogSettings::default())
        .await
        .unwrap()
}

/// As a service does that publishes alone.
pub(crate) async fn publisher(server: &RedisServer) -> RedisLog {
    let settings = LogSettings {
        usage: LogUse::Service,
        ..LogSettings::default()
    };
    RedisLog::connect(&server.url(), settings).await.unwrap()
}

pub(crate) async fn subscribe(log: &RedisLog) -> LogSubscription {
    log.subscribe(all(), None).await.unwrap()
}

pub(crate) async fn resume(log: &RedisLog, after: Position) -> LogSubscription {
    log.subscribe(all(), Some(after)).await.unwrap()
}

pub(crate) async fn publish(
    log: &RedisLog,
    payload: impl Into<Bytes>,
) -> Result<Published, PublishError> {
    log.publish(&channel("step"), payload.into(), None).await
}

pub(crate) async fn until(log: &RedisLog, connected: bool) {
    let reached = timeout(PATIENCE, log.wait_for_connection(connected)).await;
    reached.unwrap_or_else(|_| panic!("never connected = {connected}: {:?}", log.status()));
}

/// Waits until something is so.
pub(crate) async fn until_true(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never came: {what}"));
}

/// Waits until this log is the one that records.
pub(crate) async fn until_recording(log: &RedisLog) {
    until_true("the recording", || {
        log.status().detail.contains(", recording")
    })
    .await;
}

/// Publishes until the store takes it, as one does that was told to repeat.
pub(crate) async fn publish_at_last(log: &RedisLog, payload: &'static str) {
    let taken = async {
        while publish(log, payload).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, taken).await.expect("never taken");
}

/// Reads up to the event with this payload; returns everything with it.
pub(crate) async fn read_to(subscription: &mut LogSubscription, last: &str) -> Vec<Entry> {
    let mut got = Vec::new();
    let is_last = |entry: &Entry| matches!(entry, Entry::Event(e) if e.payload() == last);
    while !got.iter().any(is_last) {
        got.extend(reading::batch(subscription).await);
    }
    got
}

pub(crate) fn payloads(entries: &[Entry]) -> Vec<String> {
    let payload = |entry: &Entry| match entry {
        Entry::Event(event) => Some(String::from_utf8_lossy(event.payload()).into_owned()),
        Entry::Gap(_) => None,
    };
    entries.iter().filter_map(payload).collect()
}

pub(crate) fn gaps(entries: &[Entry]) -> Vec<Gap> {
    let gap = |entry: &Entry| match entry {
        Entry::Gap(gap) => Some(*gap),
        Entry::Event(_) => None,
    };
    entries.iter().filter_map(gap).collect()
}

pub(crate) fn reasons(entries: &[Entry]) -> Vec<GapReason> {
    gaps(entries).iter().map(|gap| gap.reason).collect()
}

/// Every position of the events, with the payload there.
pub(crate) fn by_position(entries: &[Entry]) -> BTreeMap<Position, Vec<u8>> {
    let events = entries.iter().filter_map(|entry| match entry {
        Entry::Event(event) => Some((event.position(), event.payload().to_vec())),
        Entry::Gap(_) => None,
    });
    events.collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    /// Nothing passes, nothing is closed.
    Frozen,
    /// Everything is closed, and what comes too.
    Cut,
}

/// A wire to a server that can be frozen and cut.
pub(crate) struct Proxy {
    port: u16,
    wire: watch::Sender<Wire>,
}

impl Proxy {
    pub(crate) async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (wire, state) = watch::channel(Wire::Whole);
        let server = server.port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, state.clone()));
            }
        });
        Self { port, wire }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn freeze(&self) {
        self.wire.send_replace(Wire::Frozen);
    }

    pub(crate) fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    pub(crate) fn mend(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

async fn carry(client: TcpStream, server: u16, state: watch::Receiver<Wire>) {
    if *state.borrow() == Wire::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, state.clone()) => {}
        () = pump(from_server, to_client, state) => {}
    }
}

/// Carries bytes one way until one end closes or the wire is cut.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Wire>) {
    let mut buffer = vec![0; 64 << 10];
    let mut cut = state.clone();
    let carry = async {
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let whole = state.wait_for(|wire| *wire == Wire::Whole).await.is_ok();
            if !whole || to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = carry => {}
        _ = cut.wait_for(|wire| *wire == Wire::Cut) => {}
    }
}

const URL_OF_CHILD: &str = "EVENTS_REDIS_TEST_URL";

/// A gateway's log in a process of its own, which can be killed and stopped.
pub(crate) struct Gateway {
    child: Child,
}

impl Gateway {
    /// Starts it and returns when it is connected.
    pub(crate) fn start(server: &RedisServer) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["support::a_gateway_of_its_own", "--exact", "--ignored"])
            .arg("--nocapture")
            .env(URL_OF_CHILD, server.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("READY")));
        assert!(ready, "the gateway did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child }
    }

    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "a process that other tests start"]
fn a_gateway_of_its_own() {
    let url = std::env::var(URL_OF_CHILD).expect("started by another test");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let log = connect_to(&url).await;
        assert!(log.status().connected, "{:?}", log.status());
        println!("READY {}", log.status().detail);
        // Ends with the process that started it.
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop));
        ended.await.unwrap();
    });
}

/// Publishes numbered events through `logs`, in turn and many at a time.
pub(crate) async fn publish_numbers(logs: &[Arc<RedisLog>], numbers: std::ops::Range<u32>) {
    let lanes = 16;
    let tasks: Vec<_> = (0..lanes)
        .map(|lane| {
            let log = Arc::clone(&logs[lane as usize % logs.len()]);
            let numbers = numbers.clone();
            tokio::spawn(async move {
                for number in numbers.filter(|number| number % lanes == lane) {
                    publish(&log, number.to_string()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
