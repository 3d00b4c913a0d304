//! The event streams of this process by name, so that a new token can be presented to one.
//!
//! Bounds: one entry per open stream, about 200 bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use uuid::Uuid;

use super::pass::Session;
use crate::calls::OpenCall;

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Streams(Mutex<HashMap<Uuid, Arc<Handle>>>);

/// What is known of an open stream from outside.
pub(super) struct Handle {
    pub(super) call: Arc<OpenCall>,
    /// Where the browser that reads it may come back with.
    pub(super) session: Option<Session>,
    /// Set when the stream has a new token.
    renewed: AtomicBool,
    waker: AtomicWaker,
}

impl Handle {
    /// The stream must look at its token again.
    pub(super) fn tell(&self) {
        self.renewed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Streams {
    pub(in crate::events) fn register(
        self: &Arc<Self>,
        call: &Arc<OpenCall>,
        session: Option<Session>,
    ) -> Registered {
        let handle = Arc::new(Handle {
            call: call.clone(),
            session,
            renewed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let id = Uuid::new_v4();
        self.list().insert(id, handle.clone());
        Registered {
            streams: self.clone(),
            id,
            handle,
        }
    }

    pub(super) fn get(&self, id: Uuid) -> Option<Arc<Handle>> {
        self.list().get(&id).cloned()
    }

    fn list(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Handle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place in the list, as long as it is open.
pub(in crate::events) struct Registered {
    streams: Arc<Streams>,
    id: Uuid,
    handle: Arc<Handle>,
}

impl Registered {
    pub(in crate::events) fn id(&self) -> String {
        self.id.to_string()
    }

    /// Ready once the stream has another token than before.
    pub(in crate::events) fn poll_renewed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.handle.waker.register(cx.waker());
        match self.handle.renewed.swap(false, Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.streams.list().remove(&self.id);
    }
}
