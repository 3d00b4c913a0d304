//! What the engine keeps in its database: stored chains, and executions with how they ended.
//!
//! Owns the tables and the SQL. Inputs, outputs and variables of executions are never written.

use intellirouter_proto::intellirouter::chain_engine::v1::{Chain, ChainStatusResponse};
use intellirouter_proto::intellirouter::common::v1::{ErrorDetails, Status as Ended};
use prost::Message;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::EngineError;
use super::limits::PAGE_BYTES;
use super::moment::Moment;
use crate::storage::StorageError;

/// The tables of the engine, oldest version first. They are for a database of their own.
pub const MIGRATIONS: &[&str] = &["CREATE TABLE chains (
        id TEXT PRIMARY KEY,
        bytes INTEGER NOT NULL,
        chain BLOB NOT NULL
     ) STRICT;
     -- Answers for all sizes without touching a chain.
     CREATE INDEX chains_by_size ON chains (bytes);
     CREATE TABLE executions (
        id TEXT PRIMARY KEY,
        subject TEXT,
        chain_id TEXT NOT NULL,
        status INTEGER NOT NULL,
        current_step TEXT NOT NULL,
        completed INTEGER NOT NULL,
        total INTEGER NOT NULL,
        error BLOB,
        started INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        ended INTEGER
     ) STRICT;
     CREATE INDEX executions_ended ON executions (ended) WHERE ended IS NOT NULL;
     CREATE INDEX executions_running ON executions (started) WHERE ended IS NULL;"];

/// Executions that one new one may prune, so that the write stays short.
const PRUNED_AT_ONCE: i64 = 64;
/// Interrupted executions that are told of one by one. More can't have run together, unless the
/// database failed again and again.
const INTERRUPTED_TOLD: u32 = 1000;

/// How much is kept of executions that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) executions: usize,
    /// Those that ended before are pruned.
    pub(super) after: Moment,
}

/// An execution, as it is recorded.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: String,
    /// Who started it, if callers are checked.
    pub(super) subject: Option<String>,
    pub(super) chain_id: String,
    pub(super) status: Ended,
    pub(super) current_step: String,
    pub(super) completed: u32,
    pub(super) total: u32,
    pub(super) error: Option<ErrorDetails>,
    pub(super) started: Moment,
    pub(super) updated: Moment,
}

impl From<Record> for ChainStatusResponse {
    fn from(record: Record) -> Self {
        Self {
            execution_id: record.id,
            status: record.status.into(),
            current_step_id: record.current_step,
            completed_steps: record.completed,
            total_steps: record.total,
            error: record.error,
            start_time: Some(record.started.into()),
            update_time: Some(record.updated.into()),
        }
    }
}

/// Records an execution that begins, and prunes some that ended.
pub(super) fn begin(db: &Connection, record: &Record, keep: Keep) -> Result<(), StorageError> {
    db.execute(
        "INSERT INTO executions
         (id, subject, chain_id, status, current_step, completed, total, started, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            record.id,
            record.subject,
            record.chain_id,
            i32::from(record.status),
            record.current_step,
            record.completed,
            record.total,
            record.started.0,
            record.updated.0,
        ],
    )?;
    prune(db, keep)
}

fn prune(db: &Connection, keep: Keep) -> Result<(), StorageError> {
    db.execute(
        "DELETE FROM executions WHERE id IN (
            SELECT id FROM executions WHERE ended < ?1 ORDER BY ended LIMIT ?2)",
        params![keep.after.0, PRUNED_AT_ONCE],
    )?;
    let count = "SELECT COUNT(*) FROM executions WHERE ended IS NOT NULL";
    let ended: i64 = db.query_row(count, [], |row| row.get(0))?;
    let too_many = ended.saturating_sub(integer(keep.executions));
    db.execute(
        "DELETE FROM executions WHERE id IN (
            SELECT id FROM executions WHERE ended IS NOT NULL ORDER BY ended LIMIT ?1)",
        [too_many.clamp(0, PRUNED_AT_ONCE)],
    )?;
    Ok(())
}

/// A count as SQLite has it; one that does not fit is no bound there.
fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Records how far an execution has come, or how it ended.
pub(super) fn update(db: &Connection, record: &Record) -> Result<(), StorageError> {
    let ended = (record.status != Ended::InProgress).then_some(record.updated.0);
    db.execute(
        "UPDATE executions SET status = ?2, current_step = ?3, completed = ?4, error = ?5,
         updated = ?6, ended = ?7 WHERE id = ?1",
        params![
            record.id,
            i32::from(record.status),
            record.current_step,
            record.completed,
            record.error.as_ref().map(Message::encode_to_vec),
            record.updated.0,
            ended,
        ],
    )?;
    Ok(())
}

/// One execution.
pub(super) fn find(db: &Connection, id: &str) -> Result<Option<Record>, StorageError> {
    let sql = format!("{SELECT} WHERE id = ?1");
    let found = db.query_row(&sql, [id], read).optional()?;
    Ok(found)
}

