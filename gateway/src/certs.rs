//! Development certificates and keys (first version by the lead: keep the field names of DevFiles).
use std::path::{Path, PathBuf};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};

/// Where the files are.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct DevFiles {
    pub ca_cert: PathBuf, pub ca_key: PathBuf,
    pub gateway_cert: PathBuf, pub gateway_key: PathBuf,
    pub gateway_client_cert: PathBuf, pub gateway_client_key: PathBuf,
    pub backend_cert: PathBuf, pub backend_key: PathBuf,
    pub identity_key: PathBuf, pub identity_public: PathBuf,
    pub jwt_secret: PathBuf,
}
/// Error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CertsError(String);
impl From<std::io::Error> for CertsError { fn from(e: std::io::Error) -> Self { Self(e.to_string()) } }
impl From<rcgen::Error> for CertsError { fn from(e: rcgen::Error) -> Self { Self(e.to_string()) } }

fn write(p: &Path, s: &str) -> std::io::Result<()> {
    use std::io::Write as _; use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(p)?.write_all(s.as_bytes())
}
/// Makes what is missing.
pub fn ensure(dir: &Path) -> Result<DevFiles, CertsError> {
    std::fs::create_dir_all(dir)?;
    let f = |n: &str| dir.join(n);
    let files = DevFiles { ca_cert: f("ca.crt"), ca_key: f("ca.key"), gateway_cert: f("gateway.crt"), gateway_key: f("gateway.key"),
        gateway_client_cert: f("gateway-client.crt"), gateway_client_key: f("gateway-client.key"), backend_cert: f("backend.crt"), backend_key: f("backend.key"),
        identity_key: f("identity.key"), identity_public: f("identity.pub"), jwt_secret: f("jwt.secret") };
    if files.jwt_secret.exists() { return Ok(files); }
    let mut p = CertificateParams::new(vec![])?; p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p.distinguished_name.push(DnType::CommonName, "IntelliRouter development CA");
    let ca = CertifiedIssuer::self_signed(p, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    write(&files.ca_cert, &ca.pem())?; write(&files.ca_key, &ca.key().serialize_pem())?;
    for (c, k, cn) in [(&files.gateway_cert, &files.gateway_key, "gateway"), (&files.gateway_client_cert, &files.gateway_client_key, "gateway"), (&files.backend_cert, &files.backend_key, "backend")] {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut p = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()])?;
        p.distinguished_name.push(DnType::CommonName, cn);
        p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        write(c, &p.signed_by(&key, &ca)?.pem())?; write(k, &key.serialize_pem())?;
    }
    let id = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write(&files.identity_key, &id.serialize_pem())?; write(&files.identity_public, &id.public_key_pem())?;
    use base64::Engine as _;
    write(&files.jwt_secret, &base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))?;
    Ok(files)
}
