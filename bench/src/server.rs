//! Answers as every benchmark backend gives them, on the h2 crate.
//!
//! Owns how a request is read whole, how a message is sent within the peer's
//! flow-control window, and the fixed heads and trailers of gRPC. Does not own
//! what a method answers.
//! Fails with h2's error when the call or its connection is gone. A request is
//! held whole in memory: it comes from the benchmark's own load.

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};

/// Reads a request to its end.
///
/// # Errors
/// If the caller goes before it.
pub async fn collect(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        if whole.is_empty() && parts.is_empty() {
            whole = chunk;
            continue;
        }
        if parts.is_empty() {
            parts.extend_from_slice(&whole);
        }
        parts.extend_from_slice(&chunk);
    }
    Ok(if parts.is_empty() {
        whole
    } else {
        parts.freeze()
    })
}

/// Sends a message as fast as the peer takes it.
///
/// # Errors
/// If the caller goes before all of it is sent.
pub async fn send(out: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    out.reserve_capacity(data.len());
    while out.capacity() < data.len() {
        let capacity = std::future::poll_fn(|context| out.poll_capacity(context)).await;
        let Some(capacity) = capacity.transpose()? else {
            return Err(h2::Reason::CANCEL.into());
        };
        let part = data.split_to(capacity.min(data.len()));
        out.send_data(part, false)?;
        if data.is_empty() {
            return Ok(());
        }
        out.reserve_capacity(data.len());
    }
    out.send_data(data, false)
}

/// The head of an answer with messages.
#[must_use]
pub fn head() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// The head of an answer that is only a status.
#[must_use]
pub fn only(status: &'static str) -> Response<()> {
    let mut response = head();
    response.headers_mut().extend(trailers(status));
    response
}

/// The end of an answer.
#[must_use]
pub fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers
}
