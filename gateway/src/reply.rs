//! One verdict, every dialect.
//!
//! Whatever the gateway refuses or breaks off itself is a [`Reply`]; this is
//! the one place where replies become bytes. The public text is fixed by the
//! code that refuses and never carries what a peer sent or an inner error:
//! those are logged. Rendered as
//!
//! - gRPC: trailers-only with `google.rpc` details (gRPC over HTTP/2, "Responses");
//! - gRPC-Web: a trailer frame in the body, so that browsers can read it
//!   whatever CORS exposes;
//! - HTTP: a JSON problem (RFC 9457) with `Retry-After`, `WWW-Authenticate` and
//!   `RateLimit-*`;
//! - to an EventSource on its way back: the same, but where the refusal may pass
//!   (429, 503) an empty event stream that says when to come again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use crate::body::{Body, Kind};
use crate::layers::grpc_web::{self, Encoding};
use crate::limits::Quota;

/// The `domain` of every `google.rpc.ErrorInfo` that the gateway makes.
pub(crate) const ERROR_DOMAIN: &str = "gateway.intellirouter";

/// The least that a refused caller is told to wait: never nothing.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The least that an EventSource is told to wait, and the most that is added by
/// chance, so that those who were refused together don't come back together.
const COME_AGAIN: Duration = Duration::from_secs(2);

/// The language in which a caller expects its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Grpc,
    Web(Encoding),
    Http,
    /// HTTP, asked by a browser's EventSource that had a stream before.
    EventSource,
}

/// An answer that the gateway gives in its own name.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) code: Code,
    pub(crate) status: StatusCode,
    pub(crate) message: Cow<'static, str>,
    /// Stable name for metrics, logs and `ErrorInfo.reason`.
    pub(crate) label: &'static str,
    pub(crate) retry_after: Option<Duration>,
    /// What of the request was wrong, and what was expected there.
    pub(crate) violation: Option<Box<Violation>>,
    /// The methods that a path knows, for 405.
    pub(crate) allow: Option<&'static str>,
    /// The limit that had no room for the call.
    pub(crate) limit: Option<Box<OverLimit>>,
}

/// A limit that had no room, as callers may know it: it names nobody.
#[derive(Clone, Debug)]
pub(crate) struct OverLimit {
    /// What kind of thing has a share of its own, such as `subject`.
    pub(crate) subject: Arc<str>,
    pub(crate) description: Arc<str>,
    pub(crate) quota: Quota,
}

/// What of a request was wrong.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    place: Cow<'static, str>,
    expected: Cow<'static, str>,
}

impl Reply {
    pub(crate) fn new(
        code: Code,
        label: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            code,
            status: http_status(code),
            message: message.into(),
            label,
            retry_after: None,
            violation: None,
            allow: None,
            limit: None,
        }
    }

    pub(crate) fn unauthenticated(label: &'static str, message: &'static str) -> Self {
        Self::new(Code::Unauthenticated, label, message)
    }

    pub(crate) fn denied(label: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::PermissionDenied, label, message)
    }

    pub(crate) fn unavailable(label: &'static str, message: &'static str) -> Self {
        Self::new(Code::Unavailable, label, message).retry_after(Duration::from_secs(1))
    }

    /// `place` names the part of the request, `expected` what belongs there.
    pub(crate) fn invalid(
        place: impl Into<Cow<'static, str>>,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (place, expected) = (place.into(), expected.into());
        let mut reply = Self::new(
            Code::InvalidArgument,
            "invalid_argument",
            format!("{place}: {expected}"),
        );
        reply.violation = Some(Box::new(Violation { place, expected }));
        reply
    }

    /// Never UNAVAILABLE, which clients take for an outage and try harder. One
    /// more call would pass after `wait`.
    pub(crate) fn over_limit(limit: OverLimit, wait: Duration) -> Self {
        let message = format!("too many calls; {}", limit.description);
        let mut reply = Self::new(Code::ResourceExhausted, "rate_limited", message)
            .retry_after(wait.max(SHORTEST_WAIT));
        reply.limit = Some(Box::new(limit));
        reply
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            Code::Internal,
            "internal",
            "the gateway failed; the fault is logged",
        )
    }

    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "deadline", "the deadline passed")
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The gRPC form, with `google.rpc` details.
    pub(crate) fn grpc(&self) -> tonic::Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.label.to_ascii_uppercase(), ERROR_DOMAIN, []);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        if let Some(fault) = &self.violation {
            details.add_bad_request_violation(fault.place.as_ref(), fault.expected.as_ref());
        }
        if let Some(limit) = &self.limit {
            details.add_quota_failure_violation(&*limit.subject, &*limit.description);
        }
        tonic::Status::with_error_details(self.code, self.message.as_ref(), details)
    }

    /// The trailers that end a gRPC stream with this reply.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(4);
        if self.grpc().add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", HeaderValue::from(self.code as i32));
        }
        trailers
    }

    /// The whole answer, for a call that has none yet.
    pub(crate) fn render(&self, dialect: Dialect) -> Response<Body> {
        match dialect {
            Dialect::Grpc => {
                let mut response = Response::new(Body::empty());
                *response.headers_mut() = self.trailers();
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                response
            }
            Dialect::Web(encoding) => {
                let frame = grpc_web::trailer_frame(&self.trailers(), encoding);
                let mut response = Response::new(Body::full(frame));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, encoding.content_type());
                response
            }
            Dialect::Http => self.problem(),
            Dialect::EventSource => match self.status {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    self.come_again()
                }
                _ => self.problem(),
            },
        }
    }

    /// For an EventSource any status but 200 is the last word (WHATWG HTML, 9.2.3).
    fn come_again(&self) -> Response<Body> {
        let wait = self.retry_after.unwrap_or_default().max(COME_AGAIN);
        let wait = wait + COME_AGAIN.mul_f64(rand::random());
        // Without the blank line that ends an event: by the letter of 9.2.6 that would take away
        // the last event id, with which it resumes.
        let text = format!("retry: {}\n", wait.as_millis());
        let mut response = Response::new(Body::full(text));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn problem(&self) -> Response<Body> {
        let mut problem = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "detail": self.message,
            "reason": self.label,
        });
        if let Some(fault) = &self.violation {
            problem["place"] = fault.place.as_ref().into();
            problem["expected"] = fault.expected.as_ref().into();
        }
        let mut response = Response::new(Body::new(Kind::Full(problem.to_string().into())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(wait) = self.retry_after {
            // Whole seconds (RFC 9110, 10.2.3), never zero.
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64),
            );
        }
        if let Some(limit) = &self.limit {
            limit.quota.mark(headers);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = if self.label == "no_token" {
                "Bearer"
            } else {
                "Bearer error=\"invalid_token\""
            };
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}

/// The HTTP side of the failure table.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unimplemented | Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::AlreadyExists => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests;
