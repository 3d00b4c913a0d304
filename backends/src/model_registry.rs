//! The models that can be called, and their state: `ModelRegistryService` of the contract.
//!
//! Owns the list of models, their API keys, and the health checks. It does not own the choice of a
//! model for a request (the router's, through [`ModelSource`]), the ways to reach a model (the
//! connectors'), nor who may call (the gateway's, by the roles that stand at the methods).
//!
//! State is in an SQLite database: what was acknowledged survives the process. API keys stand there
//! as they are given, in a file for its owner alone, and leave it when they are removed or replaced.
//! Reads come from a copy in memory, which is changed after the commit. What is measured of a model
//! (average latency; the time of a check that nobody called for) is in memory alone.
//!
//! It fails with a gRPC status and `google.rpc` details: a malformed request INVALID_ARGUMENT and
//! `BadRequest`, which names each field and what was expected; an unknown model NOT_FOUND, a
//! taken id ALREADY_EXISTS, both with `ResourceInfo`; a limit RESOURCE_EXHAUSTED and
//! `QuotaFailure`; a connector that is not there, or a key that must be given again,
//! FAILED_PRECONDITION and `PreconditionFailure`; a model that is changed while it is checked
//! ABORTED; a disk that does not take a change UNAVAILABLE and `RetryInfo`, and memory stays as it
//! was. An answer's in-band `status` is SUCCESS, or TIMEOUT for a check that got no answer.
//!
//! Limits: per request those in [`limits`], for the whole those in [`RegistrySettings`]; 16 health
//! checks at a time that nobody called for, 4 of them at one host and port.

mod error;
pub(crate) mod filter;
mod health;
pub mod limits;
mod memory;
mod metrics;
mod record;
mod rounds;
mod settings;
mod store;
mod table;
pub(crate) mod validate;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use intellirouter_proto::intellirouter::model_registry::v1::model_registry_service_server::ModelRegistryService;
use intellirouter_proto::intellirouter::model_registry::v1::{
    CheckModelHealthRequest, CheckModelHealthResponse, FindModelsRequest, FindModelsResponse,
    GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse, ModelFilter,
    ModelMetadata, RegisterModelRequest, RegisterModelResponse, RemoveModelRequest,
    RemoveModelResponse, UpdateModelRequest, UpdateModelResponse, UpdateModelStatusRequest,
    UpdateModelStatusResponse,
};
use prometheus_client::registry::Registry;
use prost::Message;
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use self::error::RegistryError;
use self::health::{By, Checker};
use self::memory::Entry;
use self::metrics::Metrics;
use self::rounds::Rounds;
pub use self::settings::RegistrySettings;
use self::store::{Capacity, Store};
pub use self::table::MIGRATIONS;
use crate::connectors::Connectors;
use crate::events::Events;
use crate::router::candidate::{Candidate, ModelSource};
use crate::storage::{Database, StorageError};

/// The entry of a model's `metadata` map that holds the reason of its last change of status. It
/// takes none of the room of the map.
pub const STATUS_REASON: &str = "status_reason";

/// Models looked at before other work gets its turn. A filter of the largest size
/// compares up to 2048 texts per model.
const MODELS_PER_TURN: usize = 128;

