//! Calls of chosen routes to backends that remember what they were asked.

use std::future::{Ready, ready};
use std::sync::Mutex;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::routes::Route;
use crate::telemetry::Telemetry;
use crate::test_util::{call_record_of, receive, route};
use crate::trace::Tracing;

/// What is known of a method.
pub(super) type Method = fn(&mut Route);

pub(super) const ANY: Method = |_| {};
pub(super) const REPEATABLE: Method = |route| route.idempotent = true;
pub(super) const UNARY: Method = |route| (route.idempotent, route.unary) = (true, true);
pub(super) const STREAM: Method = |route| (route.idempotent, route.streams) = (true, true);

pub(super) const NO_BUDGET: &str = "budget_ratio = 0\nbudget_per_second = 0";

pub(super) struct Test {
    pub(super) pool: Arc<Pool>,
    pub(super) seen: Seen,
    telemetry: Arc<Telemetry>,
}

impl Test {
    /// Before a backend that reads each request and then acts; `more` are lines
    /// of `[upstreams.retries]`.
    pub(super) async fn start<F, R>(act: F, more: &str) -> Self
    where
        F: Fn(usize, SendResponse<Bytes>) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let seen = Seen::default();
        let port = backend(seen.by(act)).await;
        let mut test = Self::at(&[port], more);
        test.seen = seen;
        test
    }

    pub(super) fn at(ports: &[u16], more: &str) -> Self {
        let urls = ports
            .iter()
            .map(|port| format!("'http://127.0.0.1:{port}'"));
        let urls = urls.collect::<Vec<_>>().join(", ");
        let config = config(&format!(
            "[[upstreams]]\nname = 'b'\nendpoints = [{urls}]\nconnect_timeout = '60s'\n\
             [upstreams.retries]\n{more}\n"
        ));
        let upstream = Upstream::open(&config.upstreams[0], None, &Default::default());
        let telemetry = Telemetry::new(false, Tracing::off());
        tokio::spawn(in_time());
        Self {
            pool: Pool::unattended(upstream.unwrap()),
            seen: Seen::default(),
            telemetry,
        }
    }

    pub(super) async fn send(
        &self,
        kind: Method,
        request: Request<Body>,
        limit: Option<Limit>,
    ) -> End {
        let mut record = call_record_of(&self.telemetry, route(kind));
        super::super::call(&self.pool, request, limit, &mut record).await
    }

    pub(super) async fn begin(&self, kind: Method, body: Body, limit: Option<Limit>) -> End {
        self.send(kind, Request::new(body), limit).await
    }

    /// The status that a caller gets, wherever it stands.
    pub(super) async fn call(&self, kind: Method, body: Body) -> String {
        self.code(kind, body, None).await
    }

    pub(super) async fn code(&self, kind: Method, body: Body, limit: Option<Limit>) -> String {
        let response = match self.begin(kind, body, limit).await {
            Ok(response) => response,
            Err(reply) => return (reply.code as i32).to_string(),
        };
        let (head, mut body) = response.into_parts();
        let trailers = match drain(&mut body).await.1 {
            Some(trailers) => trailers,
            None => head.headers,
        };
        trailers["grpc-status"].to_str().unwrap().to_owned()
    }

    /// What the metrics say of retries, as `reason outcome number`.
    pub(super) fn retries(&self) -> Vec<String> {
        let text = self.telemetry.encode(0, None).unwrap();
        let lines = text.lines();
        let lines = lines.filter_map(|line| line.strip_prefix("intellirouter_retries_total{"));
        let mut all: Vec<_> = lines
            .map(|line| {
                let parts: Vec<_> = line.split('"').collect();
                assert_eq!(parts[1], "b");
                format!(
                    "{} {}{}",
                    parts[3],
                    parts[5],
                    parts[6].trim_start_matches('}')
                )
            })
            .collect();
        all.sort();
        all
    }

    /// What is kept of requests, in bytes.
    pub(super) fn kept(&self) -> usize {
        self.pool.upstream().replays.taken()
    }

    /// Calls and failures that the breaker of the first endpoint counts.
    pub(super) fn counted(&self) -> (u32, u32) {
        let report = self.pool.upstream().endpoints()[0]
            .standing
            .breaker
            .describe();
        (report.calls, report.failures)
    }

    /// How long an answer of the first endpoint is expected to take.
    pub(super) fn expected(&self) -> Option<Duration> {
        let endpoints = self.pool.upstream().endpoints();
        let expected = endpoints[0].standing.load.expected(Instant::now());
        expected.map(|micros| Duration::from_micros(micros as u64))
    }
}

