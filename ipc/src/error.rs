//! One error type for everything that crosses a process border.
//!
//! Owns the translation to and from `tonic::Status`, so that a handler can use `?` on a call to
//! another service and its caller sees what that service said. It does not own the error types of
//! single parts (a token, a key): those stand beside the part and are turned into this one at its
//! edge. Messages never carry a secret or a token.

use std::error::Error as _;
use std::sync::Arc;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The result of everything in this crate that can fail.
pub type IpcResult<T> = Result<T, IpcError>;

/// What went wrong between two processes.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The connection to a gRPC server could not be made, or the URL is not one.
    ///
    /// Check address, certificates and that the server is up. Worth a retry, except for a bad URL.
    #[error("transport failed: {}", chain(.0))]
    Transport(#[from] tonic::transport::Error),

    /// The server answered, and its answer is an error; code, message, details and metadata are as
    /// they came. A server of this crate shortens what is over 6 KiB.
    ///
    /// What to do follows from the code. Worth a retry: `UNAVAILABLE`, `DEADLINE_EXCEEDED`, and
    /// `RESOURCE_EXHAUSTED` when the details say when to come back (`google.rpc.RetryInfo`).
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[source] Status),

    /// A connection other than gRPC's (the event store, a listening socket) could not be made, or
    /// broke.
    ///
    /// Check that the other side is up and that the address is free. Worth a retry.
    #[error("connection failed: {0}")]
    Connection(String),

    /// A payload is not what its type says, or could not be written.
    ///
    /// The two sides disagree about a type: a retry meets the same bytes, so it is of no use.
    #[error("serialization failed: {0}")]
    Serialization(String),

    /// No answer came in time. The other side may have done the work all the same.
    ///
    /// Worth a retry when the call is idempotent.
    #[error("timed out: {0}")]
    Timeout(String),

    /// The thing that was asked for does not exist.
    ///
    /// Ask for another one; a retry is of no use.
    #[error("not found: {0}")]
    NotFound(String),

    /// The caller gave something that can never work.
    ///
    /// Correct the argument that the message names; a retry is of no use.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),

    /// A fault in the program itself, or in what it runs on.
    ///
    /// Report it; a retry is of no use.
    #[error("internal error: {0}")]
    Internal(String),

    /// A token, key or certificate was refused, or is missing.
    ///
    /// Correct what the message names (for an expired token: get a new one); a retry with the same
    /// one is of no use.
    #[error("security: {0}")]
    Security(String),
}

impl IpcError {
    /// Whether the same call may succeed later.
    ///
    /// This says nothing about whether the first try took effect: after a broken connection or a
    /// timeout nobody knows. Retry only calls that may safely happen twice, and not at once.
    pub fn is_retryable(&self) -> bool {
        match self {
            // A bad URL stays bad; tonic tells it from what failed on the way by the source alone.
            Self::Transport(error) => error
                .source()
                .is_some_and(|cause| !cause.is::<http::uri::InvalidUri>()),
            Self::Status(status) if let Some(origin) = made_from(status) => origin.is_retryable(),
            Self::Status(status) => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded => true,
                // Without RetryInfo it may be a quota that no waiting refills.
                Code::ResourceExhausted => status.get_details_retry_info().is_some(),
                _ => false,
            },
            Self::Connection(_) | Self::Timeout(_) => true,
            Self::Serialization(_)
            | Self::NotFound(_)
            | Self::InvalidArgument(_)
            | Self::Internal(_)
            | Self::Security(_) => false,
        }
    }

    /// None of what can't be copied: these are more than their text.
    fn copied(&self) -> Option<Self> {
        Some(match self {
            Self::Transport(_) | Self::Status(_) => return None,
            Self::Connection(text) => Self::Connection(text.clone()),
            Self::Serialization(text) => Self::Serialization(text.clone()),
            Self::Timeout(text) => Self::Timeout(text.clone()),
            Self::NotFound(text) => Self::NotFound(text.clone()),
            Self::InvalidArgument(text) => Self::InvalidArgument(text.clone()),
            Self::Internal(text) => Self::Internal(text.clone()),
            Self::Security(text) => Self::Security(text.clone()),
        })
    }

    fn code(&self) -> Code {
        match self {
            Self::Transport(_) | Self::Connection(_) => Code::Unavailable,
            Self::Status(status) => status.code(),
            Self::Serialization(_) | Self::Internal(_) => Code::Internal,
            Self::Timeout(_) => Code::DeadlineExceeded,
            Self::NotFound(_) => Code::NotFound,
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::Security(_) => Code::Unauthenticated,
        }
    }
}

/// A status passes unchanged; everything else gets the code that fits, with the error as its source.
impl From<IpcError> for Status {
    fn from(error: IpcError) -> Self {
        match error {
            IpcError::Status(status) => status,
            other => {
                let mut status = Status::new(other.code(), other.to_string());
                status.set_source(Arc::new(other));
                status
            }
        }
    }
}

/// The way back from [`Status::from`], within one process: what has only a text becomes the variant
/// again that it was. A transport error can't be copied, so it stays a status, with the error as its
/// source and as retryable as that is. A status that came over the wire, or to which somebody added
/// details or metadata, stays one.
impl From<Status> for IpcError {
    fn from(status: Status) -> Self {
        let added = !status.details().is_empty() || !status.metadata().is_empty();
        match made_from(&status).and_then(Self::copied) {
            Some(error) if !added => error,
            _ => Self::Status(status),
        }
    }
}

