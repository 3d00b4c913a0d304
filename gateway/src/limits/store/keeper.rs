//! Keeps the connection to the store, carries questions over it, and says how
//! the store stands.
//!
//! One run of the script is on its way at a time and takes along all questions
//! that wait, up to [`BATCH`]: where they are many, each costs little. Says
//! every [`BEAT`] that this gateway lives, and every lease time lets rates
//! settle what they owe. Any error that Redis gives (no memory, loading, a lost
//! cluster) counts as away: the connection is made anew after a pause of 50 ms
//! at first and 500 ms at most. Credentials that are refused are told as an
//! error, once. A store that has lost its memory on a connection that stayed is
//! told what was seen, as on a new one. Ends when nobody is left to ask.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use intellirouter::RedisDialer;
use redis::PushKind;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::script::{self, Report, Sender};
use super::{AWAY, Ask, PROMPT, SLOW, State};
use crate::config::StoreConfig;

/// How long a connection may take until it is ready to be used.
pub(super) const DIAL_LIMIT: Duration = Duration::from_millis(500);
/// Questions of one run.
const BATCH: usize = 128;
const BEAT: Duration = Duration::from_millis(250);
/// Without a word of any gateway for so long the store had served none.
const INTERRUPTED: Duration = Duration::from_millis(500);
/// How long a gateway that is not heard of counts as living.
const LIFE: Duration = Duration::from_secs(3);
/// Without an answer for so long the store is away;
const AWAY_AFTER: Duration = Duration::from_millis(100);
/// and for so long more the connection is given up.
const DEAD_AFTER: Duration = Duration::from_millis(900);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// See the module's comment.
pub(super) struct Keeper {
    dialer: RedisDialer,
    state: Arc<State>,
    asks: mpsc::Receiver<Ask>,
    /// What rates settle, and what they ask on.
    settling: VecDeque<Ask>,
    settle_at: Instant,
    /// The name of the memory that counts, once heard.
    memory: Option<String>,
    /// This gateway's name in the store.
    name: String,
    prompt: Duration,
    lease: Duration,
    /// What the log was told last.
    told: Option<Told>,
    /// Since when fewer gateways were seen than counted.
    fewer_since: Option<Instant>,
}

/// From best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Told {
    Connected,
    Away,
    /// It lets nobody in who proves himself so: only an operator can help.
    LockedOut,
}

impl Keeper {
    pub(super) fn new(
        dialer: RedisDialer,
        state: Arc<State>,
        asks: mpsc::Receiver<Ask>,
        config: &StoreConfig,
    ) -> Self {
        Self {
            dialer,
            state,
            asks,
            settling: VecDeque::new(),
            settle_at: Instant::now(),
            memory: None,
            name: format!("{:016x}", rand::random::<u64>()),
            prompt: config.timeout,
            lease: config.lease,
            told: None,
            fewer_since: None,
        }
    }

