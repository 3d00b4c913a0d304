//! `intellirouter up`: everything in one process, for development.
//!
//! The gateway and the services are the same as in separate processes and
//! talk the same way, over mTLS on loopback; only the threads are shared. The
//! configuration is text like any other and goes through the same checks.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use intellirouter::security::{IdentityVerifier, SecureGrpcServerBuilder, TlsConfig};
use intellirouter_backends::model_registry::{ModelRegistry, RegistrySettings};
use intellirouter_proto::intellirouter::model_registry::v1::model_registry_service_server::ModelRegistryServiceServer;
use tokio::sync::oneshot;

use super::{Failure, control_runtime, token};
use crate::certs::{self, DevFiles};
use crate::{Bound, Config, process};

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
}

/// The roles of the token that is printed.
const ROLES: &[&str] = &["admin"];

impl Up {
    pub(super) fn run(self) -> Result<(), Failure> {
        let files = certs::ensure(&self.certs).map_err(Failure::other)?;
        let runtime = control_runtime()?;
        let result = runtime.block_on(self.serve(&files));
        runtime.shutdown_background();
        result
    }

    async fn serve(&self, files: &DevFiles) -> Result<(), Failure> {
        let (stop, stopped) = oneshot::channel::<()>();
        let registry = registry(files, stopped).await?;
        let text = self.config(files, registry);
        let config = Config::parse(&text, "built-in configuration", Path::new(""))
            .map_err(Failure::other)?;
        let _log = process::log(&config);
        let token = token::mint(
            &self.certs,
            "developer",
            ROLES.iter().map(ToString::to_string).collect(),
            Duration::from_secs(3600),
            ("intellirouter".into(), "intellirouter-services".into()),
        )?;
        let bound = Bound::new(config).await?;
        let (address, admin) = (bound.address()?, bound.admin_address()?);
        let help = help(address, &self.certs, &token);
        bound
            .run(|| {
                super::gateway::announce(address, admin);
                super::say(&format!("\n{help}"));
            })
            .await?;
        drop(stop);
        Ok(())
    }

    fn config(&self, files: &DevFiles, registry: SocketAddr) -> String {
        // JSON strings are TOML basic strings.
        let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
        format!(
            r#"
listen = {{ address = "{listen}", cert_file = {cert}, key_file = {key} }}
admin = {{ address = "{admin}" }}
identity = {{ key_file = {identity} }}

[auth]
keys = [{{ algorithm = "HS256", secret_file = {secret} }}]

[events]
store = "memory:"

[[upstreams]]
name = "model_registry"
endpoints = ["https://{registry}"]
ca_file = {ca}
cert_file = {client_cert}
key_file = {client_key}
server_name = "localhost"

[[routes]]
match = "/intellirouter.model_registry.v1.ModelRegistryService/*"
upstream = "model_registry"
"#,
            listen = self.listen,
            admin = self.admin,
            cert = quoted(&files.gateway_cert),
            key = quoted(&files.gateway_key),
            identity = quoted(&files.identity_key),
            secret = quoted(&files.jwt_secret),
            ca = quoted(&files.ca_cert),
            client_cert = quoted(&files.gateway_client_cert),
            client_key = quoted(&files.gateway_client_key),
        )
    }
}

/// Starts the model registry on a free loopback port.
async fn registry(files: &DevFiles, stopped: oneshot::Receiver<()>) -> Result<SocketAddr, Failure> {
    let tls = TlsConfig::new(
        files.backend_cert.clone(),
        files.backend_key.clone(),
        files.ca_cert.clone(),
    );
    let public = std::fs::read(&files.identity_public).map_err(Failure::other)?;
    let identity =
        IdentityVerifier::from_public_pem(&public, "intellirouter-gateway", "model_registry")
            .map_err(Failure::other)?;
    let service = ModelRegistryServiceServer::from_arc(Arc::new(ModelRegistry::new(
        RegistrySettings::default(),
    )));
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(tls)
        .with_gateway_identity(identity);
    let router = builder
        .build::<ModelRegistryServiceServer<ModelRegistry>>()
        .map_err(Failure::other)?;
    let bound = builder
        .add_service(router, service)
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .map_err(Failure::other)?;
    let address = bound.local_addr();
    tokio::spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        if let Err(error) = bound.serve_with_shutdown(stop).await {
            tracing::error!(%error, "the model registry stopped");
        }
    });
    Ok(address)
}

/// What to try, ready to paste.
fn help(address: SocketAddr, certs: &Path, token: &str) -> String {
    let url = format!("https://localhost:{}", address.port());
    let ca = certs.join("ca.crt");
    let ca = ca.display();
    let mut text = String::new();
    let _ = write!(
        text,
        r#"# A token with role admin, good for an hour:
export TOKEN={token}

# A gRPC call from Python (needs: python3 -m pip install grpcio grpcio-tools):
python3 - <<'EOF'
import grpc, os, sys
sys.path.insert(0, "proto")
registry, services = grpc.protos_and_services("intellirouter/model_registry/v1/model_registry.proto")
tls = grpc.ssl_channel_credentials(open("{ca}", "rb").read())
token = [("authorization", "Bearer " + os.environ["TOKEN"])]
with grpc.secure_channel("localhost:{port}", tls) as channel:
    stub = services.ModelRegistryServiceStub(channel)
    print(stub.ListModels(registry.ListModelsRequest(), metadata=token))
EOF

# Follow events (leave it running in another terminal):
curl -N --cacert {ca} -H "authorization: Bearer $TOKEN" '{url}/events?channel=intellirouter:*'

# Publish one:
curl --cacert {ca} -H "authorization: Bearer $TOKEN" -d '{{"execution_id":"e1","output":"done","timestamp":"2026-01-01T00:00:00Z","metadata":{{}}}}' {url}/events/intellirouter:chain_engine:router_core:chain_execution_completed
"#,
        port = address.port(),
    );
    text
}
