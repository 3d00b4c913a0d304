//! The directory: whole files only, keys for the owner alone, one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::CertsError;

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;
const LOCK_FILE: &str = ".lock";
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);

pub(super) struct Store {
    dir: PathBuf,
    // Released when it is closed, also by a crash.
    _lock: File,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, CertsError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(|source| failed("create", dir, source))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock(&dir.join(LOCK_FILE))?,
        })
    }

    /// The file's content, or `None` if there is no such file.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, CertsError> {
        match fs::read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", path, source)),
        }
    }

    /// The key in the file; a new P-256 key if there is no such file.
    pub(super) fn key(&self, path: &Path) -> Result<KeyPair, CertsError> {
        if let Some(key) = self.existing_key(path)? {
            return Ok(key);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        self.write_private(path, &key.serialize_pem())?;
        Ok(key)
    }

    pub(super) fn existing_key(&self, path: &Path) -> Result<Option<KeyPair>, CertsError> {
        let Some(pem) = self.read(path)? else {
            return Ok(None);
        };
        let why = "expected a PEM private key: remove the file to have a new one made";
        std::str::from_utf8(&pem)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .map(Some)
            .ok_or_else(|| CertsError::Unusable {
                path: path.to_owned(),
                why,
            })
    }

    pub(super) fn write_private(&self, path: &Path, content: &str) -> Result<(), CertsError> {
        self.write(path, content, PRIVATE)
    }

    pub(super) fn write_public(&self, path: &Path, content: &str) -> Result<(), CertsError> {
        self.write(path, content, PUBLIC)
    }

    fn write(&self, path: &Path, content: &str, mode: u32) -> Result<(), CertsError> {
        // One name suffices: the lock is held. Left over from a crash, it is made anew, because
        // an old file would keep its old mode.
        let temporary = self.dir.join(".new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary, error));
            }
            _ => {}
        }
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&temporary)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            // The new name, too, must survive a power cut: certificates rely on their keys.
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| failed("write", path, source))
    }
}

fn lock(path: &Path) -> Result<File, CertsError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(path)
        .map_err(|source| failed("open", path, source))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(failed("lock", path, source)),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => return Err(CertsError::Busy(path.to_owned())),
        }
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CertsError {
    CertsError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
