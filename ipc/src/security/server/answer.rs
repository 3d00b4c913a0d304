//! The body of an answer, followed to its end: only there is known how the call went.
//!
//! It keeps the call's place and its record until the last frame, or until the caller is gone. A panic
//! while a stream makes its next message ends it with INTERNAL. When the deadline passes, the
//! handler's stream is dropped at that moment, also if the caller does not read and so nobody asks for
//! more; the caller finds DEADLINE_EXCEEDED in the trailers. A status that no caller could receive is
//! shortened on its way out, and a message that could not be read is the caller's fault.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;
use tonic::{Code, Status};

use super::call::Call;
use super::methods::Method;
use super::refusal::Refusal;
use super::status::{blame_caller, code_in, shorten};

pub(super) struct Answer {
    stage: Arc<Stage>,
    alarm: Option<JoinHandle<()>>,
    method: Arc<Method>,
    done: bool,
}

/// What the alarm must reach, too.
struct Stage {
    running: Mutex<Option<Running>>,
    reader: AtomicWaker,
}

struct Running {
    body: Body,
    call: Call,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl Answer {
    /// The response with its body followed; one that has said its status already has ended.
    pub(super) fn follow(mut response: Response<Body>, mut call: Call) -> Response<Body> {
        blame_caller(response.headers_mut());
        if let Some(code) = code_in(response.headers()) {
            bound(response.headers_mut(), call.record.method());
            call.record.finish(code);
            return response;
        }
        response.map(|body| Body::new(Self::new(body, call)))
    }

    fn new(body: Body, call: Call) -> Self {
        let deadline = call.deadline;
        let method = Arc::clone(call.record.method());
        let stage = Arc::new(Stage {
            running: Mutex::new(Some(Running { body, call })),
            reader: AtomicWaker::new(),
        });
        let alarm = deadline.map(|deadline| tokio::spawn(ring(Arc::clone(&stage), deadline)));
        Self {
            stage,
            alarm,
            method,
            done: false,
        }
    }

    /// Nothing comes after this: whatever is left goes.
    fn end(&mut self) -> Option<Running> {
        self.done = true;
        if let Some(alarm) = self.alarm.take() {
            alarm.abort();
        }
        self.stage.take()
    }

    fn end_with(&mut self, code: Code) {
        if let Some(mut running) = self.end() {
            running.call.record.finish(code);
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Polled {
        self.end_with(refusal.code());
        let mut trailers = HeaderMap::new();
        let written = refusal.into_status().add_header(&mut trailers);
        // Can't fail: the text and the details are fixed, and as header values they are escaped.
        Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))))
    }
}

async fn ring(stage: Arc<Stage>, deadline: Instant) {
    sleep_until(deadline).await;
    if let Some(mut running) = stage.take() {
        running.call.record.finish(Code::DeadlineExceeded);
    }
    stage.reader.wake();
}

impl Stage {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        // A panic of the body is caught before it reaches the lock.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Running> {
        self.running().take()
    }

    /// The next of the body; `None` where the alarm has taken it, `Err` where it panicked.
    fn poll(&self, cx: &mut Context<'_>) -> Option<Result<Polled, ()>> {
        self.reader.register(cx.waker());
        let mut running = self.running();
        let body = Pin::new(&mut running.as_mut()?.body);
        // A body that panicked is dropped and not asked again.
        Some(catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))).map_err(|_| ()))
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if self.done {
            return Poll::Ready(None);
        }
        let mut polled = match self.stage.poll(cx) {
            Some(Ok(polled)) => polled,
            Some(Err(())) => {
                tracing::error!("a handler panicked in its stream");
                return self.refuse(Refusal::Panic);
            }
            None => return self.refuse(Refusal::Deadline),
        };
        match &mut polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    blame_caller(trailers);
                    bound(trailers, &self.method);
                    self.end_with(code_in(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(status))) => self.end_with(status.code()),
            // An end without a status is no success.
            Poll::Ready(None) => self.end_with(Code::Unknown),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A record without an end counts as given up.
        drop(self.end());
    }
}

/// Shortens a status that is too long, and says so once for each method: a caller may be able to
/// bring it about as often as it likes.
fn bound(headers: &mut HeaderMap, method: &Method) {
    if shorten(headers) {
        method.status_too_long.call_once(|| {
            tracing::warn!(
                method = method.name,
                "a status was too long to be sent and was cut; later ones are not logged"
            );
        });
    }
}
