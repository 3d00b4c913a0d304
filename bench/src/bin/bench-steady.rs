//! A steady load, counted in phases: what a change in the gateway costs calls
//! that are under way meanwhile.
//!
//! Long-lived connections with paced unary calls, one new connection with one
//! call at a fixed rate, and streams that stay open all the time. Each line on
//! stdin ends a phase, for which one JSON object is printed: `calls` and
//! `fresh_calls` with how many `failed`, quantiles of the former's latency, and
//! `streams_ended` and `streams_silent` (without a message in the phase). What
//! failed is told on stderr. Nothing is ever connected or called again: what a
//! client would see as a failure is counted as one. Ends with stdin.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use h2::RecvStream;
use h2::client::SendRequest;
use http::Response;
use intellirouter_bench::client::{self, Answer, Client};
use intellirouter_bench::{Error, wire};
use tokio::time::{MissedTickBehavior, interval_at};

#[derive(Parser)]
struct Options {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    ca: PathBuf,
    /// File with the value of the `authorization` header.
    #[arg(long)]
    authorization_file: PathBuf,
    /// Long-lived connections, each with one caller.
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Calls per second, on all of them together.
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// New connections per second.
    #[arg(long, default_value_t = 20)]
    fresh: u32,
    /// Streams on one more connection.
    #[arg(long, default_value_t = 20)]
    streams: usize,
}

struct Load {
    client: Client,
    message: Bytes,
    phase: Mutex<Phase>,
    /// Messages of each stream so far.
    messages: Vec<AtomicU64>,
}

/// What happened since the last line on stdin.
#[derive(Default)]
struct Phase {
    latencies: Vec<Duration>,
    failed: usize,
    fresh_calls: usize,
    fresh_failed: usize,
    streams_ended: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let load = Arc::new(Load {
        client: Client::new(options.to, &options.ca, &options.authorization_file)?,
        message: wire::message(128),
        phase: Mutex::default(),
        messages: (0..options.streams).map(|_| AtomicU64::new(0)).collect(),
    });
    let sender = load.client.connected().await?;
    for number in 0..options.streams {
        let body = load.open(sender.clone()).await?;
        tokio::spawn(load.clone().follow(number, body));
    }
    let every = Duration::from_secs(1) * options.connections / options.rate.max(1);
    let mut senders = Vec::new();
    for _ in 0..options.connections {
        senders.push(load.client.connected().await?);
    }
    let now = Instant::now();
    for (number, sender) in (0..options.connections).zip(senders) {
        let first = now + every * number / options.connections;
        tokio::spawn(load.clone().repeat(sender, first, every));
    }
    if options.fresh > 0 {
        let every = Duration::from_secs(1) / options.fresh;
        tokio::spawn(load.clone().repeat_fresh(now, every));
    }
    println!("ready");
    tokio::task::spawn_blocking(move || phases(&load)).await?
}

/// Prints each phase at its end.
fn phases(load: &Load) -> Result<(), Error> {
    let messages = || -> Vec<u64> {
        let all = load.messages.iter();
        all.map(|count| count.load(Ordering::Relaxed)).collect()
    };
    let mut before = messages();
    for line in std::io::stdin().lines() {
        line?;
        let phase = load.phase(std::mem::take);
        let now = messages();
        let silent = before.iter().zip(&now).filter(|(old, new)| old == new);
        report(phase, silent.count());
        before = now;
    }
    Ok(())
}

fn report(mut phase: Phase, streams_silent: usize) {
    phase.latencies.sort_unstable();
    let quantile = |q: f64| {
        let last = phase.latencies.len().saturating_sub(1);
        let index = (phase.latencies.len() as f64 * q) as usize;
        let found = phase.latencies.get(index.min(last));
        found.map_or(0, Duration::as_micros)
    };
    println!(
        r#"{{"calls":{},"failed":{},"p50_us":{},"p99_us":{},"fresh_calls":{},"fresh_failed":{},"streams_ended":{},"streams_silent":{streams_silent}}}"#,
        phase.latencies.len() + phase.failed,
        phase.failed,
        quantile(0.50),
        quantile(0.99),
        phase.fresh_calls,
        phase.fresh_failed,
        phase.streams_ended,
    );
}

impl Load {
    fn phase<T>(&self, with: impl FnOnce(&mut Phase) -> T) -> T {
        with(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn repeat(self: Arc<Self>, sender: SendRequest<Bytes>, first: Instant, every: Duration) {
        // The callers stay apart, whatever holds them up together.
        let mut tick = interval_at(first.into(), every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let start = Instant::now();
            let called = self.call(sender.clone()).await;
            self.phase(|phase| match told("call", called) {
                true => phase.latencies.push(start.elapsed()),
                false => phase.failed += 1,
            });
        }
    }

    async fn repeat_fresh(self: Arc<Self>, first: Instant, every: Duration) {
        // The callers stay apart, whatever holds them up together.
        let mut tick = interval_at(first.into(), every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let called = match self.client.connected().await {
                Ok(sender) => self.call(sender).await,
                Err(error) => Err(error),
            };
            let good = told("call on a new connection", called);
            self.phase(|phase| {
                phase.fresh_calls += 1;
                phase.fresh_failed += usize::from(!good);
            });
        }
    }

    /// Counts messages; a stream has no end of its own.
    async fn follow(self: Arc<Self>, number: usize, mut body: RecvStream) {
        let ended = loop {
            match body.data().await {
                Some(Ok(data)) => {
                    self.messages[number].fetch_add(1, Ordering::Relaxed);
                    let given = body.flow_control().release_capacity(data.len());
                    if let Err(error) = given {
                        break error.to_string();
                    }
                }
                Some(Err(error)) => break error.to_string(),
                None => break format!("ended with {:?}", body.trailers().await),
            }
        };
        eprintln!("stream: {ended}");
        self.phase(|phase| phase.streams_ended += 1);
    }

    /// Sends one message; ready with the head of the answer.
    async fn send(
        &self,
        sender: SendRequest<Bytes>,
        path: &str,
    ) -> Result<Response<RecvStream>, Error> {
        let request = self.client.request(path).body(())?;
        client::send(sender, request, self.message.clone()).await
    }

    /// The messages of a stream.
    async fn open(&self, sender: SendRequest<Bytes>) -> Result<RecvStream, Error> {
        let response = self.send(sender, "/bench.Bench/Hold").await?;
        if response.status() != 200 || response.headers().contains_key("grpc-status") {
            return Err(format!("answered {response:?}").into());
        }
        Ok(response.into_body())
    }

    async fn call(&self, sender: SendRequest<Bytes>) -> Result<(), Error> {
        let response = self.send(sender, "/bench.Bench/Unary").await?;
        let answer = Answer::read(response).await?;
        if !answer.is_whole(self.message.len()) {
            return Err(format!("{answer:?}").into());
        }
        Ok(())
    }
}

/// Whether it went well; says what did not.
fn told(what: &str, result: Result<(), Error>) -> bool {
    if let Err(error) = &result {
        eprintln!("{what}: {error}");
    }
    result.is_ok()
}
