//! Somebody who abuses a gateway, beside somebody who does not.
//!
//! The gateway has one worker, so that nobody is protected by luck, and short
//! timeouts. The attacks are scripts of `clients/abuse`.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use serde_json::Value;

use crate::backend::Backend;
use crate::client::{Connection, in_time, read};
use crate::foreign::{PATH, answer, ok_head, ok_trailers};
use crate::service::python;
use crate::{Config, Gateway, Process, Site, Token, grpc};

/// A method that answers with [`BIG_BYTES`].
pub const BIG: &str = "/foreign.Service/Big";
/// A method that answers when it is reset.
pub const NEVER: &str = "/foreign.Service/Never";
/// A method that answers with more than any socket holds.
pub const HUGE: &str = "/foreign.Service/Huge";
/// A method that answers with [`TINY_MESSAGES`], each of them a byte.
pub const TINY: &str = "/foreign.Service/Tiny";
/// A method that is called in the second of two requests on a connection.
pub const PIPELINED: &str = "/foreign.Service/Pipelined";
/// A method that nobody calls whose request is read as it should be.
pub const SMUGGLED: &str = "/foreign.Service/Smuggled";
/// What only the well-behaved client calls.
const WANTED: &str = "/foreign.Service/Wanted";
/// How long the answer of [`BIG`] is.
pub const BIG_BYTES: usize = 1024 * 1024;
/// How many messages the answer of [`TINY`] has.
pub const TINY_MESSAGES: usize = 1_000_000;
/// How long a call of the well-behaved client may take in a debug build on a
/// machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(5);
/// Timeouts of a second, so that a test need not wait longer.
const LIMITS: &str = "[workers]\ncount = 1\n[log]\naccess = false\n[limits]\n\
    handshake_timeout = \"1s\"\nstall_timeout = \"2s\"\n";

/// See the module's comment.
pub struct Abused {
    /// Its files.
    pub site: Site,
    /// The gateway.
    pub gateway: Gateway,
    /// A token that opens every method.
    pub token: String,
    /// Closes a connection on which it sees 20 streams reset before it has taken
    /// them up, as the h2 crate does by itself; how much it reads ahead is as
    /// tonic has it.
    pub backend: Backend,
    calls: Calls,
}

/// How often each method was called at the backend.
type Calls = Arc<Mutex<HashMap<String, usize>>>;

/// What an attack did, and what others saw meanwhile.
#[derive(Debug)]
pub struct Outcome {
    /// What the script wrote.
    pub report: Value,
    /// How many calls of others were answered.
    pub others: usize,
    /// Why the other calls of others were no good.
    pub failed: Vec<String>,
    /// How much the gateway grew at its peak, in KiB.
    pub grown_kib: usize,
    /// The attack's calls that the backend saw.
    pub backend_calls: usize,
}

impl Outcome {
    /// Fails when others, or the machine, felt the attack.
    pub fn assert_harmless(&self, most_kib: usize) {
        let report = &self.report;
        assert!(self.failed.is_empty(), "{report}: {:?}", self.failed);
        assert!(self.others > 0, "{report}: nobody called");
        let grown = self.grown_kib;
        assert!(grown < most_kib, "{report}: grew by {grown} KiB");
    }

    /// A figure of the report.
    pub fn figure(&self, name: &str) -> usize {
        let value = self.report[name].as_u64();
        let value = value.unwrap_or_else(|| panic!("no {name} in {}", self.report));
        usize::try_from(value).expect("it fits")
    }

    /// How many connections ended otherwise than by the end of the attack.
    pub fn closed(&self) -> usize {
        let ended = self.report["ended"].as_object().expect("an object");
        let closed = ended.iter().filter(|(how, _)| *how != "open");
        closed
            .map(|(_, count)| usize::try_from(count.as_u64().unwrap()).unwrap())
            .sum()
    }
}

impl Abused {
    /// A gateway with further lines of `[limits]`.
    pub async fn start(limits: &str) -> Self {
        let site = Site::new();
        let calls = Calls::default();
        let counted = Arc::clone(&calls);
        let mut http2 = h2::server::Builder::new();
        http2
            .initial_window_size(1024 * 1024)
            .initial_connection_window_size(1024 * 1024);
        let backend = Backend::start_with(&site, &http2, move |request, respond| {
            let path = request.uri().path().to_owned();
            *counted.lock().unwrap().entry(path).or_default() += 1;
            serve(request, respond)
        })
        .await;
        let config = Config::default()
            .upstream("foreign", backend.port)
            .route("/foreign.Service/*", "foreign")
            .with_text(&format!("{LIMITS}{limits}"));
        let gateway = site.gateway(&config);
        let token = site.token(&["tester"]);
        Self {
            site,
            gateway,
            token,
            calls,
            backend,
        }
    }

    /// A script of `clients/abuse` that attacks this gateway.
    pub fn script(&self, name: &str) -> Command {
        let mut command = python(&format!("abuse/{name}"));
        command.args(["--port", &self.gateway.port.to_string()]);
        command.arg("--ca").arg(&self.gateway.ca);
        command
    }

