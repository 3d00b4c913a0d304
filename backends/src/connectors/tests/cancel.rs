use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::test_server::{chunk, event};
use super::*;

#[tokio::test]
async fn a_call_that_is_dropped_closes_its_connection() {
    let mut server = server(Reply::Silence).await;
    let (endpoint, request, connectors) = (endpoint(&server.url()), request("hi"), connectors());
    let mut call = Box::pin(connectors.complete(&endpoint, &request, LIMIT));
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        _ = server.request() => {}
    }
    drop(call);
    server.all_closed().await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_closes_its_connection() {
    let reply = Reply::events([event(&chunk("Hello", None))]);
    let mut server = server(reply.then(End::Stall)).await;
    let connectors = connectors();
    let endpoint = endpoint(&server.url());
    let parts = connectors.stream(&endpoint, &request("hi"), LIMIT).await;
    let mut parts = parts.unwrap();
    parts.next().await.unwrap().unwrap();
    begin(Pin::new(&mut parts.next())).await;
    drop(parts);
    server.all_closed().await;
}

#[tokio::test]
async fn a_connection_on_which_an_answer_was_given_up_is_not_used_again() {
    let server = TestServer::start(|seen| match seen.json()["stream"] == true {
        true => Reply::words(seen, &["Hello"]).first(1).then(End::Stall),
        false => Reply::words(seen, &["Hello"]),
    })
    .await;
    let (endpoint, request, connectors) = (endpoint(&server.url()), request("hi"), connectors());
    let parts = connectors.stream(&endpoint, &request, LIMIT).await;
    drop(parts);
    let answer = connectors.complete(&endpoint, &request, LIMIT).await;
    answer.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_error_closes_the_connection_though_the_stream_is_kept() {
    let reply = Reply::events(["data: garbage\n\n"]);
    let mut server = server(reply.then(End::Stall)).await;
    let connectors = connectors();
    let endpoint = endpoint(&server.url());
    let parts = connectors.stream(&endpoint, &request("hi"), LIMIT).await;
    let mut parts = parts.unwrap();
    parts.next().await.unwrap().unwrap_err();
    server.all_closed().await;
    assert!(parts.next().await.is_none());
}

#[tokio::test]
async fn an_endpoint_is_not_read_faster_than_the_parts_are_taken() {
    // More than the system's buffers of one connection, and far less than an endless answer.
    const MUCH: usize = 32 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(&format!("http://{}/v1", listener.local_addr().unwrap()));
    let written = Arc::new(AtomicUsize::new(0));
    let _server = tokio::spawn(write_endlessly(listener, Arc::clone(&written)));

    let settings = ConnectorSettings {
        answer_bytes: usize::MAX,
        ..Default::default()
    };
    let connectors = Connectors::new(settings).unwrap();
    let parts = connectors.stream(&endpoint, &request("hi"), LIMIT).await;
    let mut parts = parts.unwrap();
    parts.next().await.unwrap().unwrap();
    let (mut before, mut unchanged) = (0, 0);
    while unchanged < 1000 {
        tokio::task::yield_now().await;
        let now = written.load(Ordering::Relaxed);
        assert!(now < MUCH, "{now} bytes were taken for one part");
        unchanged = if now == before { unchanged + 1 } else { 0 };
        before = now;
    }
    parts.next().await.unwrap().unwrap();
}

async fn write_endlessly(listener: TcpListener, written: Arc<AtomicUsize>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_u8().await.unwrap();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = event(&chunk(&"x".repeat(50_000), None));
    // Ends when the client is gone.
    while stream.write_all(piece.as_bytes()).await.is_ok() {
        written.fetch_add(piece.len(), Ordering::Relaxed);
    }
}
