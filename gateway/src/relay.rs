//! Moves a body into an HTTP/2 stream: towards the backend and towards the
//! client alike.
//!
//! DATA that already waits is merged into one frame of about
//! [`MERGE_BYTES`]; gRPC messages do not follow frames (gRPC over HTTP/2,
//! "Data frames"), so this is legal. Nothing ever waits for more data.
//!
//! Credit goes back to the source only for what was handed on. While the
//! receiver takes nothing, the source is read on as far as its window allows
//! and kept here, merged: the other direction of the call goes on, a deadline
//! or a cut is seen, and no small frames pile up in the connection that other
//! calls share. So what is held here is bounded by the stream window of the
//! source; a source without a window (the gateway's own streams) is not read
//! on, and is given up when it can send nothing for its stall limit.
//!
//! What went on can be kept on the way ([`Replay`]), so that it can go to another
//! receiver once more. Credit is given back for each byte once, however often
//! it is sent.

use std::ops::Range;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::HeaderMap;

use crate::body::{Body, BodyError};
use crate::upstream::Replay;

/// The largest frame that merging makes, in bytes: with its header of 9 it
/// fills one TLS record, where one byte more would cost a second record.
pub(crate) const MERGE_BYTES: usize = 16 * 1024 - 9;

/// The largest chunk that is copied to be merged with others, in bytes.
const SMALL: usize = 2 * 1024;

/// Why a relay stopped before the end of its body.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// The source failed.
    Source(BodyError),
    /// The receiver reset the stream or went away.
    Sink,
    /// The receiver took nothing for the source's stall limit.
    Stalled,
}

#[derive(Default)]
pub(crate) struct Relay {
    /// Goes next. Only ever split, never copied.
    queued: Bytes,
    /// Comes after it: a chunk that is too large to be merged.
    next: Bytes,
    /// Comes last: small chunks, merged.
    backlog: BytesMut,
    end: Option<Option<HeaderMap>>,
    /// How much of what goes next went to another receiver before.
    replayed: usize,
    /// Whether what a cut makes useless was left out.
    shortened: bool,
    finished: bool,
    /// Counts what was handed on, wrapping.
    moved: u32,
}

