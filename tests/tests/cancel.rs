//! A client that goes away stops its call at the service, in each protocol, before
//! and after the answer begins, and while the gateway waits to try again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use intellirouter_tests::backend::{Backend, send_all};
use intellirouter_tests::client::{Connection, in_time};
use intellirouter_tests::foreign::{bearer, ok_head};
use intellirouter_tests::{Config, Gateway, Process, Site, curl, grpc};
use tokio::sync::mpsc;

/// Never answered.
const SILENT: &str = "/foreign.Service/Silent";
/// Answered by headers and one message, and never ended.
const BEGINS: &str = "/foreign.Service/Begins";
/// Answered by messages without end.
const FLOODS: &str = "/foreign.Service/Floods";
/// Fails, and asks for another try in 30 s.
const LATER: &str = "/foreign.Service/Later";

/// How soon the service is told: what a loaded machine with two cores keeps.
const SOON: Duration = Duration::from_secs(2);

struct Cancel {
    site: Site,
    gateway: Gateway,
    told: mpsc::UnboundedReceiver<&'static str>,
    _backend: Backend,
}

impl Cancel {
    async fn start() -> Self {
        let site = Site::new();
        let (tell, told) = mpsc::unbounded_channel();
        let handle = move |request, respond| handle(tell.clone(), request, respond);
        let backend = Backend::start(&site, handle).await;
        let config = Config::default()
            .upstream("foreign", backend.port)
            .route("/foreign.Service/*", "foreign")
            .with_text("idempotent = true\n");
        let gateway = site.gateway(&config);
        Self {
            site,
            gateway,
            told,
            _backend: backend,
        }
    }

    async fn told(&mut self, what: &'static str) {
        let told = in_time(what, self.told.recv()).await;
        assert_eq!(told, Some(what));
    }

    /// The service is told of what happened then.
    async fn reset_since(&mut self, left: Instant) {
        self.told("reset").await;
        let took = left.elapsed();
        assert!(took < SOON, "{took:?}");
    }

    /// A gRPC-Web call by curl, whose process is its client.
    fn web(&self, version: &str, path: &str) -> Process {
        self.web_with(&[version], path)
    }

    fn web_with(&self, more: &[&str], path: &str) -> Process {
        let body = self.site.write("body", "\0\0\0\0\0");
        let token = format!("authorization: {}", bearer(&self.site));
        let data = format!("@{}", body.display());
        let kind = "content-type: application/grpc-web+proto";
        let args = ["-H", kind, "-H", &token, "--data-binary", &data];
        curl::stream(&self.gateway, path, &[&args, more].concat())
    }
}

fn handle(
    tell: mpsc::UnboundedSender<&'static str>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        tell.send("called").unwrap();
        match request.uri().path() {
            SILENT => {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                tell.send("reset").unwrap();
            }
            BEGINS => {
                let mut send = respond.send_response(ok_head(), false).unwrap();
                // A line, so that curl's reader sees it.
                send.send_data(grpc::frame(false, b"begun\n"), false)
                    .unwrap();
                let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
                tell.send("reset").unwrap();
            }
            FLOODS => {
                let mut send = respond.send_response(ok_head(), false).unwrap();
                let message = grpc::frame(false, &[0; 16_000]);
                while send_all(&mut send, message.clone()).await {}
                tell.send("reset").unwrap();
            }
            _ => {
                let head = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "14")
                    .header("grpc-retry-pushback-ms", "30000");
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_that_resets_its_call_stops_it_at_the_service() {
    let mut test = Cancel::start().await;
    let mut client = Connection::open(test.gateway.port, &test.gateway.ca).await;
    let bearer = bearer(&test.site);
    for path in [SILENT, BEGINS] {
        // With its request at its end, as unary calls have it.
        let mut call = client.call(path, &[("authorization", &bearer)]).await;
        call.send.send_data(grpc::frame(false, b""), true).unwrap();
        test.told("called").await;
        if path == BEGINS {
            call.head().await;
        }
        let left = Instant::now();
        drop(call);
        test.reset_since(left).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_whose_connection_is_gone_stops_its_call_at_the_service() {
    let mut test = Cancel::start().await;
    let bearer = bearer(&test.site);
    for path in [SILENT, BEGINS] {
        let mut client = Connection::open(test.gateway.port, &test.gateway.ca).await;
        let mut call = client.call(path, &[("authorization", &bearer)]).await;
        test.told("called").await;
        if path == BEGINS {
            call.head().await;
        }
        let left = Instant::now();
        drop(client);
        test.reset_since(left).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_web_client_that_leaves_stops_its_call_at_the_service_over_http2_and_http1() {
    let mut test = Cancel::start().await;
    for version in ["--http2", "--http1.1"] {
        for path in [SILENT, BEGINS] {
            let mut curl = test.web(version, path);
            test.told("called").await;
            if path == BEGINS {
                let line = curl.next_line().unwrap();
                assert!(line.ends_with("begun"), "{line}");
            }
            let left = Instant::now();
            curl.kill();
            test.reset_since(left).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_stops_a_call_at_the_service_though_its_client_reads_nothing() {
    for version in ["--http2", "--http1.1"] {
        let mut cancel = Cancel::start().await;
        let slow = [version, "-H", "grpc-timeout: 2S", "--limit-rate", "1"];
        let _page = cancel.web_with(&slow, FLOODS);
        cancel.told("called").await;
        let began = Instant::now();
        cancel.reset_since(began + Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_its_call_waits_for_another_try_gets_none() {
    let mut test = Cancel::start().await;
    let bearer = bearer(&test.site);
    let mut client = Connection::open(test.gateway.port, &test.gateway.ca).await;
    let mut call = client.call(LATER, &[("authorization", &bearer)]).await;
    call.send.send_data(grpc::frame(false, b""), true).unwrap();
    test.waits(1).await;
    let left = Instant::now();
    drop(call);
    test.is_over_since(left).await;
    for (number, version) in [(2, "--http2"), (3, "--http1.1")] {
        let mut curl = test.web(version, LATER);
        test.waits(number).await;
        let left = Instant::now();
        curl.kill();
        test.is_over_since(left).await;
    }
    assert!(test.told.try_recv().is_err());
}

impl Cancel {
    /// So many calls were made, and the last one waits for another try.
    async fn waits(&mut self, number: u64) {
        self.told("called").await;
        let name = "retries_total{upstream=\"foreign\",reason=\"status\",outcome=\"retried\"}";
        self.until(|| self.gateway.figure_or_0(name) == number)
            .await;
        assert_eq!(self.gateway.figure("open_calls"), 1);
    }

    async fn is_over_since(&self, left: Instant) {
        self.until(|| self.gateway.figure("open_calls") == 0).await;
        let took = left.elapsed();
        assert!(took < SOON, "{took:?}");
    }

    async fn until(&self, done: impl Fn() -> bool) {
        in_time("a change", async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}
