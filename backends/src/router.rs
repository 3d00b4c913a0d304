//! Picks a model for a request and forwards the request to it: `RouterService` of the contract.
//!
//! Owns the choice, the second choice when a model fails, and the settings of the six strategies,
//! which are kept in a database. It does not own the models (the registry's), the way to an
//! endpoint (the connectors'), nor who may call (the gateway's, by the roles that stand at the
//! methods).
//!
//! It fails with a gRPC status and `google.rpc` details:
//!
//! | what | status | details |
//! |---|---|---|
//! | malformed request, unknown strategy parameter | INVALID_ARGUMENT | `BadRequest` |
//! | the endpoint refuses the request itself (400, 413, 422) | INVALID_ARGUMENT | `BadRequest`, `ErrorInfo` |
//! | the preferred model is not registered | NOT_FOUND | `ResourceInfo` |
//! | no registered model is fit for the request | NOT_FOUND | `ErrorInfo`: how many were left out, and why |
//! | those that are fit are all out at the moment | UNAVAILABLE | the same |
//! | those that are fit have all calls taken | RESOURCE_EXHAUSTED | the same, `RetryInfo` |
//! | the strategy is disabled | FAILED_PRECONDITION | `PreconditionFailure` |
//! | every model that was tried failed | UNAVAILABLE | `ErrorInfo`: attempts, model_ids, failures |
//! | all of them limit calls (429) | RESOURCE_EXHAUSTED | the same, `RetryInfo` |
//! | all of them gave nothing in their own time | DEADLINE_EXCEEDED | the same |
//! | the request's time is over | DEADLINE_EXCEEDED | the same |
//! | a stream breaks off after its first piece | UNAVAILABLE | `ErrorInfo` |
//! | the answer is larger than clients take | RESOURCE_EXHAUSTED | `ErrorInfo` |
//! | too many calls in progress, or they hold too much; of all, or of the caller | RESOURCE_EXHAUSTED | `QuotaFailure`, `RetryInfo` |
//! | settings could not be stored | UNAVAILABLE | `ErrorInfo`, `RetryInfo` |
//!
//! Limits: per request those in [`limits`], for the whole those in [`RouterSettings`].

mod attempts;
pub mod candidate;
mod catalog;
mod check;
mod error;
pub mod limits;
mod metrics;
mod places;
mod plan;
mod readings;
mod report;
mod select;
mod standing;
mod strategies;
mod stream;
mod whole;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use intellirouter::security::Claims;
use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use intellirouter_proto::intellirouter::model_registry::v1::router_service_server::RouterService;
use intellirouter_proto::intellirouter::model_registry::v1::{
    GetRoutingStrategiesRequest, GetRoutingStrategiesResponse, RouteRequestRequest,
    RouteRequestResponse, UpdateRoutingStrategyRequest, UpdateRoutingStrategyResponse,
};
use prometheus_client::registry::Registry;
use tonic::{Request, Response, Status};

use self::candidate::ModelSource;
use self::catalog::Catalog;
pub use self::catalog::MIGRATIONS;
use self::error::RouteError;
use self::metrics::{Metrics, Record};
use self::places::{Place, Places};
use self::plan::Plan;
use self::readings::Readings;
use crate::connectors::Connectors;
use crate::events::Events;
use crate::storage::{Database, StorageError};

/// How much the router does at a time, and for how long.
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Most calls and streams in progress; further ones are refused. 1,000 unless set. One caller
    /// may have a quarter of them, unless it has the role `service` or nobody checks who calls.
    pub max_calls: usize,
    /// Most bytes that the requests in progress hold, as they came and as they are sent; further
    /// ones are refused. A stream holds its request until its answer begins. 256 MiB unless set; one
    /// caller may have a quarter of them, as above.
    pub max_request_bytes: usize,
    /// The time for a request and its whole answer if neither the request nor its strategy says.
    /// 60 seconds unless set; never longer than [`limits::TIMEOUT_MS`].
    pub default_timeout: Duration,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            max_calls: 1_000,
            max_request_bytes: 256 * 1024 * 1024,
            default_timeout: Duration::from_secs(60),
        }
    }
}

