//! HTTP/1.1 for browsers and tools: gRPC-Web, events, plain HTTP.
//!
//! hyper does the protocol. Bounds: 100 headers, the configured header bytes, the
//! handshake timeout for the headers to arrive, [`Http1Body`]'s for the body;
//! one request at a time. A client that closes its connection drops the call,
//! which cancels upstream; one that reads nothing holds up the end of no call
//! ([`read_on`]). An event stream leaves hyper when its head is sent ([`Follow`]).
//!
//! A request that two readers could read in two ways is refused, and nothing
//! that comes after it on its connection is read: hyper refuses what is not
//! HTTP, a second Content-Length that differs, and Transfer-Encoding that does
//! not end with chunked; [`ambiguity`] the rest. Where a request has both
//! lengths hyper reads it as chunked and closes (RFC 9112, 6.1). Backends never
//! see HTTP/1.1.

mod body;
mod follow;
mod leave;
mod read_on;

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use self::body::Http1Body;
use self::follow::Follow;
use self::leave::{Answer, Door, Doorway};
use self::read_on::Writing;
use crate::body::{Body, Kind};
use crate::config::LimitsConfig;
use crate::io::Verdict;
use crate::pipeline;
use crate::reply::Reply;
use crate::server::Client;
use crate::worker::Worker;

/// What has become of a connection.
pub(super) enum Served<T> {
    /// It is closed; by the gateway, if there is a reason.
    Closed(Option<&'static str>),
    Follows(Follow<T>),
}

/// Serves one connection until it is closed or becomes an event stream.
pub(super) async fn serve<T>(
    worker: &Arc<Worker>,
    limits: &LimitsConfig,
    io: T,
    client: Arc<Client>,
) -> Served<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let verdict = Verdict::default();
    let door = Arc::new(Door::default());
    let writing = Writing::default();
    let stall_timeout = limits.stall_timeout;
    let service = service_fn(|request: Request<Incoming>| {
        let (worker, client, verdict) = (worker.clone(), client.clone(), verdict.clone());
        let (door, writing) = (door.clone(), writing.clone());
        async move {
            // Those of before have no chunks.
            let chunked = request.version() == Version::HTTP_11;
            let answer = answer(&worker, &client, request, stall_timeout, verdict).await;
            Ok::<_, Infallible>(match chunked && answer.body().is_events() {
                true => door.keep(answer),
                false => answer.map(|body| Answer::Whole(writing.answer(body))),
            })
        }
    });
    // hyper's least is 8 KiB.
    let buffer = (limits.header_bytes as usize).max(8192);
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(buffer)
        .serve_connection(TokioIo::new(Doorway::new(io, door.clone())), service);
    let mut draining = pin!(worker.gateway.drain.cancelled());
    let mut drains = false;
    let next = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(served) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Next::Over(served));
            }
            if let Some(body) = door.take() {
                return Poll::Ready(Next::Leave(body));
            }
            if drains || draining.as_mut().poll(cx).is_pending() {
                writing.read_on(cx);
                return Poll::Pending;
            }
            drains = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
    });
    Served::Closed(match next.await {
        Next::Leave(body) => {
            let io = connection.into_parts().io.into_inner().io;
            return Served::Follows(Follow::new(io, body));
        }
        _ if verdict.get().is_some() => verdict.get(),
        Next::Over(Ok(())) => None,
        Next::Over(Err(error)) if error.is_timeout() => Some("header_timeout"),
        Next::Over(Err(error)) if error.is_parse() => Some("bad_http1"),
        Next::Over(Err(error)) => io_error(&error).and_then(super::stalled),
    })
}

/// How hyper's part in a connection ends.
enum Next {
    Over(hyper::Result<()>),
    Leave(Body),
}

async fn answer(
    worker: &Worker,
    client: &Arc<Client>,
    request: Request<Incoming>,
    stall_timeout: Duration,
    verdict: Verdict,
) -> Response<Body> {
    if let Some(reply) = ambiguity(&request) {
        verdict.condemn("bad_http1");
        let mut response = pipeline::refuse(worker, client, request.uri(), &reply);
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        return response;
    }
    let request = request.map(|body| {
        let body = Http1Body::new(body, stall_timeout, verdict);
        Body::new(Kind::Http1(Box::new(body)))
    });
    pipeline::serve(worker, client, request).await
}

/// What hyper takes and another reader could take for something else.
fn ambiguity<B>(request: &Request<B>) -> Option<Reply> {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    // RFC 9112, 3.2: a server must refuse a request without, or with two.
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Some(Reply::invalid("host", "expected one Host header"));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings
        .next()
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || codings.next().is_some() {
        let expected = "expected chunked and nothing else";
        return Some(Reply::invalid("transfer-encoding", expected));
    }
    None
}

/// The failure of the socket behind an error, if it was one.
fn io_error(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap_or_default();
        assert_eq!(request.headers().len(), headers.len());
        ambiguity(&request).is_some()
    }

    #[test]
    fn a_request_has_exactly_one_host() {
        assert!(!refused(Version::HTTP_11, &[("host", "a")]));
        assert!(refused(Version::HTTP_11, &[]));
        assert!(refused(Version::HTTP_11, &[("host", "a"), ("host", "a")]));
        // Older ones need none.
        assert!(!refused(Version::HTTP_10, &[]));
    }

    #[test]
    fn a_transfer_encoding_is_chunked_alone() {
        let with = |values: &[&str]| {
            let mut headers = vec![("host", "a")];
            headers.extend(values.iter().map(|value| ("transfer-encoding", *value)));
            refused(Version::HTTP_11, &headers)
        };
        assert!(!with(&["chunked"]));
        assert!(!with(&["Chunked"]));
        for values in [
            &["identity, chunked"] as &[_],
            &["chunked, chunked"],
            &["identity", "chunked"],
            &["chunked", "chunked"],
            &["gzip, chunked"],
        ] {
            assert!(with(values), "{values:?}");
        }
    }
}