    /// Runs until nobody is left to ask.
    pub(super) async fn keep(mut self) {
        let mut pause = FIRST_PAUSE;
        while !self.asks.is_closed() {
            let lost = Arc::new(Notify::new());
            let tell = Arc::clone(&lost);
            let dial = self.dialer.dial(DIAL_LIMIT, None, move |push| {
                if push.kind == PushKind::Disconnection {
                    tell.notify_one();
                }
            });
            let why = match timeout(DIAL_LIMIT, dial).await {
                Ok(Ok(connection)) => {
                    let since = Instant::now();
                    let why = self.serve(connection, &lost).await;
                    if since.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    why
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no connection within {DIAL_LIMIT:?}"),
            };
            if self.asks.is_closed() {
                return;
            }
            self.away(&why);
            // Shortened at random, so that gateways don't come back at once.
            self.refuse_for(pause.mul_f64(rand::random_range(0.5..=1.0)))
                .await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Carries questions until the connection is lost; says why it is.
    async fn serve(&mut self, mut connection: MultiplexedConnection, lost: &Notify) -> String {
        let mut heard = false;
        let mut beat_at = Instant::now();
        loop {
            self.settle_when_due();
            let mut batch = Vec::new();
            if heard && self.settling.is_empty() {
                match self.next(beat_at, lost).await {
                    Ok(ask) => batch.extend(ask),
                    Err(why) => return why,
                }
            }
            // Neither may keep the other waiting.
            let settling = self.settling.len().min(BATCH / 2);
            while batch.len() < BATCH - settling
                && let Ok(ask) = self.asks.try_recv()
            {
                batch.push(ask);
            }
            let rest = self.settling.len().min(BATCH - batch.len());
            batch.extend(self.settling.drain(..rest));
            self.drop_outdated(&mut batch);
            let beat = (Instant::now() >= beat_at).then_some(LIFE);
            if batch.is_empty() && beat.is_none() {
                continue;
            }
            if beat.is_some() {
                beat_at = Instant::now() + BEAT;
            }
            let sent = Instant::now();
            match self.exchange(&mut connection, beat, &batch, lost).await {
                Ok(report) => {
                    let first = self.memory.as_ref() != Some(&report.memory);
                    self.heard(first || !heard, sent.elapsed(), &report);
                    heard = true;
                    self.deliver(&batch, &report);
                }
                Err(why) => {
                    // Before those who wait are told, so that they don't ask again.
                    self.away(&why);
                    batch.iter().for_each(|ask| ask.rate.unanswered(ask));
                    return why;
                }
            }
        }
    }

    /// What was asked before the store was known to be another one, or to have lost its memory, does
    /// not say what the asker saw there: it is asked anew.
    fn drop_outdated(&self, batch: &mut Vec<Ask>) {
        let connection = self.state.connection.load(Ordering::Relaxed);
        for ask in batch.extract_if(.., |ask| ask.connection != connection) {
            ask.rate.unanswered(&ask);
        }
    }

    /// Waits for something to do: a question, or the time to settle or to say
    /// that this gateway lives.
    async fn next(&mut self, beat_at: Instant, lost: &Notify) -> Result<Option<Ask>, String> {
        tokio::select! {
            biased;
            () = lost.notified() => Err(CLOSED.to_owned()),
            ask = self.asks.recv() => match ask {
                Some(ask) => Ok(Some(ask)),
                None => Err("nobody asks any more".to_owned()),
            },
            () = sleep_until(beat_at.min(self.settle_at)) => Ok(None),
        }
    }

    /// Looked at before every batch: questions that never end must not keep
    /// what is not used from those who need it.
    fn settle_when_due(&mut self) {
        let now = Instant::now();
        if now < self.settle_at {
            return;
        }
        self.settle_at = now + self.lease;
        let rates = self.state.rates().clone();
        for rate in rates.iter().filter_map(std::sync::Weak::upgrade) {
            rate.settle(|ask| self.settling.push_back(ask));
        }
    }

    fn deliver(&mut self, batch: &[Ask], report: &Report) {
        // Where the memory is another one nothing was counted.
        let mut counted = report.counted.iter();
        for ask in batch {
            match counted.next() {
                Some(Ok(answer)) => self.settling.extend(ask.rate.answered(ask, answer)),
                Some(Err(why)) => ask.rate.broken(ask, why),
                None => ask.rate.unanswered(ask),
            }
        }
    }

    async fn exchange(
        &mut self,
        connection: &mut MultiplexedConnection,
        life: Option<Duration>,
        batch: &[Ask],
        lost: &Notify,
    ) -> Result<Report, String> {
        let (name, memory) = (self.name.clone(), self.memory.clone());
        let sender = Sender {
            name: &name,
            life,
            interrupted: INTERRUPTED,
            memory: memory.as_deref(),
            gateways: self.state.gateways(),
        };
        let mut answer = pin!(script::count(connection, &sender, batch));
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = lost.notified() => return Err(CLOSED.to_owned()),
            () = sleep(AWAY_AFTER) => {
                self.away(&format!("no answer within {AWAY_AFTER:?}"));
                match timeout(DEAD_AFTER, answer).await {
                    Ok(answer) => answer,
                    Err(_) => return Err("no answer".to_owned()),
                }
            }
        };
        let report = answer.map_err(|error| error.to_string())?;
        let other = memory
            .as_ref()
            .is_some_and(|memory| *memory != report.memory);
        if report.counted.len() != batch.len() && !other {
            return Err("the answer has another shape".to_owned());
        }
        Ok(report)
    }

    /// An answer came after `took`; `first` of its connection or memory.
    fn heard(&mut self, first: bool, took: Duration, report: &Report) {
        if let Some(alive) = report.alive {
            self.count_gateways(alive);
        }
        let store = self.dialer.address();
        for key in &report.mended {
            let message = "a key of limits in the store held something else and was made anew";
            tracing::warn!(store, key, "{message}");
        }
        if first {
            self.state.connection.fetch_add(1, Ordering::Relaxed);
            let forgot = self.memory.replace(report.memory.clone());
            if forgot.is_some_and(|old| old != report.memory) {
                tracing::warn!(
                    store,
                    "the limit store has lost its memory; what is known is told"
                );
            }
        }
        let speed = if took <= self.prompt { PROMPT } else { SLOW };
        self.state.speed.store(speed, Ordering::Release);
        if self.told.replace(Told::Connected) != Some(Told::Connected) {
            tracing::info!(store, "limit store connected");
        }
    }

    /// More count at once; fewer only when they stayed so for [`LIFE`], because
    /// a store that lost its memory sees them come back one by one.
    fn count_gateways(&mut self, alive: u32) {
        let alive = alive.max(1);
        if alive >= self.state.alive.load(Ordering::Relaxed) {
            self.fewer_since = None;
        } else if self.fewer_since.get_or_insert_with(Instant::now).elapsed() < LIFE {
            return;
        }
        self.state.alive.store(alive, Ordering::Relaxed);
    }

    fn away(&mut self, why: &str) {
        self.state.speed.store(AWAY, Ordering::Release);
        let now = if is_locked_out(why) {
            Told::LockedOut
        } else {
            Told::Away
        };
        if self.told >= Some(now) {
            return;
        }
        self.told = Some(now);
        let (store, share) = (self.dialer.address(), self.state.share());
        if now == Told::LockedOut {
            tracing::error!(store, why, "limit store refuses the credentials: {share}");
        } else {
            tracing::warn!(store, why, "limit store away: {share}");
        }
    }

    /// Lets what was asked before the store went away be decided without it.
    async fn refuse_for(&mut self, pause: Duration) {
        for ask in self.settling.drain(..) {
            ask.rate.unanswered(&ask);
        }
        let mut pause = pin!(sleep(pause));
        loop {
            tokio::select! {
                biased;
                () = &mut pause => return,
                ask = self.asks.recv() => match ask {
                    Some(ask) => ask.rate.unanswered(&ask),
                    None => return,
                }
            }
        }
    }
}

const CLOSED: &str = "the connection was closed";

/// What Redis answers to those who may not use it.
fn is_locked_out(why: &str) -> bool {
    ["NOAUTH", "WRONGPASS", "NOPERM"]
        .iter()
        .any(|code| why.contains(code))
}
