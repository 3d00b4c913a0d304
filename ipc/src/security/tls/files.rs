//! The PEM files of one party: where they are, and what was in them when they were read.
//!
//! Reading and building are apart, so that what was compared with the last look is also what is
//! used, and not what the files hold a moment later.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{IpcError, IpcResult};

pub(super) const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where the files are.
#[derive(Debug, Clone)]
pub(in crate::security) struct TlsPaths {
    /// The own certificate and its key.
    pub(in crate::security) identity: Option<(PathBuf, PathBuf)>,
    /// The CA that vouches for the others.
    pub(in crate::security) ca: Option<PathBuf>,
}

/// What they held. Has no `Debug`: there is a key in it.
pub(in crate::security) struct TlsFiles {
    identity: Option<(Pem, Pem)>,
    ca: Option<Pem>,
}

struct Pem {
    what: &'static str,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TlsPaths {
    /// Reads all files; blocks as long as the disk does.
    pub(in crate::security) fn read(&self) -> IpcResult<TlsFiles> {
        let identity = match &self.identity {
            Some((cert, key)) => Some((read("certificate", cert)?, read("key", key)?)),
            None => None,
        };
        let ca = match &self.ca {
            Some(ca) => Some(read("CA", ca)?),
            None => None,
        };
        Ok(TlsFiles { identity, ca })
    }
}

impl TlsFiles {
    /// Tells one content from another, without keeping a second copy of the key.
    pub(in crate::security) fn fingerprint(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        for pem in identity.chain(&self.ca) {
            // The length keeps a byte from moving unseen from one file to the next.
            context.update(&pem.bytes.len().to_be_bytes());
            context.update(&pem.bytes);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
    }

    pub(super) fn identity(&self, provider: &CryptoProvider) -> IpcResult<Option<CertifiedKey>> {
        let Some((cert, key)) = &self.identity else {
            return Ok(None);
        };
        let chain = cert.certificates()?;
        let private = PrivateKeyDer::from_pem_slice(&key.bytes)
            .map_err(|_| key.fault(&"expected a PEM private key (PKCS#8, SEC1 or PKCS#1)"))?;
        CertifiedKey::from_der(chain, private, provider)
            .map(Some)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    key.fault(&format_args!(
                        "it does not belong to the certificate in {}",
                        cert.path.display()
                    ))
                }
                rustls::Error::InvalidCertificate(_) => cert.fault(&error),
                other => key.fault(&other),
            })
    }

    /// The CA's certificates, ready for `verifier`, whose errors are the file's.
    pub(super) fn verifier<V, E: fmt::Display>(
        &self,
        verifier: impl FnOnce(Arc<RootCertStore>) -> Result<V, E>,
    ) -> IpcResult<Option<V>> {
        let Some(ca) = &self.ca else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in ca.certificates()? {
            roots.add(certificate).map_err(|error| ca.fault(&error))?;
        }
        verifier(Arc::new(roots))
            .map(Some)
            .map_err(|error| ca.fault(&error))
    }
}

impl Pem {
    fn certificates(&self) -> IpcResult<Vec<CertificateDer<'static>>> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|_| self.fault(&"a PEM block in it is damaged"))?;
        if certificates.is_empty() {
            return Err(self.fault(&"expected at least one PEM certificate"));
        }
        Ok(certificates)
    }

    fn fault(&self, why: &dyn fmt::Display) -> IpcError {
        fault(self.what, &self.path, why)
    }
}

fn read(what: &'static str, path: &Path) -> IpcResult<Pem> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(what, path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let why = "it has more than 1 MiB: expected a PEM file";
        return Err(fault(what, path, &why));
    }
    Ok(Pem {
        what,
        path: path.to_owned(),
        bytes,
    })
}

fn fault(what: &str, path: &Path, why: &dyn fmt::Display) -> IpcError {
    IpcError::Security(format!("{what} file {}: {why}", path.display()))
}