/// The service. Wrap it in the generated `RouterServiceServer` to serve it. Cheap to clone; all
/// clones are one router.
///
/// **The chat** is `request`, else `routing.context.request`; both may be given if they are the
/// same. Its `stream` field is not looked at: the method says what is wanted. `routing.context`'s
/// other fields and `context` are checked and, but for `context.request_id`, not used: nothing
/// waits in line here that a priority could order. Without a `request_id` the request gets one.
///
/// **Which models may be picked.** All of the filter's conditions hold; it is not excluded; its
/// type is not EMBEDDING, IMAGE or AUDIO, unless the filter asks for that type; a connector
/// reaches it; it does not say that it lacks what the request needs (streaming, tools, JSON); the
/// request fits in its `context_window` and `max_tokens_per_request` (prompt tokens are estimated:
/// a quarter of the bytes of each message and tool, rounded up, and four more); its status is
/// AVAILABLE, or LIMITED if the strategy has `include_limited_models`, or DEPRECATED if the request
/// names it; its average latency is at most the parameter `max_latency_ms`, in milliseconds, if
/// that is given and the strategy does not have `include_high_latency_models`; a call of its
/// `max_requests_per_minute` is left; its endpoint has not asked to be left alone (429), which is
/// believed for five minutes at most. A filter narrows this and never widens it.
///
/// **The preferred model**, `preferred_model_id`, else the chat's `model`, is tried first if it may
/// be picked; else another answers, and `is_fallback` is true.
///
/// **Strategies** see one model picked after the other, each at most once per request. After a
/// failure, and where the strategy wants no model at all, its `fallback_strategy` picks, with its
/// own stored parameters; if that is not set or is disabled, the strategy itself goes on. The
/// request's `strategy_parameters` override the stored ones, entry by entry. A strategy that is not
/// specified is round robin, or if that is disabled, the enabled one with the lowest number.
///
/// **Attempts.** Up to `max_attempts` models are tried, else one more than the strategy's
/// `max_fallback_attempts`; never more than [`limits::ATTEMPTS`]. When no connection can be had or
/// the endpoint fails (500, 502, 503, 504), the same model is called again up to its connector's
/// `max_retries`, at most [`limits::RETRIES`] times, before the next has its turn. All this, and the
/// whole answer, happens within `timeout_ms`, else that of the strategy, else of the settings. A
/// caller that goes away ends it at once.
///
/// **Streams.** The first message has `routing_metadata`; the last has no chunk, `done`, the status
/// SUCCESS and `routing_metadata` with the tokens in `additional_metadata` (`prompt_tokens`,
/// `completion_tokens`, `total_tokens`), if the model tells them. A stream that ends otherwise ends
/// with a gRPC status.
///
/// **What is measured.** A model's average latency is the time to a whole answer, or to the first
/// piece of a stream. `model_routing_decision` is sent for the model that answers, once it does;
/// `model_usage` when the answer is whole.
///
/// **UpdateRoutingStrategy** replaces `config` if there is one, and always `enabled`. Settings are
/// in force once they are stored.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

/// What all requests share.
struct Shared {
    settings: RouterSettings,
    source: Arc<dyn ModelSource>,
    connectors: Connectors,
    events: Events,
    catalog: Catalog,
    places: Arc<Places>,
    readings: Readings,
    metrics: Arc<Metrics>,
    /// How many turns models have had.
    turns: Mutex<u64>,
    /// Wall clock; tests have their own.
    clock: fn() -> SystemTime,
    /// A random number below the one given; tests have their own.
    dice: fn(u64) -> u64,
}

