//! A real Redis of the test's own, on a free port, that can be killed, paused and started again.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends the server when it is dropped.
pub(crate) struct RedisServer {
    child: Option<Child>,
    port: u16,
    extra: Vec<String>,
    directory: tempfile::TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with more arguments for the command line.
    pub(crate) fn start_with(extra: &[&str]) -> Self {
        // Another process may take the free port before Redis does.
        (0..5)
            .find_map(|_| {
                let mut server = Self::down_with(extra);
                server.try_start().then_some(server)
            })
            .expect("redis-server found no free port in five tries")
    }

    /// A server that has a port but does not run yet.
    pub(crate) fn down() -> Self {
        Self::down_with(&[])
    }

    fn down_with(extra: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            child: None,
            port: free.local_addr().unwrap().port(),
            extra: extra.iter().map(|s| (*s).to_owned()).collect(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A server that speaks TLS alone, with this certificate.
    pub(crate) fn start_tls(cert: &Path, key: &Path) -> Self {
        let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
        Self::start_with(&[
            "--tls-cert-file",
            cert,
            "--tls-key-file",
            key,
            "--tls-ca-cert-file",
            cert,
            "--tls-auth-clients",
            "no",
        ])
    }

    /// Starts it on its port again, empty, and returns when it answers.
    pub(crate) fn start_again(&mut self) {
        assert!(
            self.try_start(),
            "redis-server did not start on {}",
            self.port
        );
    }

    fn try_start(&mut self) -> bool {
        let tls = self
            .extra
            .first()
            .is_some_and(|arg| arg.starts_with("--tls"));
        let (plain, secure) = if tls { (0, self.port) } else { (self.port, 0) };
        let mut child = Command::new("redis-server")
            .args(["--port", &plain.to_string()])
            .args(["--tls-port", &secure.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.extra)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "these tests need the program redis-server (Debian: apt-get install \
                     redis-server); it can't be started: {error}"
                )
            });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|l| l.contains("Ready to accept connections")));
        if !ready {
            child.wait().unwrap();
            return false;
        }
        // Read on, so that it never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
        true
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills it, as `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it where it is: connections stay open, nothing answers.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("the server runs").id();
        let status = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Runs redis-cli against it and returns what it prints.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(args)
            .output()
            .unwrap_or_else(|error| {
                panic!(
                    "these tests need the program redis-cli (Debian: apt-get install \
                     redis-tools); it can't be started: {error}"
                )
            });
        assert!(output.status.success(), "redis-cli {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
