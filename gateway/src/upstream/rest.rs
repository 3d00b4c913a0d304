//! What is left of a call on a connection to a backend when the gateway needs
//! it no more. Dropping it resets the stream, unless both directions are at
//! their end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;

use super::pace::Pace;
use crate::body::H2Recv;

/// See the module's comment.
pub(crate) struct Rest {
    answer: Answer,
    /// `None` if the request is at its end.
    send: Option<SendStream<Bytes>>,
}

enum Answer {
    Awaited(ResponseFuture),
    Coming(H2Recv),
    Over,
}

impl Rest {
    pub(super) fn unanswered(response: ResponseFuture, send: Option<SendStream<Bytes>>) -> Self {
        let answer = Answer::Awaited(response);
        Self { answer, send }
    }

    pub(super) fn answered(recv: H2Recv, send: Option<SendStream<Bytes>>) -> Self {
        let answer = Answer::Coming(recv);
        Self { answer, send }
    }

    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.answer, Answer::Awaited(_))
    }

    /// Whether dropping this resets nothing.
    pub(super) fn is_over(&mut self) -> bool {
        let answered = match &self.answer {
            Answer::Awaited(_) => false,
            Answer::Coming(recv) => recv.is_end_stream(),
            Answer::Over => true,
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let send = self.send.as_mut();
        answered && send.is_none_or(|send| send.poll_reset(&mut cx).is_ready())
    }

    /// Takes a turn, if there is one now.
    pub(super) fn take_turn(&self, pace: &Pace) -> bool {
        (self.is_answered() || pace.unanswered.take()) && pace.any.take()
    }

    /// Waits for its turn, or for the end of the call, and is dropped.
    pub(super) async fn in_turn(mut self, pace: &Pace) {
        if !self.is_answered() {
            tokio::select! {
                () = pace.unanswered.next() => {}
                () = std::future::poll_fn(|cx| self.poll_answered(cx)) => {}
            }
        }
        tokio::select! {
            () = pace.any.next() => {}
            () = std::future::poll_fn(|cx| self.poll_over(cx)) => {}
        }
    }

    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Answer::Awaited(response) = &mut self.answer {
            self.answer = match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => Answer::Coming(H2Recv::new(response.into_body())),
                Err(_) => self.lost(),
            };
        }
        Poll::Ready(())
    }

    /// Reads on and forgets. Gives no credit, so the backend can send no more
    /// than a window.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_answered(cx));
        while let Answer::Coming(recv) = &mut self.answer {
            match ready!(recv.poll_next(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) => self.answer = self.lost(),
                None => self.answer = Answer::Over,
            }
        }
        match &mut self.send {
            Some(send) => send.poll_reset(cx).map(|_| ()),
            None => Poll::Ready(()),
        }
    }

    /// The stream is gone, in both directions.
    fn lost(&mut self) -> Answer {
        self.send = None;
        Answer::Over
    }
}
