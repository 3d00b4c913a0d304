//! The operators' page: a small HTTP/1.1 server for `/livez`, `/readyz`, `/metrics` and the like.
//!
//! Owns the connections and the methods; what a path shows is a [`Page`]: [`ServicePage`] for a
//! service, the gateway has one of its own. Plain HTTP, on an address of its own (loopback, or one
//! that something else protects), because it has no access rules: whoever reaches it may read it. What
//! can be done there is asked for by POST, and not by web pages: a request with `Origin` or
//! `Sec-Fetch-Site` comes from a browser on the operator's machine, sent by anybody's page.
//!
//! Limits: 64 connections (more wait in the kernel's backlog), one request on each; 2 s for the
//! headers and 16 KiB of them; 30 s for a connection as a whole. Request bodies are not read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

mod service_page;

pub use service_page::{Readiness, ServicePage};

const CONNECTIONS: usize = 64;
// Short, so that peers which say nothing do not keep a probe out for long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADER_BYTES: usize = 16 * 1024;
// After an error such as "too many open files", which would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the paths show. Asked anew for every request, on the runtime's threads: it must not block.
pub trait Page: Send + Sync + 'static {
    /// What stands under `path`, or `None` where nothing does.
    fn get(&self, path: &str) -> Option<Answer>;

    /// The paths that exist, for whoever asked for another one.
    fn paths(&self) -> &'static [&'static str];

    /// Does what a POST to `path` asks for, or `None` where there is nothing to do. Never asked for
    /// a request that a web page sent.
    fn post(&self, path: &str) -> Option<Answer> {
        let _ = path;
        None
    }
}

/// What a path shows.
#[derive(Debug, Clone)]
pub struct Answer {
    status: StatusCode,
    content_type: HeaderValue,
    body: Bytes,
}

impl Answer {
    /// Text, with status 200.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::text_with(StatusCode::OK, body)
    }

    /// Text, with a status.
    pub fn text_with(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: PLAIN,
            body: body.into(),
        }
    }

    /// Text that already is in the format of OpenMetrics 1.0.
    pub fn open_metrics(body: impl Into<Bytes>) -> Self {
        Self {
            content_type: OPEN_METRICS,
            ..Self::text(body)
        }
    }

    /// All metrics of a registry.
    pub fn metrics(registry: &Registry) -> Self {
        let mut body = String::new();
        match prometheus_client::encoding::text::encode(&mut body, registry) {
            Ok(()) => Self::open_metrics(body),
            Err(_) => Self::metrics_failed(),
        }
    }

    /// JSON, with status 200.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self {
            content_type: JSON,
            ..Self::text(body)
        }
    }

    /// For a page whose metrics could not be written.
    pub fn metrics_failed() -> Self {
        Self::text_with(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be written\n",
        )
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, self.content_type);
        response
    }
}

/// Serves `page` until the future is dropped; connections end with it.
pub async fn serve(listener: TcpListener, page: Arc<dyn Page>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    // The places are never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        // Finished ones; their number is bounded by the places.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = Arc::clone(&page);
                connections.spawn(async move {
                    converse(stream, &*page).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin page could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, page: &dyn Page) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(page, &request);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off, or takes too long, is no event here.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

fn answer<B>(page: &dyn Page, request: &Request<B>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let nothing = || Answer::text_with(StatusCode::NOT_FOUND, page.paths().join(" ") + "\n");
    match *request.method() {
        Method::GET | Method::HEAD => page.get(path).unwrap_or_else(nothing).into_response(),
        Method::POST if sent_by_a_page(request.headers()) => {
            let text = "not for web pages\n";
            Answer::text_with(StatusCode::FORBIDDEN, text).into_response()
        }
        Method::POST => match page.post(path) {
            Some(answer) => answer.into_response(),
            None if page.get(path).is_none() => nothing().into_response(),
            None => not_allowed("GET, HEAD"),
        },
        _ => not_allowed("GET, HEAD, POST"),
    }
}

fn sent_by_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site")
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let refusal = Answer::text_with(StatusCode::METHOD_NOT_ALLOWED, format!("{methods} only\n"));
    let mut response = refusal.into_response();
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    response
}

#[cfg(test)]
mod tests;
