//! Why the engine does not serve a well-formed request, and the gRPC status that the caller gets.
//!
//! Owns the mapping, in one place, with the `google.rpc` details of each case. Malformed requests
//! are `validate`'s concern, work that failed is `failure`'s. What a database said is logged, not
//! told.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::limits::NAME_BYTES;
use crate::storage::StorageError;

const CHAIN: &str = "intellirouter.chain_engine.v1.Chain";
const EXECUTION: &str = "intellirouter.chain_engine.v1.Execution";
const SUBJECT: &str = "chain_engine";
/// When to come back to an engine that has enough to do.
const COME_BACK: Duration = Duration::from_secs(1);

/// What stands against a request, as the engine is now.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("chain {0} is not stored")]
    NoChain(String),
    #[error("execution {0} is not known")]
    NoExecution(String),
    #[error("{max} executions run, the limit; try again")]
    TooManyExecutions { max: usize },
    #[error("{max} executions of this caller run, its share; try again")]
    TooManyOfOne { subject: String, max: usize },
    #[error("the time was over before the chain could begin: {0:?}")]
    NoTimeLeft(Duration),
    #[error("the templates of other chains are read; try again")]
    CompilerBusy,
    #[error("the engine holds {max} chains, its limit; delete one first")]
    TooManyChains { max: usize },
    #[error("the engine may hold {max} bytes of chains, and this one would go beyond")]
    TooManyBytes { max: usize },
    #[error("the engine is stopping")]
    Stopping,
    #[error("the engine's database failed")]
    Storage(#[from] StorageError),
    #[error("what is stored of chain {0} cannot be read")]
    Damaged(String),
    #[error("an internal error")]
    Internal,
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        use EngineError as E;
        let text = error.to_string();
        let resource = |kind, id| ErrorDetails::with_resource_info(kind, id, "", text.as_str());
        let quota_of =
            |subject: &str| ErrorDetails::with_quota_failure_violation(subject, text.as_str());
        let quota = || quota_of(SUBJECT);
        let later = || ErrorDetails::with_retry_info(Some(COME_BACK));
        let (code, details) = match error {
            E::NoChain(id) => (Code::NotFound, resource(CHAIN, id)),
            E::NoExecution(id) => (Code::NotFound, resource(EXECUTION, id)),
            E::TooManyExecutions { .. } | E::CompilerBusy => {
                let mut details = quota();
                details.set_retry_info(Some(COME_BACK));
                (Code::ResourceExhausted, details)
            }
            E::TooManyOfOne { subject, .. } => {
                // It travels in a header.
                let end = subject.floor_char_boundary(NAME_BYTES);
                let subject = subject.get(..end).unwrap_or_default();
                let mut details = quota_of(&format!("{SUBJECT}/subject:{subject}"));
                details.set_retry_info(Some(COME_BACK));
                (Code::ResourceExhausted, details)
            }
            E::NoTimeLeft(_) => (Code::DeadlineExceeded, ErrorDetails::new()),
            E::TooManyChains { .. } | E::TooManyBytes { .. } => (Code::ResourceExhausted, quota()),
            E::Stopping => (Code::Unavailable, later()),
            E::Storage(why) => {
                tracing::error!(error = %why, "the chain engine's database failed");
                (Code::Unavailable, later())
            }
            E::Damaged(id) => (Code::DataLoss, resource(CHAIN, id)),
            E::Internal => (Code::Internal, ErrorDetails::new()),
        };
        Status::with_error_details(code, text, details)
    }
}
