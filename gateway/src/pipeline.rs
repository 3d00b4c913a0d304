//! The request path, in one place and in order.
//!
//! ```text
//!             client                                        backend
//!               |  TLS, HTTP/2 or HTTP/1.1  (server)           ^
//!               v                                              |
//!  record -> rescue -> open calls -> protocol -> CORS          |
//!               -> route -> authenticate -> roles -> deadline  |
//!               -> identity -> translate -> upstream call -----+
//!               |                             (pool, HTTP/2, mTLS)
//!               <- answer: headers at once, body as it comes <-+
//!
//!  A refusal at any arrow, a failure upstream and a panic become a `Reply`,
//!  rendered in the caller's dialect; the record sees what the caller got.
//! ```
//!
//! The path is plain `async` code and not a stack of `tower` services: every
//! policy step is a synchronous function of the request, so a list of calls
//! with `?` says the same as a list of layers, compiles to one future without
//! boxes, and leaves no poll code to read. See `docs/decisions`.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version};
use intellirouter::security::IDENTITY_HEADER;

use crate::body::Body;
use crate::gateway::{Gateway, Worker};
use crate::layers::authenticate::Identity;
use crate::layers::grpc_web::{self, Encoding};
use crate::layers::{cors, deadline, roles};
use crate::reply::{Dialect, Reply};
use crate::routes::{Access, Route, Target};
use crate::telemetry::{CallRecord, Protocol};
use crate::{events, upstream};

/// Answers one request. There is always an answer.
pub(crate) async fn serve(
    worker: &Worker,
    peer: SocketAddr,
    mut request: Request<Body>,
) -> Response<Body> {
    let gateway = &*worker.gateway;
    let kind = Kind::of(&request);
    let route = kind.route(gateway, &request);
    let asked_by_page = request.headers().contains_key(http::header::ORIGIN);
    let origin = gateway.cors.allowed(request.headers()).cloned();

    // Outermost, so that it sees what the caller really got.
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or(http::uri::PathAndQuery::from_static("/"));
    let mut record = CallRecord::begin(
        &gateway.telemetry,
        kind.protocol(),
        peer,
        path,
        route.clone(),
    );

    // Outside every refusal and every step that could panic.
    let outcome = AssertUnwindSafe(steps(worker, kind, &route, &mut request, &mut record))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Reply::internal()));

    let mut response = match outcome {
        Ok(mut response) => {
            record.see_headers(response.headers());
            if kind.protocol() == Protocol::Http {
                record.http_status(response.status());
            }
            response = response.map(|body| body.recorded(record));
            // After the record, which reads the trailers that this hides.
            match kind {
                Kind::Web(encoding) => grpc_web::from_grpc(response, encoding),
                _ => response,
            }
        }
        Err(reply) => {
            record.refused(&reply);
            if kind.protocol() != Protocol::Grpc {
                // Plain HTTP clients may hang or fail when they are answered
                // while they still send; gRPC clients know how to be.
                request.into_body().discard().await;
            }
            reply
                .render(kind.dialect())
                .map(|body| body.recorded(record))
        }
    };
    // A backend does not decide which pages may read the gateway's answers.
    if asked_by_page && matches!(route.target, Target::Upstream(_)) {
        cors::strip(response.headers_mut());
    }
    // Last, so that pages can read refusals too.
    if let Some(origin) = origin {
        gateway.cors.mark(origin, response.headers_mut());
    }
    response
}

/// What stands between a request and its answer.
async fn steps(
    worker: &Worker,
    kind: Kind,
    route: &Arc<Route>,
    request: &mut Request<Body>,
    record: &mut CallRecord,
) -> Result<Response<Body>, Reply> {
    let gateway = &*worker.gateway;
    // First of all refusals: it must hold whatever the request is.
    gateway.check_open_calls(route)?;
    // Before authentication: browsers send preflights without a token.
    if let Some(preflight) = gateway.cors.preflight(request) {
        return Ok(preflight);
    }
    // Before authentication: the answer is the same for everybody.
    kind.check(request)?;
    let now = SystemTime::now();
    // Authentication before the route's own refusals: who may not call learns
    // nothing of what there is.
    let identity = match route.access {
        Access::Public => None,
        _ => Some(gateway.authenticate.check(request.headers(), now)?),
    };
    record.caller.clone_from(&identity);
    if matches!(kind, Kind::Events) {
        // Channels have rules of their own.
        // Boxed, like the gateway's own services below: calls that go upstream
        // must not carry the state of those that stay.
        let stall = gateway.config.limits.stall_timeout;
        let response = Box::pin(events::serve(gateway, required(identity)?, take(request))).await?;
        return Ok(response.map(|body| body.with_stall_limit(stall)));
    }
    if route.target == Target::Nowhere {
        return Err(unknown_method());
    }
    if let Some(identity) = &identity {
        roles::check(&route.access, identity)?;
    }
    // After the checks: a refused call needs no timer.
    let timeout = deadline::apply(request.headers_mut(), route.timeout)?;
    // The last look at what the caller sent; from here on it is the gateway's.
    strip(request.headers_mut(), route.forward_authorization);
    let mut request = take(request);
    if let Kind::Web(encoding) = kind {
        request = grpc_web::to_grpc(request, encoding);
    }
    match route.target {
        Target::Upstream(index) => {
            if let Some(identity) = &identity {
                let header = gateway.authenticate.identity_header(identity, index, now)?;
                request.headers_mut().insert(IDENTITY_HEADER, header);
            }
            upstream::call(&worker.pools[index], request, timeout).await
        }
        _ => {
            let stall = gateway.config.limits.stall_timeout;
            let response = Box::pin(gateway.local.call(request, identity, timeout)).await?;
            Ok(response.map(|body| body.with_stall_limit(stall)))
        }
    }
}

