//! The service behind every peer: gRPC over TLS with a client certificate
//! required, on the h2 crate directly, so that it costs as little as it can.
//!
//! `/bench.Bench/Unary` answers the request's own bytes; `/bench.Bench/Stream`
//! answers 1,000 messages of 100 bytes, each in a DATA frame of its own, as a
//! server does that hands over a message when it has it. `/bench.Bench/Hold`
//! answers one such message every `pause-ms` (100; 0 is as fast as they are
//! taken) for `hold-ms`, or until its caller goes. All end with
//! `grpc-status: 0`; any other path ends with UNIMPLEMENTED.
//! A broken connection or call is dropped; the process goes on. On SIGTERM it says
//! on stdout how many connections it had and calls it was given, and ends.
//! Limits: 4,096 streams per connection; a request is held whole in memory (it
//! comes from the benchmark's own load generator, so its size is known).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use intellirouter_bench::{CONNECTION_WINDOW, Error, MAX_STREAMS, STREAM_WINDOW, net, tls, wire};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[command(flatten)]
    identity: tls::Identity,
    /// CA of the clients' certificates.
    #[arg(long)]
    client_ca: PathBuf,
}

static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let config = tls::server(&options.identity, Some(&options.client_ca))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = net::listen(options.listen)?;
    let reply = wire::message(wire::STREAM_MESSAGE);
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            stream = net::accept(&listener) => stream,
            _ = terminate.recv() => break,
        };
        let (acceptor, reply) = (acceptor.clone(), reply.clone());
        tokio::spawn(async move {
            // The load generator closes as it likes; that is no event here.
            let _ = serve(stream, acceptor, reply).await;
        });
    }
    let connections = CONNECTIONS.load(Ordering::Relaxed);
    let calls = CALLS.load(Ordering::Relaxed);
    println!("{{\"connections\": {connections}, \"calls\": {calls}}}");
    Ok(())
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, reply: Bytes) -> Result<(), Error> {
    let stream = acceptor.accept(stream).await?;
    CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake(stream)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        CALLS.fetch_add(1, Ordering::Relaxed);
        let reply = reply.clone();
        tokio::spawn(async move {
            let _ = answer(request, respond, reply).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    reply: Bytes,
) -> Result<(), h2::Error> {
    let (parts, body) = request.into_parts();
    match parts.uri.path() {
        "/bench.Bench/Unary" => {
            let body = collect(body).await?;
            let mut out = respond.send_response(head(), false)?;
            send(&mut out, body).await?;
            out.send_trailers(ok())
        }
        "/bench.Bench/Stream" => {
            collect(body).await?;
            let mut out = respond.send_response(head(), false)?;
            for _ in 0..wire::STREAM_MESSAGES {
                send(&mut out, reply.clone()).await?;
            }
            out.send_trailers(ok())
        }
        "/bench.Bench/Hold" => hold(&parts.headers, respond, reply).await,
        _ => {
            let mut response = head();
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from_static("12"));
            respond.send_response(response, true).map(|_| ())
        }
    }
}

/// Whole messages only: a stream that ends in the middle of one is broken.
async fn hold(
    headers: &HeaderMap,
    mut respond: SendResponse<Bytes>,
    message: Bytes,
) -> Result<(), h2::Error> {
    let pause = milliseconds(headers, "pause-ms").unwrap_or(Duration::from_millis(100));
    let hold = milliseconds(headers, "hold-ms");
    let start = Instant::now();
    let mut out = respond.send_response(head(), false)?;
    while hold.is_none_or(|hold| start.elapsed() < hold) {
        send(&mut out, message.clone()).await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    out.send_trailers(ok())
}

fn milliseconds(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

async fn collect(mut body: RecvStream) -> Result<Bytes, h2::Error> {
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

async fn send(out: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
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

fn head() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