    /// Runs an attack on HTTP/2 with a good token, while somebody else calls
    /// on a connection of its own; every call of that one must succeed.
    pub async fn attack(&self, name: &str, args: &[&str]) -> Outcome {
        self.attack_by(name, &[&["--token", &self.token], args].concat())
            .await
    }

    /// The same by somebody who has no token.
    pub async fn attack_by(&self, name: &str, args: &[&str]) -> Outcome {
        let mut command = self.script("http2.py");
        command.arg(name).args(args);
        self.run(command).await
    }

    /// The same over HTTP/1.1, with a good token.
    pub async fn attack_http1(&self, name: &str, args: &[&str]) -> Outcome {
        let mut command = self.script("http1.py");
        command.args([name, "--token", &self.token]).args(args);
        self.run(command).await
    }

    async fn run(&self, command: Command) -> Outcome {
        self.beside_others(move || {
            let (status, out, err) = Process::run("attack", &command);
            assert!(status.success(), "{err}");
            serde_json::from_str(&out).expect("one JSON object")
        })
        .await
    }

    /// Runs `attack`, which blocks, while somebody else calls.
    pub async fn beside_others(&self, attack: impl FnOnce() -> Value + Send + 'static) -> Outcome {
        let over = Arc::<AtomicBool>::default();
        let mut other = Connection::open(self.gateway.port, &self.gateway.ca).await;
        let token = Token::new("somebody else", &["tester"]);
        let token = token.hs256(self.site.secret().as_bytes());
        let bearer = format!("Bearer {token}");
        // The first call makes the connection to the backend.
        wanted(&mut other, &bearer).await.unwrap();
        let (before, calls) = (self.peak_kib(), self.backend_calls());
        let stop = Arc::clone(&over);
        let others = tokio::spawn(async move {
            let (mut answered, mut failed) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match wanted(&mut other, &bearer).await {
                    Ok(()) => answered += 1,
                    Err(why) => failed.push(why),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (answered, failed)
        });
        let report = tokio::task::spawn_blocking(attack).await.unwrap();
        over.store(true, Ordering::Relaxed);
        let (others, failed) = others.await.unwrap();
        Outcome {
            report,
            others,
            failed,
            grown_kib: self.peak_kib() - before,
            backend_calls: self.backend_calls() - calls,
        }
    }

    /// How often the backend was called, but for the well-behaved client.
    fn backend_calls(&self) -> usize {
        let calls = self.calls.lock().unwrap();
        let others = calls.iter().filter(|(path, _)| *path != WANTED);
        others.map(|(_, count)| count).sum()
    }

    /// How often the backend was called so.
    pub fn called(&self, path: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.get(path).copied().unwrap_or_default()
    }

    /// How many connections were closed for this reason.
    pub fn closed(&self, reason: &str) -> u64 {
        let name = format!("connections_closed_total{{reason=\"{reason}\"}}");
        self.gateway.figure_or_0(&name)
    }

    /// Waits until that many were.
    pub async fn counted(&self, reason: &str, least: usize) {
        in_time(reason, async {
            while self.closed(reason) < least as u64 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// The most memory that the gateway has had resident, in KiB.
    pub fn peak_kib(&self) -> usize {
        let path = format!("/proc/{}/status", self.gateway.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value.unwrap().parse().unwrap()
    }
}

/// Why a call of the well-behaved client was no good.
async fn wanted(client: &mut Connection, bearer: &str) -> Result<(), String> {
    let began = Instant::now();
    let headers = [("authorization", bearer)];
    let status = client.unary(WANTED, &headers, b"hello").await.status();
    if status.code != 0 {
        return Err(format!("{status:?}"));
    }
    let took = began.elapsed();
    if took > PATIENCE {
        return Err(format!("took {took:?}"));
    }
    Ok(())
}

async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    match request.uri().path() {
        NEVER => {
            let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
        }
        BIG => send(respond, 8 * 1024 - 5, BIG_BYTES / (8 * 1024)).await,
        HUGE => send(respond, 8 * 1024 - 5, 8 * 1024).await,
        TINY => send(respond, 1, TINY_MESSAGES).await,
        PATH | WANTED | PIPELINED | SMUGGLED => {
            // A call that was given up needs no answer.
            if read(request.into_body()).await.is_ok() {
                answer(respond);
            }
        }
        other => panic!("nobody calls {other}"),
    }
}

/// Sends so many messages of so many bytes, each in a frame of its own.
async fn send(mut respond: SendResponse<Bytes>, bytes: usize, messages: usize) {
    let Ok(mut send) = respond.send_response(ok_head(), false) else {
        return;
    };
    let message = grpc::frame(false, &vec![0; bytes]);
    for _ in 0..messages {
        send.reserve_capacity(message.len());
        while send.capacity() < message.len() {
            match std::future::poll_fn(|context| send.poll_capacity(context)).await {
                Some(Ok(_)) => {}
                _ => return,
            }
        }
        if send.send_data(message.clone(), false).is_err() {
            return;
        }
    }
    let _ = send.send_trailers(ok_trailers());
}