impl Relay {
    /// Moves what can be moved; ready at the end of the body or on failure.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Body,
        sink: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), RelayError>> {
        self.poll_keeping(cx, source, sink, &mut None)
    }

    /// The same, and what goes on is kept; `kept` is unset once that is too much.
    pub(crate) fn poll_keeping(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Body,
        sink: &mut SendStream<Bytes>,
        kept: &mut Option<Replay>,
    ) -> Poll<Result<(), RelayError>> {
        while !self.finished {
            self.advance();
            // A short rest is sent with what comes after it.
            let wants_more = self.end.is_none() && self.held() < SMALL;
            let got = wants_more && self.gather(cx, source, MERGE_BYTES)?.is_ready();
            self.advance();
            if !self.queued.is_empty() {
                match self.poll_send(cx, sink, kept)? {
                    Poll::Ready(sent) => source.release(sent),
                    Poll::Pending => ready!(self.poll_blocked(cx, source))?,
                }
            } else if let Some(end) = self.end.take() {
                if kept.is_some() {
                    self.end = Some(end.clone());
                }
                self.finish(sink, end)?;
            } else if !got {
                // Nothing to send: listen for a receiver that gives up.
                return sink.poll_reset(cx).map(|_| Err(RelayError::Sink));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands on as much as the receiver has room for; tells how much of it is
    /// new, or everything when nothing is left here.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut SendStream<Bytes>,
        kept: &mut Option<Replay>,
    ) -> Result<Poll<usize>, RelayError> {
        sink.reserve_capacity(self.queued.len());
        while sink.capacity() == 0 {
            match sink.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Err(RelayError::Sink),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        let most = sink.capacity().min(self.queued.len());
        let part = self.queued.split_to(most);
        let again = self.replayed.min(part.len());
        let sent = part.len() - again;
        self.replayed -= again;
        // Before it is sent: a receiver that is gone has not got it.
        if kept
            .as_mut()
            .is_some_and(|kept| !kept.push(part.slice(again..)))
        {
            *kept = None;
        }
        self.moved = self.moved.wrapping_add(1);
        self.advance();
        let empty = self.queued.is_empty();
        self.finished = empty && matches!(self.end, Some(None));
        sink.send_data(part, self.finished)
            .map_err(|_| RelayError::Sink)?;
        Ok(Poll::Ready(if empty { usize::MAX } else { sent }))
    }

    /// Reads on while nothing can be sent. Ready when something changed.
    fn poll_blocked(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Body,
    ) -> Poll<Result<(), RelayError>> {
        if !source.has_window() {
            if !self.shortened
                && let Poll::Ready(frame_end) = source.poll_ending(cx)
            {
                self.shortened = true;
                self.leave_out(self.after_first(frame_end)..self.held());
                return Poll::Ready(Ok(()));
            }
            return source.poll_stalled(cx).map(|()| Err(RelayError::Stalled));
        }
        while self.end.is_none() && self.gather(cx, source, usize::MAX)?.is_ready() {}
        if self.end.is_none() || self.shortened || !source.is_cut() {
            return Poll::Pending;
        }
        // Broken off: what was not sent is of no use, its status is, and
        // trailers need no room. In gRPC-Web they do.
        self.shortened = true;
        let spare = match self.end {
            Some(Some(_)) => Some(0..self.held()),
            _ => source.spare(),
        };
        Poll::Ready(match spare {
            Some(spare) => {
                self.leave_out(spare);
                Ok(())
            }
            None => Err(RelayError::Source(BodyError::Cut)),
        })
    }

    /// Where the first `end` in what is held here is over; if there is none, at
    /// the end of it.
    fn after_first(&self, end: &[u8]) -> usize {
        let held = [&self.queued[..], &self.next, &self.backlog].concat();
        let mut parts = held.windows(end.len());
        let first = parts.position(|part| part == end);
        first.map_or(held.len(), |at| at + end.len())
    }

    /// Forgets a part of what is held here.
    fn leave_out(&mut self, spare: Range<usize>) {
        let held = [&self.queued[..], &self.next, &self.backlog].concat();
        let (before, after) = (held.get(..spare.start), held.get(spare.end..));
        self.queued = [before, after]
            .map(Option::unwrap_or_default)
            .concat()
            .into();
        self.next = Bytes::new();
        self.backlog = BytesMut::new();
    }

    /// Begins anew, for another receiver, with what went on before.
    pub(crate) fn rewind(&mut self, kept: &mut Replay) {
        let held = [&self.queued[..], &self.next, &self.backlog].concat();
        self.next = Bytes::copy_from_slice(held.get(self.replayed..).unwrap_or_default());
        self.queued = kept.whole();
        self.backlog = BytesMut::new();
        self.replayed = kept.len();
        self.finished = false;
    }

    fn finish(
        &mut self,
        sink: &mut SendStream<Bytes>,
        end: Option<HeaderMap>,
    ) -> Result<(), RelayError> {
        self.finished = true;
        match end {
            Some(trailers) => sink.send_trailers(trailers),
            None => sink.send_data(Bytes::new(), true),
        }
        .map_err(|_| RelayError::Sink)
    }

    /// Takes what waits in `source`, up to about `limit` bytes or one frame.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Body,
        limit: usize,
    ) -> Result<Poll<()>, RelayError> {
        let mut found = Poll::Pending;
        let merging = limit == MERGE_BYTES;
        while self.held() < limit {
            if merging && !self.next.is_empty() {
                break;
            }
            let Poll::Ready(frame) = source.poll_next(cx) else {
                break;
            };
            found = Poll::Ready(());
            match frame {
                None => {
                    self.end = Some(None);
                    break;
                }
                Some(Err(error)) => return Err(RelayError::Source(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.merge(bytes, merging),
                    Err(frame) => {
                        self.end = Some(frame.into_trailers().ok());
                        break;
                    }
                },
            }
        }
        Ok(found)
    }

    /// A chunk that comes alone is kept as it is, and so is a large one; only
    /// small ones are copied, and what waits while nothing can be sent.
    fn merge(&mut self, bytes: Bytes, merging: bool) {
        let held = self.held();
        if held == 0 {
            self.queued = bytes;
            return;
        }
        let copied = bytes.len() <= SMALL && held + bytes.len() <= MERGE_BYTES;
        if merging && !copied {
            self.advance();
        }
        // What comes last must stay last.
        let follows = self.next.is_empty() && self.backlog.is_empty();
        if merging && follows && !copied {
            self.next = bytes;
            return;
        }
        if merging && follows {
            self.backlog.reserve(MERGE_BYTES);
            self.backlog
                .extend_from_slice(&std::mem::take(&mut self.queued));
        }
        self.backlog.extend_from_slice(&bytes);
    }

    /// Whether something waits for room at the receiver.
    pub(crate) fn is_blocked(&self) -> bool {
        self.held() > 0
    }

    /// Changes whenever something was handed on.
    pub(crate) fn moved(&self) -> u32 {
        self.moved
    }

    fn held(&self) -> usize {
        self.queued.len() + self.next.len() + self.backlog.len()
    }

    /// Moves up what comes next when nothing is queued.
    fn advance(&mut self) {
        if self.queued.is_empty() {
            self.queued = std::mem::take(&mut self.next);
        }
        if self.queued.is_empty() && !self.backlog.is_empty() {
            self.queued = self.backlog.split().freeze();
        }
    }
}

#[cfg(test)]
mod tests;
