//! The development CA: issues certificates, and says whether one is its own and still good.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::CertsError;
use super::store::Store;

const COMMON_NAME: &str = "IntelliRouter development CA";
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub(super) struct Authority {
    pub(super) cert_path: PathBuf,
    pub(super) key_path: PathBuf,
    pub(super) roots: Arc<RootCertStore>,
    // Not there where somebody keeps the CA's key elsewhere: then nothing can be issued.
    issuer: Option<Issuer<'static, KeyPair>>,
}

impl Authority {
    pub(super) fn load_or_make(
        store: &Store,
        cert_path: &Path,
        key_path: &Path,
        now: SystemTime,
    ) -> Result<Self, CertsError> {
        let (cert, key) = match store.read(cert_path)? {
            Some(pem) => (parse(&pem), store.existing_key(key_path)?),
            None => {
                // Also for a key that is there already: a start was cut short between the two.
                let key = store.key(key_path)?;
                let cert = params(now)?.self_signed(&key)?;
                store.write_public(cert_path, &cert.pem())?;
                (Some(cert.der().clone()), Some(key))
            }
        };
        let why = "expected a PEM certificate of a CA: remove the file to have a new one made";
        let unusable = || CertsError::Unusable {
            path: cert_path.to_owned(),
            why,
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(cert.ok_or_else(unusable)?)
            .map_err(|_| unusable())?;
        let issuer = match key {
            Some(key) => Some(Issuer::new(params(now)?, key)),
            None => None,
        };
        Ok(Self {
            cert_path: cert_path.to_owned(),
            key_path: key_path.to_owned(),
            roots: Arc::new(roots),
            issuer,
        })
    }

    pub(super) fn issuer(&self) -> Option<&Issuer<'static, KeyPair>> {
        self.issuer.as_ref()
    }
}

fn parse(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem).ok()
}

// The name and the key usage are also what `Issuer` needs to issue for a CA made earlier, so they
// must stay as they are.
fn params(now: SystemTime) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::new([])?;
    params
        .distinguished_name
        .push(DnType::CommonName, COMMON_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    super::leaf::set_validity(&mut params, now, LIFETIME);
    Ok(params)
}
