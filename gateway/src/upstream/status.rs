//! What the end of a try means: which status its caller gets, whether its
//! endpoint failed, and whether the call may be tried again.
//!
//! | end of the try | status | the endpoint | tried again |
//! |---|---|---|---|
//! | no connection | UNAVAILABLE | failed, as the pool says | any call |
//! | GOAWAY below the stream's id, or no longer sent because of it | UNAVAILABLE | not judged: it restarts | any call |
//! | REFUSED_STREAM | UNAVAILABLE | failed | any call |
//! | the connection broke | UNAVAILABLE | failed, once for all its calls | repeatable calls |
//! | INTERNAL_ERROR | INTERNAL | failed | repeatable calls |
//! | NO_ERROR, CONNECT_ERROR | INTERNAL | not judged | repeatable calls |
//! | CANCEL, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY | CANCELLED, RESOURCE_EXHAUSTED, PERMISSION_DENIED | not judged | never: it is an answer, of a kind |
//! | any other reset | INTERNAL | not judged | never: it would break the same rule |
//! | not gRPC: HTTP 5xx | UNAVAILABLE, UNKNOWN | failed | by its status |
//! | not gRPC, else | by its HTTP status | not judged | by its status, 429 never |
//! | no status at the end | UNKNOWN | failed | by its status |
//! | a status | that status | failed if in `breaker.failure_codes` | repeatable calls, if in `retries.codes` |
//!
//! The first three reached no handler (RFC 9113, 6.8 and 8.7), so that nothing
//! was done which a second try could do twice. A reset that any caller could
//! provoke never counts against an endpoint, which all callers share.

use h2::Reason;
use http::StatusCode;
use intellirouter::resilience::Outcome;
use tonic::Code;

use crate::reply::Reply;

/// Why a call may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Connect,
    GoAway,
    Refused,
    Broken,
    Timeout,
    Status,
}

impl Cause {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::GoAway => "goaway",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Status => "status",
        }
    }

    /// Whether the try is known to have reached no handler.
    pub(super) fn is_untouched(self) -> bool {
        matches!(self, Self::Connect | Self::GoAway | Self::Refused)
    }

    /// Of a stream without response headers.
    pub(super) fn unanswered(error: &h2::Error) -> Option<Self> {
        if error.is_go_away() && error.is_remote() {
            return Some(Self::GoAway);
        }
        match reset(error) {
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Some(Self::Refused),
            _ => Self::answered(error),
        }
    }

    /// Of one whose response headers were there: a handler was reached.
    pub(super) fn answered(error: &h2::Error) -> Option<Self> {
        match reset(error) {
            None
            | Some(
                Reason::NO_ERROR
                | Reason::INTERNAL_ERROR
                | Reason::CONNECT_ERROR
                | Reason::REFUSED_STREAM,
            ) => Some(Self::Broken),
            Some(_) => None,
        }
    }
}

fn reset(error: &h2::Error) -> Option<Reason> {
    error.is_reset().then(|| error.reason()).flatten()
}

/// Whether a stream or connection that broke is its endpoint's failure.
pub(super) fn outcome(error: &h2::Error) -> Outcome {
    match reset(error) {
        None if error.is_go_away() && error.is_remote() => Outcome::Ignored,
        None | Some(Reason::REFUSED_STREAM | Reason::INTERNAL_ERROR) => Outcome::Failure,
        Some(_) => Outcome::Ignored,
    }
}

/// The status for a stream or connection that broke (gRPC over HTTP/2,
/// "Errors"). A lost connection is UNAVAILABLE, whatever h2 calls it.
pub(super) fn broken(error: &h2::Error) -> Reply {
    let code = match reset(error) {
        None => return Reply::unavailable("upstream_cut", "the backend went away"),
        Some(Reason::REFUSED_STREAM) => {
            return Reply::unavailable("upstream_refused", "the backend refused the call");
        }
        Some(Reason::CANCEL) => Code::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(_) => Code::Internal,
    };
    Reply::new(code, "upstream_reset", "the backend reset the stream")
}

/// Whether a request was not sent because its connection is gone. Otherwise
/// HTTP/2 does not know such a request, which is the gateway's fault.
pub(super) fn is_lost(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away() || error.is_reset()
}

pub(super) fn no_status() -> Reply {
    Reply::new(
        Code::Unknown,
        "no_status",
        "the backend ended the stream without a status",
    )
}

/// The status for an answer that is not gRPC, such as a proxy's error page
/// (gRPC, "HTTP to gRPC Status Code Mapping").
pub(super) fn not_grpc(status: StatusCode) -> Reply {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Reply::new(code, "not_grpc", "the backend's answer was not gRPC")
}

/// A few gRPC codes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Codes(u32);

impl Codes {
    pub(super) fn of(codes: &[Code]) -> Self {
        Self(codes.iter().fold(0, |all, code| all | bit(*code)))
    }

    pub(super) fn contains(self, code: Code) -> bool {
        self.0 & bit(code) != 0
    }
}

/// Codes are 0 to 16.
fn bit(code: Code) -> u32 {
    1 << (code as u32)
}
