//! Load for workload F: every call on a TLS connection of its own.
//!
//! A fixed number of callers, each in a closed loop: connect, full handshake
//! (no resumption), one unary call, check of its size and `grpc-status`, close.
//! Prints one JSON object: `calls`, `failed`, `seconds`, and each good call's
//! `latency_us` quantiles. Callers share one thread; the runner pins it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http::Request;
use intellirouter_bench::{Error, net, tls, wire};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    ca: PathBuf,
    /// File with the value of the `authorization` header.
    #[arg(long)]
    authorization_file: PathBuf,
    /// Calls, all callers together.
    #[arg(long)]
    calls: usize,
    /// Callers at the same time.
    #[arg(long, default_value_t = 8)]
    callers: usize,
}

struct Caller {
    to: SocketAddr,
    tls: TlsConnector,
    name: ServerName<'static>,
    authorization: String,
    message: Bytes,
    left: AtomicUsize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let caller = Arc::new(Caller {
        to: options.to,
        tls: TlsConnector::from(Arc::new(tls::client(&options.ca, None)?)),
        name: ServerName::try_from("localhost")?,
        authorization: std::fs::read_to_string(&options.authorization_file)?,
        message: wire::message(128),
        left: AtomicUsize::new(options.calls),
    });
    let start = Instant::now();
    let tasks: Vec<_> = (0..options.callers)
        .map(|_| tokio::spawn(repeat(Arc::clone(&caller))))
        .collect();
    let mut latencies = Vec::with_capacity(options.calls);
    for task in tasks {
        latencies.extend(task.await?);
    }
    report(options.calls, latencies, start.elapsed());
    Ok(())
}

async fn repeat(caller: Arc<Caller>) -> Vec<Duration> {
    let mut latencies = Vec::new();
    let less = |left: usize| left.checked_sub(1);
    while caller
        .left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
    {
        let start = Instant::now();
        match call(&caller).await {
            Ok(()) => latencies.push(start.elapsed()),
            Err(error) => eprintln!("call: {error}"),
        }
    }
    latencies
}

async fn call(caller: &Caller) -> Result<(), Error> {
    let stream = net::connect(caller.to).await?;
    let stream = caller.tls.connect(caller.name.clone(), stream).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post("https://localhost/bench.Bench/Unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", &caller.authorization)
        .body(())?;
    let mut sender = sender.ready().await?;
    let (response, mut out) = sender.send_request(request, false)?;
    out.send_data(caller.message.clone(), true)?;
    let response = response.await?;
    if response.status() != 200 {
        return Err(format!("answered {}", response.status()).into());
    }
    let mut body = response.into_body();
    let mut size = 0;
    while let Some(chunk) = body.data().await {
        size += chunk?.len();
    }
    let status = body
        .trailers()
        .await?
        .and_then(|all| all.get("grpc-status").cloned());
    drop((sender, out, body));
    // Without handles the connection says GOAWAY and closes.
    connection.await??;
    if size != caller.message.len() || status.is_none_or(|status| status != "0") {
        return Err(format!("answered {size} bytes or a bad grpc-status").into());
    }
    Ok(())
}

fn report(calls: usize, mut latencies: Vec<Duration>, elapsed: Duration) {
    latencies.sort_unstable();
    let quantile = |q: f64| {
        let index = (latencies.len() as f64 * q) as usize;
        let found = latencies.get(index.min(latencies.len().saturating_sub(1)));
        found.map_or(0, Duration::as_micros)
    };
    println!(
        r#"{{"calls":{calls},"failed":{},"seconds":{:.6},"p50_us":{},"p99_us":{}}}"#,
        calls - latencies.len(),
        elapsed.as_secs_f64(),
        quantile(0.50),
        quantile(0.99),
    );
}
