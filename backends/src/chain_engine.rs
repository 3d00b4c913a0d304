//! Runs chains, ordered steps that each ask a model, and keeps chains that can be run by id:
//! `ChainEngineService` and `ChainStoreService` of the contract.
//!
//! Owns the executions, what a template may say, the stored chains, and who may see an execution.
//! It does not own the choice of a model (the router's), nor who may call at all (the gateway's, by
//! the roles that stand at the methods). Chains and how executions ended are in a database and
//! survive the process; inputs, outputs and variables are not written.
//!
//! A call that cannot be served fails with a gRPC status and `google.rpc` details: a malformed
//! request, also a template that can't be read, INVALID_ARGUMENT and `BadRequest`, which names each
//! field and what was expected; an unknown chain or execution, and one of another caller, NOT_FOUND
//! with `ResourceInfo`; too many executions, in all or of one caller, or too many templates to read,
//! RESOURCE_EXHAUSTED with `QuotaFailure` and `RetryInfo`; a database that fails, or an engine that
//! stops, UNAVAILABLE with `RetryInfo`; a time that is over before an execution has begun
//! DEADLINE_EXCEEDED. How an execution ended is in the answer: `status` SUCCESS, ERROR, TIMEOUT or CANCELLED, and `error`, whose `code`
//! is one of TEMPLATE, TOO_LARGE, OUTPUT_NOT_JSON, ROUTER_FAILED, TIMEOUT, CANCELLED, INTERRUPTED,
//! STORAGE or INTERNAL.
//!
//! Limits: per request, step and execution those in [`limits`], for the whole those in
//! [`ChainEngineSettings`]. An execution takes at most about 16 MiB of memory: its inputs and outputs
//! are held for templates, for the answer, and for a reader that has not come to them yet.

mod access;
mod compile;
mod deadline;
mod error;
mod execution;
mod failure;
pub mod limits;
mod metrics;
mod moment;
mod notify;
mod run;
mod service;
mod sink;
mod start;
mod step;
mod store;
mod table;
mod template;
mod validate;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use intellirouter::clients::RouterClient;
use prometheus_client::registry::Registry;

use self::compile::Compiler;
use self::execution::Running;
use self::failure::Failure;
use self::metrics::Metrics;
use self::moment::Moment;
use self::table::Keep;
use crate::events::Events;
use crate::storage::{Database, StorageError};

pub use self::table::MIGRATIONS;

/// How long interrupted executions have to be recorded, once they are stopped.
const TO_RECORD: Duration = Duration::from_secs(5);

/// How much the engine runs and keeps.
#[derive(Clone, Debug)]
pub struct ChainEngineSettings {
    /// Most executions at a time. 100 unless set.
    pub max_executions: usize,
    /// Most executions of one caller at a time; a caller with the role `service` has no such bound,
    /// as it speaks for many. 25 unless set.
    pub max_executions_of_one: usize,
    /// How long an execution may take if its request does not say. 300 seconds unless set; never
    /// longer than [`limits::TIMEOUT_SECONDS`].
    pub timeout: Duration,
    /// Most executions that are remembered after their end. 10,000 unless set.
    pub keep_executions: usize,
    /// How long an execution is remembered after its end. 7 days unless set.
    pub keep_for: Duration,
    /// Most stored chains. 10,000 unless set.
    pub max_chains: usize,
    /// Most bytes of all stored chains, in their encoded form. 64 MiB unless set.
    pub max_chain_bytes: usize,
}

impl Default for ChainEngineSettings {
    fn default() -> Self {
        Self {
            max_executions: 100,
            max_executions_of_one: 25,
            timeout: Duration::from_secs(300),
            keep_executions: 10_000,
            keep_for: Duration::from_secs(7 * 24 * 3600),
            max_chains: 10_000,
            max_chain_bytes: 64 * 1024 * 1024,
        }
    }
}

/// The service. Cheap to clone: wrap one clone in the generated `ChainEngineServiceServer` and one
/// in `ChainStoreServiceServer`.
///
/// **A chain** has 1 to 64 steps with ids of their own. Each step fills its `input_template` and
/// asks the router: the `system_prompt`, if there is one, as a message of the role `system`, the
/// filled template as one of the role `user`. `model` is the model that is preferred, `parameters`
/// go to the model as they are. `output_format` is `text` (or empty), or `json`: then the step fails
/// if the output is not JSON. A template is Handlebars text; it knows `input`, `previous` (the
/// output of the step before), `variables.<name>`, `steps.<id>.input`, `.output` and `.model` of the
/// steps before, and variables by their name alone. A name that there is not is an error, but in
/// `if` and `unless`, where it counts as false. An empty template passes on the input, or what the
/// step before gave.
///
/// **ExecuteChain** and **StreamChainExecution** may take the time of the request's
/// `timeout_seconds` (0: that of the settings), or of the caller's own deadline if it is shorter. The
/// end of the time, a cancellation, and a caller that goes away end an execution at once, also
/// within a step; its place among those that run is free when the templates that are compiled for it
/// are done. A stream that is not read stops only its own execution, until its time is over.
///
/// **GetChainStatus** and **CancelChainExecution** are open to whoever started the execution, and
/// to the roles `operator`, `service` and `admin`; for others it does not exist. A cancellation
/// returns when the execution is stopped; of one that had ended it says so, with the error code
/// ALREADY_ENDED. Where the server checks no callers, all is open to all.
#[derive(Clone)]
pub struct ChainEngine {
    parts: Arc<Parts>,
}

/// What all calls share.
struct Parts {
    settings: ChainEngineSettings,
    database: Database,
    router: Arc<dyn RouterClient>,
    events: Events,
    metrics: Metrics,
    running: Arc<Running>,
    compiler: Compiler,
}

impl Parts {
    fn keep(&self) -> Keep {
        let micros = i64::try_from(self.settings.keep_for.as_micros()).unwrap_or(i64::MAX);
        Keep {
            executions: self.settings.keep_executions,
            after: Moment(Moment::now().0.saturating_sub(micros)),
        }
    }
}

impl ChainEngine {
    /// Takes the database over, which was opened with [`MIGRATIONS`]. Executions that are recorded
    /// as running were interrupted by the end of an earlier process: they are ended with the code
    /// INTERRUPTED, each with its event, a thousand at most.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub async fn open(
        settings: ChainEngineSettings,
        database: Database,
        router: Arc<dyn RouterClient>,
        events: Events,
    ) -> Result<Self, StorageError> {
        let metrics = Metrics::default();
        let running = Running::new(
            settings.max_executions,
            settings.max_executions_of_one,
            metrics.running.clone(),
        );
        let parts = Parts {
            running: Arc::new(running),
            compiler: Compiler::new(),
            settings,
            database,
            router,
            events,
            metrics,
        };
        let (error, now) = ((&Failure::interrupted()).into(), Moment::now());
        let interrupt = move |db: &_| table::interrupt_all(db, &error, now);
        for record in parts.database.write(interrupt).await? {
            notify::interrupted(&parts, record, now);
        }
        Ok(Self {
            parts: Arc::new(parts),
        })
    }

    /// Shows the engine's metrics in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.parts.metrics.register(registry);
    }

    /// Takes no further executions, waits until those that run have ended, at most `limit`, and
    /// ends the rest with the code INTERRUPTED, which takes 5 seconds more at most.
    pub async fn drain(&self, limit: Duration) {
        self.parts.running.drain(limit, TO_RECORD).await;
    }
}

impl fmt::Debug for ChainEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainEngine")
            .field("settings", &self.parts.settings)
            .finish_non_exhaustive()
    }
}
