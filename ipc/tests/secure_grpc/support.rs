//! A certificate authority, a service that says who called it, and a server that runs it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use intellirouter::generated::intellirouter::rag_manager::v1 as rag;
use intellirouter::security::{
    Claims, JwtAuthenticator, JwtConfig, PeerInfo, SecureChannel, SecureGrpcServerBuilder,
    TlsConfig,
};
use intellirouter::{IpcError, IpcResult};
use rag::rag_persona_integration_service_client::RagPersonaIntegrationServiceClient;
use rag::rag_persona_integration_service_server::{
    RagPersonaIntegrationService, RagPersonaIntegrationServiceServer,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub(crate) type Client = RagPersonaIntegrationServiceClient<SecureChannel>;

pub(crate) fn jwt_config(secret: &str) -> JwtConfig {
    JwtConfig {
        secret: secret.to_owned(),
        issuer: "intellirouter".to_owned(),
        audience: "intellirouter-services".to_owned(),
        expiration_seconds: 3600,
    }
}

pub(crate) fn jwt() -> Arc<JwtAuthenticator> {
    Arc::new(JwtAuthenticator::new(jwt_config(SECRET)))
}

/// A CA with a certificate for a server and one for a client, on disk.
pub(crate) struct Pki {
    dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        fs::write(dir.path().join("ca.crt"), ca.pem()).unwrap();
        let issuer = Issuer::new(params, ca_key);
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &issuer).unwrap();
            fs::write(dir.path().join(format!("{name}.crt")), cert.pem()).unwrap();
            fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn tls(&self, name: &str) -> TlsConfig {
        let path = |file: String| -> PathBuf { self.dir.path().join(file) };
        TlsConfig::new(
            path(format!("{name}.crt")),
            path(format!("{name}.key")),
            path("ca.crt".into()),
        )
    }
}

/// Where a call with the header `wait` announces itself and waits to be let go on.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) entered: Notify,
    pub(crate) open: Notify,
}

/// Answers who called, over how long a certificate chain.
#[derive(Default)]
pub(crate) struct Echo {
    calls: Arc<AtomicU32>,
    gate: Arc<Gate>,
}

impl Echo {
    pub(crate) fn into_service(self) -> RagPersonaIntegrationServiceServer<Self> {
        RagPersonaIntegrationServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl RagPersonaIntegrationService for Echo {
    async fn augment_persona_request(
        &self,
        request: Request<rag::AugmentPersonaRequestRequest>,
    ) -> Result<Response<rag::AugmentPersonaRequestResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if request.metadata().contains_key("wait") {
            self.gate.entered.notify_one();
            self.gate.open.notified().await;
        }
        let caller = request
            .extensions()
            .get::<Claims>()
            .map_or("nobody", |claims| &claims.sub);
        let chain = request
            .extensions()
            .get::<PeerInfo>()
            .unwrap()
            .certificates
            .len();
        Ok(Response::new(rag::AugmentPersonaRequestResponse {
            augmented_request: format!("{caller}, {chain} certificates"),
            ..Default::default()
        }))
    }
}

/// A server that listens since before `start` returned.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) calls: Arc<AtomicU32>,
    pub(crate) gate: Arc<Gate>,
    signal: oneshot::Sender<()>,
    serving: JoinHandle<IpcResult<()>>,
}

impl Running {
    pub(crate) async fn start(builder: &SecureGrpcServerBuilder) -> Self {
        let echo = Echo::default();
        let (calls, gate) = (Arc::clone(&echo.calls), Arc::clone(&echo.gate));
        let router = builder
            .build::<RagPersonaIntegrationServiceServer<Echo>>()
            .unwrap();
        let router = builder.add_service(router, echo.into_service());
        let bound = router.bind(LOOPBACK).await.unwrap();
        let address = bound.local_addr();
        let (signal, stopped) = oneshot::channel();
        let serving = tokio::spawn(bound.serve_with_shutdown(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            calls,
            gate,
            signal,
            serving,
        }
    }

    pub(crate) async fn stop(self) -> IpcResult<()> {
        drop(self.signal);
        self.serving
            .await
            .map_err(|error| IpcError::Internal(error.to_string()))?
    }
}
