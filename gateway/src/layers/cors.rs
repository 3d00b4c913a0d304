//! Lets pages of other origins call (Fetch standard, "CORS protocol").
//!
//! Answers preflights and marks answers, refusals included: a browser that may
//! not read an error shows its user nothing. Only origins that the config
//! names; without any, the layer adds nothing. Requested headers are echoed,
//! because gRPC metadata has names that no list foresees; callers prove
//! themselves by a token in a header and never by cookies, so
//! `Access-Control-Allow-Credentials` is never sent, but for event streams that
//! are opened by a ticket, which have a cookie to come back with.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::body::Body;
use crate::config::CorsConfig;

/// What pages may read besides the safelisted headers.
const ALWAYS_EXPOSED: &str = "grpc-status, grpc-message, grpc-status-details-bin, grpc-encoding, \
                              retry-after, www-authenticate, ratelimit-limit, \
                              ratelimit-remaining, ratelimit-reset, ratelimit-policy";

/// Removes what a backend says of CORS: it would contradict the gateway.
pub(crate) fn strip(headers: &mut HeaderMap) {
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE,
    ] {
        headers.remove(name);
    }
}

/// Lets the page that may read an answer have sent, and keep, a cookie.
pub(crate) fn with_credentials(headers: &mut HeaderMap) {
    headers.insert(
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
}

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
            origins: config
                .origins
                .iter()
                .filter_map(|origin| value(origin))
                .collect(),
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
        headers.insert(
            VARY,
            HeaderValue::from_static("origin, access-control-request-headers"),
        );
        if let Some(origin) = self.allowed(asked) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(
                ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET, POST"),
            );
            headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
            if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
            }
        }
        Some(response)
    }

    /// Marks an answer as readable for `origin`.
    pub(crate) fn mark(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone());
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PAGE: &str = "https://app.example";

    fn cors() -> Cors {
        Cors::new(&CorsConfig {
            origins: vec![PAGE.into()],
            expose_headers: vec!["x-cost".into()],
            max_age: Duration::from_secs(60),
        })
    }

    fn preflight(origin: &str) -> Request<()> {
        Request::builder()
            .method(Method::OPTIONS)
            .header(ORIGIN, origin)
            .header(ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(ACCESS_CONTROL_REQUEST_HEADERS, "authorization,x-any")
            .body(())
            .unwrap()
    }

    #[test]
    fn a_preflight_of_a_known_origin_gets_what_it_asks_for_without_credentials() {
        let response = cors().preflight(&preflight(PAGE)).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let headers = response.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "authorization,x-any");
        assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "60");
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn an_origin_is_allowed_letter_for_letter_or_not_at_all() {
        for origin in [
            "https://app.example.evil",
            "http://app.example",
            "https://app.example:444",
            "null",
            "*",
            "",
        ] {
            let headers = cors()
                .preflight(&preflight(origin))
                .unwrap()
                .into_parts()
                .0
                .headers;
            assert!(
                headers.keys().all(|name| name == VARY),
                "{origin}: {headers:?}"
            );
        }
    }

    #[test]
    fn only_options_with_a_requested_method_is_a_preflight() {
        let mut plain = preflight(PAGE);
        plain.headers_mut().remove(ACCESS_CONTROL_REQUEST_METHOD);
        assert!(cors().preflight(&plain).is_none());
        let mut post = preflight(PAGE);
        *post.method_mut() = Method::POST;
        assert!(cors().preflight(&post).is_none());
    }

    #[test]
    fn a_marked_answer_shows_pages_the_status_and_the_configured_headers() {
        let mut headers = HeaderMap::new();
        cors().mark(HeaderValue::from_static(PAGE), &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);
        assert_eq!(headers[VARY], "origin");
        let exposed = headers[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        for name in [
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
            "retry-after",
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
            "ratelimit-policy",
            "x-cost",
        ] {
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
        }
    }

    #[test]
    fn what_a_backend_says_of_cors_gives_way_to_the_gateway() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(
            "access-control-allow-credentials",
            HeaderValue::from_static("true"),
        );
        strip(&mut headers);
        cors().mark(HeaderValue::from_static(PAGE), &mut headers);
        assert_eq!(
            headers
                .get_all(ACCESS_CONTROL_ALLOW_ORIGIN)
                .iter()
                .collect::<Vec<_>>(),
            [PAGE]
        );
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }
}
