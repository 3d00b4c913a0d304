//! An embedded SQL database (SQLite) for one service: what a write was answered for survives the
//! process.
//!
//! Owns the file, its lock, the migrations, the thread that writes and the connections that read.
//! It does not own any table: the services bring their migrations and their SQL. One thread
//! writes, in the order in which writes arrive; those that wait share one transaction, so that a
//! commit is paid once for many. The journal is a write-ahead log with full synchronisation: a
//! write is answered after the commit is on disk. Services keep secrets here, so all its files are
//! for their owner alone (mode 0600), whatever the umask; what is deleted is overwritten, and a write
//! that erases (see [`Database::erase_then`]) takes it out of the log too.
//!
//! It fails with [`StorageError`]: a full or broken disk fails the writes that it concerns and
//! nothing else. Limits: 1,024 writes wait, then further ones wait for a place; 64 writes share a
//! transaction; 4 reads run at a time; emptying the log waits 100 ms for them, else it is done after
//! the next write.

mod readers;
mod writer;

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, Transaction};
use rusqlite_migration::{M, Migrations};
use tokio::sync::{mpsc, oneshot};

use readers::{Lent, Readers};
use writer::{Answer, Done, State, Write, empty_log, write_all};

const WAITING_WRITES: usize = 1024;
/// How long a statement waits for the file, which a backup tool may hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the database did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The directory or file can't be made or opened.
    #[error("cannot open {path}: {why}", path = .path.display())]
    Open {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another process uses the file.
    #[error("{path} is used by another process", path = .0.display())]
    Locked(PathBuf),
    /// SQLite refused: the disk is full or broken, or the file is damaged.
    #[error("the database failed: {0}")]
    Database(Arc<rusqlite::Error>),
    /// The operation was given up, by a fault in it or because the database is closed.
    #[error("the database gave the operation up")]
    GivenUp,
}

impl From<rusqlite::Error> for StorageError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// An open database. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Database {
    writes: mpsc::Sender<Write>,
    readers: Arc<Readers>,
    state: Arc<State>,
}

impl Database {
    /// Opens the file, or makes it, and brings its tables to the newest version.
    ///
    /// # Errors
    /// [`StorageError`] that names the file: it is used by another process, can't be opened, is no
    /// database, or is of a newer version than this program knows.
    pub fn open(path: &Path, migrations: &[&'static str]) -> Result<Self, StorageError> {
        let refuse = |why: String| StorageError::Open {
            path: path.to_owned(),
            why,
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| refuse(error.to_string()))?;
        }
        let lock = lock(path)?;
        make_private(path).map_err(|error| refuse(error.to_string()))?;
        let mut connection = Connection::open(path).map_err(|error| refuse(error.to_string()))?;
        prepare(&mut connection, migrations).map_err(|error| refuse(error.to_string()))?;
        let readers = Readers::open(path, lock).map_err(|error| refuse(error.to_string()))?;
        let (writes, waiting) = mpsc::channel(WAITING_WRITES);
        let state = Arc::<State>::default();
        let written = Arc::clone(&state);
        std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || write_all(connection, waiting, &written))
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Self {
            writes,
            readers: Arc::new(readers),
            state,
        })
    }

    /// Whether the last commit failed: the disk is full or broken.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
    }

    /// Writes without changing anything, to learn whether the disk takes it.
    ///
    /// # Errors
    /// The [`StorageError`] that stopped it.
    pub async fn probe(&self) -> Result<(), StorageError> {
        // It is written even if it is the same.
        self.write(|db| {
            let version =
                db.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))?;
            Ok(db.pragma_update(None, "user_version", version)?)
        })
        .await
    }

    /// Runs `work` in a transaction and returns what it gave once the commit is on disk. An error
    /// of `work` undoes what it wrote. `committed` runs after the commit, on the writing thread:
    /// in the order of the writes, and before any later write begins.
    ///
    /// A caller that goes away while it waits changes nothing: the write is done.
    ///
    /// # Errors
    /// What `work` failed with, or the [`StorageError`] that stopped the commit.
    pub async fn write_then<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        committed: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let write: Write = Box::new(move |transaction| {
            let result = attempt(transaction, work);
            let kept = result.is_ok();
            let answer: Answer = Box::new(move |outcome| {
                let result = result.and_then(|value| {
                    outcome?;
                    committed(&value);
                    Ok(value)
                });
                // Whoever asked may be gone.
                let _ = tell.send(result);
            });
            Done { kept, answer }
        });
        let gone = |_| E::from(StorageError::GivenUp);
        self.writes
            .send(write)
            .await
            .map_err(|_| StorageError::GivenUp)?;
        told.await.map_err(gone)?
    }

    /// [`Database::write_then`] for work that deletes or replaces a secret: once it is answered,
    /// the old one is in no file any more, unless others kept reading the log meanwhile. It costs
    /// a copy of the log, at most about 4 MiB, shared by all writes of a commit.
    ///
    /// # Errors
    /// As there.
    pub async fn erase_then<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        committed: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let erasing = move |db: &Connection| {
            let value = work(db)?;
            state.erased.store(true, Ordering::Relaxed);
            Ok(value)
        };
        self.write_then(erasing, committed).await
    }

    /// [`Database::write_then`] with nothing to do after the commit.
    ///
    /// # Errors
    /// As there.
    pub async fn write<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        self.write_then(work, |_| ()).await
    }

    /// Runs `work` on a connection that only reads, on a thread where it may block.
    ///
    /// # Errors
    /// What `work` failed with, or [`StorageError::GivenUp`].
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        let reading = async move {
            // The place moves into the thread, so that a caller who goes away frees it only when
            // the connection is back.
            let blocking = Arc::clone(&readers);
            let place = readers.places.acquire().await.ok()?;
            place.forget();
            tokio::task::spawn_blocking(move || {
                let connection = Lent::take(blocking)?;
                Some(work(connection.get()?))
            })
            .await
            .ok()?
        };
        reading
            .await
            .unwrap_or_else(|| Err(StorageError::GivenUp.into()))
    }
}

/// Runs `work` so that an error undoes what it wrote, and nothing else.
fn attempt<T, E: From<StorageError>>(
    transaction: Result<&mut Transaction<'_>, StorageError>,
    work: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let savepoint = transaction?.savepoint().map_err(StorageError::from)?;
    // Dropped on an error, the savepoint undoes what was written.
    let value = work(&savepoint)?;
    savepoint.commit().map_err(StorageError::from)?;
    Ok(value)
}

/// Two processes with a copy of the tables in memory each would undo each other's work.
fn lock(path: &Path) -> Result<File, StorageError> {
    let name = beside(path, ".lock");
    let refuse = |error: io::Error| StorageError::Open {
        path: name.clone(),
        why: error.to_string(),
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(refuse(error)),
    }
}

/// Makes the file, if it is not there, and takes it from everybody but its owner. SQLite gives the
/// files that it makes beside it the same mode; those that are there may be of another time.
fn make_private(path: &Path) -> io::Result<()> {
    let mut make = OpenOptions::new();
    let make = make.create(true).truncate(false).write(true).mode(0o600);
    make.open(path)?
        .set_permissions(Permissions::from_mode(0o600))?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::set_permissions(beside(path, suffix), Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn prepare(
    connection: &mut Connection,
    migrations: &[&'static str],
) -> Result<(), rusqlite_migration::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "secure_delete", true)?;
    let steps = migrations.iter().map(|sql| M::up(sql)).collect();
    Migrations::new(steps).to_latest(connection)?;
    // A process that was killed may have left in it what it had erased.
    empty_log(connection)?;
    Ok(())
}

#[cfg(test)]
mod tests;
