//! TLS settings from PEM files, for both directions.
//!
//! Owns reading and checking the files and building rustls configs; it does not own sockets or
//! handshakes, nor when the files are read again ([`super::TlsReload`]). The crypto provider is
//! given explicitly (aws-lc-rs), so nothing depends on what the process installed as its default.
//! TLS 1.2 and 1.3.
//!
//! Every fault is an [`IpcError::Security`] that names the file and what was expected there: a file
//! that is missing or holds something else, a key that does not belong to its certificate, a CA file
//! without a certificate. Limits: 1 MiB per file.

mod clients;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientCertVerifierBuilder, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::error::{IpcError, IpcResult};

pub use clients::{ClientCertificates, ClientVerifier};
pub(super) use files::{TlsFiles, TlsPaths};

/// gRPC is HTTP/2 only.
pub(super) const ALPN_GRPC: &[&[u8]] = &[b"h2"];

/// The files of one party in mutual TLS: its certificate and key, and the CA that vouches for the
/// others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The own certificate, then its intermediates, in PEM.
    pub cert_path: PathBuf,
    /// The key of the certificate, in PEM (PKCS#8, SEC1 or PKCS#1).
    pub key_path: PathBuf,
    /// The certificates in PEM that the other side's must lead to.
    pub ca_cert_path: PathBuf,
}

impl TlsConfig {
    /// Only notes the paths; the files are read by the `load_*` methods.
    pub fn new(cert: PathBuf, key: PathBuf, ca: PathBuf) -> Self {
        Self {
            cert_path: cert,
            key_path: key,
            ca_cert_path: ca,
        }
    }

    pub(super) fn paths(&self) -> TlsPaths {
        TlsPaths {
            identity: Some((self.cert_path.clone(), self.key_path.clone())),
            ca: Some(self.ca_cert_path.clone()),
        }
    }

    /// For calling a server: it must prove to be `domain`, and the own certificate is shown to it.
    pub fn load_client_config(&self, domain: &str) -> IpcResult<ClientConfig> {
        server_name(domain)?;
        client_from(&self.paths().read()?, &protocols(ALPN_GRPC))
    }

    /// For a server: every client must show a certificate of the CA.
    pub fn load_server_config(&self) -> IpcResult<ServerConfig> {
        required_from(&self.paths().read()?, &protocols(ALPN_GRPC))
    }
}

/// A config for accepting connections; `clients` says whether they must show a certificate.
///
/// Sessions are resumed from tickets that the client keeps, one per handshake, so that an idle or
/// gone client holds no memory here.
pub fn server_config(
    cert: &Path,
    key: &Path,
    clients: ClientCertificates<'_>,
    alpn: &[&[u8]],
) -> IpcResult<ServerConfig> {
    let files = server_paths(cert, key, clients).read()?;
    server_builder(clients)(&files, &protocols(alpn))
}

/// A config for making connections: servers must lead to `ca`; `identity` is the certificate and key
/// that is shown when a server asks.
///
/// The CA must be given: trusting the public CAs of the system is not offered.
pub fn client_config(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
    alpn: &[&[u8]],
) -> IpcResult<ClientConfig> {
    client_from(&client_paths(ca, identity).read()?, &protocols(alpn))
}

pub(super) fn server_paths(cert: &Path, key: &Path, clients: ClientCertificates<'_>) -> TlsPaths {
    TlsPaths {
        identity: Some((cert.to_owned(), key.to_owned())),
        ca: clients.ca().map(Path::to_owned),
    }
}

pub(super) fn client_paths(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> TlsPaths {
    TlsPaths {
        identity: identity.map(|(cert, key)| (cert.to_owned(), key.to_owned())),
        ca: ca.map(Path::to_owned),
    }
}

pub(super) fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

/// From files that were read to the config that they are for.
pub(super) type Build<C> = fn(&TlsFiles, &[Vec<u8>]) -> IpcResult<C>;

pub(super) fn server_builder(clients: ClientCertificates<'_>) -> Build<ServerConfig> {
    match clients {
        ClientCertificates::Optional(_) => optional_from,
        // Without a CA among the files nobody is asked.
        ClientCertificates::Required(_) | ClientCertificates::Ignored => required_from,
    }
}

fn required_from(files: &TlsFiles, alpn: &[Vec<u8>]) -> IpcResult<ServerConfig> {
    server_from(files, alpn, |clients| clients)
}

fn optional_from(files: &TlsFiles, alpn: &[Vec<u8>]) -> IpcResult<ServerConfig> {
    server_from(
        files,
        alpn,
        ClientCertVerifierBuilder::allow_unauthenticated,
    )
}

fn server_from(
    files: &TlsFiles,
    alpn: &[Vec<u8>],
    demand: fn(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
) -> IpcResult<ServerConfig> {
    let provider = provider();
    let identity = files.identity(&provider)?.ok_or_else(|| {
        IpcError::Security("a certificate and its key are needed to serve over TLS".into())
    })?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(internal)?;
    let clients = files.verifier(|roots| {
        demand(WebPkiClientVerifier::builder_with_provider(roots, provider)).build()
    })?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(internal)?;
    config.send_tls13_tickets = 1;
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

pub(super) fn client_from(files: &TlsFiles, alpn: &[Vec<u8>]) -> IpcResult<ClientConfig> {
    let provider = provider();
    let servers = files.verifier(|roots| {
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()
    })?;
    let verifier = servers.ok_or_else(|| {
        IpcError::Security(
            "a CA file is needed to check servers: the system's own CAs are not used".into(),
        )
    })?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(internal)?
        .with_webpki_verifier(verifier);
    let mut config = match files.identity(&provider)? {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
    };
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

/// The name that a server must prove to have: a DNS name or an IP address.
pub(super) fn server_name(domain: &str) -> IpcResult<ServerName<'static>> {
    ServerName::try_from(domain.to_owned()).map_err(|_| {
        IpcError::InvalidArgument(format!(
            "server name {domain:?}: expected a DNS name or an IP address"
        ))
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn internal(error: rustls::Error) -> IpcError {
    IpcError::Internal(format!("TLS set-up: {error}"))
}

#[cfg(test)]
mod tests;
