//! What was acknowledged is there after a SIGKILL in the midst of writing, and
//! what ran at that moment is told as interrupted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::io::Write;
use std::path::{Path, PathBuf};

use intellirouter_tests::events::json;
use intellirouter_tests::services::{Services, durability};
use intellirouter_tests::{Gateway, Process, Up, scripts};
use rustix::process::Signal;
use tempfile::TempDir;

/// After how many acknowledged writes the processes are killed, round by round.
const ROUNDS: [usize; 4] = [40, 400, 150, 800];
/// The same where the services are processes of their own.
const WRITES: usize = 300;
/// Executions that wait for their model when that happens; see the script.
const STUCK: usize = 3;

/// What writers were told, round after round.
struct Journal(PathBuf);

impl Journal {
    fn new(folder: &Path) -> Self {
        Self(folder.join("journal"))
    }

    /// Starts writers, kills by `kill` once so many writes are acknowledged,
    /// and keeps what the writers said until they found the services gone.
    fn round(&self, gateway: &Gateway, secret: &str, writes: usize, kill: impl FnOnce()) {
        let writers = durability(gateway, secret, "write", None);
        let mut writers = Process::spawn("writers", &writers);
        let (mut acknowledged, mut stuck) = (0, 0);
        writers.line("enough acknowledged writes", |line| {
            let acked = line.contains("\"acked\"");
            acknowledged += usize::from(acked);
            stuck += usize::from(acked && line.contains("\"stuck\""));
            (acknowledged >= writes && stuck == STUCK).then_some(())
        });
        kill();
        let status = writers.wait();
        assert!(status.success(), "{}", writers.output());
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)
            .unwrap();
        writeln!(file, "{}", writers.lines().join("\n")).unwrap();
    }

    /// Every acknowledged write of all rounds is there.
    fn holds(&self, gateway: &Gateway, secret: &str) {
        scripts::run_alone(&durability(gateway, secret, "verify", Some(&self.0)));
    }
}

#[test]
fn no_acknowledged_write_is_lost_when_everything_is_killed_under_load() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::new(folder.path());
    for writes in ROUNDS {
        let up = Up::start(folder.path(), &["up"]);
        journal.round(&up.gateway, &up.secret(), writes, || {
            up.gateway.process.signal(Signal::KILL);
        });
        drop(up);
        let up = Up::start(folder.path(), &["up"]);
        journal.holds(&up.gateway, &up.secret());
        up.stop();
    }
}

#[test]
fn no_acknowledged_write_is_lost_when_the_services_are_killed_under_load() {
    let services = Services::new();
    let secret = services.site.secret();
    let journal = Journal::new(services.site.dir());
    journal.round(&services.gateway, &secret, WRITES, || {
        // In this order no execution can fail because its router is gone.
        services.engine.process.signal(Signal::KILL);
        services.registry.process.signal(Signal::KILL);
    });
    let Services { site, redis, .. } = services;
    let subscriber = redis.subscriber();
    let services = Services::on(site, redis);
    journal.holds(&services.gateway, &secret);
    let mut interrupted = 0;
    subscriber.line("event of each interruption", |line| {
        interrupted += usize::from(json(line)["error"]["code"] == "INTERRUPTED");
        (interrupted >= STUCK).then_some(())
    });
}
