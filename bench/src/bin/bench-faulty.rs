//! A backend that fails as it is told, and writes down all that it does: gRPC
//! over TLS with a client certificate required, on the h2 crate.
//!
//! `/bench.Bench/Read` and `/bench.Bench/Write` answer the request's own bytes
//! after `work-ms` (0); `/bench.Bench/Watch` answers them as a stream: the first
//! after `first-ms` (0), with its head, then one every `pause-ms` (100) for
//! `hold-ms`, or until its caller goes. `grpc.health.v1.Health/Check` says
//! SERVING whatever else fails.
//! The journal has a line when a call begins, and when it is `end`ed, `refused`,
//! `broken` or `cancelled`: its method and its `x-id`.
//!
//! A line on stdin says how calls fail from now on:
//! - `well`: not at all.
//! - `unavailable`: with UNAVAILABLE at once; each other time in trailers that
//!   follow a head of their own.
//! - `slow MS`: they take so much longer.
//! - `reset`: their connection is reset between the head and the first message,
//!   with all else that is under way on it.
//!
//! SIGTERM: no new connections, two GOAWAY on those that there are, an end of
//! what is under way, exit code 0; or 1 after [`GRACE`].
//! Limits: 4,096 streams per connection; a request is held whole in memory.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use intellirouter_bench::journal::Journal;
use intellirouter_bench::server::{collect, head, only, send, trailers};
use intellirouter_bench::{CONNECTION_WINDOW, Error, MAX_STREAMS, STREAM_WINDOW, net, tls};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// How long calls may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// What was sent before a reset has left by then.
const LEAVES: Duration = Duration::from_millis(5);

/// `status: SERVING`, as a gRPC message.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

const UNIMPLEMENTED: &str = "12";
const UNAVAILABLE: &str = "14";

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[command(flatten)]
    identity: tls::Identity,
    /// CA of the clients' certificates.
    #[arg(long)]
    client_ca: PathBuf,
    #[arg(long)]
    journal: PathBuf,
}

/// How calls fail.
#[derive(Clone, Copy)]
enum Fault {
    Well,
    Unavailable,
    Slow(Duration),
    Reset,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["well"] => Ok(Self::Well),
            ["unavailable"] => Ok(Self::Unavailable),
            ["reset"] => Ok(Self::Reset),
            ["slow", ms] => match ms.parse() {
                Ok(ms) => Ok(Self::Slow(Duration::from_millis(ms))),
                Err(_) => Err(format!("slow: expected milliseconds, found {ms}")),
            },
            _ => Err(format!("no such fault: {text}")),
        }
    }
}

struct Backend {
    fault: watch::Sender<Fault>,
    stopping: watch::Sender<bool>,
    refused: AtomicU64,
    journal: Journal,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let config = tls::server(&options.identity, Some(&options.client_ca))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let backend = Arc::new(Backend {
        fault: watch::Sender::new(Fault::Well),
        stopping: watch::Sender::new(false),
        refused: AtomicU64::new(0),
        journal: Journal::open(&options.journal)?,
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = net::listen(options.listen)?;
    // A thread of its own, for which nobody waits at the end.
    let told = backend.clone();
    std::thread::spawn(move || told.listen_to_stdin());
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = net::accept(&listener) => stream,
            _ = terminate.recv() => break,
        };
        while connections.try_join_next().is_some() {}
        let (backend, acceptor) = (backend.clone(), acceptor.clone());
        connections.spawn(async move {
            // The caller closes as it likes; that is no event here.
            let _ = serve(backend, stream, acceptor).await;
        });
    }
    drop(listener);
    backend.stopping.send_replace(true);
    timeout(GRACE, connections.join_all())
        .await
        .map_err(|_| format!("calls are still under way after {GRACE:?}"))?;
    Ok(())
}

impl Backend {
    fn listen_to_stdin(&self) {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match line.parse() {
                Ok(fault) => {
                    self.fault.send_replace(fault);
                    self.journal.now(&["fault", &line]);
                }
                Err(error) => eprintln!("{error}"),
            }
        }
    }
}

