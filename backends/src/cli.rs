//! The command lines of the services as processes of their own.
//!
//! Owns arguments, signals and exit codes: 0, 64 for bad usage or settings (`EX_USAGE` of
//! sysexits), 1 otherwise. Every argument can be given as an environment variable; secrets are
//! given as files. A process says on stdout where it listens, once it does; logs go to stderr. It is
//! ready unless it drains or its database takes no writes; a router or event store that is away fails
//! what needs it, and is told there.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use intellirouter::admin::{self, Readiness, ServicePage};
use intellirouter::events::{self, LogSettings, LogUse};
use intellirouter::logging;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::connectors::{ConnectorSettings, NamedKey};
use crate::services::{
    self, CredentialFiles, Credentials, DRAIN, Door, Metrics, Service, StartError,
};
use crate::storage::Database;

/// How often a database that fails is tried.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// ModelRegistryService and RouterService of IntelliRouter.
#[derive(Parser)]
#[command(name = "intellirouter-model-registry", version)]
struct ModelRegistry {
    /// Where callers connect
    #[arg(
        long,
        env = "INTELLIROUTER_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50052"
    )]
    listen: SocketAddr,
    /// Where operators look: /livez /readyz /metrics; no access rules, so keep it private
    #[arg(
        long,
        env = "INTELLIROUTER_ADMIN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9912"
    )]
    admin: SocketAddr,
    /// A key that models may name as `api_key_name`, and the only origin that it is sent to:
    /// NAME=ORIGIN,env=VARIABLE or NAME=ORIGIN,file=PATH; may be repeated
    #[arg(long = "api-key", value_name = "KEY")]
    api_keys: Vec<String>,
    /// More authorities that models' endpoints may have certificates of (PEM)
    #[arg(long, env = "INTELLIROUTER_MODELS_CA", value_name = "FILE")]
    models_ca: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// ChainEngineService and ChainStoreService of IntelliRouter.
#[derive(Parser)]
#[command(name = "intellirouter-chain-engine", version)]
struct ChainEngine {
    /// Where callers connect
    #[arg(
        long,
        env = "INTELLIROUTER_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50051"
    )]
    listen: SocketAddr,
    /// Where operators look: /livez /readyz /metrics; no access rules, so keep it private
    #[arg(
        long,
        env = "INTELLIROUTER_ADMIN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9911"
    )]
    admin: SocketAddr,
    /// Where RouterService is
    #[arg(
        long,
        env = "INTELLIROUTER_ROUTER",
        value_name = "URL",
        default_value = "https://localhost:50052"
    )]
    router: String,
    /// The name in RouterService's certificate
    #[arg(
        long,
        env = "INTELLIROUTER_ROUTER_NAME",
        value_name = "NAME",
        default_value = "localhost"
    )]
    router_name: String,
    #[command(flatten)]
    common: Common,
}

/// What all services are told.
#[derive(clap::Args)]
struct Common {
    /// The folder with backend.crt, backend.key, ca.crt, identity.pub and jwt.secret
    #[arg(
        long,
        env = "INTELLIROUTER_CERTS",
        value_name = "DIR",
        default_value = "certs"
    )]
    certs: PathBuf,
    /// The service's certificate, elsewhere
    #[arg(long, env = "INTELLIROUTER_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key, elsewhere
    #[arg(long, env = "INTELLIROUTER_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The authorities of callers and of other services, elsewhere
    #[arg(long, env = "INTELLIROUTER_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The gateway's public identity key, elsewhere
    #[arg(long, env = "INTELLIROUTER_IDENTITY", value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The secret of the services' own tokens, elsewhere
    #[arg(long, env = "INTELLIROUTER_JWT_SECRET", value_name = "FILE")]
    jwt_secret: Option<PathBuf>,
    /// The event store; one with a password is better given as INTELLIROUTER_EVENTS
    #[arg(
        long,
        env = "INTELLIROUTER_EVENTS",
        hide_env_values = true,
        value_name = "URL",
        default_value = "redis://127.0.0.1:6379"
    )]
    events: String,
    /// More authorities for rediss:// (PEM)
    #[arg(long, env = "INTELLIROUTER_EVENTS_CA", value_name = "FILE")]
    events_ca: Option<PathBuf>,
    /// The folder of the database
    #[arg(
        long,
        env = "INTELLIROUTER_DATA",
        value_name = "DIR",
        default_value = "data"
    )]
    data: PathBuf,
    /// What is logged, such as info or info,h2=warn
    #[arg(
        long,
        env = "INTELLIROUTER_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,
    /// A JSON object a line
    #[arg(long, env = "INTELLIROUTER_LOG_JSON")]
    log_json: bool,
}

impl Common {
    fn credentials(&self) -> Result<Credentials, StartError> {
        let file =
            |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| self.certs.join(name));
        Credentials::load(&CredentialFiles {
            cert: file(&self.cert, "backend.crt"),
            key: file(&self.key, "backend.key"),
            ca: file(&self.ca, "ca.crt"),
            identity: file(&self.identity, "identity.pub"),
            jwt_secret: file(&self.jwt_secret, "jwt.secret"),
        })
    }

    async fn event_log(&self) -> Result<Arc<dyn events::EventLog>, StartError> {
        if self.events.starts_with("memory:") {
            return Err(StartError::Setting(
                "--events memory: is seen by no other process; expected redis://HOST:PORT or \
                 rediss://HOST:PORT"
                    .to_owned(),
            ));
        }
        let settings = LogSettings {
            ca_file: self.events_ca.clone(),
            // A service publishes; what others publish is not its to keep.
            usage: LogUse::Service,
            ..LogSettings::default()
        };
        Ok(events::open(&self.events, settings).await?)
    }
}

