//! A load at fixed rates, with an account of every call.
//!
//! An open loop: a call is made when its time has come, however many are still
//! under way, and its latency counts from that time, so that what holds the
//! load up shows in the figures. `--load Read=200` calls `/bench.Bench/Read`
//! 200 times a second. Each call has an id, `x-id: Read-17`, and a line in the
//! journal when it has ended: id, when its time had come, when it was made, and
//! `0` for a good answer or else its `grpc-status` or what came instead. Says
//! `ready`, calls until stdin ends, waits for what is under way, and ends.
//! A call without an end a second after its deadline is told as `silent`. So
//! the most that is under way is the rate times the timeout and a second.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use h2::client::SendRequest;
use http::Request;
use intellirouter_bench::client::{self, Answer, Client};
use intellirouter_bench::journal::{Journal, monotonic_ns};
use intellirouter_bench::{Error, wire};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

const SILENCE: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Options {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    ca: PathBuf,
    /// File with the value of the `authorization` header.
    #[arg(long)]
    authorization_file: PathBuf,
    #[arg(long)]
    journal: PathBuf,
    /// METHOD=CALLS_PER_SECOND; may come again.
    #[arg(long, required = true)]
    load: Vec<Rate>,
    /// Connections, which calls take in turn.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// `grpc-timeout` of each call.
    #[arg(long, default_value_t = 3000)]
    timeout_ms: u32,
    /// NAME:VALUE, sent with each call; may come again.
    #[arg(long)]
    header: Vec<String>,
}

#[derive(Clone)]
struct Rate {
    method: String,
    per_second: u32,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = text.split_once('=').and_then(|(method, rate)| {
            let per_second = rate.parse().ok().filter(|rate| *rate > 0)?;
            let method = method.to_owned();
            Some(Self { method, per_second })
        });
        found.ok_or_else(|| "expected METHOD=CALLS_PER_SECOND, at least 1".to_owned())
    }
}

struct Load {
    client: Client,
    senders: Vec<SendRequest<Bytes>>,
    headers: Vec<(String, String)>,
    message: Bytes,
    timeout_ms: u32,
    journal: Journal,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let client = Client::new(options.to, &options.ca, &options.authorization_file)?;
    let mut senders = Vec::new();
    for _ in 0..options.connections.max(1) {
        senders.push(client.connected().await?);
    }
    let header = |text: &String| {
        let (name, value) = text
            .split_once(':')
            .ok_or("--header: expected NAME:VALUE")?;
        Ok::<_, Error>((name.to_owned(), value.to_owned()))
    };
    let load = Arc::new(Load {
        client,
        senders,
        headers: options
            .header
            .iter()
            .map(header)
            .collect::<Result<_, _>>()?,
        message: wire::message(128),
        timeout_ms: options.timeout_ms,
        journal: Journal::open(&options.journal)?,
    });
    // A mistake in a header shows before the first call.
    load.request("Read", "")?;
    let mut rates = JoinSet::new();
    let mut stops = Vec::new();
    for rate in options.load {
        let (stop, stopped) = oneshot::channel();
        stops.push(stop);
        rates.spawn(load.clone().repeat(rate, stopped));
    }
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop)).await?;
    drop(stops);
    rates.join_all().await;
    Ok(())
}

impl Load {
    /// Calls until it is stopped, and waits for all that it called.
    async fn repeat(self: Arc<Self>, rate: Rate, mut stopped: oneshot::Receiver<()>) {
        let every = Duration::from_secs(1) / rate.per_second;
        let (start, start_ns) = (Instant::now(), monotonic_ns());
        // What was missed is made up: the rate holds.
        let mut tick = interval_at(start + every, every);
        let mut under_way = JoinSet::new();
        for number in 0.. {
            let due = tokio::select! {
                due = tick.tick() => due,
                _ = &mut stopped => break,
            };
            while under_way.try_join_next().is_some() {}
            let due_ns = start_ns + (due - start).as_nanos() as u64;
            let sender = self.senders[number % self.senders.len()].clone();
            let id = format!("{}-{number}", rate.method);
            let call = self.clone().call(sender, rate.method.clone(), id, due_ns);
            under_way.spawn(call);
        }
        under_way.join_all().await;
    }

    async fn call(
        self: Arc<Self>,
        sender: SendRequest<Bytes>,
        method: String,
        id: String,
        due_ns: u64,
    ) {
        let made_ns = monotonic_ns();
        let most = Duration::from_millis(self.timeout_ms.into()) + SILENCE;
        let ended = match timeout(most, self.answer(sender, &method, &id)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "silent".to_owned(),
        };
        let word = ended.replace(['\t', '\n'], " ");
        let (due, made) = (due_ns.to_string(), made_ns.to_string());
        self.journal.now(&[&id, &due, &made, &word]);
    }

    async fn answer(
        &self,
        sender: SendRequest<Bytes>,
        method: &str,
        id: &str,
    ) -> Result<String, Error> {
        let request = self.request(method, id)?;
        let response = client::send(sender, request, self.message.clone()).await?;
        let answer = Answer::read(response).await?;
        let status = answer
            .status
            .as_ref()
            .and_then(|status| status.to_str().ok());
        Ok(match status {
            None => "no status".to_owned(),
            // A stream has as many messages as it has.
            Some("0") if answer.bytes == 0 || answer.bytes % self.message.len() != 0 => {
                format!("0, but {} bytes", answer.bytes)
            }
            Some(status) => status.to_owned(),
        })
    }

    fn request(&self, method: &str, id: &str) -> Result<Request<()>, Error> {
        let mut request = self
            .client
            .request(&format!("/bench.Bench/{method}"))
            .header("grpc-timeout", format!("{}m", self.timeout_ms))
            .header("x-id", id);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(())?)
    }
}
