//! The models that can be called, and their state: `ModelRegistryService` of the contract.
//!
//! Owns the list of models, their API keys, and the health checks. It does not own the choice of a
//! model for a request (the router's), nor who may call (the gateway's, by the roles that stand at
//! the methods). State is in memory: a restart forgets it.
//!
//! It fails with a gRPC status and `google.rpc` details: a malformed request INVALID_ARGUMENT and
//! `BadRequest`, which names each field and what was expected; an unknown model NOT_FOUND, a
//! taken id ALREADY_EXISTS, both with `ResourceInfo`; a limit RESOURCE_EXHAUSTED and
//! `QuotaFailure`; a connector that is not there, or a key that must be given again,
//! FAILED_PRECONDITION and `PreconditionFailure`; a model that is changed while it is checked
//! ABORTED. An answer's in-band `status` is SUCCESS, or TIMEOUT for a check that got no answer.
//!
//! Limits: per request those in [`limits`], for the whole those in [`RegistrySettings`].

mod error;
mod faults;
mod filter;
mod health;
pub mod limits;
mod store;
mod validate;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use intellirouter_proto::intellirouter::model_registry::v1::model_registry_service_server::ModelRegistryService;
use intellirouter_proto::intellirouter::model_registry::v1::{
    CheckModelHealthRequest, CheckModelHealthResponse, FindModelsRequest, FindModelsResponse,
    GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse, ModelFilter,
    ModelMetadata, RegisterModelRequest, RegisterModelResponse, RemoveModelRequest,
    RemoveModelResponse, UpdateModelRequest, UpdateModelResponse, UpdateModelStatusRequest,
    UpdateModelStatusResponse,
};
use prost::Message;
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use self::error::RegistryError;
use self::health::{Connector, Outcome};
use self::store::Store;

/// The entry of a model's `metadata` map that holds the reason of its last change of status. It
/// takes none of the room of the map.
pub const STATUS_REASON: &str = "status_reason";

/// Models looked at before other work gets its turn. A filter of the largest size
/// compares up to 2048 texts per model.
const MODELS_PER_TURN: usize = 128;

/// How much the registry holds and answers.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Most models. 10,000 unless set.
    pub max_models: usize,
    /// Most bytes of all models, in their encoded form; decoded, in memory, they take more.
    /// Reasons of a status and outcomes of checks come on top, at most 1.2 KiB per model.
    /// 64 MiB unless set.
    pub max_total_bytes: usize,
    /// Largest answer of ListModels and FindModels, in bytes. 4 MiB unless set, which is what gRPC
    /// clients take unless told otherwise.
    pub max_answer_bytes: usize,
    /// How long a health check waits if neither the request nor the connector says. 5 seconds
    /// unless set; never longer than [`limits::HEALTH_TIMEOUT_MS`].
    pub health_timeout: Duration,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            max_models: 10_000,
            max_total_bytes: 64 * 1024 * 1024,
            max_answer_bytes: 4 * 1024 * 1024,
            health_timeout: Duration::from_secs(5),
        }
    }
}

/// The service. Wrap it in the generated `ModelRegistryServiceServer` to serve it.
///
/// **Register** needs `id`, `name` and `provider`. The registry sets `created_at` and `updated_at`,
/// clears `last_checked_at`, and takes the status AVAILABLE if none is given. A connector needs a
/// `type`; its `endpoint_url` may not hold a user name or password.
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
/// **CheckModelHealth** asks through the model's connector, records the time in `last_checked_at`
/// and the latency in the moving average `avg_latency_ms`, and leaves status and `updated_at` as
/// they are: taking a model out is an operator's decision. It waits for `timeout_ms` of the
/// request, else of the connector, else of the settings. The connector here is `local`, for models
/// in this process; a model with none or another type fails with FAILED_PRECONDITION.
///
/// An API key goes in and never comes out: answers, logs and `Debug` are without it. All other
/// fields come back, so a secret has no place in `parameters` or `metadata`.
pub struct ModelRegistry {
    settings: RegistrySettings,
    store: Store,
    /// Wall clock; tests have their own.
    clock: fn() -> SystemTime,
}

