//! Why a well-formed request was not answered, and the gRPC status that the caller gets.
//!
//! Owns the mapping, in one place, with the `google.rpc` details of each case. Malformed requests
//! are `plan`'s concern. What an endpoint said is told only where it concerns the request itself;
//! else the caller learns which models failed and in which way, and the log has the rest.

use std::collections::HashMap;
use std::slice;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::select::LeftOut;
use crate::connectors::ConnectorError;
use crate::storage::StorageError;

const MODEL: &str = "intellirouter.model_registry.v1.Model";
const STRATEGY: &str = "intellirouter.model_registry.v1.RoutingStrategy";
const DOMAIN: &str = "intellirouter.model_registry.v1.RouterService";
const SUBJECT: &str = "router";
const CALLER: &str = "caller";
/// Longest list of failures, in bytes.
const FAILURES_BYTES: usize = 768;
/// When to come back where nobody can know.
const COME_BACK: Duration = Duration::from_secs(1);

/// A model that gave no answer.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) model_id: String,
    pub(super) error: ConnectorError,
}

/// What stands against a request, or became of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RouteError {
    #[error("malformed: {}", .0.message())]
    Malformed(Box<Status>),
    #[error("model {0} is not registered")]
    NotRegistered(String),
    #[error("the strategy {0} is disabled")]
    Disabled(&'static str),
    #[error("{} has {max} calls in progress, its limit", who(*.own))]
    TooManyCalls { max: usize, own: bool },
    #[error("{} has requests in progress that hold {max} bytes, its limit, or nearly so", who(*.own))]
    TooManyBytes { max: usize, own: bool },
    #[error("no model can be picked; {0}")]
    NoModel(LeftOut),
    #[error("no model answered: {}", failures(.0))]
    AllFailed(Vec<Tried>),
    #[error("no answer within {} ms", .limit.as_millis())]
    Deadline { limit: Duration, tried: Vec<Tried> },
    #[error("model {}: {}", .0.model_id, .0.error)]
    Refused(Tried),
    #[error(
        "model {}: {}; ask for a shorter answer, or for one piece by piece", .0.model_id, .0.error
    )]
    TooLarge(Tried),
    #[error("the answer of model {} broke off: {}", .0.model_id, in_short(&.0.error))]
    Cut(Tried),
    #[error("the task that forwards the answer failed")]
    Forwarding,
    #[error("the task that reads the strategy's rules failed")]
    Reading,
    #[error("the settings could not be stored; nothing is changed")]
    Storage(StorageError),
}

impl RouteError {
    /// How metrics name it.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::NotRegistered(_) | Self::Disabled(_) | Self::NoModel(_) => "no_model",
            Self::TooManyCalls { .. } => "too_many_calls",
            Self::TooManyBytes { .. } => "too_many_bytes",
            Self::AllFailed(_) => "all_failed",
            Self::Deadline { .. } => "deadline",
            Self::Refused(_) => "refused",
            Self::TooLarge(_) => "too_large",
            Self::Cut(_) => "cut",
            Self::Forwarding | Self::Reading | Self::Storage(_) => "internal",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Malformed(status) => status.code(),
            Self::NotRegistered(_) => Code::NotFound,
            Self::Disabled(_) => Code::FailedPrecondition,
            Self::TooManyCalls { .. } | Self::TooManyBytes { .. } | Self::TooLarge(_) => {
                Code::ResourceExhausted
            }
            Self::NoModel(left_out) if !left_out.may_pass() => Code::NotFound,
            Self::NoModel(left_out) if left_out.only_limits() => Code::ResourceExhausted,
            Self::NoModel(_) => Code::Unavailable,
            Self::AllFailed(tried) if all(tried, is_limited) => Code::ResourceExhausted,
            Self::AllFailed(tried) if all(tried, is_timeout) => Code::DeadlineExceeded,
            Self::AllFailed(_) => Code::Unavailable,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Refused(_) => Code::InvalidArgument,
            Self::Cut(_) | Self::Storage(_) => Code::Unavailable,
            Self::Forwarding | Self::Reading => Code::Internal,
        }
    }

    fn details(&self, text: &str) -> ErrorDetails {
        let info = |reason, metadata| ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        match self {
            Self::Malformed(status) => status.get_error_details(),
            Self::NotRegistered(id) => ErrorDetails::with_resource_info(MODEL, id, "", text),
            Self::Disabled(name) => {
                ErrorDetails::with_precondition_failure_violation(STRATEGY, *name, text)
            }
            Self::TooManyCalls { own, .. } | Self::TooManyBytes { own, .. } => {
                let subject = if *own { CALLER } else { SUBJECT };
                let mut details = ErrorDetails::with_quota_failure_violation(subject, text);
                details.set_retry_info(Some(COME_BACK));
                details
            }
            Self::NoModel(left_out) => {
                let mut details = info("NO_MODEL", left_out.metadata().collect());
                if left_out.only_limits() {
                    details.set_retry_info(Some(left_out.back_in.unwrap_or(COME_BACK)));
                }
                details
            }
            Self::AllFailed(tried) => {
                let mut details = info("ALL_MODELS_FAILED", metadata(tried));
                if all(tried, is_limited) {
                    details.set_retry_info(Some(back_in(tried)));
                }
                details
            }
            Self::Deadline { tried, .. } => info("DEADLINE", metadata(tried)),
            Self::Refused(tried) => {
                let mut details = info("REQUEST_REFUSED", metadata(slice::from_ref(tried)));
                details.add_bad_request_violation("request", text);
                details
            }
            Self::TooLarge(tried) => info("ANSWER_TOO_LARGE", metadata(slice::from_ref(tried))),
            Self::Cut(tried) => info("ANSWER_CUT", metadata(slice::from_ref(tried))),
            Self::Forwarding | Self::Reading => info("INTERNAL", HashMap::new()),
            Self::Storage(_) => {
                let mut details = info("STORAGE", HashMap::new());
                details.set_retry_info(Some(COME_BACK));
                details
            }
        }
    }
}

