//! Lets pages of other origins call (Fetch standard, "CORS protocol").
//!
//! Answers preflights and marks answers, refusals included: a browser that may
//! not read an error shows its user nothing. Only origins that the config
//! names; without any, the layer adds nothing. Requested headers are echoed,
//! because gRPC metadata has names that no list foresees; callers prove
//! themselves by a token in a header and never by cookies, so
//! `Access-Control-Allow-Credentials` is never sent.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::body::Body;
use crate::config::CorsConfig;

/// What pages may read besides the safelisted headers.
const ALWAYS_EXPOSED: &str = "grpc-status, grpc-message, grpc-status-details-bin, grpc-encoding, \
                              retry-after, www-authenticate";

/// See the module's comment.
pub(crate) struct Cors {
    origins: Vec<HeaderValue>,
    expose: HeaderValue,
    max_age: HeaderValue,
}

impl Cors {
    pub(crate) fn new(config: &CorsConfig) -> Self {
        let mut expose = ALWAYS_EXPOSED.to_owned();
        for name in &config.expose_headers {
            expose.push_str(", ");
            expose.push_str(name);
        }
        let value = |text: &str| HeaderValue::try_from(text).ok();
        Self {
            origins: config.origins.iter().filter_map(|origin| value(origin)).collect(),
            expose: value(&expose).unwrap_or(HeaderValue::from_static(ALWAYS_EXPOSED)),
            max_age: HeaderValue::from(config.max_age.as_secs()),
        }
    }

    /// The origin of a request, if the config lets its pages in.
    pub(crate) fn allowed<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.origins.contains(origin).then_some(origin)
    }

    /// The answer to a preflight; `None` for any other request.
    pub(crate) fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let asked = request.headers();
        if request.method() != Method::OPTIONS || !asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("origin, access-control-request-headers"));
        if let Some(origin) = self.allowed(asked) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
            headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
            if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
            }
        }
        Some(response)
    }

    /// Marks an answer as readable for `origin`.
    pub(crate) fn mark(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        // A backend's own CORS headers would contradict the gateway's.
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone());
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}