/// Reads the keys that an operator lends to models. Not the argument parser's work, as that would
/// repeat an entry which is wrong, and somebody may have written the key itself.
///
/// # Errors
/// [`StartError::Setting`]
pub fn named_keys(entries: &[String]) -> Result<Vec<NamedKey>, StartError> {
    let read = |entry: &String| {
        entry
            .parse()
            .map_err(|error| StartError::Setting(format!("--api-key: {error}")))
    };
    entries.iter().map(read).collect()
}

/// Runs `intellirouter-model-registry`.
pub fn model_registry() -> ExitCode {
    main(|args: ModelRegistry| {
        let Common { log, log_json, .. } = &args.common;
        (log.clone(), *log_json, async move {
            let connectors = ConnectorSettings {
                keys: named_keys(&args.api_keys)?,
                extra_ca: args.models_ca,
                ..ConnectorSettings::default()
            };
            let start =
                async |door: &mut Door<'_>| services::model_registry(door, connectors).await;
            serve(&args.common, (args.listen, args.admin), start).await
        })
    })
}

/// Runs `intellirouter-chain-engine`.
pub fn chain_engine() -> ExitCode {
    main(|args: ChainEngine| {
        let Common { log, log_json, .. } = &args.common;
        (log.clone(), *log_json, async move {
            let start = async |door: &mut Door<'_>| {
                let router = door.credentials.router(&args.router, &args.router_name)?;
                services::chain_engine(door, router).await
            };
            serve(&args.common, (args.listen, args.admin), start).await
        })
    })
}

/// Starts a service with what all are told, and runs it.
async fn serve(
    common: &Common,
    (listen, admin): (SocketAddr, SocketAddr),
    start: impl AsyncFnOnce(&mut Door<'_>) -> Result<Service, StartError>,
) -> Result<(), StartError> {
    let credentials = common.credentials()?;
    let mut metrics = Metrics::new();
    let mut door = Door {
        listen,
        credentials: &credentials,
        log: common.event_log().await?,
        data: &common.data,
        metrics: &mut metrics,
    };
    let service = start(&mut door).await?;
    run(service, admin, metrics).await
}

/// From the arguments to the exit code.
fn main<A, F>(start: impl FnOnce(A) -> (String, bool, F)) -> ExitCode
where
    A: Parser,
    F: Future<Output = Result<(), StartError>>,
{
    let args = match A::try_parse_from(std::env::args_os().collect::<Vec<OsString>>()) {
        Ok(args) => args,
        Err(error) => {
            let failed = error.use_stderr();
            // Nothing can be done about a terminal that is gone.
            let _ = error.print();
            return ExitCode::from(if failed { 64 } else { 0 });
        }
    };
    let (filter, json, service) = start(args);
    let result = logging::check_filter(&filter)
        .map_err(|error| StartError::Setting(format!("--log: {error}")))
        .and_then(|()| {
            let _log = logging::start(&filter, json);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(|error| StartError::Other(error.to_string()))?;
            let result = runtime.block_on(service);
            runtime.shutdown_background();
            result
        });
    let (code, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(StartError::Setting(error)) => (64, error),
        Err(StartError::Other(error)) => (1, error),
    };
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(code)
}

/// Writes to databases that fail: nobody else may, as a service that is not ready is not called.
async fn keep_trying(databases: Vec<Database>) {
    loop {
        tokio::time::sleep(TRY_AGAIN).await;
        for database in databases.iter().filter(|one| one.is_failing()) {
            // How it went, the database itself says and logs.
            let _ = database.probe().await;
        }
    }
}

/// Serves until SIGINT or SIGTERM, then drains.
async fn run(service: Service, admin: SocketAddr, metrics: Metrics) -> Result<(), StartError> {
    let other = |error: std::io::Error| StartError::Other(error.to_string());
    let listener = TcpListener::bind(admin)
        .await
        .map_err(|error| StartError::Other(format!("--admin {admin}: {error}")))?;
    let admin = listener.local_addr().map_err(other)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(other)?;
    let stop = CancellationToken::new();
    let draining = stop.clone();
    let databases = service.databases().to_vec();
    let trying = tokio::spawn(keep_trying(databases.clone()));
    // An event store that is away stops events, not calls.
    let ready = move || {
        if draining.is_cancelled() {
            Readiness::NotReady("draining".to_owned())
        } else if databases.iter().any(Database::is_failing) {
            Readiness::NotReady("the database fails".to_owned())
        } else {
            Readiness::Ready
        }
    };
    let page = Arc::new(ServicePage::new(Arc::new(metrics.into_registry()), ready));
    let page = tokio::spawn(admin::serve(listener, page));
    let address = service.address();
    let mut out = std::io::stdout();
    // A reader that is gone is no failure.
    let _ = writeln!(
        out,
        "listening on https://{address}\nadmin on http://{admin}"
    )
    .and_then(|()| out.flush());
    let mut serving = std::pin::pin!(service.serve(stop.clone(), DRAIN));
    let served = tokio::select! {
        served = &mut serving => Some(served),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let served = match served {
        Some(ended) => ended,
        None => {
            tracing::info!("draining");
            stop.cancel();
            serving.await
        }
    };
    page.abort();
    trying.abort();
    served.map_err(|error| StartError::Other(error.to_string()))
}