impl From<RouteError> for Status {
    fn from(error: RouteError) -> Self {
        if let RouteError::Malformed(status) = error {
            return *status;
        }
        let text = error.to_string();
        let details = error.details(&text);
        Status::with_error_details(error.code(), text, details)
    }
}

/// A request that is not well formed, as `Faults` tell it.
impl From<Status> for RouteError {
    fn from(status: Status) -> Self {
        Self::Malformed(Box::new(status))
    }
}

fn who(own: bool) -> &'static str {
    if own { "the caller" } else { "the router" }
}

/// The models that failed, and how, in short: `a: status 503, b: no answer in time`. Told thrice in
/// the headers of a status, of which common clients take 8 KiB: what does not fit is counted.
pub(super) fn failures(tried: &[Tried]) -> String {
    let mut told = String::new();
    for (index, one) in tried.iter().enumerate() {
        let next = format!("{}: {}", one.model_id, in_short(&one.error));
        if told.len() + next.len() > FAILURES_BYTES {
            return format!("{told}, and {} more", tried.len() - index);
        }
        if index > 0 {
            told.push_str(", ");
        }
        told.push_str(&next);
    }
    told
}

fn in_short(error: &ConnectorError) -> String {
    match error {
        ConnectorError::Settings(_) => "unusable connector settings".to_owned(),
        ConnectorError::Invalid(_) => "unusable request".to_owned(),
        ConnectorError::Connection(_) => "connection failed".to_owned(),
        ConnectorError::TimedOut(_) => "no answer in time".to_owned(),
        ConnectorError::Limited(_) => "limits calls".to_owned(),
        ConnectorError::Failed { status, .. } | ConnectorError::Refused { status, .. } => {
            format!("status {status}")
        }
        ConnectorError::Unusable(_) => "unusable answer".to_owned(),
        ConnectorError::TooLarge(_) => "answer too large".to_owned(),
    }
}

fn metadata(tried: &[Tried]) -> HashMap<String, String> {
    let ids: Vec<_> = tried.iter().map(|tried| tried.model_id.as_str()).collect();
    HashMap::from([
        ("attempts".to_owned(), tried.len().to_string()),
        ("model_ids".to_owned(), ids.join(", ")),
        ("failures".to_owned(), failures(tried)),
    ])
}

fn all(tried: &[Tried], is: fn(&ConnectorError) -> bool) -> bool {
    tried.iter().all(|tried| is(&tried.error))
}

fn is_limited(error: &ConnectorError) -> bool {
    matches!(error, ConnectorError::Limited(_))
}

fn is_timeout(error: &ConnectorError) -> bool {
    matches!(error, ConnectorError::TimedOut(_))
}

/// The shortest time after which one of them takes calls again.
fn back_in(tried: &[Tried]) -> Duration {
    let waits = tried.iter().filter_map(|tried| match tried.error {
        ConnectorError::Limited(wait) => wait,
        _ => None,
    });
    waits.min().unwrap_or(COME_BACK)
}
