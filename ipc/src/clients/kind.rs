//! How a call is made, and what differs between a method with one answer and one with a stream of
//! them.

use tonic::Request;

use crate::resilience::deadline;

/// With the time that is left, so that the server stops when nobody waits any more.
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(remaining) = deadline::remaining() {
        request.set_timeout(remaining);
    }
    request
}

/// One message back.
pub(super) mod unary {
    use std::future::Future;

    use tonic::Response;

    use crate::error::IpcResult;
    use crate::resilience::{CallKind, ResiliencePolicy};

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

    use futures_util::stream;
    use tonic::{Response, Status, Streaming};

    use crate::clients::ResponseStream;
    use crate::error::IpcResult;
    use crate::resilience::{CallKind, ResiliencePolicy};

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

    pub(in crate::clients) async fn resilient<T: Send + 'static, A>(
        policy: &ResiliencePolicy,
        kind: CallKind,
        attempt: impl FnMut() -> A,
    ) -> IpcResult<ResponseStream<T>>
    where
        A: Future<Output = IpcResult<ResponseStream<T>>>,
    {
        policy.stream(kind, attempt).await
    }
}
