//! The request path, in one place and in order.
//!
//! ```text
//!             client                                        backend
//!               |  TLS, HTTP/2 or HTTP/1.1  (server)           ^
//!               v                                              |
//!  route -> record -> rescue -> open calls -> CORS preflight   |
//!               -> limits by address -> protocol               |
//!               -> authenticate -> conduct -> revocation       |
//!               -> limits by identity -> roles -> deadline     |
//!               -> strip -> translate -> identity, trace       |
//!               -> place -> breaker -> try --------------------+
//!               |    ^              (balance, pool, HTTP/2, mTLS)
//!               |    +--- wait, within the budget <- failed <--+
//!               |         and the deadline           (retry)   |
//!               <- answer: headers at once, body as it comes <-+
//!
//!  A refusal at any arrow, a failure upstream and a panic become a `Reply`,
//!  rendered in the caller's dialect; the record sees what the caller got.
//!  Events and the gateway's own services branch off before the call upstream.
//!  The loop of tries is `upstream`; headers of a call that may be repeated and
//!  has one message wait for that message or its status.
//!
//!  Until its last byte a call can be cut from outside: its token ends or is
//!  revoked, its role is withdrawn (`recheck`), the drain is over (`shutdown`).
//!  A cut is a `Reply` too, here or in the trailers (`body`).
//! ```
//!
//! The path is plain `async` code and not a stack of `tower` services: a list
//! of calls with `?` says the same as a list of layers and leaves no poll code
//! to read. Two policy steps may wait, both rarely and not for long: for a key
//! that has to be fetched (`authenticate`), and for the store of a global limit.
//! They are boxed, so that calls that do not wait do not carry their state. See
//! `docs/decisions`.

use std::future::Future as _;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version};
use intellirouter::security::IDENTITY_HEADER;

use crate::body::Body;
use crate::gateway::Gateway;
use crate::layers::authenticate::Identity;
use crate::layers::grpc_web::{self, Encoding};
use crate::layers::{certificate, cors, deadline, roles};
use crate::limits::Quota;
use crate::reply::{Dialect, Reply};
use crate::routes::{Access, Route, RouteTable, Target};
use crate::runtime::Runtime;
use crate::server::Client;
use crate::telemetry::{CallRecord, Protocol};
use crate::worker::{Serving, Worker};
use crate::{events, upstream};

/// Answers one request. There is always an answer.
pub(crate) async fn serve(
    worker: &Worker,
    client: &Arc<Client>,
    mut request: Request<Body>,
) -> Response<Body> {
    let gateway = &*worker.gateway;
    // One generation of the configuration from the first step to the last.
    let serving = worker.serving();
    let runtime = &serving.runtime;
    let kind = Kind::of(&request);
    let route = kind.route(&runtime.routes, &request);
    let asked_by_page = request.headers().contains_key(http::header::ORIGIN);
    let origin = runtime.cors.allowed(request.headers()).cloned();
    let by_ticket =
        matches!(kind, Kind::Events) && events::is_by_ticket(request.method(), request.uri());
    let dialect =
        match by_ticket && events::is_return(&runtime.cors, request.uri(), request.headers()) {
            true => Dialect::EventSource,
            false => kind.dialect(),
        };

    // Outermost, so that it sees what the caller really got.
    let call = gateway.calls.open(
        (worker.number, runtime.generation),
        kind.protocol(),
        client.clone(),
        path(request.uri()),
        route.clone(),
    );
    let mut record = CallRecord::begin(&gateway.telemetry, call);
    record.begin_trace(request.headers());

    let outcome = {
        let call = record.call().clone();
        let steps = steps(
            gateway,
            &serving,
            client,
            kind,
            &route,
            &mut request,
            &mut record,
        );
        // Outside every refusal and every step that could panic.
        let mut steps = pin!(AssertUnwindSafe(steps).catch_unwind());
        std::future::poll_fn(|cx| match steps.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.unwrap_or_else(|_| Err(Reply::internal()))),
            // Ended from outside: by the drain, or because its caller is no
            // longer welcome.
            Poll::Pending => call.poll_cut(cx).map(|cut| Err(cut.reply())),
        })
        .await
    };

    let mut response = match outcome {
        Ok(mut response) => {
            record.call().settle();
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
            if let Some(cut) = record.call().is_cut() {
                record.cut(cut, &reply);
            }
            let most = runtime.config.limits.open_calls;
            if kind.protocol() != Protocol::Grpc && gateway.can_linger(most) {
                // Plain HTTP clients may hang or fail when they are answered
                // while they still send; gRPC clients know how to be.
                request.into_body().discard().await;
            }
            reply.render(dialect).map(|body| body.recorded(record))
        }
    };
    // A backend does not decide which pages may read the gateway's answers.
    if asked_by_page && matches!(route.target, Target::Upstream(_)) {
        cors::strip(response.headers_mut());
    }
    // Last, so that pages can read refusals too.
    if let Some(origin) = origin {
        runtime.cors.mark(origin, response.headers_mut());
        if by_ticket {
            cors::with_credentials(response.headers_mut());
        }
    }
    response
}

/// Answers a request over HTTP/1.1 that may not be read as one: it reaches no
/// step, and operators see it like any call.
pub(crate) fn refuse(
    worker: &Worker,
    client: &Arc<Client>,
    uri: &http::Uri,
    reply: &Reply,
) -> Response<Body> {
    let gateway = &*worker.gateway;
    let runtime = &worker.serving().runtime;
    let call = gateway.calls.open(
        (worker.number, runtime.generation),
        Protocol::Http,
        client.clone(),
        path(uri),
        runtime.routes.unknown.clone(),
    );
    let mut record = CallRecord::begin(&gateway.telemetry, call);
    record.refused(reply);
    reply
        .render(Dialect::Http)
        .map(|body| body.recorded(record))
}

