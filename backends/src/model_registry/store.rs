//! Changes the models: on disk first, then in memory.
//!
//! Owns the rules that depend on all that is there: ids are unique, and the whole stays within its
//! limits. They are judged inside the transaction that writes, where no other change can come
//! between; memory follows in the order of the commits, so it is never ahead of the disk. It takes
//! only requests that `validate` let through. It fails with [`RegistryError`]; a change that failed
//! changed nothing, and one whose caller went away is made nevertheless.

use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::{ModelMetadata, ModelStatus};
use prost_types::Timestamp;
use rusqlite::Connection;

use super::error::RegistryError;
use super::health::Outcome;
use super::memory::{Entry, Memory};
use super::metrics::Metrics;
use super::record::Record;
use super::table;
use crate::storage::{Database, StorageError};

/// How much the registry holds in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) models: usize,
    pub(super) bytes: usize,
}

/// All models.
#[derive(Debug)]
pub(super) struct Store {
    database: Database,
    memory: Arc<Memory>,
    capacity: Capacity,
    metrics: Arc<Metrics>,
}

impl Store {
    /// Reads what is on disk.
    pub(super) async fn open(
        database: Database,
        capacity: Capacity,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StorageError> {
        let records = database.read(|db| Ok::<_, StorageError>(table::all(db)?));
        let memory = Arc::new(Memory::new(records.await?));
        Ok(Self {
            database,
            memory,
            capacity,
            metrics,
        })
    }

    /// The models as they are now.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// One model.
    pub(super) fn get(&self, id: &str) -> Result<Entry, RegistryError> {
        let entry = self.memory.get(id);
        entry.ok_or_else(|| RegistryError::NotFound(id.to_owned()))
    }

    /// Adds a model.
    pub(super) async fn insert(
        &self,
        model: ModelMetadata,
        now: Timestamp,
    ) -> Result<ModelMetadata, RegistryError> {
        let capacity = self.capacity;
        let new = Record::registered(model, now);
        let work = move |db: &Connection| {
            if table::find(db, new.id())?.is_some() {
                return Err(RegistryError::AlreadyExists(new.id().to_owned()));
            }
            capacity.judge_count(db)?;
            capacity.judge_bytes(db, 0, new.bytes)?;
            table::insert(db, &new)?;
            Ok(new)
        };
        let record = self.write(work, |memory, new| memory.put(new, 0.0)).await?;
        Ok(Arc::unwrap_or_clone(record.model))
    }

    /// Replaces a model, but for what the registry itself set and what the update leaves open.
    pub(super) async fn replace(
        &self,
        model: ModelMetadata,
        now: Timestamp,
    ) -> Result<ModelMetadata, RegistryError> {
        let capacity = self.capacity;
        let latency_ms = model.avg_latency_ms;
        let before = self.get(&model.id)?;
        let work = move |db: &Connection| {
            let old = find(db, &model.id)?;
            let new = old.updated(model, now)?;
            capacity.judge_bytes(db, old.bytes, new.bytes)?;
            table::update(db, &new)?;
            Ok(new)
        };
        let put = move |memory: &Memory, new: &Record| memory.put(new, latency_ms);
        let record = self.erase(work, put).await?;
        Ok(before.show(&record))
    }

    /// Takes a model out.
    pub(super) async fn remove(&self, id: &str) -> Result<ModelMetadata, RegistryError> {
        let before = self.get(id)?;
        let id = id.to_owned();
        let work = move |db: &Connection| {
            let old = find(db, &id)?;
            table::delete(db, &id)?;
            Ok(old)
        };
        let record = self.erase(work, |memory, old| memory.remove(old.id()));
        Ok(before.show(&record.await?))
    }

    /// Sets the status, and the reason in place of the one before.
    pub(super) async fn set_status(
        &self,
        id: &str,
        status: ModelStatus,
        reason: String,
        now: Timestamp,
    ) -> Result<ModelMetadata, RegistryError> {
        let before = self.get(id)?;
        let id = id.to_owned();
        let work = move |db: &Connection| {
            let new = find(db, &id)?.with_status(status, reason, now);
            table::update(db, &new)?;
            Ok(new)
        };
        let record = self.write(work, |memory, new| memory.put(new, 0.0)).await?;
        Ok(before.show(&record))
    }

    /// Records what came of a check of `checked`, and says whether the health or the status changed
    /// by it. Writes to disk if the status does, or if `durable` is set.
    ///
    /// Fails if the model that is there now is not reached in the same way any more: the outcome
    /// says nothing about it.
    pub(super) async fn record_check(
        &self,
        checked: &Record,
        outcome: &Outcome,
        at: Timestamp,
        durable: bool,
    ) -> Result<bool, RegistryError> {
        let healthy = outcome.healthy();
        let now = self.get(checked.id())?.record;
        let mut turned = false;
        if durable || now.turns(healthy) {
            let (checked, fault) = (checked.clone(), outcome.fault());
            let work = move |db: &Connection| {
                let old = find(db, checked.id())?;
                if !old.reached_like(&checked) {
                    return Err(RegistryError::Changed(checked.id().to_owned()));
                }
                let new = old.checked(fault.as_deref(), at);
                table::update(db, &new)?;
                Ok((new, old.turns(healthy)))
            };
            let put = |memory: &Memory, (new, _): &(Record, bool)| memory.put(new, 0.0);
            (_, turned) = self.write(work, put).await?;
        }
        Ok(self.memory.note_check(checked, outcome, at)? || turned)
    }

    /// Does `work` on disk and then, with what it gave, `apply` in memory.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, RegistryError> + Send + 'static,
        apply: impl FnOnce(&Memory, &T) + Send + 'static,
    ) -> Result<T, RegistryError> {
        let memory = Arc::clone(&self.memory);
        let committed = move |done: &T| apply(&memory, done);
        let written = self.database.write_then(work, committed).await;
        self.metrics.count_write(&written);
        written
    }

    /// [`Store::write`] for work that may put an end to an API key, which then leaves the disk.
    async fn erase<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, RegistryError> + Send + 'static,
        apply: impl FnOnce(&Memory, &T) + Send + 'static,
    ) -> Result<T, RegistryError> {
        let memory = Arc::clone(&self.memory);
        let committed = move |done: &T| apply(&memory, done);
        let written = self.database.erase_then(work, committed).await;
        self.metrics.count_write(&written);
        written
    }
}

impl Capacity {
    fn judge_count(self, db: &Connection) -> Result<(), RegistryError> {
        let (models, _) = table::totals(db)?;
        if models < self.models {
            Ok(())
        } else {
            Err(RegistryError::TooManyModels { max: self.models })
        }
    }

    /// Whether a model of so many bytes `before` may have so many `after`.
    fn judge_bytes(
        self,
        db: &Connection,
        before: usize,
        after: usize,
    ) -> Result<(), RegistryError> {
        let (_, all) = table::totals(db)?;
        // What makes the whole smaller is welcome even where it is still too large.
        if after <= before || all.saturating_sub(before) + after <= self.bytes {
            Ok(())
        } else {
            Err(RegistryError::TooManyBytes { max: self.bytes })
        }
    }
}

fn find(db: &Connection, id: &str) -> Result<Record, RegistryError> {
    table::find(db, id)?.ok_or_else(|| RegistryError::NotFound(id.to_owned()))
}
