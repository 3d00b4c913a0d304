//! The services as parts of a process: what each is made of, and how it starts and ends.
//!
//! Owns the way from settings to a server that listens, the same for a process of its own and for
//! the all-in-one command. It does not own threads, signals or the command line. A start fails with
//! [`StartError`] before anything is served. A service ends when it is told to: what runs has some
//! time to finish, [`DRAIN`] in a process of its own, then what still runs is recorded as
//! interrupted; waiting events have [`FLUSH`]. What a service calls must end after it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use intellirouter::clients::{GrpcRouterClient, RouterClient};
use intellirouter::events::EventLog;
use intellirouter::security::{
    BoundServer, IdentityVerifier, JwtAuthenticator, JwtConfig, SecureGrpcClientBuilder,
    SecureGrpcServerBuilder, ServerMetrics, TlsConfig,
};
use intellirouter::{IpcError, IpcResult};
use intellirouter_proto::FILE_DESCRIPTOR_SET;
use intellirouter_proto::intellirouter::chain_engine::v1::chain_engine_service_server::ChainEngineServiceServer;
use intellirouter_proto::intellirouter::chain_engine::v1::chain_store_service_server::ChainStoreServiceServer;
use intellirouter_proto::intellirouter::model_registry::v1::model_registry_service_server::ModelRegistryServiceServer;
use intellirouter_proto::intellirouter::model_registry::v1::router_service_server::RouterServiceServer;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::chain_engine::{ChainEngine, ChainEngineSettings};
use crate::connectors::{ConnectorError, ConnectorSettings, Connectors};
use crate::events::Events;
use crate::model_registry::{ModelRegistry, RegistrySettings};
use crate::router::{Router, RouterSettings};
use crate::storage::{Database, StorageError};

/// How long calls may go on after the stop of a service that is a process of its own.
pub const DRAIN: Duration = Duration::from_secs(20);
/// How long events that wait for the store are tried after that.
pub const FLUSH: Duration = Duration::from_secs(2);

/// The issuer of the gateway's identity tokens.
const GATEWAY_ISSUER: &str = "intellirouter-gateway";
/// Of tokens that services show each other, in seconds.
const TOKEN_LIFETIME: u64 = 3600;

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or value that the operator gave does not hold what it must.
    #[error("{0}")]
    Setting(String),
    /// Everything else: a taken port, a database that is used by another process.
    #[error("{0}")]
    Other(String),
}

impl StartError {
    fn setting(error: impl ToString) -> Self {
        Self::Setting(error.to_string())
    }
}

