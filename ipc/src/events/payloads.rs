//! Counts the payloads that are not what the contract says an event is.
//!
//! They are passed on as they are: a plain publisher may send any bytes. Each is looked at once when it
//! is recorded, whatever the number of subscribers, and before any lock is taken.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::IgnoredAny;

#[derive(Default)]
pub(super) struct Payloads {
    not_utf8: AtomicU64,
    not_json: AtomicU64,
}

impl Payloads {
    pub(super) fn count(&self, payload: &[u8]) {
        let Ok(text) = std::str::from_utf8(payload) else {
            self.not_utf8.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if serde_json::from_str::<IgnoredAny>(text).is_err() {
            self.not_json.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn not_utf8(&self) -> u64 {
        self.not_utf8.load(Ordering::Relaxed)
    }

    /// Text that is not JSON.
    pub(super) fn not_json(&self) -> u64 {
        self.not_json.load(Ordering::Relaxed)
    }
}
