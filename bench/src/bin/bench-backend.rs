//! The service behind every peer: gRPC over TLS with a client certificate
//! required, on the h2 crate directly, so that it costs as little as it can.
//!
//! `/bench.Bench/Unary` answers the request's own bytes; `/bench.Bench/Stream`
//! answers 1,000 messages of 100 bytes, each in a DATA frame of its own, as a
//! server does that hands over a message when it has it; after `--turn` of them
//! other calls come in between. `/bench.Bench/Hold` answers one such message every `pause-ms` (100; 0 is as fast as they are
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

use bytes::Bytes;
use clap::Parser;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use intellirouter_bench::server::{self, collect, head, send};
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
    /// Messages of a stream that are written in a row: many streams at once hold
    /// up other calls for less when these are fewer.
    #[arg(long, default_value_t = wire::STREAM_MESSAGES)]
    turn: usize,
}

static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let config = tls::server(&options.identity, Some(&options.client_ca))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = net::listen(options.listen)?;
    let stream = Streamed {
        message: wire::message(wire::STREAM_MESSAGE),
        turn: options.turn.max(1),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let tcp = tokio::select! {
            tcp = net::accept(&listener) => tcp,
            _ = terminate.recv() => break,
        };
        let (acceptor, stream) = (acceptor.clone(), stream.clone());
        tokio::spawn(async move {
            // The load generator closes as it likes; that is no event here.
            let _ = serve(tcp, acceptor, stream).await;
        });
    }
    let connections = CONNECTIONS.load(Ordering::Relaxed);
    let calls = CALLS.load(Ordering::Relaxed);
    println!("{{\"connections\": {connections}, \"calls\": {calls}}}");
    Ok(())
}

/// What streams are made of.
#[derive(Clone)]
struct Streamed {
    message: Bytes,
    turn: usize,
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, stream: Streamed) -> Result<(), Error> {
    let tls = acceptor.accept(tcp).await?;
    CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake(tls)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        CALLS.fetch_add(1, Ordering::Relaxed);
        let stream = stream.clone();
        tokio::spawn(async move {
            let _ = answer(request, respond, stream).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    stream: Streamed,
) -> Result<(), h2::Error> {
    let (parts, body) = request.into_parts();
    match parts.uri.path() {
        "/bench.Bench/Unary" => {
            let body = collect(body).await?;
            let mut out = respond.send_response(head(), false)?;
            send(&mut out, body).await?;
            out.send_trailers(server::trailers("0"))
        }
        "/bench.Bench/Stream" => {
            collect(body).await?;
            let mut out = respond.send_response(head(), false)?;
            for number in 1..=wire::STREAM_MESSAGES {
                send(&mut out, stream.message.clone()).await?;
                if number % stream.turn == 0 {
                    tokio::task::yield_now().await;
                }
            }
            out.send_trailers(server::trailers("0"))
        }
        "/bench.Bench/Hold" => hold(&parts.headers, respond, stream.message).await,
        _ => {
            let unimplemented = server::only("12");
            respond.send_response(unimplemented, true).map(|_| ())
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
    out.send_trailers(server::trailers("0"))
}

fn milliseconds(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}
