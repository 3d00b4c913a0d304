//! What the end of a try says: about the other side (for the breaker), and about another try.
//!
//! The tables stand in the documentation of [`resilience`](super). A [`Status`] that tonic made in
//! this process keeps its cause as the source, while one that came from the server has none; so a
//! connection that broke is told apart from a server that says `CANCELLED` or `UNKNOWN` itself.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::error::{IpcError, IpcResult};

/// What a breaker learns from one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other side answers.
    Success,
    /// The other side does not do its work.
    Failure,
    /// The call says nothing about the other side.
    Ignored,
}

/// The outcome of a call that ended with the `grpc-status` that the other side sent.
pub fn outcome_of_code(code: Code) -> Outcome {
    match code {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unknown
        | Code::DataLoss => Outcome::Failure,
        Code::Cancelled => Outcome::Ignored,
        _ => Outcome::Success,
    }
}

/// The outcome of a call that ended with `result`.
pub fn outcome_of<T>(result: &IpcResult<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(error) => outcome_of_error(error),
    }
}

pub(super) fn outcome_of_status(status: &Status) -> Outcome {
    match origin(status) {
        Origin::Server => outcome_of_code(status.code()),
        Origin::Here(error) => outcome_of_error(error),
        Origin::NotSent | Origin::Broken | Origin::Expired => Outcome::Failure,
    }
}

pub(super) fn outcome_of_error(error: &IpcError) -> Outcome {
    match error {
        IpcError::Status(status) => outcome_of_status(status),
        // A bad URL says nothing about a server.
        IpcError::Transport(_) if !error.is_retryable() => Outcome::Ignored,
        IpcError::Transport(_) | IpcError::Connection(_) | IpcError::Timeout(_) => Outcome::Failure,
        IpcError::Serialization(_)
        | IpcError::NotFound(_)
        | IpcError::InvalidArgument(_)
        | IpcError::Internal(_)
        | IpcError::Security(_) => Outcome::Ignored,
    }
}

/// Which calls may be tried again after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// Those that may safely happen twice.
    Repeatable,
    /// All: nothing has been sent.
    Any,
}

pub(super) fn again(error: &IpcError) -> Again {
    match error {
        IpcError::Status(status) => match origin(status) {
            Origin::NotSent => Again::Any,
            Origin::Broken | Origin::Expired => Again::Repeatable,
            Origin::Here(error) => again(error),
            Origin::Server => repeatable_if(error.is_retryable()),
        },
        // tonic gives this one out only while it connects.
        IpcError::Transport(_) if error.is_retryable() => Again::Any,
        _ => repeatable_if(error.is_retryable()),
    }
}

fn repeatable_if(retryable: bool) -> Again {
    if retryable {
        Again::Repeatable
    } else {
        Again::Never
    }
}

/// Whether tonic gave the call up here, when the time was over that the request named.
///
/// It says `CANCELLED` then, as if the caller had wanted it.
pub(super) fn is_expired(error: &IpcError) -> bool {
    matches!(error, IpcError::Status(status) if matches!(origin(status), Origin::Expired))
}

/// How long the other side wants to be left alone (`google.rpc.RetryInfo`).
pub(super) fn pushback(error: &IpcError) -> Option<Duration> {
    match error {
        IpcError::Status(status) => status.get_details_retry_info()?.retry_delay,
        _ => None,
    }
}

/// Where a status was made.
enum Origin<'a> {
    /// The other side sent it.
    Server,
    /// This crate made it from an error of its own.
    Here(&'a IpcError),
    /// There was no connection to send the request on.
    NotSent,
    /// The connection or the stream ended without a status.
    Broken,
    /// The time that the request named was over.
    Expired,
}

