//! Certificates and keys for development: made on the first start, kept on the next ones.
//!
//! Owns the files of one directory: a CA, the certificates of the gateway and of the backends, the
//! identity key and the token secret. It does not own certificates for production, which come from
//! elsewhere and are only read.
//!
//! A key, a secret and the CA are never overwritten. A certificate is written anew only if this CA
//! issued it and it ends within 30 days, does not belong to its key, or lacks a name; so what somebody
//! else put there makes an error and is not lost. Each file appears whole or not at all (temporary
//! file, then rename), keys are created with mode 0600, and one process at a time does the work. Each
//! certificate is written after its key, so that a start that was cut short is completed by the next.
//!
//! Failure: a [`CertsError`] that names the file and what to do. Limits: the CA lives 10 years, a
//! certificate 397 days (the most that browsers take); another process is waited for at most 10 s.

mod authority;
mod leaf;
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use authority::Authority;
use leaf::{Leaf, LeafUse};
use store::Store;

/// The least length of the token secret, in bytes: what HS256 needs.
const MIN_SECRET_BYTES: usize = 32;

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevFiles {
    /// The CA's certificate, which clients trust.
    pub ca_cert: PathBuf,
    /// The CA's key.
    pub ca_key: PathBuf,
    /// The gateway's server certificate, for `localhost`, `127.0.0.1` and `::1`.
    pub gateway_cert: PathBuf,
    /// Its key.
    pub gateway_key: PathBuf,
    /// The client certificate that the gateway shows to backends.
    pub gateway_client_cert: PathBuf,
    /// Its key.
    pub gateway_client_key: PathBuf,
    /// The certificate of every backend, as server and as client.
    pub backend_cert: PathBuf,
    /// Its key.
    pub backend_key: PathBuf,
    /// The key that signs identities (PKCS#8, P-256).
    pub identity_key: PathBuf,
    /// Its public half, for backends.
    pub identity_public: PathBuf,
    /// The HS256 secret of tokens; the text of the file, without a final newline, is the secret.
    pub jwt_secret: PathBuf,
}

impl DevFiles {
    /// The names within `dir`; nothing is read or made.
    fn within(dir: &Path) -> Self {
        let file = |name| dir.join(name);
        Self {
            ca_cert: file("ca.crt"),
            ca_key: file("ca.key"),
            gateway_cert: file("gateway.crt"),
            gateway_key: file("gateway.key"),
            gateway_client_cert: file("gateway-client.crt"),
            gateway_client_key: file("gateway-client.key"),
            backend_cert: file("backend.crt"),
            backend_key: file("backend.key"),
            identity_key: file("identity.key"),
            identity_public: file("identity.pub"),
            jwt_secret: file("jwt.secret"),
        }
    }

    fn leaves(&self) -> [Leaf<'_>; 3] {
        [
            Leaf {
                cert: &self.gateway_cert,
                key: &self.gateway_key,
                common_name: "gateway",
                names: &["localhost", "127.0.0.1", "::1"],
                uses: &[LeafUse::Server],
            },
            Leaf {
                cert: &self.gateway_client_cert,
                key: &self.gateway_client_key,
                common_name: "gateway",
                names: &["gateway"],
                uses: &[LeafUse::Client],
            },
            Leaf {
                cert: &self.backend_cert,
                key: &self.backend_key,
                common_name: "backend",
                names: &["localhost", "127.0.0.1", "::1"],
                uses: &[LeafUse::Server, LeafUse::Client],
            },
        ]
    }
}

/// Why the files could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something that it should not.
    #[error("{path}: {why}", path = .path.display())]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// A certificate was issued by somebody else. It is left alone.
    #[error(
        "{path} was not issued by {ca}: move it and its key away to have new ones made",
        path = .path.display(), ca = .ca.display()
    )]
    Foreign {
        /// The certificate.
        path: PathBuf,
        /// The CA's certificate.
        ca: PathBuf,
    },
    /// A certificate is needed, but the CA's key is not there to issue it.
    #[error(
        "{leaf} is needed, but {ca_key} is missing: put it back, or remove {ca} to have a new CA made",
        leaf = .leaf.display(), ca_key = .ca_key.display(), ca = .ca.display()
    )]
    NoCaKey {
        /// The certificate that is missing or ends.
        leaf: PathBuf,
        /// The key that is not there.
        ca_key: PathBuf,
        /// The CA's certificate.
        ca: PathBuf,
    },
    /// Another process has been making the files for 10 s.
    #[error("another process holds {path}", path = .0.display())]
    Busy(PathBuf),
    /// A key or certificate could not be made.
    #[error("cannot make a key or certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The TLS library refused a certificate that was just made.
    #[error("cannot use a certificate: {0}")]
    Tls(String),
}

/// Makes what is missing in `dir` and renews what ends soon.
pub fn ensure(dir: &Path) -> Result<DevFiles, CertsError> {
    ensure_at(dir, SystemTime::now())
}

fn ensure_at(dir: &Path, now: SystemTime) -> Result<DevFiles, CertsError> {
    let store = Store::open(dir)?;
    let files = DevFiles::within(dir);
    let authority = Authority::load_or_make(&store, &files.ca_cert, &files.ca_key, now)?;
    for leaf in files.leaves() {
        leaf.ensure(&store, &authority, now)?;
    }
    ensure_identity(&store, &files)?;
    ensure_secret(&store, &files.jwt_secret)?;
    Ok(files)
}

fn ensure_identity(store: &Store, files: &DevFiles) -> Result<(), CertsError> {
    let public = store.key(&files.identity_key)?.public_key_pem();
    // It follows from the key, so rewriting it loses nothing.
    if store.read(&files.identity_public)?.as_deref() != Some(public.as_bytes()) {
        store.write_public(&files.identity_public, &public)?;
    }
    Ok(())
}

fn ensure_secret(store: &Store, path: &Path) -> Result<(), CertsError> {
    let Some(secret) = store.read(path)? else {
        let random: [u8; MIN_SECRET_BYTES] = rand::random();
        return store.write_private(path, &URL_SAFE_NO_PAD.encode(random));
    };
    if secret.trim_ascii_end().len() < MIN_SECRET_BYTES {
        let why = "the secret has less than 32 bytes: remove the file to have a new one made";
        return Err(CertsError::Unusable {
            path: path.to_owned(),
            why,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