impl Router {
    /// A router over these models, with the settings of the strategies that `database` holds. The
    /// database is opened with [`MIGRATIONS`].
    ///
    /// # Errors
    /// [`StorageError`] if the settings can't be read.
    pub async fn open(
        settings: RouterSettings,
        source: Arc<dyn ModelSource>,
        connectors: Connectors,
        events: Events,
        database: Database,
    ) -> Result<Self, StorageError> {
        let shared = Shared {
            places: Arc::new(Places::new(settings.max_calls, settings.max_request_bytes)),
            readings: Readings::new(),
            settings,
            source,
            connectors,
            events,
            catalog: Catalog::open(database).await?,
            metrics: Arc::new(Metrics::new()),
            turns: Mutex::new(0),
            clock: SystemTime::now,
            dice: |below| rand::random_range(0..below),
        };
        let shared = Arc::new(shared);
        Ok(Self { shared })
    }

    /// Adds the router's metrics: `router_calls`, `router_call_seconds`, `router_fallbacks`,
    /// `router_failed_attempts`, `router_tokens`, `router_open_calls`.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
    }
}

impl Shared {
    /// Gives a request its place and plans it; counts it also if that fails.
    async fn begin(
        &self,
        request: Request<RouteRequestRequest>,
        streaming: bool,
    ) -> Result<(Place, Plan, Record), RouteError> {
        let (_, extensions, request) = request.into_parts();
        let wanted = request.routing.as_ref().map(|routing| routing.strategy());
        let mut record = Record::begin(&self.metrics, wanted.unwrap_or_default());
        let begun = async {
            let mut place = self.places.take(extensions.get::<Claims>())?;
            let plan = Plan::of(self, &mut place, request, streaming).await?;
            Ok((place, plan))
        };
        let begun: Result<_, RouteError> = begun.await;
        let (place, plan) = begun.inspect_err(|error| record.ends(error.outcome()))?;
        record.by(plan.kind);
        Ok((place, plan, record))
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Router");
        debug
            .field("settings", &self.shared.settings)
            .field("catalog", &self.shared.catalog);
        debug.finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl RouterService for Router {
    type StreamRouteRequestStream = stream::Messages;

    async fn route_request(
        &self,
        request: Request<RouteRequestRequest>,
    ) -> Result<Response<RouteRequestResponse>, Status> {
        let shared = &self.shared;
        let (_place, plan, mut record) = shared.begin(request, false).await?;
        let answer = whole::route(shared, &plan, &mut record).await?;
        Ok(Response::new(answer))
    }

    async fn stream_route_request(
        &self,
        request: Request<RouteRequestRequest>,
    ) -> Result<Response<Self::StreamRouteRequestStream>, Status> {
        let shared = &self.shared;
        let (place, plan, record) = shared.begin(request, true).await?;
        let messages = stream::route(shared, plan, record, place).await?;
        Ok(Response::new(messages))
    }

    async fn get_routing_strategies(
        &self,
        _request: Request<GetRoutingStrategiesRequest>,
    ) -> Result<Response<GetRoutingStrategiesResponse>, Status> {
        let settings = self.shared.catalog.all();
        Ok(Response::new(GetRoutingStrategiesResponse {
            status: Ended::Success.into(),
            strategies: settings.iter().map(|setting| setting.info()).collect(),
            error: None,
        }))
    }

    async fn update_routing_strategy(
        &self,
        request: Request<UpdateRoutingStrategyRequest>,
    ) -> Result<Response<UpdateRoutingStrategyResponse>, Status> {
        let Shared {
            catalog, readings, ..
        } = self.shared.as_ref();
        let setting = catalog.update(request.into_inner(), readings).await?;
        let strategy = strategies::name(setting.kind);
        tracing::info!(strategy, enabled = setting.enabled, "strategy changed");
        Ok(Response::new(UpdateRoutingStrategyResponse {
            status: Ended::Success.into(),
            strategy: Some(setting.info()),
            error: None,
        }))
    }
}
