//! How connections end: those that say nothing, and all of them when the server is over.

use http_body_util::BodyExt;
use intellirouter::IpcError;
use intellirouter::security::SecureGrpcServerBuilder;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::player::{self, Player, SUBSCRIBE};
use crate::raw::{RawClient, some_data};
use crate::support::*;

/// What an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn open() -> SecureGrpcServerBuilder {
    SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .allow_unauthenticated()
}

/// Connects, says `first`, and waits until the server speaks: it has taken the connection then.
async fn connect(served: &Served, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(first).await.unwrap();
    soon(stream.read_u8()).await.unwrap();
    stream
}

/// How many seconds go by until the server closes the connection.
async fn seconds_until_closed(mut stream: impl AsyncRead + Unpin) -> u64 {
    tokio::time::pause();
    let before = Instant::now();
    let mut said = Vec::new();
    // An end or a reset.
    let _ = soon(stream.read_to_end(&mut said)).await;
    // The clock of the server started a little before the time was paused.
    before.elapsed().as_secs_f64().round() as u64
}

#[tokio::test]
async fn a_connection_that_does_not_begin_to_talk_http2_is_closed_after_10_s() {
    for first in [&PREFACE[..0], &PREFACE[..23]] {
        let served = Served::start(Player::default().router(&open())).await;
        let silent = connect(&served, first).await;
        assert_eq!(seconds_until_closed(silent).await, 10);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn also_after_a_tls_handshake_silence_is_closed_after_10_s() {
    let pki = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .allow_unauthenticated();
    let served = Served::start(Player::default().router(&builder)).await;
    let config = pki.tls("client").load_client_config("localhost").unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(served.address).await.unwrap();
    let mut silent = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    soon(silent.read_u8()).await.unwrap();
    assert_eq!(seconds_until_closed(silent).await, 10);
}

#[tokio::test]
async fn a_connection_that_begins_and_then_answers_no_ping_is_closed_after_50_s() {
    let served = Served::start(Player::default().router(&open())).await;
    let silent = connect(&served, PREFACE).await;
    assert_eq!(seconds_until_closed(silent).await, 50);
}

#[tokio::test]
async fn silent_connections_do_not_hold_up_the_shutdown() {
    let served = Served::start(Player::default().router(&open())).await;
    let silent = connect(&served, &[]).await;
    let halfway = connect(&served, &PREFACE[..12]).await;
    tokio::time::pause();
    let before = Instant::now();
    served.stop().await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 0);
    drop((silent, halfway));
}

#[tokio::test]
async fn nothing_is_served_any_more_when_the_drain_limit_is_over() {
    let player = Player::default();
    let served = Served::start(player.router(&open())).await;
    let mut client = RawClient::connect(served.address).await;
    let mut stream = client
        .call(SUBSCRIBE, &[], player::subscribe("stays"))
        .await;
    some_data(&mut stream).await;
    tokio::time::pause();

    let error = served.stop().await.unwrap_err();

    assert!(matches!(error, IpcError::Timeout(_)), "{error}");
    soon(player.dropped.notified()).await;
    let cut = soon(stream.body_mut().frame()).await;
    assert!(matches!(cut, Some(Err(_))), "{cut:?}");
}

#[tokio::test]
async fn a_server_that_is_dropped_takes_its_connections_with_it() {
    let player = Player::default();
    let bound = player.router(&open()).bind(LOOPBACK).await.unwrap();
    let address = bound.local_addr();
    let serving = tokio::spawn(bound.serve_with_shutdown(std::future::pending()));
    let mut client = RawClient::connect(address).await;
    let mut stream = client
        .call(SUBSCRIBE, &[], player::subscribe("stays"))
        .await;
    some_data(&mut stream).await;

    serving.abort();

    soon(player.dropped.notified()).await;
    let cut = soon(stream.body_mut().frame()).await;
    assert!(matches!(cut, Some(Err(_))), "{cut:?}");
}
