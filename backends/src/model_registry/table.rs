//! The models on disk: the tables, and the statements that read and change them.
//!
//! Owns the SQL. A model is kept as its protobuf encoding, which stays readable when fields are
//! added; its API key has a column of its own. It does not own the rules, nor the order of the
//! changes (`store`'s). It fails with what SQLite says, also for a row that cannot be decoded.

use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::ModelMetadata;
use prost::Message;
use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, params};

use super::record::Record;
use crate::connectors::ApiKey;

/// The tables of a registry, for [`Database::open`](crate::storage::Database::open). They need a
/// file of their own.
// The triggers keep the totals, so that a limit is judged without a look at every model.
pub const MIGRATIONS: &[&str] = &["
CREATE TABLE models (
    id TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    out_by_check INTEGER NOT NULL,
    api_key TEXT NOT NULL,
    model BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE totals (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    models INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (1, 0, 0);

CREATE TRIGGER model_added AFTER INSERT ON models BEGIN
    UPDATE totals SET models = models + 1, bytes = bytes + NEW.bytes;
END;
CREATE TRIGGER model_changed AFTER UPDATE ON models BEGIN
    UPDATE totals SET bytes = bytes - OLD.bytes + NEW.bytes;
END;
CREATE TRIGGER model_removed AFTER DELETE ON models BEGIN
    UPDATE totals SET models = models - 1, bytes = bytes - OLD.bytes;
END;
"];

const COLUMNS: &str = "bytes, out_by_check, api_key, model";

/// All models.
pub(super) fn all(db: &Connection) -> Result<Vec<Record>> {
    let mut rows = db.prepare(&format!("SELECT {COLUMNS} FROM models"))?;
    rows.query_map([], record)?.collect()
}

/// One model, if it is there.
pub(super) fn find(db: &Connection, id: &str) -> Result<Option<Record>> {
    let sql = format!("SELECT {COLUMNS} FROM models WHERE id = ?1");
    db.query_row(&sql, [id], record).optional()
}

/// How many models there are, and their bytes together.
pub(super) fn totals(db: &Connection) -> Result<(usize, usize)> {
    db.query_row("SELECT models, bytes FROM totals", [], |row| {
        Ok((size(row, 0)?, size(row, 1)?))
    })
}

/// Adds a model that is not there.
pub(super) fn insert(db: &Connection, new: &Record) -> Result<()> {
    let sql = "INSERT INTO models (id, bytes, out_by_check, api_key, model)
               VALUES (?1, ?2, ?3, ?4, ?5)";
    execute(db, sql, new)
}

/// Changes a model that is there.
pub(super) fn update(db: &Connection, new: &Record) -> Result<()> {
    let sql = "UPDATE models SET bytes = ?2, out_by_check = ?3, api_key = ?4, model = ?5
               WHERE id = ?1";
    execute(db, sql, new)
}

/// Takes a model out.
pub(super) fn delete(db: &Connection, id: &str) -> Result<()> {
    db.execute("DELETE FROM models WHERE id = ?1", [id])?;
    Ok(())
}

fn execute(db: &Connection, sql: &str, record: &Record) -> Result<()> {
    let values = params![
        record.id(),
        // No allocation is larger than this type can say.
        record.bytes as i64,
        record.out_by_check,
        record.api_key.expose(),
        record.model.encode_to_vec(),
    ];
    db.execute(sql, values)?;
    Ok(())
}

fn record(row: &Row<'_>) -> Result<Record> {
    let encoded: Vec<u8> = row.get(3)?;
    let model = ModelMetadata::decode(encoded.as_slice())
        .map_err(|error| Error::FromSqlConversionFailure(3, Type::Blob, Box::new(error)))?;
    Ok(Record {
        model: Arc::new(model),
        api_key: ApiKey::new(row.get(2)?),
        bytes: size(row, 0)?,
        out_by_check: row.get(1)?,
    })
}

fn size(row: &Row<'_>, column: usize) -> Result<usize> {
    let size: i64 = row.get(column)?;
    usize::try_from(size).map_err(|_| Error::IntegralValueOutOfRange(column, size))
}