impl ModelRegistry {
    /// An empty registry.
    pub fn new(settings: RegistrySettings) -> Self {
        let store = Store::new(settings.max_models, settings.max_total_bytes);
        Self {
            settings,
            store,
            clock: SystemTime::now,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from((self.clock)())
    }

    /// The models that match, as long as they fit in an answer.
    async fn collect(&self, filter: &ModelFilter) -> Result<Vec<ModelMetadata>, RegistryError> {
        let max = self.settings.max_answer_bytes;
        let empty = FindModelsResponse {
            status: Ended::Success.into(),
            ..Default::default()
        };
        let mut bytes = empty.encoded_len();
        let mut found = Vec::new();
        for models in self.store.all().chunks(MODELS_PER_TURN) {
            for model in models.iter().filter(|model| filter::matches(filter, model)) {
                bytes += prost::encoding::message::encoded_len(2, model.as_ref());
                if bytes > max {
                    return Err(RegistryError::AnswerTooLarge { max });
                }
                found.push(ModelMetadata::clone(model));
            }
            tokio::task::yield_now().await;
        }
        Ok(found)
    }
}

impl fmt::Debug for ModelRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ModelRegistry");
        debug
            .field("settings", &self.settings)
            .field("models", &self.store.len());
        debug.finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl ModelRegistryService for ModelRegistry {
    async fn register_model(
        &self,
        request: Request<RegisterModelRequest>,
    ) -> Result<Response<RegisterModelResponse>, Status> {
        let model = validate::model(request.into_inner().metadata)?;
        let model = self.store.insert(model, self.now())?;
        tracing::info!(model_id = %model.id, "model registered");
        Ok(Response::new(RegisterModelResponse {
            status: Ended::Success.into(),
            metadata: Some(Arc::unwrap_or_clone(model)),
            error: None,
        }))
    }

    async fn get_model(
        &self,
        request: Request<GetModelRequest>,
    ) -> Result<Response<GetModelResponse>, Status> {
        let GetModelRequest { model_id, .. } = request.into_inner();
        validate::model_id(&model_id)?;
        let model = self.store.get(&model_id)?;
        Ok(Response::new(GetModelResponse {
            status: Ended::Success.into(),
            metadata: Some(Arc::unwrap_or_clone(model)),
            error: None,
        }))
    }

    async fn update_model(
        &self,
        request: Request<UpdateModelRequest>,
    ) -> Result<Response<UpdateModelResponse>, Status> {
        let model = validate::model(request.into_inner().metadata)?;
        let model = self.store.replace(model, self.now())?;
        tracing::info!(model_id = %model.id, "model updated");
        Ok(Response::new(UpdateModelResponse {
            status: Ended::Success.into(),
            metadata: Some(Arc::unwrap_or_clone(model)),
            error: None,
        }))
    }

    async fn remove_model(
        &self,
        request: Request<RemoveModelRequest>,
    ) -> Result<Response<RemoveModelResponse>, Status> {
        let RemoveModelRequest { model_id, .. } = request.into_inner();
        validate::model_id(&model_id)?;
        let model = self.store.remove(&model_id)?;
        tracing::info!(model_id, "model removed");
        Ok(Response::new(RemoveModelResponse {
            status: Ended::Success.into(),
            metadata: Some(Arc::unwrap_or_clone(model)),
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
            .set_status(&model_id, status, reason, self.now())?;
        let reason = model.metadata.get(STATUS_REASON);
        tracing::info!(
            model_id,
            status = status.as_str_name(),
            ?reason,
            "model status changed"
        );
        Ok(Response::new(UpdateModelStatusResponse {
            status: Ended::Success.into(),
            metadata: Some(Arc::unwrap_or_clone(model)),
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
        let model = self.store.get(&model_id)?;
        let config = model.connector_config.as_ref();
        let Some(connector) = Connector::of(config) else {
            return Err(RegistryError::NoConnector { id: model_id }.into());
        };
        let connector_ms = config.map_or(0, |config| config.timeout_ms);
        let limit = health::limit(timeout_ms, connector_ms, self.settings.health_timeout);

        let outcome = health::check(connector, limit).await;

        let at = self.now();
        let latency_ms = match outcome {
            Outcome::Answered(latency) => Some(health::milliseconds(latency)),
            Outcome::Silent(_) => None,
        };
        self.store.record_check(&model, latency_ms, at)?;
        Ok(Response::new(CheckModelHealthResponse {
            status: outcome.status().into(),
            result: Some(outcome.result(connector, at)),
            error: None,
        }))
    }
}
