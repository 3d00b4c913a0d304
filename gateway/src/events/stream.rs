//! The life of one event stream, whatever carries it.
//!
//! One function, one `select`: drain, end of the token and a warning before
//! it, a new token, heartbeat, position, next events. A client that goes away drops the stream. The reader's own
//! pace is its flow control: nothing is taken from the log before the
//! connection has room.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use intellirouter::events::{Entry, LogSubscription, Position};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::EventPlane;
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
    heartbeat: Interval,
    position: Interval,
    stage: Stage,
    closed: Closed,
}

/// Why a stream ended, for the metrics; the first reason counts.
pub(super) type Closed = Arc<OnceLock<&'static str>>;

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
        let every = |period| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            heartbeat: every(plane.config.heartbeat),
            position: every(POSITION_EVERY),
            filter,
            registered: plane.door.streams.register(&call, session),
            token: TokenEnd::of(&call),
            plane,
            subscription,
            call,
            stage: Stage::Fresh,
            closed: Closed::default(),
        }
    }

    /// Where whoever carries the stream can say why it ends.
    pub(super) fn closed(&self) -> Closed {
        self.closed.clone()
    }

    pub(super) async fn next(&mut self) -> Option<Signal> {
        match self.stage {
            Stage::Over => return None,
            Stage::Fresh => {
                self.stage = Stage::Live;
                return Some(Signal::Open {
                    position: self.subscription.start(),
                    stream: self.registered.id(),
                });
            }
            Stage::Live => {}
        }
        let mut entries = Vec::new();
        loop {
            if self.subscription.lag_bytes() > self.plane.config.lag_bytes {
                return Some(self.end(End::Slow));
            }
            tokio::select! {
                biased;
                cut = std::future::poll_fn(|cx| self.call.poll_cut(cx)) => {
                    return Some(self.end(End::Cut(cut)));
                }
                () = self.plane.drain.cancelled() => {
                    return Some(self.end(End::Cut(Cut::Draining)));
                }
                () = self.registered.renewed() => self.token = TokenEnd::of(&self.call),
                () = tokio::time::sleep_until(self.token.next()) => {
                    if self.token.warned {
                        return Some(self.end(End::Cut(Cut::TokenExpired)));
                    }
                    self.token.warned = true;
                    let stream = self.registered.id();
                    return Some(Signal::Expiring { at: self.token.at, stream });
                }
                () = self.subscription.next_batch(&mut entries) => {
                    self.filter.sift(&mut entries);
                    if !entries.is_empty() {
                        self.heartbeat.reset();
                        self.position.reset();
                        return Some(Signal::Entries(entries));
                    }
                }
                _ = self.position.tick() => {
                    return Some(Signal::Position(self.subscription.position()));
                }
                _ = self.heartbeat.tick() => return Some(Signal::Heartbeat),
            }
        }
    }

    fn end(&mut self, end: End) -> Signal {
        self.stage = Stage::Over;
        if let End::Cut(cut) = end {
            // Whoever carries the stream counts it as such.
            self.call.cut(cut);
        }
        let _ = self.closed.set(end.reason());
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
