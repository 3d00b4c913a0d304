//! Why an execution did not end as wanted, as answers, events and the database tell it.
//!
//! Owns the codes and the shapes. It does not own calls that cannot be served at all: those are
//! `error`'s. Messages are cut to [`ERROR_BYTES`]; they may repeat what the router said, but no
//! input, output or variable.

use std::error::Error as _;
use std::time::Duration;

use intellirouter::IpcError;
use intellirouter::events::EventError;
use intellirouter_proto::intellirouter::common::v1::{ErrorDetails, Status as Ended};
use prost_types::{Struct, Value, value::Kind};

use super::limits::ERROR_BYTES;
use super::template::TemplateFault;

/// Somebody asked for the execution to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// By CancelChainExecution.
    Cancelled,
    /// The caller does not wait any more.
    CallerGone,
    /// The caller does not wait any more, at the end of its own time.
    CallerTimedOut,
    /// The engine stops.
    Interrupted,
}

/// How an execution failed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// ERROR, TIMEOUT or CANCELLED.
    pub(super) status: Ended,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// For programs; depends on the code.
    pub(super) details: Vec<(&'static str, String)>,
}

impl Failure {
    fn new(status: Ended, code: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(ERROR_BYTES));
        Self {
            status,
            code,
            message,
            details: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let mut value = value.into();
        value.truncate(value.floor_char_boundary(ERROR_BYTES));
        self.details.push((name, value));
        self
    }

    /// The time for the whole execution is over.
    pub(super) fn timed_out(limit: Duration) -> Self {
        let message = format!("the execution took longer than {limit:?}");
        Self::new(Ended::Timeout, "TIMEOUT", message)
    }

    /// The engine stopped, or had stopped, while the chain ran.
    pub(super) fn interrupted() -> Self {
        let message = "the engine stopped while it ran";
        Self::new(Ended::Error, "INTERRUPTED", message)
    }

    /// The execution is over, and the database did not take how it ended.
    pub(super) fn not_recorded() -> Self {
        let message = "how the execution ended could not be recorded";
        Self::new(Ended::Error, "NOT_RECORDED", message)
    }

    /// The database did not take the progress of the execution.
    pub(super) fn storage() -> Self {
        let message = "the progress of the execution could not be recorded";
        Self::new(Ended::Error, "STORAGE", message)
    }

    /// A fault in this program.
    pub(super) fn internal() -> Self {
        Self::new(Ended::Error, "INTERNAL", "an internal error")
    }

    /// There is nothing to cancel.
    pub(super) fn already_ended() -> Self {
        Self::new(Ended::Error, "ALREADY_ENDED", "the execution had ended")
    }

    /// The template of the step gave no input.
    pub(super) fn template(fault: &TemplateFault) -> Self {
        Self::new(Ended::Error, "TEMPLATE", format!("input_template: {fault}"))
    }

    /// The inputs and outputs of the execution are more than is kept.
    pub(super) fn too_large(what: &str, max: usize) -> Self {
        let message = format!("{what}: more than {max} bytes");
        Self::new(Ended::Error, "TOO_LARGE", message)
    }

    /// The output has not the form that the step asks for.
    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        let message = format!(
            "the output is not JSON: line {}, column {}",
            error.line(),
            error.column()
        );
        Self::new(Ended::Error, "OUTPUT_NOT_JSON", message)
    }

    /// The router could not be asked, or refused. What the way to it says is for operators.
    pub(super) fn router(error: IpcError) -> Self {
        let status = tonic::Status::from(error);
        // What the router itself said has no cause on this side.
        let message = match status.source() {
            None => status.message(),
            Some(cause) => {
                tracing::warn!(
                    error = status.message(),
                    cause,
                    "the router can't be reached"
                );
                "the router can't be reached"
            }
        };
        Self::new(Ended::Error, "ROUTER_FAILED", message)
            .with("grpc_code", format!("{:?}", status.code()))
    }

    /// The router said in band that it failed.
    pub(super) fn routed(status: Ended, error: Option<ErrorDetails>) -> Self {
        let error = error.unwrap_or_default();
        let message = if error.message.is_empty() {
            format!("the router answered with {}", status.as_str_name())
        } else {
            error.message
        };
        Self::new(Ended::Error, "ROUTER_FAILED", message).with("router_code", error.code)
    }

    /// The answer ended before it was whole.
    pub(super) fn cut() -> Self {
        let message = "the answer of the model ended before it was whole";
        Self::new(Ended::Error, "ROUTER_FAILED", message)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Cancelled => {
                Self::new(Ended::Cancelled, "CANCELLED", "the execution was cancelled")
            }
            Stop::CallerGone => Self::new(
                Ended::Cancelled,
                "CANCELLED",
                "the caller did not wait for the end",
            ),
            Stop::CallerTimedOut => Self::new(
                Ended::Timeout,
                "TIMEOUT",
                "the time that the caller gave the call is over",
            ),
            Stop::Interrupted => Self::interrupted(),
        }
    }
}

impl From<&Failure> for ErrorDetails {
    fn from(failure: &Failure) -> Self {
        let entry = |(name, text): &(&str, String)| {
            let kind = Some(Kind::StringValue(text.clone()));
            ((*name).to_owned(), Value { kind })
        };
        Self {
            code: failure.code.to_owned(),
            message: failure.message.clone(),
            details: (!failure.details.is_empty()).then(|| Struct {
                fields: failure.details.iter().map(entry).collect(),
            }),
            stack_trace: String::new(),
        }
    }
}

impl From<&Failure> for EventError {
    fn from(failure: &Failure) -> Self {
        let entry = |(name, text): &(&str, String)| ((*name).to_owned(), text.as_str().into());
        Self {
            code: failure.code.to_owned(),
            message: failure.message.clone(),
            details: failure.details.iter().map(entry).collect(),
        }
    }
}
