//! The foreign service as a process, and its journal.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::{Process, here};

/// A running `interop_server.py`.
pub struct Interop {
    /// The process.
    pub process: Process,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

/// What the journal says of one moment of one call.
fn entry(line: &str, event: &str, call: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == event && value["call"] == call).then_some(value)
}

impl Interop {
    /// Starts it; only clients with a certificate of `ca` get in.
    pub fn start(cert: &Path, key: &Path, ca: &Path) -> Self {
        Self::start_on(0, cert, key, ca)
    }

    /// As [`Interop::start`], on a port that clients know already.
    pub fn start_on(port: u16, cert: &Path, key: &Path, ca: &Path) -> Self {
        let mut command = python("interop_server.py");
        command.args(["--port", &port.to_string()]);
        command
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key)
            .arg("--ca")
            .arg(ca);
        let process = Process::spawn("interop service", &command);
        let port = process.line("ready entry", |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            u16::try_from(value["port"].as_u64()?).ok()
        });
        Self { process, port }
    }

    /// Waits until the service has begun this call.
    pub fn begun(&self, call: &str) {
        self.process.line(&format!("begin of {call}"), |line| {
            entry(line, "begin", call)
        });
    }

    /// Waits until the service has seen this call cancelled, and fails when
    /// that came more than `within` after `since`, in milliseconds of the epoch.
    pub fn cancelled(&self, call: &str, since: u64, within: Duration) {
        let value = self
            .process
            .line(&format!("cancellation of {call}"), |line| {
                entry(line, "cancelled", call)
            });
        let at = value["at"].as_u64().expect("the journal has times");
        let took = Duration::from_millis(at.saturating_sub(since));
        assert!(
            took <= within,
            "{call}: the service heard of it after {took:?}"
        );
    }

    /// Whether the service has ever seen this call.
    pub fn saw(&self, call: &str) -> bool {
        self.process
            .lines()
            .iter()
            .any(|line| entry(line, "begin", call).is_some())
    }
}

/// A Python script of `clients/`, with the packages that it needs.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(here(".venv/bin/python"));
    command.arg(here("clients").join(script));
    command
}
