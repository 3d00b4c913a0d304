//! Keeps one connection to Redis alive: connects, watches it, and makes it again when it is lost.
//!
//! A loss shows at once when the connection is closed; where it only falls silent (a stopped
//! process, a cut cable) it counts as lost when an answer is awaited and nothing was heard for
//! [`DEAD_AFTER`]. Anything heard counts, so that an answer behind a flood of messages does not look
//! like a dead server. In the first [`PATIENCE`] without a connection it is tried again at the
//! shortest pause of [`LogSettings`], so that a server that comes back is found at once. After that
//! one connection goes on so as long as nobody answers; the others are tried less and less often, at
//! the longest pause in the end, and when another one stands. A server that answers and refuses is
//! asked less and less often by all.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::health::{Health, Link};
use crate::RedisDialer;
use crate::events::settings::LogSettings;
use crate::resilience::Backoff;

/// The longest that a connection may take until a server answers on it.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

const DEAD_AFTER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection that does not live so long counts as one more failure.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// What a connection is for.
#[async_trait]
pub(super) trait Purpose: Send {
    /// A connection that is ready.
    type Live: Send;

    fn link(&self) -> Link;

    /// Connects and makes ready. `pulse` is to be told of everything that comes. Must end in
    /// bounded time: each answer is to be awaited by [`Pulse::answer`].
    async fn open(&mut self, dialer: &RedisDialer, pulse: &Arc<Pulse>) -> RedisResult<Self::Live>;

    /// Uses the connection until it is lost, and says why it is.
    async fn serve(&mut self, live: Self::Live, pulse: &Arc<Pulse>) -> RedisError;

    /// The run id of the server at its other end.
    fn run(live: &Self::Live) -> &Arc<str>;

    /// The connection must not be used any more; also called when opening it failed.
    fn lost(&mut self);

    /// Called at the end, in place of `lost`.
    async fn stop(&mut self) {
        self.lost();
    }
}

/// Keeps the connection for `purpose` until `stop`.
pub(super) async fn alive(
    mut purpose: impl Purpose,
    dialer: Arc<RedisDialer>,
    health: Arc<Health>,
    pauses: Pauses,
    stop: CancellationToken,
) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keep(&mut purpose, &dialer, health, pauses) => {}
    }
    purpose.stop().await;
}

async fn keep<P: Purpose>(
    purpose: &mut P,
    dialer: &RedisDialer,
    health: Arc<Health>,
    mut pauses: Pauses,
) {
    let link = purpose.link();
    let mut story = Story::new(link, Arc::clone(&health));
    loop {
        let pulse = Arc::new(Pulse::new());
        let mut ups = health.ups();
        let why = match purpose.open(dialer, &pulse).await {
            Ok(live) => {
                story.up(P::run(&live));
                ups = health.ups();
                let since = Instant::now();
                let why = purpose.serve(live, &pulse).await;
                pauses.lived(since.elapsed());
                why
            }
            Err(error) => error,
        };
        purpose.lost();
        story.down(&why.to_string());
        let (short, rest) = pauses.next(health.leads(link) && is_away(&why));
        // In any case: connections that break as soon as they stand must not wake one another.
        sleep(short).await;
        let _ = timeout(rest, health.another_up(ups)).await;
    }
}

