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
use intellirouter_bench::client::{self, Answer, Client};
use intellirouter_bench::{Error, wire};

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
    client: Client,
    message: Bytes,
    left: AtomicUsize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let caller = Arc::new(Caller {
        client: Client::new(options.to, &options.ca, &options.authorization_file)?,
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
    let (sender, connection) = caller.client.connect().await?;
    let connection = tokio::spawn(connection);
    let request = caller.client.request("/bench.Bench/Unary").body(())?;
    let response = client::send(sender, request, caller.message.clone()).await?;
    let answer = Answer::read(response).await?;
    // Without handles the connection says GOAWAY and closes.
    connection.await??;
    if !answer.is_whole(caller.message.len()) {
        return Err(format!("{answer:?}").into());
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