impl From<IpcError> for StartError {
    fn from(error: IpcError) -> Self {
        match error {
            IpcError::Security(_) | IpcError::InvalidArgument(_) => Self::setting(error),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<StorageError> for StartError {
    fn from(error: StorageError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<ConnectorError> for StartError {
    fn from(error: ConnectorError) -> Self {
        Self::setting(error)
    }
}

/// The files with which a service shows itself and knows others.
#[derive(Clone, Debug)]
pub struct CredentialFiles {
    /// The service's certificate, for its server and as a client (PEM).
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The authorities of everyone it talks to (PEM).
    pub ca: PathBuf,
    /// The gateway's public identity key (PEM).
    pub identity: PathBuf,
    /// The secret of the tokens that services show each other (HS256).
    pub jwt_secret: PathBuf,
}

/// What was in those files.
#[derive(Clone, Debug)]
pub struct Credentials {
    tls: TlsConfig,
    jwt: Arc<JwtAuthenticator>,
    identity_pem: Vec<u8>,
}

impl Credentials {
    /// Reads the files; certificates are read when they are used.
    ///
    /// # Errors
    /// [`StartError::Setting`] that names the file.
    pub fn load(files: &CredentialFiles) -> Result<Self, StartError> {
        let secret = String::from_utf8(read(&files.jwt_secret)?).map_err(|_| {
            StartError::setting(format!("{}: not text", files.jwt_secret.display()))
        })?;
        let config = JwtConfig {
            secret: secret.trim_end_matches(['\r', '\n']).to_owned(),
            issuer: "intellirouter".to_owned(),
            audience: "intellirouter-services".to_owned(),
            expiration_seconds: TOKEN_LIFETIME,
        };
        Ok(Self {
            tls: TlsConfig::new(files.cert.clone(), files.key.clone(), files.ca.clone()),
            jwt: Arc::new(JwtAuthenticator::new(config)),
            identity_pem: read(&files.identity)?,
        })
    }

    /// A server for the service that the gateway's config calls `name`: who may call what is told
    /// by the options of the .proto files.
    fn server(&self, name: &'static str) -> Result<SecureGrpcServerBuilder, StartError> {
        let identity = IdentityVerifier::from_public_pem(&self.identity_pem, GATEWAY_ISSUER, name)
            .map_err(|error| StartError::setting(format!("gateway identity: {error}")))?;
        Ok(SecureGrpcServerBuilder::new()
            .with_tls(self.tls.clone())
            .with_jwt(Arc::clone(&self.jwt), Vec::new())
            .with_gateway_identity(identity)
            .with_descriptors(FILE_DESCRIPTOR_SET))
    }

    /// RouterService, as the chain engine calls it. The first call connects, so it need not be up
    /// yet. A step that the router can't serve fails at once: the router itself tries other models.
    ///
    /// # Errors
    /// [`StartError::Setting`] for a URL or name that can't work, or files that can't be used.
    pub fn router(&self, url: &str, name: &str) -> Result<Arc<dyn RouterClient>, StartError> {
        let client = SecureGrpcClientBuilder::<GrpcRouterClient>::new(name)
            .with_tls(self.tls.clone())
            .with_jwt(
                Arc::clone(&self.jwt),
                "chain_engine".to_owned(),
                vec!["service".to_owned()],
            )
            .build_lazy(url)
            .map_err(StartError::setting)?;
        Ok(Arc::new(client))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|error| StartError::setting(format!("{}: {error}", path.display())))
}

/// A service whose port is bound; calls wait until it is served.
#[must_use = "nothing is served until `serve` runs"]
pub struct Service {
    server: BoundServer,
    events: Events,
    databases: Vec<Database>,
    /// Ends what runs, and records it, within the given time.
    drain: Box<dyn FnOnce(Duration) -> BoxFuture<'static, ()> + Send>,
}

impl Service {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Where it keeps what it must not forget.
    pub fn databases(&self) -> &[Database] {
        &self.databases
    }

    /// Serves until `stop` is cancelled; what runs then has `drain` to finish.
    ///
    /// # Errors
    /// [`IpcError::Timeout`] if calls were still open 30 seconds after the stop.
    pub async fn serve(self, stop: CancellationToken, drain: Duration) -> IpcResult<()> {
        let signal = stop.clone().cancelled_owned();
        let draining = async {
            stop.cancelled().await;
            (self.drain)(drain).await;
        };
        let (served, ()) = tokio::join!(self.server.serve_with_shutdown(signal), draining);
        self.events.flush(FLUSH).await;
        served
    }
}

/// What every service of a process is given.
pub struct Door<'a> {
    /// Where it listens; port 0 for any free one.
    pub listen: SocketAddr,
    /// Who it is and whom it knows.
    pub credentials: &'a Credentials,
    /// Where its events go.
    pub log: Arc<dyn EventLog>,
    /// The folder of its database.
    pub data: &'a Path,
    /// Where its metrics are added.
    pub metrics: &'a mut Metrics,
}

impl Door<'_> {
    fn server(&self, name: &'static str) -> Result<SecureGrpcServerBuilder, StartError> {
        let builder = self.credentials.server(name)?;
        Ok(builder.with_metrics(&self.metrics.calls, name))
    }
}

/// The metrics of all services of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: ServerMetrics,
}

impl Metrics {
    /// No service yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("intellirouter");
        let calls = ServerMetrics::register(&mut registry);
        Self { registry, calls }
    }

    fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// What a page shows.
    pub fn into_registry(self) -> Registry {
        self.registry
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Starts ModelRegistryService and RouterService.
///
/// # Errors
/// [`StartError`]
pub async fn model_registry(
    door: &mut Door<'_>,
    connectors: ConnectorSettings,
) -> Result<Service, StartError> {
    let events = Events::start(Arc::clone(&door.log));
    let connectors = Connectors::new(connectors)?;
    let models = door.data.join("model_registry.db");
    let strategies = door.data.join("router.db");
    let models = Database::open(&models, crate::model_registry::MIGRATIONS)?;
    let strategies = Database::open(&strategies, crate::router::MIGRATIONS)?;
    let databases = vec![models.clone(), strategies.clone()];
    let registry = ModelRegistry::open(
        models,
        RegistrySettings::default(),
        connectors.clone(),
        events.clone(),
    );
    let registry = Arc::new(registry.await?);
    let router = Router::open(
        RouterSettings::default(),
        registry.clone(),
        connectors,
        events.clone(),
        strategies,
    )
    .await?;
    events.register("model_registry", door.metrics.registry());
    registry.register(door.metrics.registry());
    router.register(door.metrics.registry());
    let builder = door.server("model_registry")?;
    let server = builder.build::<ModelRegistryServiceServer<ModelRegistry>>()?;
    let server = server
        .add_service(ModelRegistryServiceServer::from_arc(registry))
        .add_service(RouterServiceServer::new(router))
        .bind(door.listen)
        .await?;
    Ok(Service {
        server,
        events,
        databases,
        drain: Box::new(|_| Box::pin(std::future::ready(()))),
    })
}

/// Starts ChainEngineService and ChainStoreService.
///
/// # Errors
/// [`StartError`]
pub async fn chain_engine(
    door: &mut Door<'_>,
    router: Arc<dyn RouterClient>,
) -> Result<Service, StartError> {
    let events = Events::start(Arc::clone(&door.log));
    let database = Database::open(
        &door.data.join("chain_engine.db"),
        crate::chain_engine::MIGRATIONS,
    )?;
    let databases = vec![database.clone()];
    let engine = ChainEngine::open(
        ChainEngineSettings::default(),
        database,
        router,
        events.clone(),
    );
    let engine = Arc::new(engine.await?);
    events.register("chain_engine", door.metrics.registry());
    engine.register(door.metrics.registry());
    let builder = door.server("chain_engine")?;
    let server = builder.build::<ChainEngineServiceServer<ChainEngine>>()?;
    let server = server
        .add_service(ChainEngineServiceServer::from_arc(engine.clone()))
        .add_service(ChainStoreServiceServer::from_arc(engine.clone()))
        .bind(door.listen)
        .await?;
    Ok(Service {
        server,
        events,
        databases,
        drain: Box::new(move |limit| Box::pin(async move { engine.drain(limit).await })),
    })
}
