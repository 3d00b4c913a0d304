//! What was sent of a request, kept until it is known that no other try follows.
//!
//! Request bytes flow while they are kept, never after. The usual call costs one
//! allocation here, for its headers; its one chunk is shared, not copied. A small
//! chunk that comes later is copied, so that many of them do not keep as many
//! read buffers of their connection; the first may keep one, of about 8 KiB.
//!
//! Bounds: `replay_bytes` of a call and `replay_bytes_in_all` of all calls to an
//! upstream, headers included, both in bytes ([`RetryConfig`]). A call beyond
//! either keeps nothing from there on, and is tried no more. What small chunks are
//! copied into counts as a whole for the second; it is at most twice as much.
//!
//! One caller can't take the retries of all others: once half is taken, there is
//! more only for callers with few calls in progress, whose calls fill a quarter
//! of it, or half in the worst case. So one caller has at most half, or what its
//! only call takes. Callers who are not known share the first half.
//!
//! What is sent again is not copied but shared. Where it has to be put together
//! for that, it is there twice meanwhile, once on each worker at most.
//!
//! [`RetryConfig`]: crate::config::RetryConfig

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::layers::conduct::Caller;

/// The largest chunk that is copied, in bytes.
const SMALL: usize = 2 * 1024;

/// What the calls to one upstream may keep together.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    /// How many calls in progress are few.
    few: usize,
    taken: AtomicUsize,
}

impl Room {
    /// For so many bytes in all, of which a call takes at most `of_call`.
    pub(super) fn new(most: usize, of_call: usize) -> Self {
        Self {
            most,
            few: (most / 4 / of_call.max(1)).max(1),
            taken: AtomicUsize::new(0),
        }
    }

    fn take(&self, bytes: usize, caller: Option<&Caller>) -> bool {
        // Asked each time: it may have begun more calls since.
        let is_modest = caller.is_some_and(|caller| caller.calls() <= self.few);
        let most = if is_modest { self.most } else { self.most / 2 };
        let before = self.taken.fetch_add(bytes, Relaxed);
        let fits = before.saturating_add(bytes) <= most;
        if !fits {
            self.taken.fetch_sub(bytes, Relaxed);
        }
        fits
    }

    /// In bytes.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

/// See the module's comment.
pub(crate) struct Replay {
    headers: Vec<u8>,
    first: Bytes,
    large: Vec<Bytes>,
    /// Follows all of `large`.
    small: BytesMut,
    len: usize,
    /// Of the body.
    most: usize,
    caller: Option<Caller>,
    room: Arc<Room>,
    taken: usize,
}

impl Replay {
    /// Of a request with these headers, which has so many bytes at most. `None`
    /// where there is no room for it.
    pub(super) fn begin(
        headers: &HeaderMap,
        most: usize,
        room: &Arc<Room>,
        caller: Option<Caller>,
    ) -> Option<Self> {
        let size = size(headers);
        let fits = most > 0 && size <= most && room.take(size, caller.as_ref());
        fits.then(|| Self {
            headers: write(headers, size),
            first: Bytes::new(),
            large: Vec::new(),
            small: BytesMut::new(),
            len: 0,
            most: most - size,
            caller,
            room: room.clone(),
            taken: size,
        })
    }

    /// Keeps what is sent; `false` if that is too much.
    pub(crate) fn push(&mut self, chunk: Bytes) -> bool {
        if chunk.is_empty() {
            return true;
        }
        self.len += chunk.len();
        if self.len > self.most {
            return false;
        }
        let before = self.small.capacity();
        let held = if self.first.is_empty() {
            let held = chunk.len();
            self.first = chunk;
            held
        } else if chunk.len() <= SMALL {
            self.small.extend_from_slice(&chunk);
            self.small.capacity() - before
        } else {
            let held = chunk.len() + size_of::<Bytes>();
            if !self.small.is_empty() {
                self.large.push(std::mem::take(&mut self.small).freeze());
            }
            self.large.push(chunk);
            held
        };
        let fits = self.room.take(held, self.caller.as_ref());
        self.taken += if fits { held } else { 0 };
        fits
    }

