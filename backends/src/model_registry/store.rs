//! Keeps the models in memory, ordered by id, and their API keys apart from them.
//!
//! Owns the rules that depend on what is there: ids are unique, server-set fields, the limits of
//! the whole, what an update keeps. It takes only requests that `validate` let through. The lock
//! is held for look-ups and single changes, never across an await and never while models are
//! copied or compared: readers get shared pointers. It fails with [`RegistryError`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use intellirouter_proto::intellirouter::model_registry::v1::{
    ConnectorConfig, ModelMetadata, ModelStatus,
};
use prost::Message;
use prost_types::Timestamp;

use super::STATUS_REASON;
use super::error::RegistryError;

/// Weight of the newest measurement in the average latency; one that is ten older has 2 %.
const LATENCY_WEIGHT: f32 = 0.2;

/// All models.
pub(super) struct Store {
    max_models: usize,
    max_bytes: usize,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<String, Entry>,
    /// The sum of the entries' bytes.
    bytes: usize,
}

struct Entry {
    /// Without the API key, so that whatever shows it cannot show the key.
    model: Arc<ModelMetadata>,
    api_key: ApiKey,
    /// Encoded size of what the client gave. What the registry adds later (reason of the status,
    /// outcome of a check) is not counted, so that a full registry can still be operated.
    bytes: usize,
}