/// The service. Wrap it in the generated `ModelRegistryServiceServer` to serve it.
///
/// **Register** needs `id`, `name` and `provider`. The registry sets `created_at` and `updated_at`,
/// clears `last_checked_at`, and takes the status AVAILABLE if none is given. A connector needs a
/// `type` that exists and settings that it can work with; its `endpoint_url` may not hold a user
/// name or password. A model without one can be kept, but neither checked nor picked.
///
/// **Update** replaces the whole model, except: `created_at` and `last_checked_at` stay; a status
/// that is UNSPECIFIED and an `avg_latency_ms` of 0 leave the recorded one; an empty `api_key`
/// leaves the recorded one as long as connector type and endpoint URL are the same, and is refused
/// when they are not. An update without `connector_config` drops connector and key.
///
/// **UpdateModelStatus** keeps its reason in the model's `metadata` under [`STATUS_REASON`], where
/// a change without a reason removes it, and logs it.
///
/// **FindModels**: a model must meet every condition of the filter. `providers`, `types`,
/// `statuses`: it has one of these; empty, any. `min_context_window`: at least this many tokens.
/// `required_capabilities`: each that is true here is true there, and all
/// `additional_capabilities` are among its own. `max_cost_per_1k_input`, `max_cost_per_1k_output`,
/// `max_latency_ms`: at most this, and 0 is no bound; a model that was never measured counts as
/// latency 0, so that new models can be found. `tags` and `metadata`: it has all of these. Texts
/// are compared exactly. Like ListModels it answers in the order of ids.
///
/// **CheckModelHealth** asks through the model's connector, with its key, and records the time in
/// `last_checked_at`. It waits for `timeout_ms` of the request, else of the connector, else of the
/// settings; a connector that has a shorter limit of its own keeps to it. The in-band `status` is
/// that of the check, not of the model: SUCCESS also when it found the model not healthy, and
/// TIMEOUT when nothing came in time; both say `healthy: false` and why. A model that is AVAILABLE
/// and not healthy turns UNAVAILABLE, with the reason `health check failed: …`; one that a check made
/// UNAVAILABLE turns AVAILABLE when it is healthy again. Every other status is an operator's, and so
/// is UNAVAILABLE once an operator has set it: no check changes those. Who set it survives a
/// restart. Each check by call emits a `model_health_check` event.
///
/// The registry checks every model with a connector once per `health_interval` too, except those in
/// MAINTENANCE and DEPRECATED, and soon after a call could not reach it. Of these checks only a
/// change of the health is logged, emitted and written to disk.
///
/// `avg_latency_ms` of an answer is the live average: of the calls, beginning with what was
/// registered; as long as there is neither, of the health checks. A restart begins again with what
/// was registered.
///
/// An API key goes in and never comes out: answers, events, logs and `Debug` are without it. All
/// other fields come back, so a secret has no place in `parameters` or `metadata`.
pub struct ModelRegistry {
    max_answer_bytes: usize,
    store: Arc<Store>,
    connectors: Connectors,
    checker: Arc<Checker>,
    metrics: Arc<Metrics>,
    /// Where the router tells of models that it could not reach.
    reports: mpsc::Sender<String>,
    /// The rounds of health checks; they end with the registry.
    _rounds: JoinSet<()>,
    /// Wall clock; tests have their own.
    clock: fn() -> SystemTime,
}

impl ModelRegistry {
    /// Reads the models that `database` holds, and begins with the health checks. The database was
    /// opened with [`MIGRATIONS`], and nobody else writes to those tables.
    ///
    /// # Errors
    /// [`StorageError`] if the models cannot be read.
    pub async fn open(
        database: Database,
        settings: RegistrySettings,
        connectors: Connectors,
        events: Events,
    ) -> Result<Self, StorageError> {
        Self::open_at(database, settings, connectors, events, SystemTime::now).await
    }

    async fn open_at(
        database: Database,
        settings: RegistrySettings,
        connectors: Connectors,
        events: Events,
        clock: fn() -> SystemTime,
    ) -> Result<Self, StorageError> {
        let capacity = Capacity {
            models: settings.max_models,
            bytes: settings.max_total_bytes,
        };
        let metrics = Arc::new(Metrics::default());
        let store = Arc::new(Store::open(database, capacity, Arc::clone(&metrics)).await?);
        let checker = Arc::new(Checker {
            store: Arc::clone(&store),
            connectors: connectors.clone(),
            events,
            metrics: Arc::clone(&metrics),
            timeout: settings.health_timeout,
            clock,
        });
        let (reports, reported) = mpsc::channel(rounds::REPORTS);
        let mut rounds = JoinSet::new();
        if !settings.health_interval.is_zero() {
            let checker = Arc::clone(&checker);
            rounds.spawn(Rounds::new(checker, settings.health_interval).run(reported));
        }
        Ok(Self {
            max_answer_bytes: settings.max_answer_bytes,
            store,
            connectors,
            checker,
            metrics,
            reports,
            _rounds: rounds,
            clock,
        })
    }

    /// Makes the counts visible in `registry`: `model_registry_models` by status,
    /// `model_registry_health_checks_total` by outcome (healthy, failed, timeout) and
    /// `model_registry_writes_total` by outcome (committed, failed).
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(self.store.memory(), registry);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from((self.clock)())
    }

    /// The models that match, as long as they fit in an answer.
    async fn collect(&self, filter: &ModelFilter) -> Result<Vec<ModelMetadata>, RegistryError> {
        let max = self.max_answer_bytes;
        let empty = FindModelsResponse {
            status: Ended::Success.into(),
            ..Default::default()
        };
        let mut bytes = empty.encoded_len();
        let mut found = Vec::new();
        for entries in self.store.memory().all().chunks(MODELS_PER_TURN) {
            for entry in entries.iter().filter(|entry| entry.meets(filter)) {
                let model = entry.shown();
                bytes += prost::encoding::message::encoded_len(2, &model);
                if bytes > max {
                    return Err(RegistryError::AnswerTooLarge { max });
                }
                found.push(model);
            }
            tokio::task::yield_now().await;
        }
        Ok(found)
    }
}

