//! A certificate authority, a service that says who called it, and a server that runs it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use intellirouter::generated::intellirouter::rag_manager::v1 as rag;
use intellirouter::security::{
    Claims, JwtAuthenticator, JwtConfig, PeerInfo, SecureChannel, SecureGrpcServerBuilder,
    SecureRouter, TlsConfig,
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
    issuer: Issuer<'static, KeyPair>,
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
        let pki = Self { dir, issuer };
        pki.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
        pki.issue("client", ExtendedKeyUsagePurpose::ClientAuth);
        pki
    }

    /// Writes a new certificate and its key, in place of those that were there.
    pub(crate) fn renew(&self, name: &str) {
        let usage = match name {
            "server" => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        };
        self.issue(name, usage);
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.crt")), cert.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn tls(&self, name: &str) -> TlsConfig {
        TlsConfig::new(
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key")),
            self.path("ca.crt"),
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
    /// What the last caller showed.
    shown: Arc<Mutex<Vec<u8>>>,
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
        let peer = request.extensions().get::<PeerInfo>().unwrap();
        let chain = peer.certificates.len();
        if let Some(own) = peer.certificates.first() {
            *self.shown.lock().unwrap() = own.to_vec();
        }
        Ok(Response::new(rag::AugmentPersonaRequestResponse {
            augmented_request: format!("{caller}, {chain} certificates"),
            ..Default::default()
        }))
    }
}

/// A server that listens since before `start` returned.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    signal: oneshot::Sender<()>,
    serving: JoinHandle<IpcResult<()>>,
}

impl Served {
    pub(crate) async fn start(router: SecureRouter) -> Self {
        Self::start_at(router, LOOPBACK).await
    }

    pub(crate) async fn start_at(router: SecureRouter, address: SocketAddr) -> Self {
        let bound = router.bind(address).await.unwrap();
        let address = bound.local_addr();
        let (signal, stopped) = oneshot::channel();
        let serving = tokio::spawn(bound.serve_with_shutdown(async {
            let _ = stopped.await;
        }));
        Self {
            address,
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

/// A server of [`Echo`].
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) calls: Arc<AtomicU32>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) shown: Arc<Mutex<Vec<u8>>>,
    served: Served,
}

impl Running {
    pub(crate) async fn start(builder: &SecureGrpcServerBuilder) -> Self {
        Self::start_at(builder, LOOPBACK).await
    }

    pub(crate) async fn start_at(builder: &SecureGrpcServerBuilder, address: SocketAddr) -> Self {
        let echo = Echo::default();
        let (calls, gate) = (Arc::clone(&echo.calls), Arc::clone(&echo.gate));
        let shown = Arc::clone(&echo.shown);
        let router = builder
            .build::<RagPersonaIntegrationServiceServer<Echo>>()
            .unwrap();
        let router = builder.add_service(router, echo.into_service());
        let served = Served::start_at(router, address).await;
        Self {
            address: served.address,
            calls,
            gate,
            shown,
            served,
        }
    }

    pub(crate) async fn stop(self) -> IpcResult<()> {
        self.served.stop().await
    }
}

/// Waits for what must come; fails after 60 s, which paused time does not really take.
pub(crate) async fn soon<T>(coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), coming)
        .await
        .expect("it never came")
}

/// Asks again and again until there is an answer, within the same time.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    soon(async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
