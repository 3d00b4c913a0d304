//! The embedded event log, within one process: `memory:`.
//!
//! A publish goes straight into the ring, so it is answered at once, with its position, and the
//! store is never away. What needs a second process is not here: a restart forgets everything and
//! shows as the gap `store_restarted`, and no other process can publish or follow. Idempotency keys
//! are remembered for five minutes and at most 100,000 of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::channel::ChannelName;
use super::idempotency::{Keys, check_key};
use super::log::{EventLog, PublishError, Published, StoreStatus, SubscribeError};
use super::pattern::ChannelPattern;
use super::position::Position;
use super::ring::Ring;
use super::settings::LogSettings;
use super::subscription::LogSubscription;
use crate::error::IpcResult;

/// See the module.
pub struct MemoryLog {
    ring: Arc<Ring>,
    keys: Mutex<Keys>,
    opened: SystemTime,
}

impl MemoryLog {
    /// An empty log.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`](crate::IpcError::InvalidArgument) if the settings are not
    /// valid.
    pub fn new(settings: LogSettings) -> IpcResult<Self> {
        settings.validate()?;
        Ok(Self {
            ring: Arc::new(Ring::embedded(settings)),
            keys: Mutex::default(),
            opened: SystemTime::now(),
        })
    }
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").finish_non_exhaustive()
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn publish(
        &self,
        channel: &ChannelName,
        payload: Bytes,
        idempotency_key: Option<&str>,
    ) -> Result<Published, PublishError> {
        let valid = channel.validate();
        valid.map_err(|error| PublishError::InvalidChannel(error.to_string()))?;
        let append = || self.ring.append(channel.clone(), payload);
        let (position, duplicate) = match idempotency_key {
            None => (append()?, false),
            Some(key) => {
                check_key(key)?;
                // Held over the append, so that two publishes with one key can't both pass. The
                // keys are whole after a panic: the append comes before any change for its key.
                let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
                keys.once(channel, key, append)?
            }
        };
        Ok(Published {
            position,
            duplicate,
        })
    }

    async fn subscribe(
        &self,
        patterns: Vec<ChannelPattern>,
        after: Option<Position>,
    ) -> Result<LogSubscription, SubscribeError> {
        LogSubscription::open(&self.ring, patterns, after)
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            connected: true,
            since: self.opened,
            detail: "embedded in this process".to_owned(),
            recorded: self.ring.recorded(),
            ignored: 0,
            oversized: 0,
            not_utf8: self.ring.payloads.not_utf8(),
            not_json: self.ring.payloads.not_json(),
            reconnects: 0,
        }
    }
}
