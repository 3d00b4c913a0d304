//! What the snippets stand on: the files that `intellirouter certs` makes, in a directory that
//! goes away.

use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// Any free port.
pub(crate) const FREE_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A directory `certs` with the names that the guide uses.
pub(crate) struct Certs {
    dir: TempDir,
}

impl Certs {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate().unwrap();
        put("ca.crt", &params.self_signed(&ca_key).unwrap().pem());
        let issuer = Issuer::new(params, ca_key);

        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        put(
            "backend.crt",
            &params.signed_by(&key, &issuer).unwrap().pem(),
        );
        put("backend.key", &key.serialize_pem());

        let identity = KeyPair::generate().unwrap();
        put("identity.key", &identity.serialize_pem());
        put("identity.pub", &identity.public_key_pem());
        put("jwt.secret", &format!("{SECRET}\n"));
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What a snippet waits for, within 30 s.
pub(crate) async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .expect("nothing came")
}
