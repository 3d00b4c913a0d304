//! Redis Sentinels as processes: they watch one primary, and put a replica in its place when it is gone.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Process;
use crate::redis::{Redis, free_port};

/// The name that they know the primary by.
pub const SERVICE: &str = "main";
/// Silent for so long a primary counts as gone.
pub const DOWN_AFTER: Duration = Duration::from_secs(2);
/// How long anything may take that Sentinels do: they look at their world every second, some of it every ten.
const PATIENCE: Duration = Duration::from_secs(60);

/// Some Sentinels, most of which must agree.
pub struct Sentinels {
    all: Vec<Sentinel>,
}

struct Sentinel {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Sentinels {
    /// Starts so many, and waits until each knows the others and a replica that could be promoted.
    pub fn watch(primary: &Redis, count: usize) -> Self {
        let all = (0..count).map(|_| Sentinel::watch(primary.port, count / 2 + 1));
        let sentinels = Self { all: all.collect() };
        sentinels.are_ready();
        sentinels
    }

    /// `redis+sentinel://…` for a config.
    pub fn url(&self) -> String {
        let places = self.all.iter().map(|one| format!("127.0.0.1:{}", one.port));
        let places = places.collect::<Vec<_>>().join(",");
        format!("redis+sentinel://{places}/{SERVICE}")
    }

    /// The port of the primary, as most of them say; none while they don't agree.
    pub fn primary(&self) -> Option<u16> {
        let told = self.all.iter().map(Sentinel::primary);
        let told: Vec<u16> = told.collect();
        let of = |port: &&u16| told.iter().filter(|other| other == port).count();
        told.iter().find(|port| of(port) > told.len() / 2).copied()
    }

    /// Waits until another than `primary` is the primary, also by its own word; gives its port.
    pub fn promoted(&self, primary: u16) -> u16 {
        self.until("no replica is promoted", || {
            let new = self.primary().filter(|port| *port != primary)?;
            is_primary(new).then_some(new)
        })
    }

    /// Has the primary replaced though nothing is wrong with it, as one does before maintenance.
    pub fn fail_over(&self) {
        self.all[0].cli(&["FAILOVER", SERVICE]);
    }

    /// Waits until each knows the others, and a replica that is in order.
    pub fn are_ready(&self) {
        let ready = |one: &Sentinel| {
            one.cli(&["CKQUORUM", SERVICE]).starts_with("OK")
                && one.flags() == ["master"]
                && one.knows_a_replica()
        };
        self.until("the Sentinels are not ready", || {
            self.all.iter().all(ready).then_some(())
        });
    }

    /// Waits until they have made a replica of what was the primary, which takes them some ten seconds.
    pub fn demoted(&self, primary: &Redis) {
        self.until("the old primary remains one", || {
            let info = primary.cli(&["INFO", "replication"]);
            info.contains("master_link_status:up").then_some(())
        });
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            assert!(Instant::now() < end, "{what}\n{}", self.output());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn output(&self) -> String {
        let texts = self.all.iter().map(|one| one.process.output());
        texts.collect::<Vec<_>>().join("\n")
    }
}

impl Sentinel {
    fn watch(primary: u16, quorum: usize) -> Self {
        // As with Redis: another process may take the free port first.
        for _ in 0..5 {
            let (port, folder) = (free_port(), TempDir::new().unwrap());
            let config = folder.path().join("sentinel.conf");
            let down = DOWN_AFTER.as_millis();
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor {SERVICE} 127.0.0.1 {primary} {quorum}\n\
                 sentinel down-after-milliseconds {SERVICE} {down}\n\
                 sentinel failover-timeout {SERVICE} 5000\n"
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&config).arg("--sentinel");
            let process = Process::spawn("sentinel", &command);
            let watches = process.line("+monitor", |line| {
                let watches = line.contains("+monitor master");
                (watches || line.contains("Address already in use")).then_some(watches)
            });
            if watches {
                return Self {
                    process,
                    port,
                    _folder: folder,
                };
            }
        }
        panic!("no port for a Sentinel");
    }

    /// What `redis-cli` prints for a command of `SENTINEL`; an error is an answer too.
    fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string(), "SENTINEL"]);
        Process::run("redis-cli", command.args(args)).1
    }

    fn primary(&self) -> u16 {
        let told = self.cli(&["GET-MASTER-ADDR-BY-NAME", SERVICE]);
        let port = told.lines().nth(1).and_then(|port| port.parse().ok());
        port.unwrap_or_default()
    }

    /// What it holds of the primary, such as `master` and `s_down`.
    fn flags(&self) -> Vec<String> {
        let told = self.cli(&["MASTER", SERVICE]);
        let flags = field(&told, "flags").unwrap_or_default();
        flags.split(',').map(str::to_owned).collect()
    }

    fn knows_a_replica(&self) -> bool {
        let told = self.cli(&["REPLICAS", SERVICE]);
        // The first lines of each replica have its name.
        told.split("name\n").skip(1).any(|replica| {
            field(replica, "flags") == Some("slave")
                && field(replica, "master-link-status") == Some("ok")
        })
    }
}

/// The value of a field in a list of names and values, a line each.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut lines = text.lines();
    lines.find(|line| *line == name)?;
    lines.next()
}

/// Whether the server at this port says that it is one.
fn is_primary(port: u16) -> bool {
    if TcpStream::connect(("127.0.0.1", port)).is_err() {
        return false;
    }
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string(), "ROLE"]);
    let (_, role, _) = Process::run("redis-cli", &command);
    role.starts_with("master")
}
