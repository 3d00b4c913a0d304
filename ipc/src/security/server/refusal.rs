//! Why the server itself ends a call, and what the caller is told: a gRPC code, a fixed text, and
//! `google.rpc.ErrorInfo` with the reason.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::security::policy::Denied;
use crate::security::verifier::TokenError;

/// Names the server in `google.rpc.ErrorInfo`.
pub(super) const ERROR_DOMAIN: &str = "intellirouter";

// Calls come and go: a place is free soon, and callers that come back at once would fill it again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a call is ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoToken,
    // Which of two would count is a guess, and guessing is how checks are passed by.
    TwoTokens,
    Token(TokenError),
    Denied(Denied),
    // The JWT config was checked when the server was built.
    Unusable,
    BadTimeout,
    Busy,
    Deadline,
    Panic,
}

impl Refusal {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::TwoTokens => "two_tokens",
            Self::Token(error) => error.label(),
            Self::Denied(Denied::RoleMissing) => "role",
            Self::Denied(Denied::NoRule) => "no_rule",
            Self::Unusable => "unusable",
            Self::BadTimeout => "bad_timeout",
            Self::Busy => "busy",
            Self::Deadline => "deadline",
            Self::Panic => "panic",
        }
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Self::NoToken | Self::TwoTokens | Self::Token(_) => Code::Unauthenticated,
            Self::Denied(_) => Code::PermissionDenied,
            Self::BadTimeout => Code::InvalidArgument,
            Self::Busy => Code::ResourceExhausted,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Unusable | Self::Panic => Code::Internal,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::NoToken => "a token is needed",
            Self::TwoTokens => "more than one token was sent",
            Self::Token(error) => return error.to_string(),
            Self::Denied(Denied::RoleMissing) => "the caller lacks the role",
            Self::Denied(Denied::NoRule) => "no rule lets anybody call this method",
            Self::Unusable => "tokens cannot be checked",
            Self::BadTimeout => {
                "grpc-timeout: expected one, of 1 to 8 digits and one of H, M, S, m, u, n"
            }
            Self::Busy => "too many calls are in progress",
            Self::Deadline => "the call took longer than it may",
            Self::Panic => "the server failed",
        }
        .to_owned()
    }

    pub(super) fn into_status(self) -> Status {
        let reason = self.label().to_ascii_uppercase();
        let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, []);
        if self == Self::Busy {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        Status::with_error_details(self.code(), self.text(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_code_and_a_machine_readable_reason() {
        for (refusal, code, reason) in [
            (Refusal::NoToken, Code::Unauthenticated, "NO_TOKEN"),
            (Refusal::TwoTokens, Code::Unauthenticated, "TWO_TOKENS"),
            (
                Refusal::Token(TokenError::Expired),
                Code::Unauthenticated,
                "EXPIRED",
            ),
            (
                Refusal::Denied(Denied::RoleMissing),
                Code::PermissionDenied,
                "ROLE",
            ),
            (
                Refusal::Denied(Denied::NoRule),
                Code::PermissionDenied,
                "NO_RULE",
            ),
            (Refusal::Unusable, Code::Internal, "UNUSABLE"),
            (Refusal::BadTimeout, Code::InvalidArgument, "BAD_TIMEOUT"),
            (Refusal::Busy, Code::ResourceExhausted, "BUSY"),
            (Refusal::Deadline, Code::DeadlineExceeded, "DEADLINE"),
            (Refusal::Panic, Code::Internal, "PANIC"),
        ] {
            let status = refusal.into_status();
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (status.code(), &*info.reason, &*info.domain),
                (code, reason, ERROR_DOMAIN)
            );
            assert!(!status.message().is_empty());
        }
    }

    #[test]
    fn a_full_server_says_when_to_come_back() {
        let status = Refusal::Busy.into_status();
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(RETRY_AFTER));
    }
}
