//! A Redis server as a process, and `redis-cli` on it.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{DEADLINE, Process};

/// A running `redis-server`.
pub struct Redis {
    process: Process,
    place: Place,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

/// Where it may write, also the data of a server that it follows; and whether it keeps its own there.
struct Place {
    folder: TempDir,
    on_disk: bool,
}

impl Redis {
    /// Starts one on a free port that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// Starts one on a free port that writes each command to disk before it answers.
    pub fn on_disk() -> Self {
        Self::start_with(true)
    }

    fn start_with(on_disk: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let place = Place { folder, on_disk };
        // Redis can't tell a port that it chose itself; between finding a free
        // one and its start another process may take it, hence a few tries.
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = serve(port, &place) {
                return Self {
                    process,
                    place,
                    port,
                };
            }
        }
        panic!("no port for redis-server");
    }

    /// Starts one that follows another, and waits until it has everything.
    pub fn replica_of(primary: &Self) -> Self {
        let replica = Self::start();
        replica.follow(primary.port);
        replica
    }

    /// Makes it a replica of the server at a port of 127.0.0.1, and waits until it has everything.
    pub fn follow(&self, primary: u16) {
        self.cli(&["REPLICAOF", "127.0.0.1", &primary.to_string()]);
        let end = Instant::now() + DEADLINE;
        while !self
            .cli(&["INFO", "replication"])
            .contains("master_link_status:up")
        {
            assert!(Instant::now() < end, "the replica does not follow");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops a replica and takes its link from it: from here on it is behind this server, until it is thawed.
    pub fn leave_behind(&self, replica: &Self) {
        replica.freeze();
        self.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// `redis://…` for a config.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it; what it held is kept only by one on disk.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.process.kill();
        let started = serve(self.port, &self.place);
        self.process = started.expect("the port of the server before is free");
    }

    /// Stops it from running without closing its connections.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it run on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// What `redis-cli` prints for a command.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(args);
        let (status, out, err) = Process::run("redis-cli", &command);
        assert!(
            status.success() && !out.starts_with("ERR"),
            "redis-cli {args:?}: {out}{err}"
        );
        out
    }

    /// A plain subscriber of all channels, subscribed when this returns. Each
    /// message is the line `pmessage`, the pattern, the channel, the payload.
    pub fn subscriber(&self) -> Process {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]);
        command.args(["PSUBSCRIBE", "intellirouter:*"]);
        let process = Process::spawn("subscriber", &command);
        let subscribed = |line: &str| line.contains("psubscribe").then_some(());
        process.line("subscription", subscribed);
        process
    }

    /// The names of the connections that others hold, by the commands that
    /// they last sent.
    pub fn clients(&self) -> Vec<String> {
        let list = self.cli(&["CLIENT", "LIST"]);
        list.lines()
            .filter(|line| !line.contains("cmd=client"))
            .map(str::to_owned)
            .collect()
    }
}

/// A port that is free at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// `None` when the port is taken.
fn serve(port: u16, place: &Place) -> Option<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--daemonize", "no", "--dir"]);
    command.arg(place.folder.path());
    let keeps = if place.on_disk { "yes" } else { "no" };
    command.args(["--appendonly", keeps, "--appendfsync", "always"]);
    let process = Process::spawn("redis", &command);
    let ready = process.line("ready line", |line| {
        let ready = line.contains("Ready to accept connections");
        (ready || line.contains("Address already in use")).then_some(ready)
    });
    ready.then_some(process)
}