pub(super) fn message(text: &'static str) -> Body {
    Body::full(text)
}

/// A body that goes on as its sender does, and ends with it.
pub(super) fn growing() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let frames = futures_util::StreamExt::map(frames, Ok::<_, tonic::Status>);
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(frames));
    (sender, Body::new(Kind::Local(body)))
}

pub(super) fn trailers_only(respond: &mut SendResponse<Bytes>, trailers: HeaderMap) {
    let mut head = grpc_head();
    head.headers_mut().extend(trailers);
    let _ = respond.send_response(head, true);
}

pub(super) fn ok(respond: &mut SendResponse<Bytes>) {
    let mut send = respond.send_response(grpc_head(), false).unwrap();
    let _ = send.send_data(Bytes::from_static(b"answer"), false);
    let _ = send.send_trailers(status("0"));
}

/// Fails the first `fails` calls, and answers OK from then on.
pub(super) fn after(
    fails: usize,
    fail: fn(&mut SendResponse<Bytes>),
) -> impl Fn(usize, SendResponse<Bytes>) -> Ready<()> + Clone + Send + 'static {
    move |number, mut respond| {
        let act = if number < fails { fail } else { ok };
        act(&mut respond);
        ready(())
    }
}

pub(super) fn refuse(respond: &mut SendResponse<Bytes>) {
    respond.send_reset(Reason::REFUSED_STREAM);
}

pub(super) fn unavailable(respond: &mut SendResponse<Bytes>) {
    trailers_only(respond, status("14"));
}

pub(super) async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Answers OK to whoever comes.
pub(super) async fn serve(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                ok(&mut respond);
            }
        });
    }
}

/// What a backend was asked.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<Asked>>>);

struct Asked {
    at: Instant,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Seen {
    /// Reads each request to its end, remembers it, and acts.
    pub(super) fn by<F, R>(
        &self,
        act: F,
    ) -> impl Fn(
        Request<RecvStream>,
        SendResponse<Bytes>,
    ) -> futures_util::future::BoxFuture<'static, ()>
    + Clone
    + Send
    + 'static
    where
        F: Fn(usize, SendResponse<Bytes>) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let seen = self.clone();
        move |request, respond| {
            let (seen, act) = (seen.clone(), act.clone());
            Box::pin(async move {
                let at = Instant::now();
                let (head, mut body) = request.into_parts();
                let got = receive(&mut body).await;
                let number = {
                    let mut asked = seen.0.lock().unwrap();
                    asked.push(Asked {
                        at,
                        headers: head.headers,
                        body: got.map(|(frames, _)| frames.concat()).unwrap_or_default(),
                    });
                    asked.len() - 1
                };
                act(number, respond).await;
            })
        }
    }

    pub(super) fn number(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(super) fn bodies(&self) -> Vec<Vec<u8>> {
        let asked = self.0.lock().unwrap();
        asked.iter().map(|one| one.body.clone()).collect()
    }

    pub(super) fn headers(&self, name: &str) -> Vec<String> {
        let asked = self.0.lock().unwrap();
        let values = asked.iter().map(|one| one.headers.get(name));
        values
            .map(|value| value.map_or("", |value| value.to_str().unwrap()).to_owned())
            .collect()
    }

    /// Between two of them, in milliseconds.
    pub(super) fn waits(&self) -> Vec<u128> {
        let asked = self.0.lock().unwrap();
        let pairs = asked.windows(2);
        pairs
            .map(|pair| (pair[1].at - pair[0].at).as_millis())
            .collect()
    }
}

/// Keeps paused time from running ahead of bytes that are on their way between
/// two sockets: it moves by no more than 20 ms for each real millisecond.
async fn in_time() {
    loop {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(1) {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
