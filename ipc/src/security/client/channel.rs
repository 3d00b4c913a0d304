//! The transport under a generated client: a tonic channel that adds the token.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::TryFutureExt;
use futures_util::future::{self, Either};
use http::header::AUTHORIZATION;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use super::token::TokenSource;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Result<http::Response<Body>, BoxError>;
type AnswerFuture = future::MapErr<
    <Channel as Service<http::Request<Body>>>::Future,
    fn(tonic::transport::Error) -> BoxError,
>;

/// A connection to one server. Clones share it, and the token.
#[derive(Debug, Clone)]
pub struct SecureChannel {
    channel: Channel,
    tokens: Option<Arc<TokenSource>>,
}

impl SecureChannel {
    pub(super) fn new(channel: Channel, tokens: Option<TokenSource>) -> Self {
        Self {
            channel,
            tokens: tokens.map(Arc::new),
        }
    }
}

impl Service<http::Request<Body>> for SecureChannel {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Either<AnswerFuture, future::Ready<Answer>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(BoxError::from)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(tokens) = &self.tokens
            && !request.headers().contains_key(AUTHORIZATION)
        {
            match tokens.header(SystemTime::now()) {
                Ok(header) => request.headers_mut().insert(AUTHORIZATION, header),
                // As a Status, which generated clients hand on as it is.
                Err(error) => return Either::Right(future::err(Status::from(error).into())),
            };
        }
        Either::Left(
            self.channel
                .call(request)
                .map_err(BoxError::from as fn(_) -> _),
        )
    }
}
