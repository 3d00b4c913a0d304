//! What an operator reads must be what callers got.

use intellirouter::security::{SecureGrpcServerBuilder, ServerMetrics};
use prometheus_client::registry::Registry;

use crate::player::{self, PUBLISH, Player, SERVICE, SUBSCRIBE};
use crate::raw::{RawClient, some_data};
use crate::support::*;

struct Counted {
    registry: Registry,
    metrics: ServerMetrics,
}

impl Counted {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("intellirouter");
        let metrics = ServerMetrics::register(&mut registry);
        Self { registry, metrics }
    }

    fn builder(&self, server: &str) -> SecureGrpcServerBuilder {
        SecureGrpcServerBuilder::new()
            .allow_plaintext()
            .allow_unauthenticated()
            .with_metrics(&self.metrics, server)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The finished calls of a server, as `method code count`, sorted.
    fn calls(&self, server: &str) -> Vec<String> {
        let start = format!("intellirouter_server_calls_total{{server=\"{server}\",method=\"");
        let text = self.text();
        let lines = text.lines().filter_map(|line| line.strip_prefix(&start));
        let mut calls: Vec<_> = lines
            .map(|line| line.replace("\",code=\"", " ").replace("\"}", ""))
            .collect();
        calls.sort();
        calls
    }

    /// The figure of a metric with no label but the server's and the method's.
    fn figure(&self, name: &str, server: &str, method: &str) -> Option<f64> {
        let start = format!("intellirouter_{name}{{server=\"{server}\",method=\"{method}\"}} ");
        let text = self.text();
        let found = text.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(found.parse().unwrap())
    }
}

#[tokio::test]
async fn calls_are_counted_by_the_code_that_stands_in_their_trailers() {
    let counted = Counted::new();
    let builder = counted
        .builder("player")
        .with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    let served = Served::start(Player::default().router(&builder)).await;
    let mut client = RawClient::connect(served.address).await;
    for channel in ["works", "works", "fails", "panics", "odd"] {
        client.status(PUBLISH, &[], player::publish(channel)).await;
    }
    for channel in ["ends", "fails", "panics"] {
        client
            .status(SUBSCRIBE, &[], player::subscribe(channel))
            .await;
    }
    let bad = [("grpc-timeout", "never")];
    client
        .status(SUBSCRIBE, &bad, player::subscribe("ends"))
        .await;
    drop(client);
    served.stop().await.unwrap();

    assert_eq!(
        counted.calls("player"),
        [
            format!("{PUBLISH} INTERNAL 1"),
            format!("{PUBLISH} INVALID_ARGUMENT 1"),
            format!("{PUBLISH} NOT_FOUND 1"),
            format!("{PUBLISH} OK 2"),
            format!("{SUBSCRIBE} INTERNAL 1"),
            format!("{SUBSCRIBE} INVALID_ARGUMENT 1"),
            format!("{SUBSCRIBE} NOT_FOUND 1"),
            format!("{SUBSCRIBE} OK 1"),
        ]
    );
    let count = counted.figure("server_call_seconds_count", "player", PUBLISH);
    assert_eq!(count, Some(5.0));
    let open = counted.figure("server_open_calls", "player", PUBLISH);
    assert_eq!(open, Some(0.0));
}

#[tokio::test]
async fn a_stream_is_open_until_its_end_and_one_that_is_cut_counts_as_cancelled() {
    let counted = Counted::new();
    let builder = counted
        .builder("player")
        .with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    let player = Player::default();
    let served = Served::start(player.router(&builder)).await;
    let mut client = RawClient::connect(served.address).await;
    let mut stream = client
        .call(SUBSCRIBE, &[], player::subscribe("stays"))
        .await;
    some_data(&mut stream).await;
    let open = || counted.figure("server_open_calls", "player", SUBSCRIBE);
    assert_eq!(open(), Some(1.0));
    assert!(counted.calls("player").is_empty());

    drop(stream);

    eventually(async || (open() == Some(0.0)).then_some(())).await;
    assert_eq!(
        counted.calls("player"),
        [format!("{SUBSCRIBE} CANCELLED 1")]
    );
    drop(client);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_call_whose_time_is_up_counts_as_that() {
    let counted = Counted::new();
    let player = Player::default();
    let served = Served::start(player.router(&counted.builder("player"))).await;
    let mut client = RawClient::connect(served.address).await;
    let timeout = [("grpc-timeout", "1m")];
    client
        .status(PUBLISH, &timeout, player::publish("waits"))
        .await;
    client
        .status(SUBSCRIBE, &timeout, player::subscribe("stays"))
        .await;
    assert_eq!(
        counted.calls("player"),
        [format!("/{SERVICE}/* DEADLINE_EXCEEDED 2")]
    );
    drop(client);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn callers_cannot_make_labels() {
    let counted = Counted::new();
    let builder = counted
        .builder("player")
        .with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    let served = Served::start(Player::default().router(&builder)).await;
    let mut client = RawClient::connect(served.address).await;
    for path in [
        "/a.Stranger/M",
        "/b",
        "/intellirouter.memory.v1.MemoryService/GetHistory",
        &format!("/{SERVICE}/One"),
        &format!("/{SERVICE}/Two"),
        &format!("/{SERVICE}/Publish/more"),
    ] {
        client.status(path, &[], player::publish("works")).await;
    }
    assert_eq!(
        counted.calls("player"),
        [
            format!("/{SERVICE}/* PERMISSION_DENIED 3"),
            "unknown UNIMPLEMENTED 3".to_owned(),
        ]
    );
    drop(client);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn servers_of_one_registry_are_told_apart_by_their_label() {
    let counted = Counted::new();
    for (server, calls) in [("one", 1), ("two", 2)] {
        let served = Served::start(Player::default().router(&counted.builder(server))).await;
        let mut client = RawClient::connect(served.address).await;
        for _ in 0..calls {
            client.status(PUBLISH, &[], player::publish("works")).await;
        }
        drop(client);
        served.stop().await.unwrap();
    }
    assert_eq!(counted.calls("one"), [format!("/{SERVICE}/* OK 1")]);
    assert_eq!(counted.calls("two"), [format!("/{SERVICE}/* OK 2")]);
    let text = counted.text();
    let types = text.matches("# TYPE intellirouter_server_calls counter");
    assert_eq!(types.count(), 1, "{text}");
}
