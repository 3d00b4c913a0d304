//! The life of one event stream, whatever carries it.
//!
//! One function that looks, in this order, for a cut, the drain, a new token, the end of the token
//! and a warning before it, next events, position, heartbeat. A client that goes away drops the
//! stream. The reader's own pace is its flow control: nothing is taken from the log before the
//! connection has room.
//!
//! It is polled twice for every event and subscriber. So whatever else can wake it rings a [`Bell`], and
//! while that is silent it looks for events alone; and it holds one timer, which events don't touch
//! (when it fires too early it is set anew).

use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use intellirouter::events::{Entry, LogSubscription, Position};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::EventPlane;
use super::bell::Bell;
use super::door::{Registered, Session};
use super::filter::Filter;
use crate::calls::{Cut, OpenCall};
use crate::reply::Reply;
use crate::telemetry::EventCloseLabels;

/// How often `ir.position` tells a quiet stream where the log is.
const POSITION_EVERY: Duration = Duration::from_secs(30);

/// A token without a near end: a century stands for it.
const NO_END: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How long before the end of its token a stream is told; of a token with less
/// time left, after half of it.
const WARNING: Duration = Duration::from_secs(60);

/// Why the gateway ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Cut(Cut),
    Slow,
}

impl End {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Cut(cut) => cut.label(),
            Self::Slow => "slow",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Cut(Cut::Draining) => "the gateway is stopping; connect again",
            Self::Cut(Cut::TokenExpired) => "the token has expired; connect again with a new one",
            Self::Cut(cut) => cut.message(),
            Self::Slow => "the stream was read too slowly; connect again to resume",
        }
    }

    /// When to come again, where that is not the usual time.
    pub(super) fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Cut(Cut::Draining) => Cut::Draining.reply().retry_after,
            _ => None,
        }
    }

    pub(super) fn reply(self) -> Reply {
        match self {
            Self::Cut(cut) => cut.reply(),
            Self::Slow => Reply::unavailable(self.reason(), self.message()),
        }
    }
}

/// What a stream says next.
pub(super) enum Signal {
    /// The first thing on every stream.
    Open {
        position: Position,
        stream: String,
    },
    Entries(Vec<Entry>),
    Heartbeat,
    Position(Position),
    /// The token ends soon.
    Expiring {
        at: SystemTime,
        stream: String,
    },
    /// The last thing on a stream that the gateway ends.
    End(End),
}

pub(super) struct EventStream {
    plane: Arc<EventPlane>,
    subscription: LogSubscription,
    call: Arc<OpenCall>,
    filter: Filter,
    registered: Registered,
    token: TokenEnd,
    /// When the next heartbeat and position are due, if nothing else is said before.
    heartbeat: Instant,
    position: Instant,
    /// Fires when any of these is due, or the token's time; or before.
    timer: Pin<Box<Sleep>>,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What all but events ring, for the task that polled last.
    bell: Option<Arc<Bell>>,
    /// All but events was looked at since [`EventStream::take_rest`].
    looked: bool,
    stage: Stage,
    /// Why it ended, for the metrics; the first reason counts.
    closed: OnceLock<&'static str>,
}

enum Stage {
    Fresh,
    Live,
    Over,
}

impl EventStream {
    pub(super) fn new(
        plane: Arc<EventPlane>,
        subscription: LogSubscription,
        call: Arc<OpenCall>,
        filter: Filter,
        session: Option<Session>,
    ) -> Self {
        plane.telemetry.event_streams.inc();
        let now = Instant::now();
        Self {
            heartbeat: now + plane.config.heartbeat,
            position: now + POSITION_EVERY,
            // At once, and is set then.
            timer: Box::pin(tokio::time::sleep_until(now)),
            drained: Box::pin(plane.drain.clone().cancelled_owned()),
            filter,
            registered: plane.door.streams.register(&call, session),
            token: TokenEnd::of(&call),
            plane,
            subscription,
            call,
            bell: None,
            looked: false,
            stage: Stage::Fresh,
            closed: OnceLock::new(),
        }
    }

    /// Says why the stream ends, unless that is settled; tells whether it was not.
    pub(super) fn close(&mut self, reason: &'static str) -> bool {
        self.closed.set(reason).is_ok()
    }

    /// The client took nothing; what comes meanwhile makes it slow.
    pub(super) fn held_up(&mut self) {
        self.subscription.held_up();
        // Whoever waited for the client waited for the cut too, and took the bell's place there.
        self.bell = None;
    }

