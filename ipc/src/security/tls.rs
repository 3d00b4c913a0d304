//! TLS settings from PEM files, for both directions.
//!
//! Owns reading and checking the files and building rustls configs; it does not own sockets,
//! handshakes or reload. The crypto provider is given explicitly (aws-lc-rs), so nothing depends on
//! what the process installed as its default. TLS 1.2 and 1.3.
//!
//! Every fault is an [`IpcError::Security`] that names the file and what was expected there: a file
//! that is missing or holds something else, a key that does not belong to its certificate, a CA file
//! without a certificate. Limits: 1 MiB per file.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::error::{IpcError, IpcResult};

/// gRPC is HTTP/2 only.
const ALPN_GRPC: &[&[u8]] = &[b"h2"];

const MAX_FILE_BYTES: u64 = 1024 * 1024;

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

    /// For calling a server: it must prove to be `domain`, and the own certificate is shown to it.
    pub fn load_client_config(&self, domain: &str) -> IpcResult<ClientConfig> {
        server_name(domain)?;
        client_config(
            Some(&self.ca_cert_path),
            Some((&self.cert_path, &self.key_path)),
            ALPN_GRPC,
        )
    }

    /// For a server: every client must show a certificate of the CA.
    pub fn load_server_config(&self) -> IpcResult<ServerConfig> {
        server_config(
            &self.cert_path,
            &self.key_path,
            Some(&self.ca_cert_path),
            ALPN_GRPC,
        )
    }
}

/// A config for accepting connections. With `client_ca`, clients without a certificate that leads
/// there are refused; without, nobody is asked for one.
///
/// Sessions are resumed from tickets that the client keeps, one per handshake, so that an idle or
/// gone client holds no memory here.
pub fn server_config(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
    alpn: &[&[u8]],
) -> IpcResult<ServerConfig> {
    let provider = provider();
    let identity = load_identity(cert, key, &provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(internal)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = load_roots(path)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| fault("CA", path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(internal)?;
    config.send_tls13_tickets = 1;
    config.alpn_protocols = protocols(alpn);
    Ok(config)
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
    let ca = ca.ok_or_else(|| {
        IpcError::Security(
            "a CA file is needed to check servers: the system's own CAs are not used".into(),
        )
    })?;
    let provider = provider();
    let roots = load_roots(ca)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| fault("CA", ca, &error))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(internal)?
        .with_webpki_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let identity = load_identity(cert, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
    };
    config.alpn_protocols = protocols(alpn);
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

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

fn load_identity(cert: &Path, key: &Path, provider: &CryptoProvider) -> IpcResult<CertifiedKey> {
    let chain = load_certificates("certificate", cert)?;
    let private = PrivateKeyDer::from_pem_slice(&read("key", key)?).map_err(|_| {
        fault(
            "key",
            key,
            &"expected a PEM private key (PKCS#8, SEC1 or PKCS#1)",
        )
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => fault(
            "key",
            key,
            &format_args!(
                "it does not belong to the certificate in {}",
                cert.display()
            ),
        ),
        rustls::Error::InvalidCertificate(_) => fault("certificate", cert, &error),
        other => fault("key", key, &other),
    })
}

fn load_roots(path: &Path) -> IpcResult<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates("CA", path)? {
        roots
            .add(certificate)
            .map_err(|error| fault("CA", path, &error))?;
    }
    Ok(Arc::new(roots))
}

fn load_certificates(what: &str, path: &Path) -> IpcResult<Vec<CertificateDer<'static>>> {
    let pem = read(what, path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| fault(what, path, &"a PEM block in it is damaged"))?;
    if certificates.is_empty() {
        return Err(fault(what, path, &"expected at least one PEM certificate"));
    }
    Ok(certificates)
}

fn read(what: &str, path: &Path) -> IpcResult<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(what, path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fault(
            what,
            path,
            &"it has more than 1 MiB: expected a PEM file",
        ));
    }
    Ok(bytes)
}

fn fault(what: &str, path: &Path, why: &dyn fmt::Display) -> IpcError {
    IpcError::Security(format!("{what} file {}: {why}", path.display()))
}

fn internal(error: rustls::Error) -> IpcError {
    IpcError::Internal(format!("TLS set-up: {error}"))
}

#[cfg(test)]
mod tests;
