//! What is recorded of a model, and what each kind of change makes of it.
//!
//! Owns the rules that depend on the record that is there: what the registry itself sets, what an
//! update keeps, and whose status a health check may change. Pure: it looks nothing up and stores
//! nothing. It fails only where an update needs the API key again.

use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::{
    ConnectorConfig, ModelMetadata, ModelStatus,
};
use prost::Message;
use prost_types::Timestamp;

use super::STATUS_REASON;
use super::error::RegistryError;
use crate::connectors::ApiKey;

/// A model as it is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Without the API key, so that whatever shows it cannot show the key.
    pub(super) model: Arc<ModelMetadata>,
    pub(super) api_key: ApiKey,
    /// Encoded size of what the client gave. What the registry adds later (reason of the status,
    /// outcome of a check) is not counted, so that a full registry can still be operated.
    pub(super) bytes: usize,
    /// It is UNAVAILABLE, and a health check made it so: then a health check may take it back.
    pub(super) out_by_check: bool,
}

impl Record {
    /// A new model.
    pub(super) fn registered(mut model: ModelMetadata, now: Timestamp) -> Self {
        if model.status() == ModelStatus::Unspecified {
            model.set_status(ModelStatus::Available);
        }
        model.created_at = Some(now);
        model.updated_at = Some(now);
        model.last_checked_at = None;
        Self::new(model, false)
    }

    fn new(mut model: ModelMetadata, out_by_check: bool) -> Self {
        let bytes = model.encoded_len();
        let api_key = match &mut model.connector_config {
            Some(connector) => ApiKey::new(std::mem::take(&mut connector.api_key)),
            None => ApiKey::default(),
        };
        Self {
            model: Arc::new(model),
            api_key,
            bytes,
            out_by_check,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.model.id
    }

    /// Replaced by `model`, but for what the registry itself set and what the update leaves open.
    pub(super) fn updated(
        &self,
        mut model: ModelMetadata,
        now: Timestamp,
    ) -> Result<Self, RegistryError> {
        if model.status() == ModelStatus::Unspecified {
            model.status = self.model.status;
        }
        if model.avg_latency_ms == 0.0 {
            model.avg_latency_ms = self.model.avg_latency_ms;
        }
        model.created_at = self.model.created_at;
        model.updated_at = Some(now);
        model.last_checked_at = self.model.last_checked_at;
        self.hand_key_to(&mut model)?;
        // Clients write back what they read, so a status that stays is nobody's decision.
        let out_by_check = self.out_by_check && model.status == self.model.status;
        Ok(Self::new(model, out_by_check))
    }

    /// Clients never see the key, so one that reads a model, changes it and writes it back sends
    /// none, and means the one that is there. It is kept only for the endpoint that it was given
    /// for: else whoever may update a model could have its key sent to an endpoint of their own.
    fn hand_key_to(&self, model: &mut ModelMetadata) -> Result<(), RegistryError> {
        let Some(new) = &mut model.connector_config else {
            return Ok(());
        };
        if !new.api_key.is_empty() || self.api_key.is_empty() {
            return Ok(());
        }
        let reached = |c: &ConnectorConfig| (c.r#type.clone(), c.endpoint_url.clone());
        if self.model.connector_config.as_ref().map(reached) != Some(reached(new)) {
            return Err(RegistryError::KeyNeeded(std::mem::take(&mut model.id)));
        }
        self.api_key.expose().clone_into(&mut new.api_key);
        Ok(())
    }

    /// With the status that an operator sets, and the reason in place of the one before.
    pub(super) fn with_status(&self, status: ModelStatus, reason: String, now: Timestamp) -> Self {
        let mut model = ModelMetadata::clone(&self.model);
        set_status(&mut model, status, reason, now);
        Self {
            model: Arc::new(model),
            out_by_check: false,
            ..self.clone()
        }
    }

    /// Whether a check with this outcome changes the status. Only what is AVAILABLE is taken out,
    /// and only what a check took out is taken back: every other status is an operator's.
    pub(super) fn turns(&self, healthy: bool) -> bool {
        if healthy {
            self.out_by_check
        } else {
            self.model.status() == ModelStatus::Available
        }
    }

    /// With the outcome of a check; `fault` says why the model is not healthy.
    pub(super) fn checked(&self, fault: Option<&str>, at: Timestamp) -> Self {
        let mut model = ModelMetadata::clone(&self.model);
        model.last_checked_at = Some(at);
        let turns = self.turns(fault.is_none());
        if turns {
            let (status, reason) = match fault {
                None => (ModelStatus::Available, String::new()),
                Some(why) => (
                    ModelStatus::Unavailable,
                    format!("health check failed: {why}"),
                ),
            };
            set_status(&mut model, status, reason, at);
        }
        Self {
            model: Arc::new(model),
            out_by_check: if turns {
                fault.is_some()
            } else {
                self.out_by_check
            },
            ..self.clone()
        }
    }

    /// Whether a check of `other` says something about this one: it is the same registration,
    /// reached in the same way and with the same key.
    pub(super) fn reached_like(&self, other: &Self) -> bool {
        self.model.created_at == other.model.created_at
            && self.model.connector_config == other.model.connector_config
            && self.api_key == other.api_key
    }
}

fn set_status(model: &mut ModelMetadata, status: ModelStatus, reason: String, now: Timestamp) {
    model.set_status(status);
    model.updated_at = Some(now);
    if reason.is_empty() {
        model.metadata.remove(STATUS_REASON);
    } else {
        model.metadata.insert(STATUS_REASON.to_owned(), reason);
    }
}