async fn serve(
    backend: Arc<Backend>,
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Result<(), Error> {
    let stream = stream.into_std()?;
    // A second handle of the socket: the connection's own is out of reach in it.
    let socket = TcpStream::from_std(stream.try_clone()?)?;
    let stream = acceptor.accept(TcpStream::from_std(stream)?).await?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake(stream)
        .await?;
    let broken = Arc::new(Notify::new());
    let mut stopping = backend.stopping.subscribe();
    let mut stop = pin!(stopping.wait_for(|stopping| *stopping));
    let mut stopped = false;
    loop {
        let call = tokio::select! {
            call = connection.accept() => call,
            () = broken.notified() => {
                // Both handles go: the kernel resets.
                return Ok(socket.set_zero_linger()?);
            }
            _ = &mut stop, if !stopped => {
                connection.graceful_shutdown();
                stopped = true;
                continue;
            }
        };
        let Some(call) = call else { return Ok(()) };
        let (request, respond) = call?;
        tokio::spawn(answer(backend.clone(), request, respond, broken.clone()));
    }
}

/// One call, and its lines in the journal.
struct Call {
    backend: Arc<Backend>,
    headers: HeaderMap,
    message: Bytes,
    respond: SendResponse<Bytes>,
    broken: Arc<Notify>,
}

async fn answer(
    backend: Arc<Backend>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    broken: Arc<Notify>,
) {
    let (parts, body) = request.into_parts();
    // A caller that goes before its request is whole has called nothing.
    let Ok(message) = collect(body).await else {
        return;
    };
    let mut call = Call {
        backend,
        headers: parts.headers,
        message,
        respond,
        broken,
    };
    let path = parts.uri.path();
    match path.strip_prefix("/bench.Bench/") {
        Some(method @ ("Read" | "Write" | "Watch")) => call.run(method).await,
        _ if path == "/grpc.health.v1.Health/Check" => drop(call.check().await),
        _ => drop(call.respond.send_response(only(UNIMPLEMENTED), true)),
    }
}

impl Call {
    async fn run(&mut self, method: &str) {
        let id = self.headers.get("x-id").and_then(|id| id.to_str().ok());
        let id = id.unwrap_or("none").to_owned();
        self.backend.journal.now(&["begin", method, &id]);
        let ended = match method {
            "Watch" => self.watch().await,
            _ => self.unary().await,
        };
        // Whatever fails there fails because the caller is gone.
        let ended = ended.unwrap_or("cancelled");
        self.backend.journal.now(&[ended, method, &id]);
    }

    async fn check(&mut self) -> Result<(), h2::Error> {
        let mut out = self.respond.send_response(head(), false)?;
        send(&mut out, Bytes::from_static(SERVING)).await?;
        out.send_trailers(trailers("0"))
    }

    async fn unary(&mut self) -> Result<&'static str, h2::Error> {
        let work = self.milliseconds("work-ms").unwrap_or_default();
        let mut out = match self.begin(work).await? {
            ControlFlow::Continue(out) => out,
            ControlFlow::Break(how) => return Ok(how),
        };
        send(&mut out, self.message.clone()).await?;
        out.send_trailers(trailers("0"))?;
        Ok("end")
    }

    async fn watch(&mut self) -> Result<&'static str, h2::Error> {
        let pause = self.milliseconds("pause-ms");
        let pause = pause.unwrap_or(Duration::from_millis(100));
        let mut left = self.milliseconds("hold-ms");
        let first = self.milliseconds("first-ms").unwrap_or_default();
        let mut out = match self.begin(first).await? {
            ControlFlow::Continue(out) => out,
            ControlFlow::Break(how) => return Ok(how),
        };
        while left.is_none_or(|left| !left.is_zero()) {
            send(&mut out, self.message.clone()).await?;
            let reset = std::future::poll_fn(|context| out.poll_reset(context));
            unless(reset, pause).await?;
            left = left.map(|left| left.saturating_sub(pause));
        }
        out.send_trailers(trailers("0"))?;
        Ok("end")
    }

    /// Works, and answers with a head; or fails as it is told to.
    async fn begin(
        &mut self,
        work: Duration,
    ) -> Result<ControlFlow<&'static str, SendStream<Bytes>>, h2::Error> {
        let fault = *self.backend.fault.borrow();
        match fault {
            Fault::Unavailable => return self.refuse().map(ControlFlow::Break),
            Fault::Slow(more) => self.work(work + more).await?,
            Fault::Well | Fault::Reset => self.work(work).await?,
        }
        let mut out = self.respond.send_response(head(), false)?;
        if matches!(fault, Fault::Reset) {
            sleep(LEAVES).await;
            self.broken.notify_one();
            // An error, since the connection goes; without the wait the stream alone were reset.
            let _ = std::future::poll_fn(|context| out.poll_reset(context)).await;
            return Ok(ControlFlow::Break("broken"));
        }
        Ok(ControlFlow::Continue(out))
    }

    /// Takes its time; fails when the caller goes meanwhile.
    async fn work(&mut self, time: Duration) -> Result<(), h2::Error> {
        let reset = std::future::poll_fn(|context| self.respond.poll_reset(context));
        unless(reset, time).await
    }

    fn refuse(&mut self) -> Result<&'static str, h2::Error> {
        let number = self.backend.refused.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(2) {
            self.respond.send_response(only(UNAVAILABLE), true)?;
        } else {
            let mut out = self.respond.send_response(head(), false)?;
            out.send_trailers(trailers(UNAVAILABLE))?;
        }
        Ok("refused")
    }

    fn milliseconds(&self, name: &str) -> Option<Duration> {
        let text = self.headers.get(name)?.to_str().ok()?;
        text.parse().ok().map(Duration::from_millis)
    }
}

/// Waits for so long; fails when the caller goes first.
async fn unless(
    reset: impl Future<Output = Result<Reason, h2::Error>>,
    time: Duration,
) -> Result<(), h2::Error> {
    tokio::select! {
        reason = reset => Err(reason?.into()),
        () = sleep(time) => Ok(()),
    }
}
