//! The body of an answer, which goes on while its client takes nothing.
//!
//! hyper asks for no more of a body than it can write. So that a deadline, a
//! revocation or a drain ends such a call all the same, and at once for the
//! backend, the connection reads on here what the backend may still send without
//! new credit: at most a stream's window, 128 KiB (in gRPC-Web text a third
//! more), copied into one piece. Bodies without a window are not read on, and
//! learn that their client takes nothing: the stall timeout of the connection
//! ends those.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::body::{Body, BodyError};

type Next = Option<Result<Frame<Bytes>, BodyError>>;

/// Where a connection finds the answer that it is writing: HTTP/1.1 has one at a
/// time.
#[derive(Clone, Default)]
pub(super) struct Writing(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    body: Option<Body>,
    /// Data that was read on.
    held: BytesMut,
    /// What came behind it.
    end: Option<Next>,
    /// Whether hyper has asked in vain: then the body wakes it.
    asked: bool,
}

/// See the module's comment.
pub(super) struct ReadOn(Writing);

impl Writing {
    pub(super) fn answer(&self, body: Body) -> ReadOn {
        *self.state() = State {
            body: Some(body),
            ..State::default()
        };
        ReadOn(self.clone())
    }

    /// Called when hyper has no more to do: reads on if that is for the client.
    pub(super) fn read_on(&self, cx: &mut Context<'_>) {
        self.state().read_on(cx);
    }

    /// No one panics while holding it, and what it holds is whole at any time.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read_on(&mut self, cx: &mut Context<'_>) {
        let Some(body) = &mut self.body else { return };
        if !body.has_window() {
            if !self.asked {
                body.held_up();
            }
            return;
        }
        while !self.asked && self.end.is_none() {
            let Poll::Ready(next) = body.poll_next(cx) else {
                return;
            };
            match next.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.held.extend_from_slice(&bytes),
                Some(Ok(Err(frame))) => self.end = Some(Some(Ok(frame))),
                Some(Err(error)) => self.end = Some(Some(Err(error))),
                None => self.end = Some(None),
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held).freeze();
            return Poll::Ready(Some(Ok(Frame::data(held))));
        }
        if let Some(end) = self.end.take() {
            self.body = None;
            return Poll::Ready(end);
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        // A consumer that asks for more has passed the rest on.
        body.release(usize::MAX);
        let next = body.poll_next(cx);
        self.asked = next.is_pending();
        next
    }
}

impl http_body::Body for ReadOn {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        self.0.state().poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.state();
        let over = state.body.as_ref().is_none_or(Body::is_end_stream);
        over && state.held.is_empty() && state.end.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.state();
        match &state.body {
            Some(body) if state.held.is_empty() => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for ReadOn {
    /// hyper is done with it; whoever made it learns that now.
    fn drop(&mut self) {
        *self.0.state() = State::default();
    }
}
