//! The calls that are open, each until its last byte, so that any of them can
//! be ended at any time with a status that its client can act upon.
//!
//! Owns the list, the ways to cut a call ([`Cut`]) and the counts per subject.
//! Does not decide who must go: [`crate::recheck`] does, and the drain. A cut is
//! a flag and a wake-up; the call itself, polled by its connection, turns it
//! into trailers, a trailer frame or a last event, and drops what is upstream.
//!
//! Bounds: as many entries as `limits.open_calls` lets in, about 300 bytes
//! each. Calls of a worker are listed in a part of their own, so that its lock
//! is contended only while the list is walked.

mod subjects;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::task::AtomicWaker;
use http::uri::PathAndQuery;
use intellirouter::events::ChannelPattern;
use slab::Slab;
use tokio::time::Instant;

use crate::layers::authenticate::Identity;
use crate::layers::conduct::{Conduct, End};
use crate::reply::Reply;
use crate::routes::Route;
use crate::server::Client;
use crate::telemetry::Protocol;

pub(crate) use subjects::Subjects;

/// Why the gateway ends a call that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// The token has expired.
    TokenExpired = 1,
    /// The token or its subject was revoked.
    Revoked = 2,
    /// A rule changed: the caller may no longer call this.
    RoleWithdrawn = 3,
    /// The time for calls to end by themselves is over.
    Draining = 4,
    /// The token's issuer, or the key that it was signed with, is gone.
    KeyGone = 5,
    /// The rules for the tokens of the caller's issuer ask more or grant less
    /// than when the call began.
    RulesChanged = 6,
}

impl Cut {
    pub(crate) const ALL: [Self; 6] = [
        Self::TokenExpired,
        Self::Revoked,
        Self::RoleWithdrawn,
        Self::Draining,
        Self::KeyGone,
        Self::RulesChanged,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cut| *cut as u8 == number)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::RoleWithdrawn => "role_withdrawn",
            Self::Draining => "draining",
            Self::KeyGone => "key_gone",
            Self::RulesChanged => "rules_changed",
        }
    }

    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::TokenExpired => "the token has expired; call again with a new one",
            Self::Revoked => "the token was revoked",
            Self::RoleWithdrawn => "the caller's roles no longer allow this call",
            Self::Draining => "the gateway is stopping; call again",
            Self::KeyGone => {
                "the key of the token is no longer accepted; call again with a new token"
            }
            Self::RulesChanged => {
                "the rules for tokens of this issuer have changed; call again to be judged by them"
            }
        }
    }

    pub(crate) fn reply(self) -> Reply {
        match self {
            Self::TokenExpired | Self::Revoked | Self::KeyGone | Self::RulesChanged => {
                Reply::unauthenticated(self.label(), self.message())
            }
            Self::RoleWithdrawn => Reply::denied(self.label(), self.message()),
            Self::Draining => {
                Reply::unavailable(self.label(), self.message()).retry_after(come_again())
            }
        }
    }
}

/// When those who are sent away by a drain may come again: somewhere between
/// 0.5 s and 4 s, because all of them have to, and not at the same moment.
fn come_again() -> Duration {
    Duration::from_millis(rand::random_range(500..=4000))
}

/// The generation of no rules.
const NEVER: u64 = 0;

/// One call while it is open.
pub(crate) struct OpenCall {
    pub(crate) started: Instant,
    pub(crate) protocol: Protocol,
    pub(crate) client: Arc<Client>,
    pub(crate) path: PathAndQuery,
    pub(crate) route: Arc<Route>,
    /// Changes only where a stream gets a new token of the same subject.
    caller: ArcSwapOption<Identity>,
    /// What an event stream reads; its rules stand beside the route's.
    channels: OnceLock<Vec<ChannelPattern>>,
    /// Its client took nothing, since a gRPC event stream asked last.
    held_up: AtomicBool,
    /// The generation of the rules that has judged this call.
    judged: AtomicU64,
    /// Whether it has passed its checks, channels included.
    settled: AtomicBool,
    cut: AtomicU8,
    waker: AtomicWaker,
}

impl OpenCall {
    pub(crate) fn caller(&self) -> Option<Arc<Identity>> {
        self.caller.load_full()
    }

    /// From now on the call is that of a new token of the same subject, and is judged again by all
    /// rules, as the last look may have been at the token before.
    pub(crate) fn renew(&self, caller: Arc<Identity>) {
        self.caller.store(Some(caller));
        self.judged.store(NEVER, Ordering::Relaxed);
    }

    /// What an event stream reads, once it is one.
    pub(crate) fn channels(&self) -> Option<&[ChannelPattern]> {
        self.channels.get().map(Vec::as_slice)
    }

    /// This call is an event stream, which says itself how it ends.
    pub(crate) fn streams(&self, channels: Vec<ChannelPattern>) {
        let _ = self.channels.set(channels);
    }

    /// What is to go to the client waits for room.
    pub(crate) fn hold_up(&self) {
        self.held_up.store(true, Ordering::Relaxed);
    }

    /// Whether [`OpenCall::hold_up`] was called since this was asked last.
    pub(crate) fn was_held_up(&self) -> bool {
        self.held_up.load(Ordering::Relaxed) && self.held_up.swap(false, Ordering::Relaxed)
    }

