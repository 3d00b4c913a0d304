//! The thread that writes: many writes share a commit, and each is answered after it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::mpsc;

use super::{BUSY_TIMEOUT, StorageError};

const WRITES_PER_COMMIT: usize = 64;
/// How long emptying the log waits for readers, while nothing else is written.
const EMPTYING_TIMEOUT: Duration = Duration::from_millis(100);

/// Tells the caller of a write how it went, once the commit of its transaction has ended.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StorageError>) + Send>;
/// One write, or the reason why it can't be done.
pub(super) type Write = Box<dyn FnOnce(Result<&mut Transaction<'_>, StorageError>) -> Done + Send>;

/// A write that was done, or undone because it failed.
pub(super) struct Done {
    /// It left something to commit.
    pub(super) kept: bool,
    pub(super) answer: Answer,
}

/// What the writing thread tells.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last write failed.
    pub(super) failing: AtomicBool,
    /// The log holds what was erased, and is to be emptied after the commit.
    pub(super) erased: AtomicBool,
}

/// The writing thread: ends when the database is closed.
pub(super) fn write_all(
    mut connection: Connection,
    mut waiting: mpsc::Receiver<Write>,
    state: &State,
) {
    while let Some(first) = waiting.blocking_recv() {
        let more = std::iter::from_fn(|| waiting.try_recv().ok());
        let batch = std::iter::once(first).chain(more).take(WRITES_PER_COMMIT);
        if let Err(error) = commit(&mut connection, batch, state) {
            tracing::error!(%error, "a write to the database failed");
        }
    }
}

pub(super) fn commit(
    connection: &mut Connection,
    batch: impl Iterator<Item = Write>,
    state: &State,
) -> Result<(), StorageError> {
    let mut batch = batch.collect::<Vec<_>>().into_iter();
    let mut done = Vec::new();
    let outcome = fill(connection, &mut batch, &mut done);
    // Before the answers: whoever has one can rely on it. A transaction that nothing was done in
    // says nothing about the disk.
    if outcome.is_err() || done.iter().any(|done| done.kept) {
        state.failing.store(outcome.is_err(), Ordering::Relaxed);
    }
    // Before them too, so that they can promise it. Only this thread sets the flag.
    if state.erased.load(Ordering::Relaxed) {
        match empty_log(connection) {
            Ok(emptied) => state.erased.store(!emptied, Ordering::Relaxed),
            Err(error) => tracing::error!(%error, "the log of the database was not emptied"),
        }
    }
    // What is left was not begun; its callers learn why.
    if let Err(error) = &outcome {
        done.extend(batch.map(|write| write(Err(error.clone()))));
    }
    for Done { answer, .. } in done {
        if catch_unwind(AssertUnwindSafe(|| answer(outcome.clone()))).is_err() {
            tracing::error!("what follows a write to the database panicked");
        }
    }
    outcome
}

/// Does the writes of `batch` in one transaction, until one of them breaks it.
fn fill(
    connection: &mut Connection,
    batch: &mut impl Iterator<Item = Write>,
    done: &mut Vec<Done>,
) -> Result<(), StorageError> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for write in batch {
        // A fault in one write must not end the thread that all others need.
        match catch_unwind(AssertUnwindSafe(|| write(Ok(&mut transaction)))) {
            Ok(written) => done.push(written),
            Err(_) => tracing::error!("a write to the database panicked"),
        }
        // A full or broken disk makes SQLite undo the whole transaction at once. A further write
        // would be committed on its own, while its caller hears of the failure of the whole.
        if transaction.is_autocommit() {
            break;
        }
    }
    Ok(transaction.commit()?)
}

/// Copies the log into the file and cuts it to nothing. Says whether that was possible: not while
/// somebody reads it.
pub(super) fn empty_log(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.busy_timeout(EMPTYING_TIMEOUT)?;
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    let busy = connection.query_row(sql, [], |row| row.get::<_, bool>(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(!busy?)
}
