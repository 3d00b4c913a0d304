//! Moves a body into an HTTP/2 stream: towards the backend and towards the
//! client alike.
//!
//! DATA that already waits is merged into one frame of at most
//! [`MERGE_BYTES`]; gRPC messages do not follow frames (gRPC over HTTP/2,
//! "Data frames"), so this is legal. Nothing ever waits for more data. Credit
//! goes back to the source only after the data was handed on. Two source frames
//! are held here at most, or one merged frame and one source frame.

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::HeaderMap;

use crate::body::{Body, BodyError};

/// The largest frame that merging makes, in bytes: one TLS record.
pub(crate) const MERGE_BYTES: usize = 16 * 1024;

/// Why a relay stopped before the end of its body.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// The source failed.
    Source(BodyError),
    /// The receiver reset the stream or went away.
    Sink,
}

#[derive(Default)]
pub(crate) struct Relay {
    queued: Bytes,
    /// A chunk that was taken but would have made the merged frame too large.
    next: Bytes,
    end: Option<Option<HeaderMap>>,
    finished: bool,
}

impl Relay {
    /// Moves what can be moved; ready at the end of the body or on failure.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Body,
        sink: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), RelayError>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !self.queued.is_empty() {
                ready!(self.poll_send(cx, sink))?;
                if self.queued.is_empty() {
                    source.release();
                }
            } else if self.end.is_some() && self.next.is_empty() {
                return Poll::Ready(self.finish(sink));
            } else if self.poll_gather(cx, source)?.is_pending() {
                // Nothing to send: listen for a receiver that gives up.
                return match sink.poll_reset(cx) {
                    Poll::Ready(_) => Poll::Ready(Err(RelayError::Sink)),
                    Poll::Pending => Poll::Pending,
                };
            }
            if self.finished {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), RelayError>> {
        sink.reserve_capacity(self.queued.len());
        while sink.capacity() == 0 {
            match ready!(sink.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(RelayError::Sink)),
            }
        }
        let part = self.queued.split_to(sink.capacity().min(self.queued.len()));
        let last = self.queued.is_empty() && matches!(self.end, Some(None));
        sink.send_data(part, last).map_err(|_| RelayError::Sink)?;
        self.finished = last;
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, sink: &mut SendStream<Bytes>) -> Result<(), RelayError> {
        self.finished = true;
        match self.end.take().flatten() {
            Some(trailers) => sink.send_trailers(trailers),
            None => sink.send_data(Bytes::new(), true),
        }
        .map_err(|_| RelayError::Sink)
    }

    /// Takes what waits in `source`, up to one merged frame.
    fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Body,
    ) -> Result<Poll<()>, RelayError> {
        let mut merged = BytesMut::new();
        self.queued = std::mem::take(&mut self.next);
        loop {
            let have = self.queued.len() + merged.len();
            if have >= MERGE_BYTES || !self.next.is_empty() {
                break;
            }
            match source.poll_next(cx) {
                Poll::Pending if have == 0 => return Ok(Poll::Pending),
                Poll::Pending => break,
                Poll::Ready(None) => {
                    self.end = Some(None);
                    break;
                }
                Poll::Ready(Some(Err(error))) => return Err(RelayError::Source(error)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => self.merge(&mut merged, bytes),
                    Err(frame) => {
                        self.end = Some(frame.into_trailers().ok());
                        break;
                    }
                },
            }
        }
        if !merged.is_empty() {
            self.queued = merged.freeze();
        }
        Ok(Poll::Ready(()))
    }

    /// The first chunk is kept as it is; only a second one costs a copy.
    fn merge(&mut self, merged: &mut BytesMut, bytes: Bytes) {
        let have = self.queued.len() + merged.len();
        if have == 0 {
            self.queued = bytes;
        } else if have + bytes.len() > MERGE_BYTES {
            self.next = bytes;
        } else {
            if merged.is_empty() {
                merged.reserve(MERGE_BYTES);
                merged.extend_from_slice(&std::mem::take(&mut self.queued));
            }
            merged.extend_from_slice(&bytes);
        }
    }
}