    /// Of the body, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What is kept of the body, in one piece from now on.
    pub(crate) fn whole(&mut self) -> Bytes {
        if self.len > self.first.len() {
            let mut all = Vec::with_capacity(self.len);
            all.extend_from_slice(&self.first);
            for chunk in std::mem::take(&mut self.large) {
                all.extend_from_slice(&chunk);
            }
            all.extend_from_slice(&std::mem::take(&mut self.small));
            self.first = all.into();
            // Its pieces took at least as much.
            let spare = self.taken.saturating_sub(self.headers.len() + self.len);
            self.taken -= spare;
            self.room.taken.fetch_sub(spare, Relaxed);
        }
        self.first.clone()
    }

    /// As they were.
    pub(super) fn headers(&self) -> Option<HeaderMap> {
        read(&self.headers)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.taken, Relaxed);
    }
}

/// Of the lengths and the mark before each header.
const PREFIX: usize = 9;

fn size(headers: &HeaderMap) -> usize {
    let sizes = headers
        .iter()
        .map(|(name, value)| PREFIX + name.as_str().len() + value.len());
    sizes.sum()
}

/// All headers in one piece: a copy of the map would cost several allocations.
fn write(headers: &HeaderMap, size: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(size);
    for (name, value) in headers {
        // A header block has no 4 GiB.
        all.extend_from_slice(&(name.as_str().len() as u32).to_le_bytes());
        all.extend_from_slice(&(value.len() as u32).to_le_bytes());
        all.push(u8::from(value.is_sensitive()));
        all.extend_from_slice(name.as_str().as_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    all
}

/// What [`write`] wrote; never `None` of that.
fn read(mut all: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    while let Some((prefix, rest)) = all.split_first_chunk::<PREFIX>() {
        let [a, b, c, d, e, f, g, h, sensitive] = *prefix;
        let name = u32::from_le_bytes([a, b, c, d]) as usize;
        let value = u32::from_le_bytes([e, f, g, h]) as usize;
        let (name, rest) = rest.split_at_checked(name)?;
        let (value, rest) = rest.split_at_checked(value)?;
        let name = HeaderName::from_bytes(name).ok()?;
        let mut value = HeaderValue::from_bytes(value).ok()?;
        value.set_sensitive(sensitive != 0);
        headers.append(name, value);
        all = rest;
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::allocations;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut add = |name, value| headers.append(HeaderName::from_static(name), value);
        add("content-type", HeaderValue::from_static("application/grpc"));
        add("x-twice", HeaderValue::from_static("a"));
        add("x-twice", HeaderValue::from_static("b"));
        add("x-empty", HeaderValue::from_static(""));
        let mut secret = HeaderValue::from_bytes(&[b'k', 0xff]).unwrap();
        secret.set_sensitive(true);
        add("authorization", secret);
        headers
    }

    fn replay(most: usize, in_all: usize) -> (Replay, Arc<Room>) {
        let room = Arc::new(Room::new(in_all, most));
        let replay = Replay::begin(&headers(), most, &room, Some(Caller::with(1)));
        (replay.unwrap(), room)
    }

    fn chunk(byte: u8, len: usize) -> Bytes {
        Bytes::from(vec![byte; len])
    }

    #[test]
    fn the_headers_are_kept_as_they_were() {
        let (replay, _) = replay(1000, 1000);
        let kept = replay.headers().unwrap();
        assert_eq!(kept, headers());
        assert!(kept["authorization"].is_sensitive());
        assert!(!kept["content-type"].is_sensitive());
    }

    #[test]
    fn the_body_is_kept_byte_for_byte_whatever_its_chunks() {
        let (mut replay, _) = replay(100_000, 200_000);
        let mut sent = Vec::new();
        for (number, len) in [1, 2, 5000, 10, 20, 0, 3000, 7].into_iter().enumerate() {
            let chunk = chunk(number as u8, len);
            sent.extend_from_slice(&chunk);
            assert!(replay.push(chunk));
        }
        assert_eq!(replay.len(), sent.len());
        assert_eq!(replay.whole(), sent);
        assert!(replay.push(chunk(9, 10)));
        sent.extend_from_slice(&[9; 10]);
        assert_eq!(replay.whole(), sent);
    }

    #[test]
    fn the_usual_call_costs_one_allocation() {
        let (headers, room) = (headers(), Arc::new(Room::new(1000, 1000)));
        let caller = Some(Caller::with(1));
        let body = chunk(1, 100);
        // A second owner may cost one; on its way here it has several.
        let _owner = body.clone();
        let mut kept = None;
        let made = allocations(|| {
            kept = Replay::begin(&headers, 1000, &room, caller);
            assert!(kept.as_mut().unwrap().push(body.clone()));
        });
        assert_eq!(made, 1);
        assert_eq!(kept.unwrap().whole().as_ptr(), body.as_ptr());
    }

    #[test]
    fn a_call_keeps_no_more_than_it_may() {
        let (mut replay, _) = replay(size(&headers()) + 100, 10_000);
        assert!(replay.push(chunk(1, 60)));
        assert!(replay.push(chunk(1, 40)));
        assert!(!replay.push(chunk(1, 1)));
    }

    #[test]
    fn all_calls_together_keep_no_more_than_they_may_and_give_it_back() {
        let (mut first, room) = replay(10_000, 1000);
        let modest = || Some(Caller::with(1));
        let mut second = Replay::begin(&headers(), 10_000, &room, modest()).unwrap();
        assert!(first.push(chunk(1, 400)));
        assert!(second.push(chunk(1, 300)));
        assert!(!second.push(chunk(1, 300)));
        assert!(room.taken() <= 1000);
        drop(second);
        assert!(first.push(chunk(2, 300)));
        drop(first);
        assert_eq!(room.taken(), 0);
        for most in [0, size(&headers()) - 1] {
            assert!(Replay::begin(&headers(), most, &room, modest()).is_none());
        }
        let none = Arc::new(Room::new(10, 10));
        assert!(Replay::begin(&headers(), 1000, &none, modest()).is_none());
    }

    #[test]
    fn one_caller_has_at_most_half_and_unknown_ones_have_it_together() {
        let of_call = 1000;
        for many in [Some(Caller::with(2000)), None] {
            let room = Arc::new(Room::new(100 * of_call, of_call));
            let full = |caller| {
                let mut replay = Replay::begin(&HeaderMap::new(), of_call, &room, caller)?;
                replay.push(chunk(1, of_call)).then_some(replay)
            };
            let kept: Vec<_> = (0..2000).map_while(|_| full(many.clone())).collect();
            assert_eq!(kept.len(), 50);
            let few: Vec<_> = (0..25)
                .map_while(|_| full(Some(Caller::with(25))))
                .collect();
            assert_eq!(few.len(), 25);
            assert!(full(Some(Caller::with(26))).is_none());
            drop(kept);
            assert!(full(many).is_some());
        }
    }

    #[test]
    fn who_begins_more_calls_meanwhile_keeps_no_more_than_half() {
        let (room, caller) = (Arc::new(Room::new(1000, 100)), Caller::with(1));
        let begin = |_| Replay::begin(&HeaderMap::new(), 100, &room, Some(caller.clone()));
        let mut calls: Vec<_> = (0..10).filter_map(begin).collect();
        assert_eq!(calls.len(), 10);
        let _more = [caller.hold(), caller.hold()];
        let fits = calls.iter_mut().map(|call| call.push(chunk(1, 100)));
        assert_eq!(fits.filter(|fits| *fits).count(), 5);
    }

    #[test]
    fn what_is_sent_again_is_shared_and_counted_once() {
        let (mut replay, room) = replay(100_000, 200_000);
        for len in [100, 5000, 10, 3000, 20] {
            assert!(replay.push(chunk(1, len)));
        }
        let sent = replay.whole();
        assert_eq!(room.taken(), size(&headers()) + sent.len());
        assert_eq!(replay.whole().as_ptr(), sent.as_ptr());
        assert_eq!(room.taken(), size(&headers()) + sent.len());
        drop(replay);
        assert_eq!(room.taken(), 0);
    }

    #[test]
    fn tiny_chunks_do_not_keep_the_buffers_that_they_came_in() {
        let (mut replay, room) = replay(10_000, 100_000);
        assert!(replay.push(chunk(0, 1)));
        for _ in 0..1000 {
            // What the buffer costs is given back with its last owner.
            let buffer = chunk(1, 8192);
            let tiny = buffer.slice(..2);
            assert!(replay.push(tiny));
            assert!(buffer.is_unique());
        }
        assert!(room.taken() < 10_000, "{}", room.taken());
    }
}
