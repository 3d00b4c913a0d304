//! The connections that read, and their way back.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::BUSY_TIMEOUT;

pub(super) const READERS: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    pub(super) places: Semaphore,
    connections: Mutex<Vec<Connection>>,
    /// Held as long as the database is open; the system lets go of it when the process ends.
    _lock: File,
}

/// A reading connection that finds its way back, with its place, however the reading ends.
pub(super) struct Lent {
    readers: Arc<Readers>,
    connection: Option<Connection>,
}

impl Lent {
    pub(super) fn take(readers: Arc<Readers>) -> Option<Self> {
        let connection = readers.lock().pop();
        let lent = Self {
            readers,
            connection,
        };
        lent.connection.is_some().then_some(lent)
    }

    pub(super) fn get(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.readers.lock().extend(self.connection.take());
        self.readers.places.add_permits(1);
    }
}

impl Readers {
    /// Opens them all; `lock` is held as long as they are.
    pub(super) fn open(path: &Path, lock: File) -> Result<Self, rusqlite::Error> {
        let connections = (0..READERS)
            .map(|_| reader(path))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            places: Semaphore::new(READERS),
            connections: Mutex::new(connections),
            _lock: lock,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}
