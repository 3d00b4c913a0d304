//! `intellirouter up`: everything in one process, for development.
//!
//! The gateway and the services are the same as in separate processes and
//! talk the same way, over mTLS on loopback; only the threads and the event
//! log are shared. The configuration is text like any other and goes through
//! the same checks.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use intellirouter::events::{self, EventLog, LogSettings};
use intellirouter::logging;
use intellirouter_backends::cli::named_keys;
use intellirouter_backends::connectors::ConnectorSettings;
use intellirouter_backends::services::{
    self, CredentialFiles, Credentials, Door, Metrics, Service, StartError,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Failure, control_runtime, token};
use crate::certs::{self, DevFiles};
use crate::{Bound, Config};

#[derive(clap::Args)]
pub(super) struct Up {
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where operators look
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// Where certificates and keys are, or are made
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    /// Where models, chains and executions are kept
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// A key that models may name as `api_key_name`, and the only origin that it is sent to:
    /// NAME=ORIGIN,env=VARIABLE or NAME=ORIGIN,file=PATH; may be repeated
    #[arg(long = "api-key", value_name = "KEY")]
    api_keys: Vec<String>,
}

/// The roles of the token that is printed.
const ROLES: &[&str] = &["admin"];

/// How long executions may go on once the gateway has ended: it has waited for their calls already.
const ENGINE_DRAIN: Duration = Duration::from_secs(2);
/// How long the engine may take to end in all: it drains, records what it interrupts (5 s) and sends
/// its events (2 s).
const ENGINE_END: Duration = Duration::from_secs(10);
/// How long the registry may take after that: it sends its events.
const REGISTRY_END: Duration = Duration::from_secs(5);

impl Up {
    pub(super) fn run(self) -> Result<(), Failure> {
        let files = certs::ensure(&self.certs).map_err(Failure::other)?;
        let runtime = control_runtime()?;
        let result = runtime.block_on(self.serve(&files));
        runtime.shutdown_background();
        result
    }

    async fn serve(&self, files: &DevFiles) -> Result<(), Failure> {
        let _log = logging::start("info", false);
        let log = events::open("memory:", LogSettings::default())
            .await
            .map_err(Failure::other)?;
        let mut metrics = Metrics::new();
        let services = Services::start(files, self, &log, &mut metrics).await?;
        let text = self.config(files, &services);
        let config = Config::parse(&text, "built-in configuration", Path::new(""))
            .map_err(Failure::other)?;
        let token = token::mint(
            &self.certs,
            "developer",
            ROLES.iter().map(ToString::to_string).collect(),
            Duration::from_secs(3600),
            ("intellirouter".into(), "intellirouter-services".into()),
        )?;
        let bound = Bound::beside(config, log, Some(metrics.into_registry())).await?;
        let (address, admin) = (bound.address()?, bound.admin_address()?);
        let running = services.run();
        let help = help(address, &files.ca_cert, &token);
        let ended = bound
            .run(|| {
                super::gateway::announce(address, admin);
                super::say(&format!("\n{help}"));
            })
            .await;
        running.end().await;
        Ok(ended?)
    }

    fn config(&self, files: &DevFiles, services: &Services) -> String {
        let mut text = format!(
            r#"
listen = {{ address = "{listen}", cert_file = {cert}, key_file = {key} }}
admin = {{ address = "{admin}" }}
identity = {{ key_file = {identity} }}

[auth]
keys = [{{ algorithm = "HS256", secret_file = {secret} }}]

[events]
store = "memory:"
"#,
            listen = self.listen,
            admin = self.admin,
            cert = quoted(&files.gateway_cert),
            key = quoted(&files.gateway_key),
            identity = quoted(&files.identity_key),
            secret = quoted(&files.jwt_secret),
        );
        for (name, service) in services.named() {
            text.push_str(&format!(
                r#"
[[upstreams]]
name = "{name}"
endpoints = ["https://{address}"]
ca_file = {ca}
cert_file = {cert}
key_file = {key}
server_name = "localhost"

[[routes]]
match = "/intellirouter.{name}.v1.*"
upstream = "{name}"
"#,
                address = service.address(),
                ca = quoted(&files.ca_cert),
                cert = quoted(&files.gateway_client_cert),
                key = quoted(&files.gateway_client_key),
            ));
        }
        text
    }
}

/// JSON strings are TOML basic strings.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

/// The services, each on a free loopback port.
struct Services {
    model_registry: Service,
    chain_engine: Service,
}

impl Services {
    async fn start(
        files: &DevFiles,
        up: &Up,
        log: &Arc<dyn EventLog>,
        metrics: &mut Metrics,
    ) -> Result<Self, Failure> {
        let credentials = Credentials::load(&CredentialFiles {
            cert: files.backend_cert.clone(),
            key: files.backend_key.clone(),
            ca: files.ca_cert.clone(),
            identity: files.identity_public.clone(),
            jwt_secret: files.jwt_secret.clone(),
        })?;
        let mut door = Door {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            credentials: &credentials,
            log: Arc::clone(log),
            data: &up.data,
            metrics,
        };
        let connectors = ConnectorSettings {
            keys: named_keys(&up.api_keys)?,
            ..ConnectorSettings::default()
        };
        let model_registry = services::model_registry(&mut door, connectors).await?;
        let router = format!("https://{}", model_registry.address());
        let router = credentials.router(&router, "localhost")?;
        let chain_engine = services::chain_engine(&mut door, router).await?;
        Ok(Self {
            model_registry,
            chain_engine,
        })
    }

    fn named(&self) -> [(&'static str, &Service); 2] {
        [
            ("model_registry", &self.model_registry),
            ("chain_engine", &self.chain_engine),
        ]
    }

    fn run(self) -> Running {
        Running {
            chain_engine: Serving::start("chain_engine", self.chain_engine, ENGINE_DRAIN),
            // By then nobody calls it any more.
            model_registry: Serving::start("model_registry", self.model_registry, Duration::ZERO),
        }
    }
}

/// The services while they serve.
struct Running {
    chain_engine: Serving,
    model_registry: Serving,
}

impl Running {
    /// The engine ends first: what runs in it needs the router until it is over.
    async fn end(self) {
        self.chain_engine.end(ENGINE_END).await;
        self.model_registry.end(REGISTRY_END).await;
    }
}

/// One service while it serves.
struct Serving {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    fn start(name: &'static str, service: Service, drain: Duration) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = service.serve(stopped, drain).await {
                tracing::error!(%error, service = name, "a service ended");
            }
        });
        Self { name, stop, task }
    }

    async fn end(self, limit: Duration) {
        self.stop.cancel();
        if timeout(limit, self.task).await.is_err() {
            tracing::warn!(service = self.name, "a service was still busy at the end");
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Setting(message) => Self::Usage(message),
            StartError::Other(message) => Self::Other(message),
        }
    }
}

/// What to try, ready to paste.
fn help(address: SocketAddr, ca: &Path, token: &str) -> String {
    let port = address.port().to_string();
    // Between single quotes, for the shell and for Python alike.
    let ca = ca.display().to_string().replace('\'', r"'\''");
    include_str!("up/try.txt")
        .replace("@TOKEN@", token)
        .replace("@CA@", &ca)
        .replace("@URL@", &format!("https://localhost:{port}"))
        .replace("@PORT@", &port)
}