/// A secret: it has no way out but to a connector.
#[derive(Default, PartialEq)]
struct ApiKey(String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl Entry {
    fn new(mut model: ModelMetadata) -> Self {
        let bytes = model.encoded_len();
        let api_key = match &mut model.connector_config {
            Some(connector) => ApiKey(std::mem::take(&mut connector.api_key)),
            None => ApiKey::default(),
        };
        Self {
            model: Arc::new(model),
            api_key,
            bytes,
        }
    }
}

impl Store {
    /// An empty store with these limits.
    pub(super) fn new(max_models: usize, max_bytes: usize) -> Self {
        Self {
            max_models,
            max_bytes,
            state: RwLock::default(),
        }
    }

    /// Adds a model.
    pub(super) fn insert(
        &self,
        mut model: ModelMetadata,
        now: Timestamp,
    ) -> Result<Arc<ModelMetadata>, RegistryError> {
        if model.status() == ModelStatus::Unspecified {
            model.set_status(ModelStatus::Available);
        }
        model.created_at = Some(now);
        model.updated_at = Some(now);
        model.last_checked_at = None;
        let entry = Entry::new(model);

        let mut state = self.write();
        if state.models.contains_key(&entry.model.id) {
            return Err(RegistryError::AlreadyExists(entry.model.id.clone()));
        }
        if state.models.len() >= self.max_models {
            return Err(RegistryError::TooManyModels {
                max: self.max_models,
            });
        }
        self.put(&mut state, entry)
    }

    /// Replaces a model, but for what the registry itself set and what the update leaves open.
    pub(super) fn replace(
        &self,
        mut model: ModelMetadata,
        now: Timestamp,
    ) -> Result<Arc<ModelMetadata>, RegistryError> {
        let mut state = self.write();
        let Some(old) = state.models.get(&model.id) else {
            return Err(RegistryError::NotFound(model.id));
        };
        if model.status() == ModelStatus::Unspecified {
            model.status = old.model.status;
        }
        if model.avg_latency_ms == 0.0 {
            model.avg_latency_ms = old.model.avg_latency_ms;
        }
        model.created_at = old.model.created_at;
        model.updated_at = Some(now);
        model.last_checked_at = old.model.last_checked_at;
        keep_key(&mut model, old)?;
        self.put(&mut state, Entry::new(model))
    }

    /// One model.
    pub(super) fn get(&self, id: &str) -> Result<Arc<ModelMetadata>, RegistryError> {
        let state = self.read();
        let entry = state.models.get(id);
        let entry = entry.ok_or_else(|| RegistryError::NotFound(id.to_owned()))?;
        Ok(Arc::clone(&entry.model))
    }

    /// Takes a model out.
    pub(super) fn remove(&self, id: &str) -> Result<Arc<ModelMetadata>, RegistryError> {
        let mut state = self.write();
        let entry = state.models.remove(id);
        let entry = entry.ok_or_else(|| RegistryError::NotFound(id.to_owned()))?;
        state.bytes -= entry.bytes;
        Ok(entry.model)
    }

    /// All models as they are now, ordered by id.
    pub(super) fn all(&self) -> Vec<Arc<ModelMetadata>> {
        let state = self.read();
        state
            .models
            .values()
            .map(|entry| Arc::clone(&entry.model))
            .collect()
    }

    /// How many models there are.
    pub(super) fn len(&self) -> usize {
        self.read().models.len()
    }

    /// The key of a model.
    #[cfg(test)]
    pub(super) fn api_key(&self, id: &str) -> Option<String> {
        self.read()
            .models
            .get(id)
            .map(|entry| entry.api_key.0.clone())
    }

    /// Sets the status, and the reason in place of the one before.
    pub(super) fn set_status(
        &self,
        id: &str,
        status: ModelStatus,
        reason: String,
        now: Timestamp,
    ) -> Result<Arc<ModelMetadata>, RegistryError> {
        self.change(id, |model| {
            model.set_status(status);
            model.updated_at = Some(now);
            if reason.is_empty() {
                model.metadata.remove(STATUS_REASON);
            } else {
                model.metadata.insert(STATUS_REASON.to_owned(), reason);
            }
            Ok(())
        })
    }

    /// Records when `checked` was checked, and how fast it answered, if it did.
    ///
    /// Fails if the model that is there now is not reached in the same way any more: the outcome
    /// says nothing about it.
    pub(super) fn record_check(
        &self,
        checked: &ModelMetadata,
        latency_ms: Option<f32>,
        at: Timestamp,
    ) -> Result<(), RegistryError> {
        self.change(&checked.id, |model| {
            let same = model.created_at == checked.created_at
                && model.connector_config == checked.connector_config;
            if !same {
                return Err(RegistryError::Changed(checked.id.clone()));
            }
            model.last_checked_at = Some(at);
            if let Some(latency) = latency_ms {
                model.avg_latency_ms = average(model.avg_latency_ms, latency);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut ModelMetadata) -> Result<(), RegistryError>,
    ) -> Result<Arc<ModelMetadata>, RegistryError> {
        let mut state = self.write();
        let entry = state.models.get_mut(id);
        let entry = entry.ok_or_else(|| RegistryError::NotFound(id.to_owned()))?;
        change(Arc::make_mut(&mut entry.model))?;
        Ok(Arc::clone(&entry.model))
    }

    /// The one way in, so that the count of bytes is right.
    fn put(&self, state: &mut State, entry: Entry) -> Result<Arc<ModelMetadata>, RegistryError> {
        let before = state.models.get(&entry.model.id).map_or(0, |old| old.bytes);
        let bytes = state.bytes - before + entry.bytes;
        // What makes the whole smaller is welcome even where it is still too large.
        if bytes > self.max_bytes && entry.bytes > before {
            return Err(RegistryError::TooManyBytes {
                max: self.max_bytes,
            });
        }
        state.bytes = bytes;
        let model = Arc::clone(&entry.model);
        state.models.insert(model.id.clone(), entry);
        Ok(model)
    }

    // Every change checks first and then alters the map in steps that cannot panic, so after a
    // panic elsewhere in the call the state is whole, and refusing all further calls would help
    // nobody.

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients never see the key, so one that reads a model, changes it and writes it back sends none,
/// and means the one that is there. It is kept only for the endpoint that it was given for: else
/// whoever may update a model could have its key sent to an endpoint of their own.
fn keep_key(model: &mut ModelMetadata, old: &Entry) -> Result<(), RegistryError> {
    let Some(new) = &mut model.connector_config else {
        return Ok(());
    };
    if !new.api_key.is_empty() || old.api_key == ApiKey::default() {
        return Ok(());
    }
    let reached = |c: &ConnectorConfig| (c.r#type.clone(), c.endpoint_url.clone());
    if old.model.connector_config.as_ref().map(reached) != Some(reached(new)) {
        return Err(RegistryError::KeyNeeded(std::mem::take(&mut model.id)));
    }
    new.api_key.clone_from(&old.api_key.0);
    Ok(())
}

/// A moving average; 0 stands for: never measured.
fn average(before: f32, latency: f32) -> f32 {
    if before == 0.0 {
        latency
    } else {
        before + LATENCY_WEIGHT * (latency - before)
    }
}
