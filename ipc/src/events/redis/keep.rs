//! Keeps one connection to Redis alive: connects, watches it, and makes it again when it is lost.
//!
//! A loss shows at once when the connection is closed; where it only falls silent (a stopped
//! process, a cut cable) it counts as lost when nothing was heard for [`DEAD_AFTER`], with a PING
//! each [`PING_EVERY`]. Anything heard counts, so that a PING behind a flood of messages does not
//! look like a dead server. The pauses between tries are those of [`LogSettings`]; a connection
//! that does not live as long as the longest pause does not make them short again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::health::{Health, Link};
use crate::RedisDialer;
use crate::events::settings::LogSettings;

/// The longest that a connection may take until it is ready to be used.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

const PING_EVERY: Duration = Duration::from_secs(1);
const DEAD_AFTER: Duration = Duration::from_secs(3);

/// What a connection is for.
#[async_trait]
pub(super) trait Purpose: Send {
    fn link(&self) -> Link;

    /// Connects and makes ready. `pulse` is to be told of everything that comes.
    async fn open(
        &mut self,
        dialer: &RedisDialer,
        pulse: &Arc<Pulse>,
    ) -> RedisResult<MultiplexedConnection>;

    /// The connection is ready; called before the health says so.
    fn opened(&mut self, connection: &MultiplexedConnection);

    /// The connection must not be used any more; also called when opening it failed.
    fn lost(&mut self);
}

/// Keeps the connection for `purpose`, for ever.
pub(super) async fn alive(
    mut purpose: impl Purpose,
    dialer: Arc<RedisDialer>,
    health: Arc<Health>,
    mut backoff: Backoff,
) {
    let mut story = Story::new(purpose.link(), health);
    loop {
        let pulse = Arc::new(Pulse::new());
        let why = match timeout(CONNECT_LIMIT, purpose.open(&dialer, &pulse)).await {
            Ok(Ok(connection)) => {
                purpose.opened(&connection);
                story.up();
                let why = until_dead(connection, &pulse).await;
                backoff.lived(pulse.age());
                why
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not ready within {CONNECT_LIMIT:?}"),
        };
        purpose.lost();
        story.down(&why);
        sleep(backoff.pause()).await;
    }
}

/// Watches a connection until it is lost, and says why.
async fn until_dead(mut connection: MultiplexedConnection, pulse: &Pulse) -> String {
    let ping = redis::cmd("PING");
    loop {
        tokio::select! {
            () = pulse.closed.notified() => return CLOSED.to_owned(),
            () = sleep(PING_EVERY) => {}
        }
        let answer = ping.query_async::<Value>(&mut connection);
        tokio::select! {
            biased;
            answer = answer => match answer {
                Err(error) if !is_answer(&error) => return error.to_string(),
                _ => pulse.heard(),
            },
            () = pulse.closed.notified() => return CLOSED.to_owned(),
            () = pulse.silence() => return format!("silent for {DEAD_AFTER:?}"),
        }
    }
}

const CLOSED: &str = "the connection was closed";

/// Whether Redis itself said this error, so that the connection is in order.
pub(super) fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// The signs of life of one connection.
pub(super) struct Pulse {
    started: Instant,
    /// When something was heard last, in milliseconds after the start.
    heard: AtomicU64,
    closed: Notify,
}

impl Pulse {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            heard: AtomicU64::new(0),
            closed: Notify::new(),
        }
    }

    fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn heard(&self) {
        let now = u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    pub(super) fn close(&self) {
        self.closed.notify_one();
    }

    /// Returns when nothing was heard for [`DEAD_AFTER`].
    async fn silence(&self) {
        loop {
            let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
            let end = self.started + heard + DEAD_AFTER;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Tells the health and the log about losses and returns: each once, not each try.
struct Story {
    link: Link,
    health: Arc<Health>,
    /// Whether the link stands; `None` before the first try has ended.
    standing: Option<bool>,
    stood_before: bool,
}

impl Story {
    fn new(link: Link, health: Arc<Health>) -> Self {
        Self {
            link,
            health,
            standing: None,
            stood_before: false,
        }
    }

    fn up(&mut self) {
        let (store, link) = (self.health.address(), self.link.name());
        let again = self.stood_before;
        info!(store, link, again, "event store connected");
        self.health.set_up(self.link, again);
        self.standing = Some(true);
        self.stood_before = true;
    }

    fn down(&mut self, why: &str) {
        let (store, link) = (self.health.address(), self.link.name());
        match self.standing {
            Some(true) => warn!(store, link, why, "event store lost; reconnecting"),
            None => warn!(store, link, why, "event store not reachable; trying on"),
            Some(false) => debug!(store, link, why, "event store still not reachable"),
        }
        self.health.set_down(self.link, why);
        self.standing = Some(false);
    }
}

/// The pauses between tries.
#[derive(Clone)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(settings: &LogSettings) -> Self {
        Self {
            min: settings.reconnect_min,
            max: settings.reconnect_max,
            next: settings.reconnect_min,
        }
    }

    /// The next pause: the doubled last one, shortened by up to half at random, so that many
    /// processes don't come back at the same moment.
    fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }

    fn lived(&mut self, age: Duration) {
        if age >= self.max {
            self.next = self.min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew_after_a_long_life() {
        let mut backoff = Backoff::new(&LogSettings::default());
        for millis in [100, 200, 400, 800, 1600, 2000, 2000] {
            let pause = backoff.pause().as_millis();
            assert!(
                (millis / 2..=millis).contains(&pause),
                "{pause} of {millis}"
            );
        }
        backoff.lived(Duration::from_secs(1));
        assert!(backoff.pause() >= Duration::from_secs(1));
        backoff.lived(Duration::from_secs(2));
        assert!(backoff.pause() <= Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_sign_of_life() {
        let pulse = Pulse::new();
        tokio::time::advance(Duration::from_secs(2)).await;
        pulse.heard();
        pulse.silence().await;
        assert_eq!(pulse.age(), Duration::from_secs(5));
    }
}
