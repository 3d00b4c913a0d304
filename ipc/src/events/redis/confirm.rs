//! Waits until replicas have what was published: for many publishes at once, on a connection of its
//! own.
//!
//! WAIT stops the connection that it is asked on, and tells of what was written there before it. So
//! it is not asked where publishes go, and a write of its own stands before it: the replicas that
//! have that have every publish that was answered before. One is asked at a time, for all that wait
//! by then, so a publish waits for at most two of them; with replicas that are away or slow each
//! ends at its own deadline, and others go on being published meanwhile.
//!
//! The connection is made for the first publish of a line of the publisher, to the same server, and
//! made anew with the next line. One that falls silent is given up [`GRACE`] after the deadline of
//! who asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::keep::{is_answer, lost};
use super::publisher::Failure;
use super::scripts::BOOKS;
use super::server::Server;
use crate::RedisDialer;

/// How much later than its deadline an answer is taken.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Confirmer {
    dialer: Arc<RedisDialer>,
    /// How many replicas must have it.
    wanted: usize,
    /// How many publishes were to be confirmed so far.
    asked: AtomicU64,
    /// Held by the one that asks, for all.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The run id that the line came with, the very same: so it is of that line alone.
    of: Option<Arc<str>>,
    connection: Option<MultiplexedConnection>,
    /// How many of those asked for are confirmed, on this line.
    confirmed: u64,
}

impl Confirmer {
    pub(super) fn new(dialer: Arc<RedisDialer>, wanted: usize) -> Self {
        Self {
            dialer,
            wanted,
            asked: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Waits until the replicas have a publish that this server has answered, at most until the
    /// deadline.
    pub(super) async fn confirm(&self, by: &Server, deadline: Instant) -> Result<(), Failure> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let Ok(mut state) = timeout_at(deadline, self.state.lock()).await else {
            return Err(self.unconfirmed(0));
        };
        if !state.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &by.run)) {
            *state = State {
                of: Some(Arc::clone(&by.run)),
                ..State::default()
            };
        }
        if state.confirmed >= number {
            return Ok(());
        }
        // All of these were answered: what is written from here on comes after them.
        let all = self.asked.load(Ordering::Relaxed);
        let asked = timeout_at(deadline + GRACE, self.ask(&mut state, by, deadline)).await;
        match asked.unwrap_or_else(|_| Err(lost("replicas are waited for and no answer comes"))) {
            Ok(acknowledged) if acknowledged >= self.wanted => {
                state.confirmed = all;
                Ok(())
            }
            Ok(acknowledged) => Err(self.unconfirmed(acknowledged)),
            // The event is published: that it is refused would not be true.
            Err(error) if is_answer(&error) => Err(self.unconfirmed(0)),
            Err(error) => {
                state.connection = None;
                Err(Failure::Redis(error))
            }
        }
    }

    /// Asks on the connection that stands, and where that turns out to be lost on another.
    async fn ask(&self, state: &mut State, by: &Server, deadline: Instant) -> RedisResult<usize> {
        if let Some(connection) = &mut state.connection {
            match wait(connection, self.wanted, deadline).await {
                Err(error) if !is_answer(&error) => state.connection = None,
                answer => return answer,
            }
        }
        let server = Server::connect(&self.dialer, |_| {}).await?;
        if server.run != by.run {
            return Err(lost("the replicas of another server were asked"));
        }
        let connection = state.connection.insert(server.connection);
        wait(connection, self.wanted, deadline).await
    }

    fn unconfirmed(&self, acknowledged: usize) -> Failure {
        Failure::Unconfirmed {
            acknowledged,
            wanted: self.wanted,
        }
    }
}

/// How many replicas have everything that the server has done so far.
async fn wait(
    connection: &mut MultiplexedConnection,
    wanted: usize,
    deadline: Instant,
) -> RedisResult<usize> {
    // Zero would wait for ever.
    let left = deadline.saturating_duration_since(Instant::now());
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut ask = redis::pipe();
    // The same each time; replicas get it nevertheless.
    ask.cmd("HSET").arg(BOOKS).arg("asked").arg(1).ignore();
    ask.cmd("WAIT").arg(wanted).arg(left);
    let (acknowledged,) = ask.query_async(connection).await?;
    Ok(acknowledged)
}