fn made_from(status: &Status) -> Option<&IpcError> {
    status.source()?.downcast_ref()
}

/// The name of a code as the gRPC specification spells it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

// tonic says only "transport error"; the reason (refused, bad certificate) is further down.
fn chain(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::metadata::MetadataMap;
    use tonic::transport::Endpoint;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_status_survives_the_round_trip_with_code_message_details_and_metadata() {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-request-id", "42".parse().unwrap());
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        let sent = Status::with_error_details_and_metadata(
            Code::ResourceExhausted,
            "too many",
            details,
            metadata,
        );

        let got = Status::from(IpcError::from(sent));

        assert_eq!(got.code(), Code::ResourceExhausted);
        assert_eq!(got.message(), "too many");
        let retry = got.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_secs(3)));
        assert_eq!(got.metadata().get("x-request-id").unwrap(), "42");
    }

    #[test]
    fn every_other_variant_maps_to_its_code_and_stays_reachable_as_the_source() {
        let text = || "why".to_owned();
        let table = [
            (IpcError::Connection(text()), Code::Unavailable),
            (IpcError::Serialization(text()), Code::Internal),
            (IpcError::Timeout(text()), Code::DeadlineExceeded),
            (IpcError::NotFound(text()), Code::NotFound),
            (IpcError::InvalidArgument(text()), Code::InvalidArgument),
            (IpcError::Internal(text()), Code::Internal),
            (IpcError::Security(text()), Code::Unauthenticated),
        ];
        for (error, code) in table {
            let shown = error.to_string();
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{shown}");
            assert_eq!(status.message(), shown);
            assert!(status.source().unwrap().is::<IpcError>());
        }
    }

    #[test]
    fn only_what_can_pass_by_itself_is_retryable() {
        let retry_info = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
        let limited = Status::with_error_details(Code::ResourceExhausted, "", retry_info);
        for error in [
            IpcError::Connection(String::new()),
            IpcError::Timeout(String::new()),
            Status::unavailable("").into(),
            Status::deadline_exceeded("").into(),
            limited.into(),
        ] {
            assert!(error.is_retryable(), "{error:?}");
        }
        for error in [
            IpcError::Serialization(String::new()),
            IpcError::NotFound(String::new()),
            IpcError::InvalidArgument(String::new()),
            IpcError::Internal(String::new()),
            IpcError::Security(String::new()),
            Status::resource_exhausted("").into(),
            Status::aborted("").into(),
            Status::internal("").into(),
        ] {
            assert!(!error.is_retryable(), "{error:?}");
        }
    }

    #[test]
    fn within_a_process_an_error_with_a_text_survives_the_way_through_a_status() {
        for make in [
            IpcError::Connection,
            IpcError::Serialization,
            IpcError::Timeout,
            IpcError::NotFound,
            IpcError::InvalidArgument,
            IpcError::Internal,
            IpcError::Security,
        ] {
            let sent = make("why".to_owned());
            let expected = format!("{sent:?}");
            let got = IpcError::from(Status::from(sent));
            assert_eq!(format!("{got:?}"), expected);
        }
    }

    #[test]
    fn a_transport_error_in_a_status_is_as_retryable_as_it_was() {
        let error = IpcError::from(Endpoint::from_shared("not a url").unwrap_err());
        let text = error.to_string();
        let got = IpcError::from(Status::from(error));
        assert!(!got.is_retryable(), "{got}");
        let IpcError::Status(status) = got else {
            panic!("{got}");
        };
        assert_eq!(status.source().unwrap().to_string(), text);
    }

    #[test]
    fn what_was_added_to_a_status_is_not_lost_on_the_way_back() {
        let mut status = Status::from(IpcError::NotFound("x".to_owned()));
        status.metadata_mut().insert("x-id", "42".parse().unwrap());
        let got = IpcError::from(status);
        let IpcError::Status(status) = &got else {
            panic!("{got}");
        };
        assert_eq!(status.metadata().get("x-id").unwrap(), "42");
    }

    #[test]
    fn over_the_wire_a_status_stays_a_status() {
        let mut headers = http::HeaderMap::new();
        let sent = Status::from(IpcError::NotFound("x".to_owned()));
        sent.add_header(&mut headers).unwrap();
        let got = IpcError::from(Status::from_header_map(&headers).unwrap());
        assert!(matches!(got, IpcError::Status(_)), "{got:?}");
    }

    #[test]
    fn a_bad_url_is_not_retryable() {
        let error = IpcError::from(Endpoint::from_shared("not a url").unwrap_err());
        assert!(matches!(error, IpcError::Transport(_)));
        assert!(!error.is_retryable(), "{error}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_retryable_keeps_its_source_and_says_why() {
        // Bound and dropped: nobody listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();

        let error = IpcError::from(endpoint.connect().await.unwrap_err());

        assert!(error.is_retryable());
        assert!(error.source().is_some());
        assert!(error.to_string().contains("refused"), "{error}");
        assert_eq!(Status::from(error).code(), Code::Unavailable);
    }
}
