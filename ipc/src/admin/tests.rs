//! Over real sockets: what an operator's curl sees.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Served {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_page() -> Served {
    let mut registry = Registry::with_prefix("intellirouter");
    let counter: Counter = Counter::default();
    counter.inc_by(3);
    registry.register("things", "Things", counter);
    let ready = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&ready);
    let page = ServicePage::new(Arc::new(registry), move || {
        if asked.load(Ordering::SeqCst) {
            Readiness::Ready
        } else {
            Readiness::NotReady("draining".into())
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(serve(listener, Arc::new(page)));
    Served {
        address,
        ready,
        task,
    }
}

/// What comes back for `request`, to the end of the connection.
async fn say(served: &Served, request: &str) -> String {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(served: &Served, path: &str) -> String {
    say(served, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await
}

#[tokio::test]
async fn a_service_says_that_it_lives_is_ready_and_what_it_counted() {
    let served = serve_page().await;
    assert!(
        get(&served, "/livez")
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    assert!(
        get(&served, "/readyz")
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    let metrics = get(&served, "/metrics").await;
    assert!(
        metrics.contains("content-type: application/openmetrics-text"),
        "{metrics}"
    );
    assert!(
        metrics.contains("intellirouter_things_total 3\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_service_that_is_not_ready_answers_503_and_says_why() {
    let served = serve_page().await;
    served.ready.store(false, Ordering::SeqCst);
    let answer = get(&served, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("draining\n"), "{answer}");
}

#[tokio::test]
async fn another_path_gets_404_and_the_paths_that_exist() {
    let served = serve_page().await;
    let answer = get(&served, "/").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.ends_with("/livez /readyz /metrics\n"), "{answer}");
}

#[tokio::test]
async fn nothing_but_reading_is_allowed() {
    let served = serve_page().await;
    let answer = say(&served, "POST /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_after_2_s() {
    let served = serve_page().await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    // Its connection is under way once a later one has been answered.
    get(&served, "/livez").await;
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let mut said = Vec::new();
    silent.read_to_end(&mut said).await.unwrap();
    // The server's clock started a little before the time was paused.
    assert_eq!(before.elapsed().as_secs_f64().round(), 2.0);
}

#[tokio::test]
async fn connections_over_the_limit_wait_and_are_served_when_a_place_is_free() {
    let served = serve_page().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let mut waiting = Box::pin(get(&served, "/livez"));
    tokio::select! {
        biased;
        answer = &mut waiting => panic!("served beyond the limit: {answer}"),
        () = settled() => {}
    }
    silent.pop();
    assert!(waiting.await.starts_with("HTTP/1.1 200 OK"));
}

/// Lets everything that can go on do so.
async fn settled() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn headers_over_16_kib_are_refused() {
    let served = serve_page().await;
    let long = "x".repeat(20 * 1024);
    let request = format!("GET /livez HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n");
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    // The server may close before it has read all.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}
