//! One test's own place: a temporary folder with development certificates,
//! and what is started from it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::certs::Certs;
use crate::service::Interop;
use crate::token::Token;
use crate::{Config, Gateway};

/// See the module's comment. The folder is removed when it is dropped.
pub struct Site {
    folder: TempDir,
    /// The development files.
    pub certs: Certs,
}

impl Site {
    /// A new folder, with certificates of its own.
    #[expect(
        clippy::new_without_default,
        reason = "it makes files and starts a process"
    )]
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let certs = Certs::make(folder.path().join("certs"));
        Self { folder, certs }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The text that the gateway verifies HS256 tokens with.
    pub fn secret(&self) -> String {
        self.certs.read("jwt.secret").trim_end().to_owned()
    }

    /// A good token for a caller with these roles.
    pub fn token(&self, roles: &[&str]) -> String {
        Token::new("alice", roles).hs256(self.secret().as_bytes())
    }

    /// Starts the foreign service, with the certificate for backends.
    pub fn interop(&self) -> Interop {
        self.interop_with(
            &self.certs.path("backend.crt"),
            &self.certs.path("backend.key"),
        )
    }

    /// Starts the foreign service with another certificate.
    pub fn interop_with(&self, cert: &Path, key: &Path) -> Interop {
        Interop::start(cert, key, &self.certs.path("ca.crt"))
    }

    /// Starts a gateway and waits until it listens.
    pub fn gateway(&self, config: &Config) -> Gateway {
        Gateway::start(self, config)
    }
}