/// Whether nobody is there, or not yet.
fn is_away(error: &RedisError) -> bool {
    let loading = ErrorKind::Server(ServerErrorKind::BusyLoading);
    error.is_io_error() || error.kind() == loading
}

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
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            heard: AtomicU64::new(0),
            closed: Notify::new(),
        }
    }

    pub(super) fn heard(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// The connection is closed, or to be given up.
    pub(super) fn close(&self) {
        self.closed.notify_one();
    }

    /// Returns when the connection is closed.
    pub(super) async fn closed(&self) -> RedisError {
        self.closed.notified().await;
        lost("the connection was closed")
    }

    /// Awaits an answer of the server, as long as there are signs of life.
    pub(super) async fn answer<T>(
        &self,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        // Nothing need have come before it was asked.
        self.heard();
        tokio::select! {
            biased;
            answer = answer => {
                self.heard();
                answer
            }
            error = self.closed() => Err(error),
            () = self.silence() => Err(lost("silent for 3 s")),
        }
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

/// A connection that is given up from here.
pub(super) fn lost(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, why))
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

    fn up(&mut self, run: &Arc<str>) {
        let (store, link) = (self.health.address(), self.link.name());
        let again = self.stood_before;
        info!(store, link, again, "event store connected");
        self.health.set_up(self.link, Arc::clone(run), again);
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
pub(super) struct Pauses {
    backoff: Backoff,
    /// Since when there is no connection that lives.
    failing: Option<Instant>,
    /// Failures in a row after [`PATIENCE`], and one.
    failures: u32,
}

impl Pauses {
    pub(super) fn new(settings: &LogSettings) -> Self {
        Self {
            backoff: Backoff::new(settings.reconnect_min, settings.reconnect_max),
            failing: None,
            failures: 1,
        }
    }

    /// The next pause: what it takes at least, and what of it is for naught once the store is there.
    fn next(&mut self, patient: bool) -> (Duration, Duration) {
        let since = *self.failing.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE || patient {
            return (self.backoff.delay(1), Duration::ZERO);
        }
        self.failures = self.failures.saturating_add(1);
        let (short, pause) = (self.backoff.delay(1), self.backoff.delay(self.failures));
        (short, pause.saturating_sub(short))
    }

    fn lived(&mut self, age: Duration) {
        if age >= SHORT_LIFE {
            self.failing = None;
            self.failures = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_is_tried_often_for_half_a_minute_and_then_less_and_less_often() {
        let mut pauses = Pauses::new(&LogSettings::default());
        let mut total = Duration::ZERO;
        while total < PATIENCE {
            let (pause, rest) = pauses.next(false);
            assert!((25..=50).contains(&pause.as_millis()), "{pause:?}");
            assert!(rest.is_zero());
            tokio::time::advance(pause).await;
            total += pause;
        }
        let mut whole = |patient| {
            let (short, rest) = pauses.next(patient);
            assert!((25..=50).contains(&short.as_millis()), "{short:?}");
            (short + rest).as_millis()
        };
        for millis in [100, 200, 400, 800, 1000, 1000] {
            let pause = whole(false);
            let bounds = millis / 2..=millis;
            assert!(bounds.contains(&pause), "{pause} of {millis}");
            // The one that leads goes on.
            assert!(whole(true) <= 50);
        }
        pauses.lived(Duration::from_millis(900));
        assert!(pauses.next(false).1 >= Duration::from_millis(400));
        pauses.lived(SHORT_LIFE);
        assert!(pauses.next(false).1.is_zero());
    }

    /// The purpose of a link whose store is away until it is told to be there.
    struct Looks {
        link: Link,
        there: Arc<AtomicU64>,
        tries: Arc<AtomicU64>,
    }

    #[async_trait]
    impl Purpose for Looks {
        type Live = Arc<str>;

        fn link(&self) -> Link {
            self.link
        }

        async fn open(&mut self, _: &RedisDialer, _: &Arc<Pulse>) -> RedisResult<Arc<str>> {
            self.tries.fetch_add(1, Ordering::Relaxed);
            match self.there.load(Ordering::Relaxed) {
                0 => Err(lost("away")),
                _ => Ok("run".into()),
            }
        }

        fn run(live: &Arc<str>) -> &Arc<str> {
            live
        }

        async fn serve(&mut self, _: Arc<str>, pulse: &Arc<Pulse>) -> RedisError {
            pulse.closed().await
        }

        fn lost(&mut self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_was_away_for_an_hour_is_found_by_all_within_a_tenth_of_a_second() {
        let settings = LogSettings::default();
        let health = Arc::new(Health::new("store".to_owned()));
        health.set_following();
        let dialer = Arc::new(RedisDialer::new("redis://127.0.0.1:1", None).unwrap());
        let there = Arc::new(AtomicU64::new(0));
        let links = [Link::Publisher, Link::Tail, Link::Recorder];
        let tries: [Arc<AtomicU64>; 3] = Default::default();
        for (link, tries) in links.into_iter().zip(&tries) {
            let purpose = Looks {
                link,
                there: Arc::clone(&there),
                tries: Arc::clone(tries),
            };
            let stop = CancellationToken::new();
            let (dialer, health) = (Arc::clone(&dialer), Arc::clone(&health));
            tokio::spawn(alive(purpose, dialer, health, Pauses::new(&settings), stop));
        }
        sleep(Duration::from_secs(3600)).await;
        let before = tries.each_ref().map(|tries| tries.load(Ordering::Relaxed));
        sleep(Duration::from_secs(60)).await;
        let after = tries.each_ref().map(|tries| tries.load(Ordering::Relaxed));
        let [publisher, tail, recorder] = [0, 1, 2].map(|link| after[link] - before[link]);
        assert!(publisher <= 121 && tail <= 121, "{publisher} and {tail}");
        assert!((1200..=2400).contains(&recorder), "{recorder} in a minute");

        there.store(1, Ordering::Relaxed);
        let returned = Instant::now();
        health.wait_for(true).await;
        let took = returned.elapsed();
        assert!(took <= Duration::from_millis(100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_sign_of_life() {
        let pulse = Pulse::new();
        tokio::time::advance(Duration::from_secs(2)).await;
        pulse.heard();
        pulse.silence().await;
        assert_eq!(pulse.started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_given_up_after_three_seconds() {
        let pulse = Pulse::new();
        tokio::time::advance(Duration::from_secs(60)).await;
        let asked = Instant::now();
        let answer = pulse
            .answer(std::future::pending::<RedisResult<()>>())
            .await;
        assert!(answer.is_err());
        assert_eq!(asked.elapsed(), DEAD_AFTER);
    }
}
