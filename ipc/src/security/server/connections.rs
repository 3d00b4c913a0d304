//! The connections of a server as a whole: how many there may be, and how they end.
//!
//! The drain ends those at once that have not begun to talk HTTP/2, since nothing could tell them
//! that it began. The cut ends all of them, whatever runs on them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

const MAX_CONNECTIONS: u32 = 4096;
// Each ends as soon as its task runs; this bounds the wait where the runtime is overwhelmed.
const CUT_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    draining: CancellationToken,
    over: CancellationToken,
}

/// The place of one connection among the bounded number; free again when it is dropped.
pub(super) struct Place {
    pub(super) draining: CancellationToken,
    pub(super) over: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS as usize)),
            draining: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    /// Waits until there is room for one more.
    pub(super) async fn place(&self) -> Result<Place, AcquireError> {
        let permit = Arc::clone(&self.places).acquire_owned().await?;
        Ok(Place {
            draining: self.draining.clone(),
            // Of its own: it is looked at with every read and write, and a shared one would be a
            // lock that all connections wait for.
            over: self.over.child_token(),
            _permit: permit,
        })
    }

    pub(super) fn drain(&self) {
        self.draining.cancel();
    }

    pub(super) async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Ends all connections and waits until they are gone. Nobody may wait for a place any more.
    pub(super) async fn cut(&self) {
        self.over.cancel();
        let all = self.places.acquire_many(MAX_CONNECTIONS);
        // Over in time or not, each connection is cut when it is next looked at.
        let _ = tokio::time::timeout(CUT_LIMIT, all).await;
    }

    /// Ends all connections when it is dropped.
    pub(super) fn cut_on_drop(&self) -> DropGuard {
        self.over.clone().drop_guard()
    }
}
