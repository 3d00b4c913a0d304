//! What differs between a method with one answer and one with a stream of them.

/// One message back.
pub(super) mod unary {
    use std::future::Future;

    use tonic::{Request, Response};

    use crate::error::IpcResult;
    use crate::resilience::{CallKind, ResiliencePolicy, deadline};

    /// With the time that is left, so that the server stops when nobody waits any more.
    pub(in crate::clients) fn request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(remaining) = deadline::remaining() {
            request.set_timeout(remaining);
        }
        request
    }

    pub(in crate::clients) fn answer<T>(response: Response<T>) -> T {
        response.into_inner()
    }

    pub(in crate::clients) fn programmed<T>(answer: T) -> T {
        answer
    }

    pub(in crate::clients) async fn resilient<T, A>(
        policy: &ResiliencePolicy,
        kind: CallKind,
        attempt: impl FnMut() -> A,
    ) -> IpcResult<T>
    where
        A: Future<Output = IpcResult<T>>,
    {
        policy.call_as(kind, attempt).await
    }
}

/// A stream of messages back.
pub(super) mod stream {
    use std::future::Future;
    use std::sync::Arc;

    use futures_util::{TryStreamExt, stream};
    use tonic::{Request, Response, Status, Streaming};

    use crate::clients::ResponseStream;
    use crate::error::IpcResult;
    use crate::resilience::{CallKind, ResiliencePolicy, outcome_of_status};

    /// Without the time that is left: that is the time to begin, and `grpc-timeout` would end the
    /// whole stream with it.
    pub(in crate::clients) fn request<T>(message: T) -> Request<T> {
        Request::new(message)
    }

    pub(in crate::clients) fn answer<T: Send + 'static>(
        response: Response<Streaming<T>>,
    ) -> ResponseStream<T> {
        Box::pin(response.into_inner())
    }

    pub(in crate::clients) fn programmed<T: Send + 'static>(
        mut items: Vec<Result<T, Status>>,
    ) -> ResponseStream<T> {
        // As a real stream does.
        if let Some(error) = items.iter().position(Result::is_err) {
            items.truncate(error + 1);
        }
        Box::pin(stream::iter(items))
    }

    pub(in crate::clients) async fn resilient<T: 'static, A>(
        policy: &ResiliencePolicy,
        kind: CallKind,
        attempt: impl FnMut() -> A,
    ) -> IpcResult<ResponseStream<T>>
    where
        A: Future<Output = IpcResult<ResponseStream<T>>>,
    {
        let stream = policy.call_as(kind, attempt).await?;
        let breaker = Arc::clone(policy.breaker());
        Ok(Box::pin(stream.inspect_err(move |status| {
            breaker.report(outcome_of_status(status));
        })))
    }
}