fn path(uri: &http::Uri) -> PathAndQuery {
    let path = uri.path_and_query().cloned();
    path.unwrap_or(PathAndQuery::from_static("/"))
}

/// What stands between a request and its answer.
async fn steps(
    gateway: &Gateway,
    serving: &Serving,
    client: &Client,
    kind: Kind,
    route: &Arc<Route>,
    request: &mut Request<Body>,
    record: &mut CallRecord,
) -> Result<Response<Body>, Reply> {
    let runtime = &*serving.runtime;
    let limits = &runtime.config.limits;
    // First of all refusals: it must hold whatever the request is.
    gateway.check_open_calls(limits.open_calls, route)?;
    // Before authentication: browsers send preflights without a token.
    if let Some(preflight) = runtime.cors.preflight(request) {
        return Ok(preflight);
    }
    // Before anything that costs more: calls to nowhere and bad tokens count too.
    let mut quota = match route.rates.get() {
        Some(rates) => rates.early(client.address.ip()).await?,
        None => None,
    };
    // Before authentication: the answer is the same for everybody.
    kind.check(request)?;
    let now = SystemTime::now();
    // Authentication before the route's own refusals: who may not call learns
    // nothing of what there is.
    let identity = match route.access {
        Access::Public => None,
        _ => Some(identify(runtime, client, kind, request, now).await?),
    };
    if let Some(identity) = &identity {
        record.trace.event("authenticated");
        // Before anything that costs others: a caller is known by its token alone.
        record.identified(identity, limits.open_calls_per_subject)?;
        // Each call anew: the token may be a remembered one.
        gateway.revocations.check(identity, now)?;
    }
    // Before roles: a caller that tries out what it may call is limited too.
    if let (Some(rates), Some(identity)) = (route.rates.get(), &identity) {
        quota = Quota::tightest(quota, rates.admit(client.address.ip(), identity).await?);
    }
    if matches!(kind, Kind::Events) {
        // Channels have rules of their own.
        // Boxed, like the gateway's own services below: calls that go upstream
        // must not carry the state of those that stay.
        let call = record.call().clone();
        let mut response = Box::pin(events::serve(&runtime.events, &call, take(request))).await?;
        if let Some(quota) = quota {
            quota.mark(response.headers_mut());
        }
        return Ok(response.map(|body| body.with_stall_limit(limits.stall_timeout)));
    }
    if route.target == Target::Nowhere {
        return Err(unknown_method());
    }
    if let Some(identity) = &identity {
        roles::check(&route.access, identity)?;
    }
    // After the checks: a refused call needs no timer.
    let arrived = record.call().started;
    let limit = deadline::apply(request.headers_mut(), route.timeout, arrived)?;
    // The last look at what the caller sent; from here on it is the gateway's.
    let over_http1 = request.version() < Version::HTTP_2;
    strip(
        request.headers_mut(),
        over_http1,
        route.forward_authorization,
    );
    let mut request = take(request);
    if let Kind::Web(encoding) = kind {
        request = grpc_web::to_grpc(request, encoding);
    }
    match route.target {
        Target::Upstream(index) => {
            if let Some(identity) = &identity {
                let header = runtime.authenticate.identity_header(identity, index, now)?;
                request.headers_mut().insert(IDENTITY_HEADER, header);
            }
            record.trace.inject(request.headers_mut());
            upstream::call(&serving.pools[index], request, limit, record).await
        }
        _ => {
            let call = record.call().clone();
            let timeout = limit.map(|limit| limit.left());
            let response = Box::pin(runtime.local.call(request, call, timeout)).await?;
            Ok(response.map(|body| body.with_stall_limit(limits.stall_timeout)))
        }
    }
}

/// By the ticket in the URL of an event stream, by the certificate of the
/// connection, where it may speak for the request, or by the token.
async fn identify(
    runtime: &Runtime,
    client: &Client,
    kind: Kind,
    request: &mut Request<Body>,
    now: SystemTime,
) -> Result<Arc<Identity>, Reply> {
    if matches!(kind, Kind::Events) && events::is_by_ticket(request.method(), request.uri()) {
        return Box::pin(events::enter(runtime, request, now)).await;
    }
    let headers = request.headers();
    if let Some(shown) = &client.certificate
        && certificate::counts(headers)
        && let Some(identity) = shown.identity(&runtime.certificates, now)?
    {
        return Ok(identity);
    }
    runtime.authenticate.check(headers, now).await
}

/// Takes a request on; what is refused before stays where it was.
fn take(request: &mut Request<Body>) -> Request<Body> {
    std::mem::replace(request, Request::new(Body::empty()))
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
fn strip(headers: &mut HeaderMap, over_http1: bool, forward_authorization: bool) {
    if forward_authorization {
        if let Some(value) = headers.get_mut(AUTHORIZATION) {
            value.set_sensitive(true);
        }
    } else {
        headers.remove(AUTHORIZATION);
    }
    headers.remove(IDENTITY_HEADER);
    if over_http1 || headers.contains_key(http::header::HOST) {
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

    fn route(self, routes: &RouteTable, request: &Request<Body>) -> Arc<Route> {
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
