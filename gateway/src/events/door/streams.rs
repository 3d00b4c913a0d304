//! The event streams of this process by name, so that a new token can be presented to one.
//!
//! Bounds: one entry per open stream, about 200 bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
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
    /// Told when the stream has a new token.
    renewed: Notify,
}

impl Handle {
    /// The stream must look at its token again.
    pub(super) fn tell(&self) {
        self.renewed.notify_one();
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
            renewed: Notify::new(),
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
    pub(in crate::events) async fn renewed(&self) {
        self.handle.renewed.notified().await;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.streams.list().remove(&self.id);
    }
}
