//! Why the registry refuses a well-formed request, and the gRPC status that the caller gets.
//!
//! Owns the mapping, in one place, with the `google.rpc` details of each case. Malformed requests
//! are `faults`' concern. No text here holds anything secret: of a model only its id, whose
//! characters and length are checked before. What the database said is for the log alone.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::connectors::Connectors;
use crate::storage::StorageError;

const MODEL: &str = "intellirouter.model_registry.v1.Model";
const SUBJECT: &str = "model_registry";
/// What clients hear of a database that fails.
const NOT_WRITTEN: &str = "the registry cannot write to its disk now; try again later";
/// When trying again may help: disks are seldom freed sooner.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What stands against a request, as the registry is now.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegistryError {
    #[error("model {0} is not registered")]
    NotFound(String),
    #[error("model {0} is already registered")]
    AlreadyExists(String),
    #[error("the registry holds {max} models, its limit; remove one first")]
    TooManyModels { max: usize },
    #[error("the registry may hold {max} bytes, and this model would go beyond")]
    TooManyBytes { max: usize },
    #[error("the answer would be larger than {max} bytes; ask for fewer models with FindModels")]
    AnswerTooLarge { max: usize },
    #[error("model {0}: give the API key again, as connector type or endpoint URL change")]
    KeyNeeded(String),
    #[error("model {0} has no connector; available: {names}", names = Connectors::NAMES.join(", "))]
    NoConnector(String),
    #[error("model {0} was changed during the check; check again")]
    Changed(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<rusqlite::Error> for RegistryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        use RegistryError as E;
        let text = match &error {
            E::Storage(error) => {
                tracing::error!(%error, "the registry failed a call");
                NOT_WRITTEN.to_owned()
            }
            error => error.to_string(),
        };
        let resource = |id| ErrorDetails::with_resource_info(MODEL, id, "", text.as_str());
        let quota = || ErrorDetails::with_quota_failure_violation(SUBJECT, text.as_str());
        let unmet = |kind, field| {
            ErrorDetails::with_precondition_failure_violation(kind, field, text.as_str())
        };
        let (code, details) = match error {
            E::NotFound(id) => (Code::NotFound, resource(id)),
            E::AlreadyExists(id) => (Code::AlreadyExists, resource(id)),
            E::TooManyModels { .. } | E::TooManyBytes { .. } | E::AnswerTooLarge { .. } => {
                (Code::ResourceExhausted, quota())
            }
            E::KeyNeeded(_) => {
                let field = "metadata.connector_config.api_key";
                (Code::FailedPrecondition, unmet("API_KEY", field))
            }
            E::NoConnector(_) => {
                let field = "metadata.connector_config.type";
                (Code::FailedPrecondition, unmet("CONNECTOR", field))
            }
            E::Changed(id) => (Code::Aborted, resource(id)),
            E::Storage(_) => {
                let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
                (Code::Unavailable, details)
            }
        };
        Status::with_error_details(code, text, details)
    }
}
