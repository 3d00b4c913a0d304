//! The tail: one connection that follows every channel and feeds the ring.
//!
//! Messages go into the ring from the task that reads the connection, in the order in which Redis
//! sent them; nothing is queued between. The confirmation of the subscription comes in the same
//! order, so the gap of a loss stands before the first message after it. A connection that was
//! given up feeds nothing any more, not even what it has already read: the next one may bring it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisResult, Value};
use tracing::debug;

use super::health::Link;
use super::keep::CONNECT_LIMIT;
use super::keep::{Pulse, Purpose};
use crate::RedisDialer;
use crate::events::channel::{ChannelName, shown};
use crate::events::log::GapReason;
use crate::events::ring::Ring;

/// Every channel of the grammar, in Redis's own pattern language.
const EVERYTHING: &str = "intellirouter:*";

/// What the tail did not record.
#[derive(Default)]
pub(super) struct Counters {
    ignored: AtomicU64,
    oversized: AtomicU64,
}

impl Counters {
    pub(super) fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    pub(super) fn oversized(&self) -> u64 {
        self.oversized.load(Ordering::Relaxed)
    }
}

pub(super) struct TailLink {
    ring: Arc<Ring>,
    counters: Arc<Counters>,
    /// Whether the tail was ever subscribed: then coming back means a gap.
    followed: Arc<AtomicBool>,
    feed: Option<Arc<Feed>>,
}

impl TailLink {
    pub(super) fn new(ring: Arc<Ring>, counters: Arc<Counters>) -> Self {
        Self {
            ring,
            counters,
            followed: Arc::default(),
            feed: None,
        }
    }
}

#[async_trait]
impl Purpose for TailLink {
    fn link(&self) -> Link {
        Link::Tail
    }

    async fn open(
        &mut self,
        dialer: &RedisDialer,
        pulse: &Arc<Pulse>,
    ) -> RedisResult<MultiplexedConnection> {
        let feed = Arc::new(Feed {
            ring: Arc::clone(&self.ring),
            counters: Arc::clone(&self.counters),
            followed: Arc::clone(&self.followed),
            pulse: Arc::clone(pulse),
            open: Mutex::new(true),
        });
        self.feed = Some(Arc::clone(&feed));
        let mut connection = dialer
            .dial(CONNECT_LIMIT, None, move |push| feed.take(push))
            .await?;
        connection.psubscribe(EVERYTHING).await?;
        Ok(connection)
    }

    fn opened(&mut self, _: &MultiplexedConnection) {}

    fn lost(&mut self) {
        if let Some(feed) = self.feed.take() {
            feed.close();
        }
    }
}

/// Where one connection puts what it reads.
struct Feed {
    ring: Arc<Ring>,
    counters: Arc<Counters>,
    followed: Arc<AtomicBool>,
    pulse: Arc<Pulse>,
    /// False once the connection was given up. Held over each append: what the task of the old
    /// connection still holds can't come in among what the new one brings.
    open: Mutex<bool>,
}

impl Feed {
    fn take(&self, push: PushInfo) {
        self.pulse.heard();
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            return;
        }
        match push.kind {
            PushKind::Disconnection => self.pulse.close(),
            PushKind::PSubscribe => self.subscribed(),
            PushKind::PMessage => self.message(push.data),
            _ => {}
        }
    }

    fn subscribed(&self) {
        if self.followed.swap(true, Ordering::Relaxed) {
            self.ring.append_gap(GapReason::RecorderAway, None);
        }
    }

    /// `data`: the pattern, the channel, the payload.
    fn message(&self, data: Vec<Value>) {
        let mut data = data.into_iter().skip(1);
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
            (data.next(), data.next())
        else {
            self.ignore("the message is not a channel and a payload");
            return;
        };
        match std::str::from_utf8(&channel).map(ChannelName::parse) {
            Ok(Ok(channel)) => self.record(channel, payload),
            Ok(Err(error)) => self.ignore(&error.to_string()),
            Err(_) => self.ignore(&shown(&String::from_utf8_lossy(&channel))),
        }
    }

    fn record(&self, channel: ChannelName, payload: Vec<u8>) {
        if payload.len() > self.ring.limits().max_payload {
            self.too_large(channel, payload.len());
        } else if self
            .ring
            .append(channel.clone(), Bytes::from(payload))
            .is_err()
        {
            // The ring refuses nothing but size; a subscriber must hear of it all the same.
            self.ring.append_gap(GapReason::Trimmed, Some(channel));
        }
    }

    fn too_large(&self, channel: ChannelName, bytes: usize) {
        self.counters.oversized.fetch_add(1, Ordering::Relaxed);
        debug!(%channel, bytes, "message larger than the largest payload; recorded as a gap");
        self.ring.append_gap(GapReason::Trimmed, Some(channel));
    }

    fn ignore(&self, why: &str) {
        self.counters.ignored.fetch_add(1, Ordering::Relaxed);
        debug!(why, "message ignored");
    }

    fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}
