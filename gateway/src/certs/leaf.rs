//! One certificate and its key: whether it is good, and a new one if it is not.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::CertificateError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::CertsError;
use super::authority::Authority;
use super::store::Store;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LIFETIME: Duration = DAY.saturating_mul(397);
const RENEW_BEFORE_END: Duration = DAY.saturating_mul(30);
// For other machines whose clocks are a little behind.
const START_BEFORE: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafUse {
    Server,
    Client,
}

/// What a certificate must be.
pub(super) struct Leaf<'a> {
    pub(super) cert: &'a Path,
    pub(super) key: &'a Path,
    pub(super) common_name: &'static str,
    /// DNS names and IP addresses.
    pub(super) names: &'static [&'static str],
    pub(super) uses: &'static [LeafUse],
}

/// What was found out about a certificate.
enum Verdict {
    Good,
    Renew,
    Foreign,
}

impl Leaf<'_> {
    pub(super) fn ensure(
        &self,
        store: &Store,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<(), CertsError> {
        let existing = store.read(self.cert)?;
        let key = store.key(self.key)?;
        if let Some(pem) = existing {
            match self.judge(&pem, &key, authority, now + RENEW_BEFORE_END)? {
                Verdict::Good => return Ok(()),
                Verdict::Renew => {}
                Verdict::Foreign => {
                    return Err(CertsError::Foreign {
                        path: self.cert.to_owned(),
                        ca: authority.cert_path.clone(),
                    });
                }
            }
        }
        let pem = self.issue(&key, authority, now)?;
        // The CA's key is another one's if what it signed does not lead to the CA's certificate.
        if !matches!(
            self.judge(pem.as_bytes(), &key, authority, now)?,
            Verdict::Good
        ) {
            let why = "it does not belong to the CA's certificate, or the CA was not made by this \
                       program: move both away to have new ones made";
            return Err(CertsError::Unusable {
                path: authority.key_path.clone(),
                why,
            });
        }
        store.write_public(self.cert, &pem)
    }

    fn issue(
        &self,
        key: &KeyPair,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<String, CertsError> {
        let issuer = authority.issuer().ok_or_else(|| CertsError::NoCaKey {
            leaf: self.cert.to_owned(),
            ca_key: authority.key_path.clone(),
            ca: authority.cert_path.clone(),
        })?;
        let names: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, self.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.uses.iter().map(|one| one.purpose()).collect();
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LIFETIME);
        Ok(params.signed_by(key, issuer)?.pem())
    }

    fn judge(
        &self,
        pem: &[u8],
        key: &KeyPair,
        authority: &Authority,
        at: SystemTime,
    ) -> Result<Verdict, CertsError> {
        let damaged = || {
            let why = "expected a PEM certificate: remove the file to have a new one made";
            CertsError::Unusable {
                path: self.cert.to_owned(),
                why,
            }
        };
        let cert = CertificateDer::from_pem_slice(pem).map_err(|_| damaged())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        match self.verify(&cert, authority, &provider, at) {
            Ok(()) => {}
            Err(rustls::Error::InvalidCertificate(fault)) => match fault {
                CertificateError::BadEncoding => return Err(damaged()),
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    return Ok(Verdict::Foreign);
                }
                // Expired, or lacks a name or use: issued by this CA, so there is nothing to lose.
                _ => return Ok(Verdict::Renew),
            },
            Err(error) => return Err(CertsError::Tls(error.to_string())),
        }
        let private = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| CertsError::Tls(error.to_owned()))?;
        match CertifiedKey::from_der(vec![cert], private, &provider) {
            Ok(_) => Ok(Verdict::Good),
            Err(rustls::Error::InconsistentKeys(_)) => Ok(Verdict::Renew),
            Err(error) => Err(CertsError::Tls(error.to_string())),
        }
    }

    /// As a peer would, for each use and name.
    fn verify(
        &self,
        cert: &CertificateDer<'_>,
        authority: &Authority,
        provider: &Arc<CryptoProvider>,
        at: SystemTime,
    ) -> Result<(), rustls::Error> {
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
        let roots = || Arc::clone(&authority.roots);
        let other = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
        if self.uses.contains(&LeafUse::Server) {
            let peer = WebPkiServerVerifier::builder_with_provider(roots(), Arc::clone(provider))
                .build()
                .map_err(|error| other(&error))?;
            for name in self.names {
                let name = ServerName::try_from(*name).map_err(|error| other(&error))?;
                peer.verify_server_cert(cert, &[], &name, &[], at)?;
            }
        }
        if self.uses.contains(&LeafUse::Client) {
            let peer = WebPkiClientVerifier::builder_with_provider(roots(), Arc::clone(provider))
                .build()
                .map_err(|error| other(&error))?;
            peer.verify_client_cert(cert, &[], at)?;
        }
        Ok(())
    }
}

impl LeafUse {
    fn purpose(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Self::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

/// `lifetime` in all, of which an hour has passed already.
pub(super) fn set_validity(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let start = now - START_BEFORE;
    params.not_before = start.into();
    params.not_after = (start + lifetime).into();
}
