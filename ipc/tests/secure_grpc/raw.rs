//! A gRPC client without any opinion: it keeps no deadline of its own, sends what it is told, and
//! reads only when asked.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::prost::Message;
use tokio::net::TcpStream;

#[derive(Clone)]
pub(crate) struct RawClient {
    send: SendRequest<RequestBody>,
}

type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, 1 << 20).await
    }

    /// `window`: what the server may send of an answer before it is read, in bytes.
    pub(crate) async fn connect_with(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { send }
    }

    /// The answer as soon as its headers are there.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        headers: &[(&'static str, &str)],
        message: impl Message,
    ) -> Response<Incoming> {
        self.call_with(path, headers, &message.encode_to_vec())
            .await
    }

    /// As `call`, with any bytes for a message.
    pub(crate) async fn call_with(
        &mut self,
        path: &str,
        headers: &[(&'static str, &str)],
        message: &[u8],
    ) -> Response<Incoming> {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap());
        frame.put_slice(message);
        let body = Full::new(frame.freeze()).boxed_unsync();
        self.send(path, headers, body).await
    }

    /// As `call`, with a request whose message never comes.
    pub(crate) async fn call_without_message(
        &mut self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Response<Incoming> {
        let body = StreamBody::new(stream::pending()).boxed_unsync();
        self.send(path, headers, body).await
    }

    async fn send(
        &mut self,
        path: &str,
        headers: &[(&'static str, &str)],
        body: RequestBody,
    ) -> Response<Incoming> {
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        self.send.ready().await.unwrap();
        self.send.send_request(request).await.unwrap()
    }

    /// The `grpc-status` of a call that is read to its end.
    pub(crate) async fn status(
        &mut self,
        path: &str,
        headers: &[(&'static str, &str)],
        message: impl Message,
    ) -> String {
        let answer = self.call(path, headers, message).await;
        status_of(answer).await
    }
}

/// Reads an answer to its end and returns its `grpc-status`.
pub(crate) async fn status_of(answer: Response<Incoming>) -> String {
    let read = |headers: &HeaderMap| {
        let status = headers.get("grpc-status")?;
        Some(status.to_str().unwrap().to_owned())
    };
    if let Some(status) = read(answer.headers()) {
        return status;
    }
    let body = answer.into_body().collect().await.unwrap();
    read(body.trailers().expect("no trailers")).expect("no status")
}

/// Waits for the next bytes of an answer.
pub(crate) async fn some_data(answer: &mut Response<Incoming>) {
    assert!(!answer.body().is_end_stream());
    let frame = answer.body_mut().frame().await.unwrap().unwrap();
    assert!(frame.is_data());
}