    /// The call has passed all checks of the rules it began with.
    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Whether the rules of this generation have not judged the call yet. One
    /// that is still on its way through the checks must be judged again.
    pub(crate) fn must_be_judged_by(&self, generation: u64) -> bool {
        let settled = self.settled.load(Ordering::Acquire);
        let before = match settled {
            true => self.judged.swap(generation, Ordering::Relaxed),
            false => self.judged.load(Ordering::Relaxed),
        };
        before != generation
    }

    /// Ends the call. The first reason counts.
    pub(crate) fn cut(&self, cut: Cut) {
        let none = 0;
        let order = Ordering::AcqRel;
        let first = self
            .cut
            .compare_exchange(none, cut as u8, order, Ordering::Relaxed);
        if first.is_ok() {
            self.waker.wake();
        }
    }

    pub(crate) fn is_cut(&self) -> Option<Cut> {
        match self.cut.load(Ordering::Acquire) {
            0 => None,
            number => Cut::from_number(number),
        }
    }

    /// Ready once the call is to end. One task at a time may wait.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<Cut> {
        if let Some(cut) = self.is_cut() {
            return Poll::Ready(cut);
        }
        self.waker.register(cx.waker());
        // It may have come between the look and the registration.
        self.is_cut().map_or(Poll::Pending, Poll::Ready)
    }
}

/// See the module's comment.
pub(crate) struct OpenCalls {
    /// By worker.
    parts: Box<[Mutex<Slab<Arc<OpenCall>>>]>,
    count: AtomicUsize,
    /// Those of them whose caller is nobody, or not yet known.
    anonymous: AtomicUsize,
    pub(crate) subjects: Subjects,
}

impl OpenCalls {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            parts: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            anonymous: AtomicUsize::new(0),
            subjects: Subjects::default(),
        })
    }

    /// Calls and streams in progress.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Those of them whose caller is known.
    pub(crate) fn identified(&self) -> usize {
        self.count().saturating_sub(self.anonymous())
    }

    /// Those of them whose caller is nobody, or not yet known.
    pub(crate) fn anonymous(&self) -> usize {
        self.anonymous.load(Ordering::Relaxed)
    }

    /// Lists a call that has arrived at worker number `worker`, and that the
    /// rules of `generation` judge.
    pub(crate) fn open(
        self: &Arc<Self>,
        (worker, generation): (usize, u64),
        protocol: Protocol,
        client: Arc<Client>,
        path: PathAndQuery,
        route: Arc<Route>,
    ) -> Listed {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.anonymous.fetch_add(1, Ordering::Relaxed);
        let call = Arc::new(OpenCall {
            started: Instant::now(),
            protocol,
            client,
            path,
            route,
            caller: ArcSwapOption::empty(),
            channels: OnceLock::new(),
            held_up: AtomicBool::new(false),
            judged: AtomicU64::new(generation),
            settled: AtomicBool::new(false),
            cut: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        });
        let part = worker % self.parts.len();
        let key = self.part(part).insert(call.clone());
        Listed {
            calls: self.clone(),
            call,
            place: (part, key),
            conduct: None,
            end: End::Other,
        }
    }

    /// Looks at every open call and ends those that `judge` names; tells how
    /// many that were.
    pub(crate) fn cut_where(&self, judge: impl Fn(&OpenCall) -> Option<Cut>) -> usize {
        let mut ended = 0;
        for part in 0..self.parts.len() {
            for (_, call) in self.part(part).iter() {
                if call.is_cut().is_none()
                    && let Some(cut) = judge(call)
                {
                    call.cut(cut);
                    ended += 1;
                }
            }
        }
        ended
    }

    fn part(&self, part: usize) -> MutexGuard<'_, Slab<Arc<OpenCall>>> {
        self.parts[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place in the list; dropped at the end of the call.
pub(crate) struct Listed {
    calls: Arc<OpenCalls>,
    call: Arc<OpenCall>,
    place: (usize, usize),
    /// That of the subject that this call counts for.
    conduct: Option<Arc<Conduct>>,
    end: End,
}

impl std::ops::Deref for Listed {
    type Target = Arc<OpenCall>;

    fn deref(&self) -> &Arc<OpenCall> {
        &self.call
    }
}

impl Listed {
    /// Says who calls, and counts the call as one of its subject's, of which
    /// `most` may be open.
    pub(crate) fn identified(&mut self, caller: &Arc<Identity>, most: usize) -> Result<(), Reply> {
        self.call.caller.store(Some(caller.clone()));
        self.calls.anonymous.fetch_sub(1, Ordering::Relaxed);
        let conduct = caller.conduct();
        conduct.begin();
        self.conduct = Some(conduct.clone());
        conduct.check(most)
    }

    /// Says how the call has ended.
    pub(crate) fn ended(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let (part, key) = self.place;
        drop(self.calls.part(part).try_remove(key));
        if let Some(conduct) = &self.conduct {
            conduct.ended(self.end, self.call.started.elapsed());
        }
        self.calls.count.fetch_sub(1, Ordering::Relaxed);
        if self.conduct.is_none() {
            self.calls.anonymous.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
