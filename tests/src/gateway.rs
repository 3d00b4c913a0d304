//! The gateway as a process, and its configuration as text.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use crate::{Process, Site, binary};

/// The parts of a configuration that tests vary; each is TOML text.
#[derive(Clone, Debug)]
pub struct Config {
    /// Further lines of `[listen]`.
    pub listen: String,
    /// `[auth]` and its keys; the development secret by default.
    pub auth: String,
    /// Lines of `[events]` and its rules.
    pub events: String,
    /// The rest: upstreams, routes, CORS.
    pub rest: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: String::new(),
            auth: "[[auth.keys]]\nalgorithm = \"HS256\"\nsecret_file = \"certs/jwt.secret\"\n"
                .into(),
            events: String::new(),
            rest: String::new(),
        }
    }
}

impl Config {
    /// The interop service behind the gateway, open to the role `tester`,
    /// except for one method.
    pub fn interop(port: u16) -> Self {
        Self::default()
            .upstream("interop", port)
            .route("/interop.testing.Interop/*", "interop")
            .with_text(
                "[[routes]]\nmatch = \"/interop.testing.Interop/Restricted\"\n\
             upstream = \"interop\"\nroles = [\"keeper\"]\n",
            )
    }

    /// Adds an upstream that is reached over mTLS on this port.
    pub fn upstream(self, name: &str, port: u16) -> Self {
        self.with_text(&format!(
            "[[upstreams]]\nname = \"{name}\"\nendpoints = [\"https://127.0.0.1:{port}\"]\n\
             server_name = \"localhost\"\nca_file = \"certs/ca.crt\"\n\
             cert_file = \"certs/gateway-client.crt\"\nkey_file = \"certs/gateway-client.key\"\n",
        ))
    }

    /// Adds a route for the role `tester`.
    pub fn route(self, pattern: &str, upstream: &str) -> Self {
        self.with_text(&format!(
            "[[routes]]\nmatch = \"{pattern}\"\nupstream = \"{upstream}\"\nroles = [\"tester\"]\n",
        ))
    }

    /// Lets `tester` read and publish what the chain engine says, and sets
    /// further keys of `[events]`.
    pub fn events(mut self, keys: &str) -> Self {
        self.events = format!(
            "[events]\n{keys}\n[[events.rules]]\nroles = [\"tester\"]\n\
             subscribe = [\"intellirouter:chain_engine:*\"]\n\
             publish = [\"intellirouter:chain_engine:*\"]\n",
        );
        self
    }

    /// Adds text at the end.
    pub fn with_text(mut self, text: &str) -> Self {
        self.rest.push_str(text);
        self
    }

    /// The whole file.
    pub fn render(&self) -> String {
        let Self {
            listen,
            auth,
            events,
            rest,
        } = self;
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\ncert_file = \"certs/gateway.crt\"\n\
             key_file = \"certs/gateway.key\"\n{listen}[admin]\naddress = \"127.0.0.1:0\"\n\
             [identity]\nkey_file = \"certs/identity.key\"\n{auth}{events}{rest}"
        )
    }
}

/// A running gateway.
pub struct Gateway {
    /// The process.
    pub process: Process,
    /// The port of `https://localhost`.
    pub port: u16,
    /// The port of the admin address.
    pub admin: u16,
    /// The CA of its certificate.
    pub ca: PathBuf,
}

impl Gateway {
    /// Starts it and waits until it says where it listens.
    pub fn start(site: &Site, config: &Config) -> Self {
        let file = site.write("gateway.toml", &config.render());
        let file = file.to_str().expect("a temporary folder has a plain name");
        Self::ready(
            site.certs.path("ca.crt"),
            &binary::command(&["gateway", "--config", file]),
        )
    }

    /// As [`Gateway::start`], with streams redirected as a shell writes it, such
    /// as `2>/dev/full`, in the folder of the site.
    pub fn start_redirected(site: &Site, config: &Config, redirections: &str) -> Self {
        site.write("gateway.toml", &config.render());
        let mut command =
            binary::redirected(&["gateway", "--config", "gateway.toml"], redirections);
        Self::ready(site.certs.path("ca.crt"), command.current_dir(site.dir()))
    }

    /// Starts a command and waits until it says where it listens; `ca` is that
    /// of its certificate.
    pub fn ready(ca: PathBuf, command: &Command) -> Self {
        let process = Process::spawn("gateway", command);
        let port = process.line("listening line", |line| {
            port_after(line, "listening on https://")
        });
        let admin = process.line("admin line", |line| port_after(line, "admin on http://"));
        Self {
            process,
            port,
            admin,
            ca,
        }
    }

    /// A URL on the gateway; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// `localhost:PORT`, as gRPC clients want it.
    pub fn target(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// A page of its admin address.
    pub fn page(&self, path: &str) -> String {
        let mut command = Command::new("curl");
        let url = format!("http://127.0.0.1:{}{path}", self.admin);
        command.args(["-sS", "--max-time", "20", &url]);
        let (_, page, err) = Process::run("curl", &command);
        page + &err
    }

    /// All figures, as Prometheus reads them.
    pub fn metrics(&self) -> String {
        self.page("/metrics")
    }

    /// What its admin address says of a figure; `name` has the labels, if there are any.
    pub fn figure(&self, name: &str) -> u64 {
        let (value, metrics) = self.metric(name);
        value.unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
    }

    /// The same for a counter that is not there before it counts.
    pub fn figure_or_0(&self, name: &str) -> u64 {
        self.metric(name).0.unwrap_or(0)
    }

    fn metric(&self, name: &str) -> (Option<u64>, String) {
        let metrics = self.metrics();
        let start = format!("intellirouter_{name} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&start));
        let value = value.map(|value| value.parse().expect("a figure is a number"));
        (value, metrics)
    }

    /// Its resident memory.
    pub fn memory_kib(&self) -> usize {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.expect("a figure").parse().expect("a number")
    }

    /// Asks it to stop, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.process.signal(Signal::INT);
    }
}

/// The port in a line such as `listening on https://127.0.0.1:4711`.
pub fn port_after(line: &str, prefix: &str) -> Option<u16> {
    let address = line.split_once(prefix)?.1.split(['/', ' ']).next()?;
    address.rsplit_once(':')?.1.parse().ok()
}