fn origin(status: &Status) -> Origin<'_> {
    let mut origin = Origin::Server;
    let mut source = status.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<IpcError>() {
            return Origin::Here(error);
        }
        if cause.is::<tonic::ConnectError>() {
            return Origin::NotSent;
        }
        if cause.is::<tonic::TimeoutExpired>() {
            return Origin::Expired;
        }
        if cause.is::<hyper::Error>() || cause.is::<tonic::transport::Error>() {
            // Not the last word: the cause below may be that there was no connection.
            origin = Origin::Broken;
        }
        source = cause.source();
    }
    origin
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::transport::Endpoint;
    use tonic_types::ErrorDetails;

    use super::*;

    fn from_here(code: Code, source: impl Error + Send + Sync + 'static) -> IpcError {
        let mut status = Status::new(code, "");
        status.set_source(Arc::new(source));
        status.into()
    }

    fn from_server(code: Code) -> IpcError {
        Status::new(code, "").into()
    }

    fn limited() -> IpcError {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        Status::with_error_details(Code::ResourceExhausted, "", details).into()
    }

    fn refused() -> tonic::ConnectError {
        tonic::ConnectError("refused".into())
    }

    #[test]
    fn every_code_of_a_server_counts_as_the_table_says() {
        let failures = [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Internal,
            Code::Unknown,
            Code::DataLoss,
        ];
        for number in 0..=16 {
            let code = Code::from_i32(number);
            let expected = match code {
                Code::Cancelled => Outcome::Ignored,
                code if failures.contains(&code) => Outcome::Failure,
                _ => Outcome::Success,
            };
            assert_eq!(outcome_of_code(code), expected, "{code:?}");
            let result: IpcResult<()> = Err(from_server(code));
            assert_eq!(outcome_of(&result), expected, "{code:?}");
        }
        assert_eq!(outcome_of(&Ok(())), Outcome::Success);
    }

    #[test]
    fn what_failed_on_the_way_counts_and_what_never_left_does_not() {
        let text = String::new;
        let bad_url = Endpoint::from_shared("not a url").unwrap_err();
        for (error, expected) in [
            (IpcError::Connection(text()), Outcome::Failure),
            (IpcError::Timeout(text()), Outcome::Failure),
            (from_here(Code::Unavailable, refused()), Outcome::Failure),
            (
                from_here(Code::Cancelled, tonic::TimeoutExpired(())),
                Outcome::Failure,
            ),
            (IpcError::Transport(bad_url), Outcome::Ignored),
            (IpcError::Serialization(text()), Outcome::Ignored),
            (IpcError::NotFound(text()), Outcome::Ignored),
            (IpcError::InvalidArgument(text()), Outcome::Ignored),
            (IpcError::Internal(text()), Outcome::Ignored),
            (IpcError::Security(text()), Outcome::Ignored),
            (
                from_here(Code::Unauthenticated, IpcError::Security(text())),
                Outcome::Ignored,
            ),
        ] {
            let shown = format!("{error:?}");
            assert_eq!(outcome_of::<()>(&Err(error)), expected, "{shown}");
        }
    }

    #[test]
    fn only_an_error_before_anything_was_sent_lets_every_call_be_tried_again() {
        for (error, expected) in [
            (from_here(Code::Unavailable, refused()), Again::Any),
            (
                from_here(Code::Cancelled, tonic::TimeoutExpired(())),
                Again::Repeatable,
            ),
            (
                from_here(Code::DeadlineExceeded, IpcError::Timeout(String::new())),
                Again::Repeatable,
            ),
            (from_server(Code::Unavailable), Again::Repeatable),
            (from_server(Code::DeadlineExceeded), Again::Repeatable),
            (limited(), Again::Repeatable),
            (IpcError::Timeout(String::new()), Again::Repeatable),
            (from_server(Code::ResourceExhausted), Again::Never),
            (from_server(Code::Internal), Again::Never),
            (from_server(Code::Cancelled), Again::Never),
            (from_server(Code::NotFound), Again::Never),
            (IpcError::InvalidArgument(String::new()), Again::Never),
        ] {
            assert_eq!(again(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn retry_info_is_the_wait_that_the_server_asks_for() {
        assert_eq!(pushback(&limited()), Some(Duration::from_secs(3)));
        assert_eq!(pushback(&from_server(Code::Unavailable)), None);
        assert_eq!(pushback(&IpcError::Timeout(String::new())), None);
    }
}
