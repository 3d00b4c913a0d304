//! The buffers that sockets read into and write from, shared by the
//! connections of a worker.
//!
//! A connection holds one only while bytes wait in it, so idle connections
//! cost none and busy ones find it in the cache. A worker keeps at most
//! [`KEPT`] unused ones, 1 MiB in all.

use std::cell::RefCell;

/// The size of a buffer, in bytes.
const SIZE: usize = 64 * 1024;
const KEPT: usize = 16;

thread_local! {
    static UNUSED: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes on their way, first in, first out.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn waiting(&self) -> &[u8] {
        match &self.bytes {
            Some(bytes) => &bytes[self.start..self.end],
            None => &[],
        }
    }

    pub(super) fn room(&self) -> usize {
        SIZE - self.end
    }

    /// The unused part, for the caller to fill and then [`Buffer::filled`].
    pub(super) fn unused(&mut self) -> &mut [u8] {
        let end = self.end;
        &mut self.bytes.get_or_insert_with(take)[end..]
    }

    pub(super) fn filled(&mut self, more: usize) {
        self.end += more;
        self.release_if_empty();
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.release_if_empty();
    }

    fn release_if_empty(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Some(bytes) = self.bytes.take() {
                give(bytes);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn holds_memory(&self) -> bool {
        self.bytes.is_some()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            give(bytes);
        }
    }
}

fn take() -> Box<[u8]> {
    let kept = UNUSED.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

fn give(bytes: Box<[u8]>) {
    // While the thread ends its store is gone, and the memory is just freed.
    let _ = UNUSED.try_with(|unused| {
        let mut unused = unused.borrow_mut();
        if unused.len() < KEPT {
            unused.push(bytes);
        }
    });
}