/// Ends all executions that are recorded as running, with `error`. Returns them, at most a
/// thousand, as they were.
pub(super) fn interrupt_all(
    db: &Connection,
    error: &ErrorDetails,
    now: Moment,
) -> Result<Vec<Record>, StorageError> {
    let sql = format!("{SELECT} WHERE ended IS NULL ORDER BY started LIMIT ?1");
    let mut statement = db.prepare(&sql)?;
    let records = statement.query_map([INTERRUPTED_TOLD], read)?;
    let records = records.collect::<Result<_, _>>()?;
    db.execute(
        "UPDATE executions SET status = ?1, current_step = '', error = ?2, updated = ?3, ended = ?3
         WHERE ended IS NULL",
        params![i32::from(Ended::Error), error.encode_to_vec(), now.0],
    )?;
    Ok(records)
}

const SELECT: &str = "SELECT id, subject, chain_id, status, current_step, completed, total, error,
    started, updated FROM executions";

fn read(row: &Row<'_>) -> Result<Record, rusqlite::Error> {
    let error: Option<Vec<u8>> = row.get(7)?;
    Ok(Record {
        id: row.get(0)?,
        subject: row.get(1)?,
        chain_id: row.get(2)?,
        // Only known values are written.
        status: Ended::try_from(row.get::<_, i32>(3)?).unwrap_or(Ended::Unspecified),
        current_step: row.get(4)?,
        completed: row.get(5)?,
        total: row.get(6)?,
        error: error.and_then(|bytes| ErrorDetails::decode(bytes.as_slice()).ok()),
        started: Moment(row.get(8)?),
        updated: Moment(row.get(9)?),
    })
}

/// Stores a chain in place of the one with its id, and says whether there was none.
pub(super) fn put_chain(
    db: &Connection,
    chain: &Chain,
    max_chains: usize,
    max_bytes: usize,
) -> Result<bool, EngineError> {
    let bytes = chain.encode_to_vec();
    let size = integer(bytes.len());
    let sizes = "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM chains";
    let both = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let (chains, total): (i64, i64) = db.query_row(sizes, [], both).map_err(StorageError::from)?;
    let one = "SELECT bytes FROM chains WHERE id = ?1";
    let before: Option<i64> = db
        .query_row(one, [&chain.id], |row| row.get(0))
        .optional()
        .map_err(StorageError::from)?;
    if before.is_none() && chains >= integer(max_chains) {
        return Err(EngineError::TooManyChains { max: max_chains });
    }
    let after = total - before.unwrap_or(0) + size;
    // What makes the whole smaller is welcome even where it is still too large.
    if after > integer(max_bytes) && after > total {
        return Err(EngineError::TooManyBytes { max: max_bytes });
    }
    db.execute(
        "INSERT OR REPLACE INTO chains (id, bytes, chain) VALUES (?1, ?2, ?3)",
        params![chain.id, size, bytes],
    )
    .map_err(StorageError::from)?;
    Ok(before.is_none())
}

/// One stored chain.
pub(super) fn chain(db: &Connection, id: &str) -> Result<Chain, EngineError> {
    let bytes: Option<Vec<u8>> = db
        .query_row("SELECT chain FROM chains WHERE id = ?1", [id], |row| {
            row.get(0)
        })
        .optional()
        .map_err(StorageError::from)?;
    let bytes = bytes.ok_or_else(|| EngineError::NoChain(id.to_owned()))?;
    decode(id, &bytes)
}

/// Removes a chain and returns it.
pub(super) fn delete_chain(db: &Connection, id: &str) -> Result<Chain, EngineError> {
    let chain = chain(db, id)?;
    db.execute("DELETE FROM chains WHERE id = ?1", [id])
        .map_err(StorageError::from)?;
    Ok(chain)
}

/// Chains above `after` in the order of ids, at most `limit` and about [`PAGE_BYTES`], and whether
/// there are more.
pub(super) fn page(
    db: &Connection,
    after: &str,
    limit: usize,
) -> Result<(Vec<Chain>, bool), EngineError> {
    let mut statement = db
        .prepare("SELECT id, bytes, chain FROM chains WHERE id > ?1 ORDER BY id")
        .map_err(StorageError::from)?;
    let mut rows = statement.query([after]).map_err(StorageError::from)?;
    let (mut chains, mut room) = (Vec::new(), integer(PAGE_BYTES));
    while let Some(row) = rows.next().map_err(StorageError::from)? {
        let size: i64 = row.get(1).map_err(StorageError::from)?;
        // One chain always fits, so that a page is never empty while there are more.
        if chains.len() == limit || size > room {
            return Ok((chains, true));
        }
        room -= size;
        let id: String = row.get(0).map_err(StorageError::from)?;
        let blob: Vec<u8> = row.get(2).map_err(StorageError::from)?;
        chains.push(decode(&id, &blob)?);
    }
    Ok((chains, false))
}

fn decode(id: &str, bytes: &[u8]) -> Result<Chain, EngineError> {
    Chain::decode(bytes).map_err(|_| EngineError::Damaged(id.to_owned()))
}
