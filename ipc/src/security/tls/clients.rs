//! What a server wants of its clients' certificates, and judging one apart from a handshake.
//!
//! A handshake judges a certificate once. Whoever keeps a connection for long may do it again: with
//! other authorities, after the CA file changed, and at a later time.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{TlsPaths, provider};
use crate::error::{IpcError, IpcResult};

/// Whether clients show a certificate, and the CA file in PEM that it must lead to.
///
/// One that does not lead there is refused with its connection, also where it is optional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates<'a> {
    /// Nobody is asked for one.
    Ignored,
    /// Clients are asked for one, and may do without.
    Optional(&'a Path),
    /// Clients without one are refused.
    Required(&'a Path),
}

impl<'a> ClientCertificates<'a> {
    pub(super) fn ca(self) -> Option<&'a Path> {
        match self {
            Self::Ignored => None,
            Self::Optional(ca) | Self::Required(ca) => Some(ca),
        }
    }
}

/// Judges client certificates as a handshake does, by the authorities of one CA file.
pub struct ClientVerifier {
    verifier: Arc<dyn ClientCertVerifier>,
    fingerprint: [u8; 32],
}

impl ClientVerifier {
    /// Reads the CA file; fails as a server config for it would.
    pub fn load(ca: &Path) -> IpcResult<Self> {
        let paths = TlsPaths {
            identity: None,
            ca: Some(ca.to_owned()),
        };
        let files = paths.read()?;
        let verifier = files.verifier(|roots| {
            WebPkiClientVerifier::builder_with_provider(roots, provider()).build()
        })?;
        let verifier = verifier
            .ok_or_else(|| IpcError::Security("a CA file is needed to check clients".into()))?;
        Ok(Self {
            verifier,
            fingerprint: files.fingerprint(),
        })
    }

    /// Whether a client may be taken for who its certificate says; `chain` as it was shown, the
    /// client's own first.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> IpcResult<()> {
        let (own, intermediates) = chain
            .split_first()
            .ok_or_else(|| IpcError::Security("the client showed no certificate".into()))?;
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        self.verifier
            .verify_client_cert(own, intermediates, now)
            .map(|_| ())
            .map_err(|error| IpcError::Security(format!("client certificate: {error}")))
    }

    /// Whether both were read from the same content.
    pub fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
