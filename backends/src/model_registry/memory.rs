//! The models as they are read: in memory, ordered by id, with what is measured of each.
//!
//! Owns the copy that all readers see and the measurements. It does not own any rule: it takes over
//! what is already on disk. The lock is held for look-ups and single changes, never across an await
//! and never while models are copied or compared: readers get shared pointers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use intellirouter_proto::intellirouter::model_registry::v1::{ModelFilter, ModelMetadata};
use prost_types::Timestamp;

use super::error::RegistryError;
use super::filter;
use super::health::Outcome;
use super::record::Record;
use crate::router::candidate::{Candidate, Load};

/// A model and what is measured of it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) load: Arc<Load>,
    /// When it was last checked. A round of checks writes this to disk only when a status changes.
    checked_at: Option<Timestamp>,
    /// What the last check found; until there is one, what is on disk says.
    healthy: bool,
}

impl Entry {
    fn new(record: Record) -> Self {
        Self {
            load: Arc::new(Load::new(record.model.avg_latency_ms)),
            checked_at: record.model.last_checked_at,
            healthy: !record.out_by_check,
            record,
        }
    }

    pub(super) fn meets(&self, filter: &ModelFilter) -> bool {
        filter::matches(filter, &self.record.model, self.load.latency_ms())
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            model: Arc::clone(&self.record.model),
            api_key: self.record.api_key.clone(),
            load: Arc::clone(&self.load),
        }
    }

    /// As clients see it.
    pub(super) fn shown(&self) -> ModelMetadata {
        self.show(&self.record)
    }

    /// `record` with the measurements of this entry, if it is the same model.
    pub(super) fn show(&self, record: &Record) -> ModelMetadata {
        let mut model = ModelMetadata::clone(&record.model);
        if model.created_at == self.record.model.created_at {
            model.avg_latency_ms = self.load.latency_ms().unwrap_or(0.0);
            model.last_checked_at = newer(model.last_checked_at, self.checked_at);
        }
        model
    }
}

/// All models.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: RwLock<BTreeMap<String, Entry>>,
}

impl Memory {
    pub(super) fn new(records: Vec<Record>) -> Self {
        let entries = records
            .into_iter()
            .map(|record| (record.id().to_owned(), Entry::new(record)));
        Self {
            entries: RwLock::new(entries.collect()),
        }
    }

    /// One model.
    pub(super) fn get(&self, id: &str) -> Option<Entry> {
        self.read().get(id).cloned()
    }

    /// All models as they are now, ordered by id.
    pub(super) fn all(&self) -> Vec<Entry> {
        self.read().values().cloned().collect()
    }

    /// How many models there are.
    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    /// How many models have each status, by the contract's number.
    pub(super) fn by_status(&self) -> BTreeMap<i32, u32> {
        let mut counts = BTreeMap::new();
        for entry in self.read().values() {
            *counts.entry(entry.record.model.status).or_default() += 1;
        }
        counts
    }

    /// Takes over a record. The measurements of the same registration stay; a `latency_ms` that is
    /// not 0 replaces their average.
    pub(super) fn put(&self, record: &Record, latency_ms: f32) {
        let mut entries = self.write();
        if let Some(entry) = entries.get_mut(record.id())
            && entry.record.model.created_at == record.model.created_at
        {
            entry.checked_at = newer(entry.checked_at, record.model.last_checked_at);
            entry.load.set_latency(latency_ms);
            entry.record = record.clone();
        } else {
            entries.insert(record.id().to_owned(), Entry::new(record.clone()));
        }
    }

    /// Takes a model out.
    pub(super) fn remove(&self, id: &str) {
        self.write().remove(id);
    }

    /// Notes the outcome of a check of `checked`, and says whether the health changed.
    ///
    /// Fails if the model that is there now is not reached in the same way any more: the outcome
    /// says nothing about it.
    pub(super) fn note_check(
        &self,
        checked: &Record,
        outcome: &Outcome,
        at: Timestamp,
    ) -> Result<bool, RegistryError> {
        let mut entries = self.write();
        let entry = entries
            .get_mut(checked.id())
            .ok_or_else(|| RegistryError::NotFound(checked.id().to_owned()))?;
        if !entry.record.reached_like(checked) {
            return Err(RegistryError::Changed(checked.id().to_owned()));
        }
        if let Outcome::Answered(latency) = outcome {
            entry.load.observe_check(*latency);
        }
        entry.checked_at = newer(entry.checked_at, Some(at));
        let changed = entry.healthy != outcome.healthy();
        entry.healthy = outcome.healthy();
        Ok(changed)
    }

    // Every change alters the map in steps that cannot panic, so after a panic elsewhere the state
    // is whole, and refusing all further calls would help nobody.

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn newer(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    let time = |at: &Timestamp| (at.seconds, at.nanos);
    a.into_iter().chain(b).max_by_key(time)
}
