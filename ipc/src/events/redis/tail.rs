//! The tail: one connection that follows the log and feeds the ring.
//!
//! It starts by loading what the store retains, so every resume is served from the ring and no
//! subscriber ever causes a read of the store. After that it waits for entries, at most [`BLOCK`] at a
//! time. After each silence, and at least every [`CHECK_EVERY`], it asks in one go whether the server
//! is still a master, where its books say that the log ends, and what came. Where the books are of
//! another life it takes a new epoch, and the ring has the gap at once.
//!
//! One reading brings at most [`MAX_READ`] entries: in bytes at most what the store retains.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::{PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::time::Instant;

use super::entries::{self, Reading};
use super::health::{Health, Link};
use super::keep::{Pulse, Purpose};
use super::known::Known;
use super::scripts::{self, End, LOG};
use super::server::{Server, check_role};
use crate::RedisDialer;
use crate::events::position::Position;
use crate::events::ring::{Found, Ring, What};

/// The most entries that one reading brings.
const MAX_READ: usize = 128;
/// The longest that a reading waits. Well below what counts as dead.
const BLOCK: Duration = Duration::from_secs(1);
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// What could not be taken as it was.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) ignored: AtomicU64,
    pub(super) oversized: AtomicU64,
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
    known: Arc<Known>,
    health: Arc<Health>,
    /// What was there at the start was taken: what comes now is news.
    loaded: bool,
}

/// A connection that follows.
pub(super) struct Following {
    server: Server,
    clock: Clock,
    checked: Instant,
}

/// The time of the store, in ms since 1970.
#[derive(Clone, Copy)]
struct Clock {
    millis: u64,
    at: Instant,
}

impl Clock {
    fn new(millis: u64) -> Self {
        let at = Instant::now();
        Self { millis, at }
    }

    fn now(self) -> u64 {
        let since = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.saturating_add(since)
    }
}

impl TailLink {
    pub(super) fn new(ring: Arc<Ring>, known: Arc<Known>, health: Arc<Health>) -> Self {
        Self {
            ring,
            known,
            health,
            loaded: false,
        }
    }

    /// Reads on from the end of the ring up to where the log ends, which is at `end` or later.
    async fn catch_up(
        &self,
        following: &mut Following,
        end: Position,
        pulse: &Pulse,
    ) -> RedisResult<()> {
        loop {
            let read = read(self.ring.head(), None);
            let answer = read.query_async(&mut following.server.connection);
            let reading = entries::of_reply(pulse.answer(answer).await?);
            // What has no place in a log would come again and again.
            let stuck = reading.is_foreign();
            if self.take(reading, following.clock) < MAX_READ || stuck {
                self.reach(end);
                return Ok(());
            }
        }
    }

    /// Everything up to `end` was read: what is not in the ring is not in the store.
    fn reach(&self, end: Position) {
        self.ring.jump(end);
        self.known.raise(end);
    }

    /// Puts entries into the ring; returns how many were read.
    fn take(&self, reading: Reading, clock: Clock) -> usize {
        let (now, limit) = (clock.now(), self.ring.limits().max_payload);
        let Reading { count, entries } = reading;
        let found: Vec<Found> = entries.into_iter().map(|e| e.found(now, limit)).collect();
        let Some(last) = found.last() else {
            return count;
        };
        self.known.raise(last.position);
        if self.loaded {
            for found in &found {
                if let What::Event(_, payload) = &found.what {
                    self.ring.count(payload);
                }
            }
        }
        self.ring.follow(found);
        count
    }

    /// Waits for entries and takes them.
    async fn follow(&self, following: &mut Following, pulse: &Pulse) -> RedisResult<()> {
        let read = read(self.ring.head(), Some(BLOCK));
        let answer = read.query_async(&mut following.server.connection);
        let reading = entries::of_reply(pulse.answer(answer).await?);
        let (silent, foreign) = (reading.count == 0, reading.is_foreign());
        self.take(reading, following.clock);
        if foreign {
            self.adopt(following, pulse).await?;
        } else if silent || following.checked.elapsed() >= CHECK_EVERY {
            self.check(following, pulse).await?;
        }
        Ok(())
    }

    /// Asks whether this is still the log that was followed.
    async fn check(&self, following: &mut Following, pulse: &Pulse) -> RedisResult<()> {
        let mut ask = redis::pipe();
        // The end first: what is before it and not read after it is gone.
        ask.cmd("ROLE").cmd("HMGET").arg(scripts::BOOKS);
        ask.arg("run").arg("epoch").arg("offset");
        ask.add_command(read(self.ring.head(), None));
        let server = &mut following.server;
        let answer = ask.query_async(&mut server.connection);
        let (role, books, read): (Value, End, Value) = pulse.answer(answer).await?;
        check_role(&role)?;
        following.checked = Instant::now();
        let full = self.take(entries::of_reply(read), following.clock) >= MAX_READ;
        match scripts::end_of(books, &server.run) {
            Some(end) if end >= self.known.get() || full => {
                if !full {
                    self.reach(end);
                }
                Ok(())
            }
            // Somebody may have published since the books were read: the script decides.
            _ => self.adopt(following, pulse).await,
        }
    }

    /// Takes a new epoch where that must be, and reads on up to where the log ends.
    async fn adopt(&self, following: &mut Following, pulse: &Pulse) -> RedisResult<()> {
        let adopted = scripts::adopt(&mut following.server, self.known.get());
        let (end, now) = pulse.answer(adopted).await?;
        following.clock = Clock::new(now);
        self.catch_up(following, end, pulse).await
    }
}

/// Reads what comes after a position.
fn read(after: Position, block: Option<Duration>) -> redis::Cmd {
    let mut read = redis::cmd("XREAD");
    read.arg("COUNT").arg(MAX_READ);
    if let Some(block) = block {
        let millis = u64::try_from(block.as_millis()).unwrap_or(u64::MAX);
        read.arg("BLOCK").arg(millis);
    }
    read.arg("STREAMS").arg(LOG).arg(after.to_string());
    read
}

#[async_trait]
impl Purpose for TailLink {
    type Live = Following;

    fn link(&self) -> Link {
        Link::Tail
    }

    async fn open(&mut self, dialer: &RedisDialer, pulse: &Arc<Pulse>) -> RedisResult<Following> {
        let told = Arc::clone(pulse);
        let closed = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                told.close();
            }
        };
        let server = pulse.answer(Server::connect(dialer, closed)).await?;
        self.health.recorder_first(&server.run).await;
        let mut following = Following {
            server,
            clock: Clock::new(0),
            checked: Instant::now(),
        };
        self.adopt(&mut following, pulse).await?;
        self.loaded = true;
        Ok(following)
    }

    async fn serve(&mut self, mut live: Following, pulse: &Arc<Pulse>) -> RedisError {
        loop {
            if let Err(error) = self.follow(&mut live, pulse).await {
                return error;
            }
        }
    }

    fn run(live: &Following) -> &Arc<str> {
        &live.server.run
    }

    fn lost(&mut self) {}
}
