//! The way of a call through the server, in order: counted from its arrival; who calls, and whether
//! that caller may; by when it must have ended; a place among the calls in progress; the handler,
//! whose panic is an answer like any other; and the answer's body, with which all of this ends.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Service, ServiceExt};

use super::answer::Answer;
use super::deadline;
use super::guard::Guard;
use super::methods::{Method, Methods};
use super::metrics::Record;
use super::refusal::Refusal;
use crate::security::Claims;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Running = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// All services of a server, behind the checks.
#[derive(Clone)]
pub(super) struct Calls {
    routes: Routes,
    guard: Arc<Guard>,
    methods: Arc<Methods>,
}

/// A call that got through the checks.
pub(super) struct Call {
    pub(super) record: Record,
    pub(super) deadline: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Calls {
    pub(super) fn new(routes: Routes, guard: Guard, methods: Methods) -> Self {
        Self {
            routes: routes.prepare(),
            guard: Arc::new(guard),
            methods: Arc::new(methods),
        }
    }

    fn admit(
        &self,
        request: &mut Request,
        method: &Method,
        arrived: Instant,
    ) -> Result<(Option<Instant>, OwnedSemaphorePermit), Refusal> {
        let headers = request.headers();
        let claims = self
            .guard
            .admit(&method.access, headers, SystemTime::now())?;
        let deadline = deadline::of(headers, method.timeout, arrived)?;
        let place = Arc::clone(&method.places)
            .try_acquire_owned()
            .map_err(|_| Refusal::Busy)?;
        if let Some(claims) = claims {
            request.extensions_mut().insert(Claims::clone(&claims));
        }
        Ok((deadline, place))
    }
}

impl Service<Request> for Calls {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Running, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Whoever is not ready is waited for inside the call, within its deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let arrived = Instant::now();
        let method = Arc::clone(self.methods.find(request.uri().path()));
        let mut record = Record::begin(Arc::clone(&method), arrived);
        match self.admit(&mut request, &method, arrived) {
            Ok((deadline, place)) => {
                record.ends_by(deadline);
                let call = Call {
                    record,
                    deadline,
                    _place: place,
                };
                Either::Left(Box::pin(run(self.routes.clone(), request, call)))
            }
            Err(refusal) => {
                tracing::debug!(
                    reason = refusal.label(),
                    method = request.uri().path(),
                    "a call was refused"
                );
                record.finish(refusal.code());
                Either::Right(ready(Ok(refusal.into_status().into_http())))
            }
        }
    }
}

async fn run(routes: Routes, request: Request, call: Call) -> Result<Response, Infallible> {
    let path = request.uri().path().to_owned();
    // What a panic leaves behind is dropped with the future; nothing of it is used again.
    let handler = AssertUnwindSafe(routes.oneshot(request)).catch_unwind();
    let response = match deadline::within(call.deadline, handler).await {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(never))) => match never {},
        Some(Err(_)) => {
            tracing::error!(method = path, "a handler panicked");
            Refusal::Panic.into_status().into_http()
        }
        None => Refusal::Deadline.into_status().into_http(),
    };
    Ok(Answer::follow(response, call))
}
