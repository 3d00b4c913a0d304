//! A real HTTP/1.1 server on loopback that answers as a test says, well or badly.
//!
//! Owns the sockets, the certificate of the TLS variant, and a record of what came. It stops when it
//! is dropped.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::Either;
use futures_util::{Stream, StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// The server.
pub(crate) struct TestServer {
    address: SocketAddr,
    scheme: &'static str,
    requests: mpsc::UnboundedReceiver<Seen>,
    connections: watch::Receiver<Connections>,
    task: JoinHandle<()>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Clone, Copy, Default)]
struct Connections {
    accepted: usize,
    open: usize,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers.
    Answer {
        status: StatusCode,
        headers: HeaderMap,
        /// Sent one at a time.
        pieces: Vec<Bytes>,
        end: End,
    },
    /// Takes the request and never answers.
    Silence,
}

/// How an answer goes on after its pieces.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It ends.
    Proper,
    /// Nothing more comes.
    Stall,
    /// The connection breaks.
    Cut,
    /// This comes again and again.
    Endless(Bytes),
}

impl Reply {
    pub(crate) fn new(
        status: u16,
        content_type: &'static str,
        pieces: impl IntoIterator<Item = impl Into<Bytes>>,
    ) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        Self::Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, content_type)]),
            pieces: pieces.into_iter().map(Into::into).collect(),
            end: End::Proper,
        }
    }

    pub(crate) fn json(status: u16, json: &Value) -> Self {
        Self::new(status, "application/json", [json.to_string()])
    }

    /// Server-sent events, as they are to go out.
    pub(crate) fn events(pieces: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        Self::new(200, "text/event-stream", pieces)
    }

    /// A good answer of these words: streamed or whole, as the request asks for it; and a list of
    /// models for a GET.
    pub(crate) fn words(request: &Seen, words: &[&str]) -> Self {
        if request.method == Method::GET {
            return Self::json(200, &json!({"object": "list", "data": []}));
        }
        if request.json()["stream"] != true {
            return Self::json(200, &whole(words));
        }
        let chunks = words.iter().map(|word| event(&chunk(word, None)));
        let end = [
            event(&chunk("", Some("stop"))),
            event(&json!({"choices": [], "usage": usage(words)})),
            "data: [DONE]\n\n".to_owned(),
        ];
        Self::events(chunks.chain(end))
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        self
    }

    /// Leaves out all pieces but the first few.
    pub(crate) fn first(mut self, count: usize) -> Self {
        if let Self::Answer { pieces, .. } = &mut self {
            pieces.truncate(count);
        }
        self
    }

    pub(crate) fn then(mut self, next: End) -> Self {
        if let Self::Answer { end, .. } = &mut self {
            *end = next;
        }
        self
    }
}

/// An event with this data.
pub(crate) fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// A chunk of a streamed answer.
pub(crate) fn chunk(content: &str, finish_reason: Option<&str>) -> Value {
    json!({
        "id": "chat-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "big-1",
        "system_fingerprint": "fp",
        "choices": [{
            "index": 0,
            "delta": {"role": "assistant", "content": content},
            "finish_reason": finish_reason,
        }],
    })
}

fn whole(words: &[&str]) -> Value {
    json!({
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "big-1",
        "system_fingerprint": "fp",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": words.concat()},
            "finish_reason": "stop",
        }],
        "usage": usage(words),
    })
}

fn usage(words: &[&str]) -> Value {
    let completion = words.len();
    json!({
        "prompt_tokens": 7,
        "completion_tokens": completion,
        "total_tokens": 7 + completion,
    })
}

type Answers = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

impl TestServer {
    /// Starts on a free port.
    pub(crate) async fn start(answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(LOOPBACK.into(), answers).await
    }

    /// Starts on the port of a server that was stopped.
    pub(crate) async fn start_on(
        address: SocketAddr,
        answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(address, None, Arc::new(answers)).await
    }

    /// Starts with TLS; writes the CA to trust to this file.
    pub(crate) async fn start_tls(
        ca: &Path,
        answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(LOOPBACK.into(), Some(tls(ca)), Arc::new(answers)).await
    }

