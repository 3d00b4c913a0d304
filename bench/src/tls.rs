//! TLS as every benchmark binary speaks it: aws-lc-rs, ALPN `h2`.
//!
//! Owns: reading PEM files and building rustls configs. A server puts AES-128
//! first and decides itself, so that every peer encrypts its upstream traffic
//! with the same cipher and none gains by its client's taste.
//! Fails with the name of the file that cannot be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, Args)]
pub struct Identity {
    /// Certificate chain, leaf first.
    #[arg(long)]
    pub cert: PathBuf,
    /// Private key of the leaf.
    #[arg(long)]
    pub key: PathBuf,
}

type Loaded = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    fn load(&self) -> Result<Loaded, Error> {
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| format!("{}: {error}", self.key.display()))?;
        Ok((certificates(&self.cert)?, key))
    }
}

/// A server's config; with `client_ca`, a client certificate of it is required.
///
/// # Errors
/// If a file cannot be read or does not hold what it should.
pub fn server(identity: &Identity, client_ca: Option<&Path>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(aes128_first());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider).build()?,
        ),
    };
    let (chain, key) = identity.load()?;
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.ignore_client_order = true;
    Ok(config)
}

/// A client's config; with `identity`, it shows that certificate when asked.
/// Sessions are never resumed: every connection pays the full handshake.
///
/// # Errors
/// If a file cannot be read or does not hold what it should.
pub fn client(ca: &Path, identity: Option<&Identity>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aes128_first()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.load()?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn aes128_first() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    // A stable sort by "is not AES-128" keeps the provider's order otherwise.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{}: holds no certificate", path.display()).into()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}
