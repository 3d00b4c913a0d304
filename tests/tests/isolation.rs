//! Calls share connections to a backend, and must not disturb each other: a
//! client that does not read holds up its own call and no other, and what is
//! kept for it is bounded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::{Config, Gateway, Site, grpc};

const ECHO: &str = "/foreign.Service/Echo";
const FLOOD: &str = "/foreign.Service/Flood";
const SHORT_FLOOD: &str = "/foreign.Short/Flood";

/// A backend that answers `Echo` and, to `Flood`, sends frames of one size for
/// as long as they are taken; with what it has sent so far.
struct Flooding {
    _site: Site,
    gateway: Gateway,
    sent: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    bearer: String,
    _backend: Backend,
}

impl Flooding {
    async fn start(frame: usize) -> Self {
        let site = Site::new();
        let (sent, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counts, ends) = (Arc::clone(&sent), Arc::clone(&ended));
        let backend = Backend::start(&site, move |request, respond| {
            let (counts, ends) = (Arc::clone(&counts), Arc::clone(&ends));
            serve(request, respond, frame, counts, ends)
        })
        .await;
        let config = Config::default()
            .upstream("foreign", backend.port)
            .route("/foreign.Service/*", "foreign")
            .with_text(
                "[[routes]]\nmatch = \"/foreign.Short/*\"\nupstream = \"foreign\"\n\
                  roles = [\"tester\"]\ntimeout = \"1s\"\n[workers]\ncount = 1\n",
            );
        let gateway = site.gateway(&config);
        let bearer = format!("Bearer {}", site.token(&["tester"]));
        Self {
            _site: site,
            gateway,
            sent,
            ended,
            bearer,
            _backend: backend,
        }
    }

    async fn connect(&self) -> Connection {
        Connection::open(self.gateway.port, &self.gateway.ca).await
    }

    /// Begins a flood that is never read.
    async fn unread(&self, client: &mut Connection, path: &str) -> RecvStream {
        let mut call = client.call(path, &[("authorization", &self.bearer)]).await;
        call.send.send_data(grpc::frame(false, b""), true).unwrap();
        call.head().await.into_body()
    }

    /// Waits until the backend can send no more.
    async fn stalled(&self) -> usize {
        let mut last = usize::MAX;
        in_time("a stall of the flood", async {
            loop {
                let now = self.sent.load(Ordering::Relaxed);
                if now == last && now > 0 {
                    return now;
                }
                last = now;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        })
        .await
    }

    async fn flood_ends(&self) {
        in_time("the end of the flood at the backend", async {
            while self.ended.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    async fn echo(&self, client: &mut Connection) {
        let answer = client
            .unary(ECHO, &[("authorization", &self.bearer)], b"hello")
            .await;
        assert_eq!(answer.status().code, 0, "{:?}", answer.status());
        assert_eq!(answer.body, grpc::frame(false, b"hello"));
    }
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    frame: usize,
    sent: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
) {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut send = respond.send_response(head, false).unwrap();
    if request.uri().path().ends_with("Echo") {
        let (body, _) = read(request.into_body()).await.unwrap();
        send.send_data(body.into(), false).unwrap();
        let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())];
        send.send_trailers(http::HeaderMap::from_iter(trailers))
            .unwrap();
        return;
    }
    let message = grpc::frame(false, &vec![0; frame - 5]);
    loop {
        send.reserve_capacity(message.len());
        let room = std::future::poll_fn(|context| send.poll_capacity(context)).await;
        match room {
            Some(Ok(room)) if room >= message.len() => {}
            Some(Ok(_)) => continue,
            _ => break,
        }
        if send.send_data(message.clone(), false).is_err() {
            break;
        }
        sent.fetch_add(message.len(), Ordering::Relaxed);
    }
    ended.fetch_add(1, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_streams_hold_up_no_other_call_to_the_backend() {
    let test = Flooding::start(10_000).await;
    let mut slow = test.connect().await;
    let mut unread = Vec::new();
    for _ in 0..60 {
        unread.push(test.unread(&mut slow, FLOOD).await);
    }
    test.stalled().await;
    test.echo(&mut test.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_streams_hold_up_no_other_call_of_their_own_connection() {
    let test = Flooding::start(10_000).await;
    let mut slow = test.connect().await;
    let mut unread = Vec::new();
    for _ in 0..5 {
        unread.push(test.unread(&mut slow, FLOOD).await);
    }
    test.stalled().await;
    test.echo(&mut slow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_for_an_unread_stream_is_bounded() {
    let test = Flooding::start(10_000).await;
    let mut slow = test.connect().await;
    let before = test.gateway.memory_kib();
    let mut unread = Vec::new();
    for _ in 0..10 {
        unread.push(test.unread(&mut slow, FLOOD).await);
    }
    let sent = test.stalled().await;
    assert!(
        sent < 10 * 2 * 1024 * 1024,
        "{sent} bytes were taken for 10 unread streams"
    );
    let grown = test.gateway.memory_kib().saturating_sub(before);
    assert!(
        grown < 40 * 1024,
        "the gateway grew by {grown} KiB for 10 unread streams"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_stream_of_tiny_messages_costs_its_neighbours_nothing() {
    let test = Flooding::start(6).await;
    let (mut slow, mut other) = (test.connect().await, test.connect().await);
    // It shares the upstream connection with the flood that comes.
    let mut neighbour = other.call(ECHO, &[("authorization", &test.bearer)]).await;
    let answer = neighbour.head().await.into_body();
    let _unread = test.unread(&mut slow, FLOOD).await;
    test.stalled().await;
    neighbour
        .send
        .send_data(grpc::frame(false, b"still here"), true)
        .unwrap();
    let (got, _) = in_time("the echo", read(answer)).await.unwrap();
    assert_eq!(got, grpc::frame(false, b"still here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_on_while_its_answer_is_unread() {
    let site = Site::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::start(&site, move |request: Request<RecvStream>, mut respond| {
        let tell = tell.clone();
        async move {
            let head = Response::builder().header("content-type", "application/grpc");
            let mut send = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            // More than any window takes; h2 keeps what waits.
            send.send_data(vec![0; 4 << 20].into(), false).unwrap();
            let read = read(request.into_body()).await;
            tell.send(read.unwrap().0.len()).unwrap();
            std::future::poll_fn(|context| send.poll_reset(context))
                .await
                .ok();
        }
    })
    .await;
    let config = Config::default()
        .upstream("odd", backend.port)
        .route("/odd.Service/*", "odd");
    let gateway = site.gateway(&config);
    let bearer = format!("Bearer {}", site.token(&["tester"]));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut call = client
        .call("/odd.Service/Method", &[("authorization", &bearer)])
        .await;
    let _unread = call.head().await.into_body();
    let message = grpc::frame(false, &vec![0; 2 << 20]);
    call.send.send_data(message.clone(), true).unwrap();
    let read = in_time("the request at the backend", told.recv())
        .await
        .unwrap();
    assert_eq!(read, message.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_an_unread_stream_ends_it_at_the_backend() {
    let test = Flooding::start(10_000).await;
    let mut slow = test.connect().await;
    let unread = test.unread(&mut slow, FLOOD).await;
    test.stalled().await;
    drop(unread);
    test.flood_ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_of_an_unread_stream_holds() {
    let test = Flooding::start(10_000).await;
    let mut slow = test.connect().await;
    let _unread = test.unread(&mut slow, SHORT_FLOOD).await;
    test.flood_ends().await;
}