/// Takes a request on; what is refused before stays where it was.
fn take(request: &mut Request<Body>) -> Request<Body> {
    std::mem::replace(request, Request::new(Body::empty()))
}

fn required(identity: Option<Arc<Identity>>) -> Result<Arc<Identity>, Reply> {
    identity.ok_or_else(|| Reply::unauthenticated("no_token", "a bearer token is required"))
}

fn unknown_method() -> Reply {
    Reply::new(
        tonic::Code::Unimplemented,
        "unknown_method",
        "there is no such service or method",
    )
}

/// Removes what a backend must not get from a caller: credentials that are the
/// gateway's to check, an identity that only the gateway may state, and the
/// headers that end at each hop (RFC 9110, 7.6.1; the h2 crate refuses them
/// over HTTP/2).
fn strip(headers: &mut HeaderMap, forward_authorization: bool) {
    if forward_authorization {
        if let Some(value) = headers.get_mut(AUTHORIZATION) {
            value.set_sensitive(true);
        }
    } else {
        headers.remove(AUTHORIZATION);
    }
    headers.remove(IDENTITY_HEADER);
    if headers.contains_key(http::header::HOST) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|names| names.to_str().ok())
            .flat_map(|names| names.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        // Not `te`: a gRPC client that names a host must keep it, and the
        // translation from gRPC-Web sets its own.
        for name in [
            "host",
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ] {
            headers.remove(name);
        }
    }
}

/// What a request asks for, by its content type, path and method.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Grpc,
    Web(Encoding),
    Events,
    /// A POST on a path that a gRPC route covers, in no content type we speak.
    WrongType,
    Other,
}

impl Kind {
    fn of(request: &Request<Body>) -> Self {
        let content_type = request.headers().get(CONTENT_TYPE);
        let content_type = content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if let Some((encoding, _)) = grpc_web::parse_content_type(content_type) {
            return Self::Web(encoding);
        }
        if is_grpc(content_type) {
            return Self::Grpc;
        }
        let path = request.uri().path();
        if path == "/events" || path.starts_with("/events/") {
            return Self::Events;
        }
        if request.method() == Method::POST {
            Self::WrongType
        } else {
            Self::Other
        }
    }

    fn route(self, gateway: &Gateway, request: &Request<Body>) -> Arc<Route> {
        let routes = &gateway.routes;
        match self {
            Self::Events => routes.events.clone(),
            Self::Other => routes.unknown.clone(),
            // A query is no part of a gRPC path, and backends may read it.
            _ if request.uri().query().is_some() => routes.unknown.clone(),
            _ => routes
                .find(request.uri().path())
                .unwrap_or(&routes.unknown)
                .clone(),
        }
    }

    /// Refuses what no token could make right.
    fn check(self, request: &Request<Body>) -> Result<(), Reply> {
        let not_found = || {
            Reply::new(
                tonic::Code::NotFound,
                "not_found",
                "there is nothing at this path",
            )
        };
        match self {
            Self::Grpc if request.version() < Version::HTTP_2 => Err(Reply::new(
                tonic::Code::Internal,
                "grpc_needs_http2",
                "gRPC needs HTTP/2; over HTTP/1.1 use gRPC-Web",
            )
            .status(StatusCode::HTTP_VERSION_NOT_SUPPORTED)),
            Self::Grpc | Self::Web(_) if request.method() != Method::POST => Err(Reply::new(
                tonic::Code::Internal,
                "method_not_allowed",
                "gRPC calls are POST requests",
            )
            .status(StatusCode::METHOD_NOT_ALLOWED)
            .allow("POST")),
            Self::WrongType if request.uri().path().matches('/').count() != 2 => Err(not_found()),
            Self::WrongType => Err(Reply::new(
                tonic::Code::InvalidArgument,
                "unsupported_media_type",
                "expected content-type application/grpc or application/grpc-web",
            )
            .status(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
            Self::Other => Err(not_found()),
            _ => Ok(()),
        }
    }

    fn dialect(self) -> Dialect {
        match self {
            Self::Grpc => Dialect::Grpc,
            Self::Web(encoding) => Dialect::Web(encoding),
            _ => Dialect::Http,
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Grpc => Protocol::Grpc,
            Self::Web(_) => Protocol::GrpcWeb,
            _ => Protocol::Http,
        }
    }
}

fn is_grpc(content_type: &str) -> bool {
    content_type
        .strip_prefix("application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

#[cfg(test)]
mod tests;