    /// What rings the bell, after each time that all but events was looked at: who waits for more than
    /// the stream does looks too then, and rings the same bell.
    pub(super) fn take_rest(&mut self) -> Option<Waker> {
        let bell = self.bell.as_ref().filter(|_| self.looked)?.clone();
        self.looked = false;
        Some(bell.into())
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Signal>> {
        match self.stage {
            Stage::Over => return Poll::Ready(None),
            Stage::Fresh => {
                self.stage = Stage::Live;
                return Poll::Ready(Some(Signal::Open {
                    position: self.subscription.start(),
                    stream: self.registered.id(),
                }));
            }
            Stage::Live => {}
        }
        self.poll_live(cx).map(Some)
    }

    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        let bell = self.bell.as_deref().filter(|bell| bell.wakes(cx.waker()));
        let silent = bell.is_some_and(|bell| !bell.has_rung());
        if self.subscription.lag_bytes() > self.plane.config.lag_bytes && !self.must_end() {
            return Poll::Ready(self.end(End::Slow));
        }
        if silent {
            return self.poll_entries(cx).map(Signal::Entries);
        }
        let bell = match self.bell.take() {
            Some(bell) if bell.wakes(cx.waker()) => bell,
            _ => Bell::new(cx.waker()),
        };
        let waker = Waker::from(Arc::clone(&bell));
        let signal = self.poll_all(cx, &mut Context::from_waker(&waker));
        // Entries come last: all else was looked at then, and a timer that is due stays so.
        let looked = match &signal {
            Poll::Pending => true,
            Poll::Ready(signal) => matches!(signal, Signal::Entries(_)) && !self.timer.is_elapsed(),
        };
        if !looked {
            bell.mark();
        }
        self.bell = Some(bell);
        self.looked = true;
        signal
    }

    /// Whether it ends for a reason that a client which read faster would meet too.
    fn must_end(&self) -> bool {
        self.call.is_cut().is_some() || self.plane.drain.is_cancelled()
    }

    /// Looks at everything. Pending, `cx` is woken by events, and `rest` by all else.
    fn poll_all(&mut self, cx: &mut Context<'_>, rest: &mut Context<'_>) -> Poll<Signal> {
        loop {
            if let Poll::Ready(cut) = self.call.poll_cut(rest) {
                return Poll::Ready(self.end(End::Cut(cut)));
            }
            if self.drained.as_mut().poll(rest).is_ready() {
                return Poll::Ready(self.end(End::Cut(Cut::Draining)));
            }
            if self.registered.poll_renewed(rest).is_ready() {
                self.token = TokenEnd::of(&self.call);
                self.set_timer();
            }
            // Stays due until it is set anew.
            let due = self.timer.as_mut().poll(rest).is_ready();
            if due && let Some(signal) = self.token_signal() {
                return Poll::Ready(signal);
            }
            if let Poll::Ready(entries) = self.poll_entries(cx) {
                return Poll::Ready(Signal::Entries(entries));
            }
            if !due {
                return Poll::Pending;
            }
            if let Some(signal) = self.quiet_signal() {
                return Poll::Ready(signal);
            }
            self.set_timer();
        }
    }

    fn set_timer(&mut self) {
        let due = self.token.next().min(self.heartbeat).min(self.position);
        self.timer.as_mut().reset(due);
    }

    /// What is due for the token.
    fn token_signal(&mut self) -> Option<Signal> {
        if Instant::now() < self.token.next() {
            return None;
        }
        if self.token.warned {
            return Some(self.end(End::Cut(Cut::TokenExpired)));
        }
        self.token.warned = true;
        let stream = self.registered.id();
        Some(Signal::Expiring {
            at: self.token.at,
            stream,
        })
    }

    /// What is due because nothing else was said.
    fn quiet_signal(&mut self) -> Option<Signal> {
        let now = Instant::now();
        if now >= self.position {
            self.position = now + POSITION_EVERY;
            return Some(Signal::Position(self.subscription.position()));
        }
        if now >= self.heartbeat {
            self.heartbeat = now + self.plane.config.heartbeat;
            return Some(Signal::Heartbeat);
        }
        None
    }

    fn poll_entries(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Entry>> {
        let mut entries = Vec::new();
        ready!(self.subscription.poll_batch(cx, &mut entries));
        self.filter.sift(&mut entries);
        if entries.is_empty() {
            // Others run between batches that nobody wanted.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let now = self.subscription.read_at();
        self.heartbeat = now + self.plane.config.heartbeat;
        self.position = now + POSITION_EVERY;
        Poll::Ready(entries)
    }

    fn end(&mut self, end: End) -> Signal {
        self.stage = Stage::Over;
        if let End::Cut(cut) = end {
            // Whoever carries the stream counts it as such.
            self.call.cut(cut);
        }
        self.close(end.reason());
        Signal::End(end)
    }
}

/// When a stream's token ends, and when that is said.
struct TokenEnd {
    /// By the wall clock.
    at: SystemTime,
    warning: Instant,
    end: Instant,
    warned: bool,
}

impl TokenEnd {
    fn of(call: &OpenCall) -> Self {
        let expires = call.caller().map_or(u64::MAX, |caller| caller.expires);
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(expires));
        let now = SystemTime::now();
        let left = expires.map_or(NO_END, |expires| {
            let left = expires.duration_since(now);
            left.unwrap_or_default().min(NO_END)
        });
        let end = Instant::now() + left;
        Self {
            at: now + left,
            warning: end - WARNING.min(left / 2),
            end,
            warned: false,
        }
    }

    fn next(&self) -> Instant {
        if self.warned { self.end } else { self.warning }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.plane.telemetry.event_streams.dec();
        let labels = EventCloseLabels {
            reason: self.closed.get_or_init(|| "client_gone"),
        };
        self.plane
            .telemetry
            .event_streams_closed
            .get_or_create(&labels)
            .inc();
    }
}