impl ModelSource for ModelRegistry {
    fn candidates(&self) -> Vec<Candidate> {
        let entries = self.store.memory().all();
        entries.iter().map(Entry::candidate).collect()
    }

    fn candidate(&self, id: &str) -> Option<Candidate> {
        Some(self.store.memory().get(id)?.candidate())
    }

    fn report_unreachable(&self, id: &str, why: &str) {
        tracing::debug!(model_id = id, why, "a call could not reach the model");
        // Full, or without rounds: then the next round or a call finds out.
        let _ = self.reports.try_send(id.to_owned());
    }
}

impl fmt::Debug for ModelRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ModelRegistry");
        debug
            .field("max_answer_bytes", &self.max_answer_bytes)
            .field("models", &self.store.memory().len());
        debug.finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl ModelRegistryService for ModelRegistry {
    async fn register_model(
        &self,
        request: Request<RegisterModelRequest>,
    ) -> Result<Response<RegisterModelResponse>, Status> {
        let model = validate::model(request.into_inner().metadata, &self.connectors)?;
        let model = self.store.insert(model, self.now()).await?;
        tracing::info!(model_id = %model.id, "model registered");
        Ok(Response::new(RegisterModelResponse {
            status: Ended::Success.into(),
            metadata: Some(model),
            error: None,
        }))
    }

    async fn get_model(
        &self,
        request: Request<GetModelRequest>,
    ) -> Result<Response<GetModelResponse>, Status> {
        let GetModelRequest { model_id, .. } = request.into_inner();
        validate::model_id(&model_id)?;
        let entry = self.store.get(&model_id)?;
        Ok(Response::new(GetModelResponse {
            status: Ended::Success.into(),
            metadata: Some(entry.shown()),
            error: None,
        }))
    }

    async fn update_model(
        &self,
        request: Request<UpdateModelRequest>,
    ) -> Result<Response<UpdateModelResponse>, Status> {
        let model = validate::model(request.into_inner().metadata, &self.connectors)?;
        let model = self.store.replace(model, self.now()).await?;
        tracing::info!(model_id = %model.id, "model updated");
        Ok(Response::new(UpdateModelResponse {
            status: Ended::Success.into(),
            metadata: Some(model),
            error: None,
        }))
    }

    async fn remove_model(
        &self,
        request: Request<RemoveModelRequest>,
    ) -> Result<Response<RemoveModelResponse>, Status> {
        let RemoveModelRequest { model_id, .. } = request.into_inner();
        validate::model_id(&model_id)?;
        let model = self.store.remove(&model_id).await?;
        tracing::info!(model_id, "model removed");
        Ok(Response::new(RemoveModelResponse {
            status: Ended::Success.into(),
            metadata: Some(model),
            error: None,
        }))
    }

    async fn list_models(
        &self,
        _request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let models = self.collect(&ModelFilter::default()).await?;
        Ok(Response::new(ListModelsResponse {
            status: Ended::Success.into(),
            models,
            error: None,
        }))
    }

    async fn find_models(
        &self,
        request: Request<FindModelsRequest>,
    ) -> Result<Response<FindModelsResponse>, Status> {
        let filter = request.into_inner().filter.unwrap_or_default();
        validate::filter(&filter)?;
        let models = self.collect(&filter).await?;
        Ok(Response::new(FindModelsResponse {
            status: Ended::Success.into(),
            models,
            error: None,
        }))
    }

    async fn update_model_status(
        &self,
        request: Request<UpdateModelStatusRequest>,
    ) -> Result<Response<UpdateModelStatusResponse>, Status> {
        let request = request.into_inner();
        validate::status_change(&request)?;
        let status = request.status();
        let UpdateModelStatusRequest {
            model_id, reason, ..
        } = request;
        let model = self
            .store
            .set_status(&model_id, status, reason, self.now())
            .await?;
        let reason = model.metadata.get(STATUS_REASON);
        tracing::info!(
            model_id,
            status = status.as_str_name(),
            ?reason,
            "model status changed"
        );
        Ok(Response::new(UpdateModelStatusResponse {
            status: Ended::Success.into(),
            metadata: Some(model),
            error: None,
        }))
    }

    async fn check_model_health(
        &self,
        request: Request<CheckModelHealthRequest>,
    ) -> Result<Response<CheckModelHealthResponse>, Status> {
        let CheckModelHealthRequest {
            model_id,
            timeout_ms,
            ..
        } = request.into_inner();
        validate::health_check(&model_id, timeout_ms)?;
        let entry = self.store.get(&model_id)?;
        let checked = self.checker.check(&entry, timeout_ms, By::Call).await?;
        Ok(Response::new(CheckModelHealthResponse {
            status: checked.status().into(),
            result: Some(checked.result()),
            error: None,
        }))
    }
}
