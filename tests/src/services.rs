//! The services as processes of their own behind a gateway, and the script
//! that calls them.

use std::path::Path;
use std::process::Command;

use crate::gateway::port_after;
use crate::redis::Redis;
use crate::service::python;
use crate::{Config, Gateway, Process, Site, Token, binary};

/// Who calls, and with which roles.
const CALLERS: [(&str, &[&str]); 6] = [
    ("admin", &["admin"]),
    ("service", &["service"]),
    ("operator", &["operator"]),
    ("alice", &["user"]),
    ("bob", &["user"]),
    ("nobody", &[]),
];

/// `services_client.py` for some groups of cases.
pub fn groups(gateway: &Gateway, secret: &str, groups: &[&str]) -> Command {
    let mut command = python("services_client.py");
    command.arg("--target").arg(gateway.target());
    command.arg("--ca").arg(&gateway.ca);
    add_tokens(&mut command, secret);
    for group in groups {
        command.args(["--group", group]);
    }
    command
}

fn add_tokens(command: &mut Command, secret: &str) {
    for (name, roles) in CALLERS {
        let token = Token::new(name, roles).hs256(secret.as_bytes());
        command.arg("--token").arg(format!("{name}={token}"));
    }
}

/// A service as a process of its own.
pub struct Service {
    /// The process.
    pub process: Process,
    /// Where callers connect, on 127.0.0.1.
    pub port: u16,
    /// The port of its admin address.
    pub admin: u16,
}

impl Service {
    /// Starts one and waits until it listens.
    pub fn start(name: &str, command: &Command) -> Self {
        let process = Process::spawn(name, command);
        let port = process.line("listening line", |line| {
            port_after(line, "listening on https://")
        });
        let admin = process.line("admin line", |line| port_after(line, "admin on http://"));
        Self {
            process,
            port,
            admin,
        }
    }
}

/// The command line of a service on free ports, with the site's certificates
/// and its data in the site's folder.
pub fn command(name: &str, site: &Site, events: &str) -> Command {
    let mut command = Command::new(binary::service(name));
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--events", events]);
    command.arg("--certs").arg(site.dir().join("certs"));
    command.arg("--data").arg(site.dir().join("data"));
    command
}

/// `intellirouter-model-registry`, to be started.
pub fn model_registry(site: &Site, events: &str) -> Command {
    command("intellirouter-model-registry", site, events)
}

/// `intellirouter-chain-engine`, to be started beside a registry.
pub fn chain_engine(site: &Site, events: &str, registry: u16) -> Command {
    let mut command = command("intellirouter-chain-engine", site, events);
    command.args(["--router", &format!("https://localhost:{registry}")]);
    command
}

/// All services, each a process, on one Redis.
pub struct Services {
    /// Their files.
    pub site: Site,
    /// Where their events are.
    pub redis: Redis,
    /// ModelRegistryService and RouterService.
    pub registry: Service,
    /// ChainEngineService and ChainStoreService.
    pub engine: Service,
    /// In front of both.
    pub gateway: Gateway,
}

impl Services {
    /// Starts them in a folder of their own.
    #[expect(
        clippy::new_without_default,
        reason = "it makes files and starts processes"
    )]
    pub fn new() -> Self {
        Self::on(Site::new(), Redis::start())
    }

    /// Starts them on what is there.
    pub fn on(site: Site, redis: Redis) -> Self {
        Self::with(site, redis, |_| ())
    }

    /// As [`Services::on`], with more said to the registry.
    pub fn with(site: Site, redis: Redis, more: impl FnOnce(&mut Command)) -> Self {
        let events = redis.url();
        let mut registry = model_registry(&site, &events);
        more(&mut registry);
        let registry = Service::start("model registry", &registry);
        let engine = chain_engine(&site, &events, registry.port);
        let engine = Service::start("chain engine", &engine);
        let gateway = site.gateway(&config(&events, registry.port, engine.port));
        Self {
            site,
            redis,
            registry,
            engine,
            gateway,
        }
    }
}

/// Who may call what is told by the services' own descriptors.
fn config(events: &str, registry: u16, engine: u16) -> Config {
    let mut config = Config::default()
        .upstream("model_registry", registry)
        .upstream("chain_engine", engine);
    config.events = format!("[events]\nstore = \"{events}\"\n");
    for name in ["model_registry", "chain_engine"] {
        config = config.with_text(&format!(
            "[[routes]]\nmatch = \"/intellirouter.{name}.v1.*\"\nupstream = \"{name}\"\n"
        ));
    }
    config
}

/// What a page of an admin address says, and its HTTP status.
pub fn page(admin: u16, path: &str) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "--write-out", "\n%{http_code}"]);
    command.arg(format!("http://127.0.0.1:{admin}{path}"));
    let (_, out, err) = Process::run("curl", &command);
    let (text, status) = out
        .rsplit_once('\n')
        .unwrap_or_else(|| panic!("{path}: {err}"));
    let status = status.parse().expect("curl writes a number");
    (status, text.to_owned())
}

/// `backend_client.py`, with the certificate of the site's services.
pub fn direct(site: &Site, port: u16, service: &str) -> Command {
    let mut command = python("backend_client.py");
    command.args(["--target", &format!("localhost:{port}")]);
    command.args(["--service", service]);
    for (argument, file) in [
        ("--ca", "ca.crt"),
        ("--cert", "backend.crt"),
        ("--key", "backend.key"),
    ] {
        command.arg(argument).arg(site.certs.path(file));
    }
    add_tokens(&mut command, &site.secret());
    command
}

/// `durability_client.py`, which writes or verifies.
pub fn durability(gateway: &Gateway, secret: &str, verb: &str, journal: Option<&Path>) -> Command {
    let mut command = python("durability_client.py");
    command.arg("--target").arg(gateway.target());
    command.arg("--ca").arg(&gateway.ca);
    let token = Token::new("admin", &["admin"]).hs256(secret.as_bytes());
    command.args(["--token", &token, verb]).args(journal);
    command
}