    async fn serve(address: SocketAddr, tls: Option<TlsAcceptor>, answers: Answers) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (tell, requests) = mpsc::unbounded_channel();
        let (count, connections) = watch::channel(Connections::default());
        Self {
            address: listener.local_addr().unwrap(),
            scheme: if tls.is_some() { "https" } else { "http" },
            requests,
            connections,
            task: tokio::spawn(accept(listener, tls, answers, tell, count)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// As in `https://127.0.0.1:1234`.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The base URL, with `/v1`.
    pub(crate) fn url(&self) -> String {
        format!("{}/v1", self.origin())
    }

    /// Waits for the next request that was not yet seen here.
    pub(crate) async fn request(&mut self) -> Seen {
        self.requests.recv().await.unwrap()
    }

    /// How many connections were made since the start.
    pub(crate) fn connections(&self) -> usize {
        self.connections.borrow().accepted
    }

    /// Waits until the client has closed all its connections.
    pub(crate) async fn all_closed(&mut self) {
        let closed = self.connections.wait_for(|count| count.open == 0).await;
        closed.unwrap();
    }

    /// Closes the port and all connections.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    answers: Answers,
    tell: mpsc::UnboundedSender<Seen>,
    count: watch::Sender<Connections>,
) {
    // Ends all connections when this task ends.
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        count.send_modify(|count| {
            count.accepted += 1;
            count.open += 1;
        });
        let (tls, answers) = (tls.clone(), Arc::clone(&answers));
        let (tell, count) = (tell.clone(), count.clone());
        open.spawn(async move {
            match tls {
                None => connection(stream, answers, tell).await,
                Some(tls) => with_tls(tls, stream, answers, tell).await,
            }
            count.send_modify(|count| count.open -= 1);
        });
    }
}

async fn with_tls(
    tls: TlsAcceptor,
    stream: TcpStream,
    answers: Answers,
    tell: mpsc::UnboundedSender<Seen>,
) {
    // A client that does not trust the certificate is the test's concern.
    if let Ok(stream) = tls.accept(stream).await {
        connection(stream, answers, tell).await;
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: Answers,
    tell: mpsc::UnboundedSender<Seen>,
) {
    let service = service_fn(move |request| answer(request, Arc::clone(&answers), tell.clone()));
    // A client that goes away is the test's concern too.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    tell: mpsc::UnboundedSender<Seen>,
) -> Result<Response<StreamBody<impl Stream<Item = io::Result<Frame<Bytes>>>>>, Infallible> {
    let (head, body) = request.into_parts();
    let seen = Seen {
        method: head.method,
        path: head.uri.to_string(),
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    };
    let reply = answers(&seen);
    // The test may have stopped looking.
    let _ = tell.send(seen);
    let Reply::Answer {
        status,
        headers,
        pieces,
        end,
    } = reply
    else {
        return std::future::pending().await;
    };
    let mut response = Response::new(StreamBody::new(frames(pieces, end)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn frames(pieces: Vec<Bytes>, end: End) -> impl Stream<Item = io::Result<Frame<Bytes>>> {
    let rest = match end {
        End::Proper => Either::Left(Either::Left(stream::empty())),
        End::Stall => Either::Left(Either::Right(stream::pending())),
        End::Cut => Either::Right(Either::Left(stream::iter([Err(io::Error::other("cut"))]))),
        End::Endless(piece) => {
            Either::Right(Either::Right(stream::repeat_with(
                move || Ok(piece.clone()),
            )))
        }
    };
    let pieces = stream::iter(pieces.into_iter().map(Ok)).chain(rest);
    pieces.then(|piece| async {
        // What came before goes out first: a cut would take it along.
        tokio::task::yield_now().await;
        piece.map(Frame::data)
    })
}

fn tls(ca: &Path) -> TlsAcceptor {
    let name = LOOPBACK.0.map(|byte| byte.to_string()).join(".");
    let own = rcgen::generate_simple_self_signed([name]).unwrap();
    std::fs::write(ca, own.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
