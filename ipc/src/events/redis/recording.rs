//! The recorder's connection: it hears everything, and does what [`Recorder`] decides.
//!
//! Messages and marks come as pushes, in the order in which the server sent them, and are noted at
//! once by the task that reads the connection; nothing is queued between. Ticks and records go over
//! the same connection, so they reach the server that the coordinates belong to. What was kept
//! when a connection was lost (as much as one [`Recorder`] keeps) is appended on the next one to the
//! same server, if nobody else was quicker.
//!
//! The lease holds [`LEASE`] and is kept every [`TICK_EVERY`]: so long after a holder has died,
//! another one that has missed nothing takes over, and if there is none for as long again, whoever
//! is there. At the end it is given back, within [`STOP_LIMIT`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{debug, info};

use super::health::{Health, Link};
use super::keep::{Pulse, Purpose, lost};
use super::known::Known;
use super::recorder::{Duty, Heard, Item, Recorder, Stale, Standing};
use super::scripts::{self, Claim, Done, MARKS, MAX_RECORD, Tick};
use super::server::Server;
use super::tail::Counters;
use crate::RedisDialer;
use crate::events::channel::shown;
use crate::events::settings::{LogSettings, LogUse};

/// Every channel of the grammar, in Redis's own pattern language.
const EVERYTHING: &str = "intellirouter:*";

const LEASE: Duration = Duration::from_secs(3);
const TICK_EVERY: Duration = Duration::from_secs(1);
const STOP_LIMIT: Duration = Duration::from_millis(500);

/// A call records no more once it has so many bytes.
const MAX_RECORD_BYTES: usize = 1 << 20;

pub(super) struct RecorderLink {
    /// Known to the store as the holder of the lease; begins with what it is used by.
    name: String,
    settings: LogSettings,
    known: Arc<Known>,
    health: Arc<Health>,
    counters: Arc<Counters>,
    /// The connection that stands.
    current: Option<Recording>,
    /// What the last connection left.
    left: Option<Recorder>,
}

/// One connection that records.
#[derive(Clone)]
pub(super) struct Recording {
    server: Server,
    ear: Arc<Ear>,
}

/// What hears the pushes of one connection.
struct Ear {
    recorder: Mutex<Recorder>,
    /// There may be something to append.
    work: Notify,
    /// The first mark with the server's count came.
    ready: Notify,
    /// The holder has given the lease back.
    freed: Notify,
    pulse: Arc<Pulse>,
    counters: Arc<Counters>,
}

impl Ear {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // Each step leaves the recorder whole, or panics before it changes anything.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, push: PushInfo) {
        self.pulse.heard();
        let mut data = push.data.into_iter();
        match push.kind {
            PushKind::Disconnection => self.pulse.close(),
            PushKind::Message => {
                if let (Some(_), Some(Value::BulkString(mark))) = (data.next(), data.next()) {
                    self.mark(&mark);
                }
            }
            PushKind::PMessage => {
                if let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
                    (data.nth(1), data.next())
                {
                    self.message(&channel, payload);
                }
            }
            _ => {}
        }
    }

    fn mark(&self, text: &[u8]) {
        let mut recorder = self.recorder();
        let freed = recorder.mark(text);
        let ready = recorder.is_ready();
        drop(recorder);
        match freed {
            // The store began anew: so must this.
            Err(Stale) => self.pulse.close(),
            Ok(true) => self.freed.notify_one(),
            Ok(false) => {}
        }
        if ready {
            self.ready.notify_one();
        }
    }

    fn message(&self, channel: &[u8], payload: Vec<u8>) {
        let heard = self.recorder().message(channel, payload);
        match heard {
            Heard::Passed => return,
            Heard::Kept => {}
            Heard::TooLarge(bytes) => {
                self.counters.oversized.fetch_add(1, Ordering::Relaxed);
                let channel = shown(&String::from_utf8_lossy(channel));
                debug!(
                    channel,
                    bytes, "message larger than the largest payload; recorded as a gap"
                );
            }
            Heard::Ignored(why) => {
                self.counters.ignored.fetch_add(1, Ordering::Relaxed);
                debug!(why, "message ignored");
                return;
            }
        }
        self.work.notify_one();
    }
}

impl RecorderLink {
    pub(super) fn new(
        settings: LogSettings,
        known: Arc<Known>,
        health: Arc<Health>,
        counters: Arc<Counters>,
    ) -> Self {
        let of = match settings.usage {
            LogUse::Gateway => "gateway",
            LogUse::Service => "service",
        };
        Self {
            name: format!("{of}:{:032x}", rand::random::<u128>()),
            settings,
            known,
            health,
            counters,
            current: None,
            left: None,
        }
    }

    async fn tick(
        &self,
        server: &mut Server,
        claim: Claim,
        done: Option<Done>,
    ) -> RedisResult<Standing> {
        let decides = self.settings.usage == LogUse::Gateway && claim != Claim::Leaves;
        let tick = Tick {
            name: &self.name,
            lease: LEASE,
            claim,
            done,
            keep: decides.then_some(&self.settings),
        };
        let standing = scripts::tick(server, self.known.get(), &tick).await?;
        self.known.raise(standing.head);
        Ok(standing)
    }

    /// Takes or keeps the lease, and learns where the records stand.
    async fn turn(&mut self, live: &mut Recording, pulse: &Pulse) -> RedisResult<()> {
        let (claim, done) = {
            let recorder = live.ear.recorder();
            (recorder.claim(), recorder.done())
        };
        let mut standing = pulse
            .answer(self.tick(&mut live.server, claim, done))
            .await?;
        if standing.holds && self.left.is_some() {
            self.append_left(live, &standing, pulse).await?;
            standing = pulse
                .answer(self.tick(&mut live.server, Claim::Holds, None))
                .await?;
        }
        self.settle(live, &standing)
    }

    fn settle(&self, live: &Recording, standing: &Standing) -> RedisResult<()> {
        let mut recorder = live.ear.recorder();
        recorder.ticked(standing).map_err(|Stale| stale())?;
        let recording = recorder.duty() == Duty::Holder;
        drop(recorder);
        if self.health.set_recording(recording) {
            let store = self.health.address();
            info!(
                store,
                recording, "recording of plain messages changed hands"
            );
        }
        Ok(())
    }

    /// Appends what is to be appended.
    async fn append(&self, live: &mut Recording, pulse: &Pulse) -> RedisResult<()> {
        loop {
            let (items, epoch) = {
                let recorder = live.ear.recorder();
                (
                    recorder.batch(MAX_RECORD, MAX_RECORD_BYTES),
                    recorder.epoch(),
                )
            };
            let (Some(last), Some(epoch)) = (items.last().map(|item| item.at), epoch) else {
                return Ok(());
            };
            self.record(&mut live.server, epoch, &items, pulse).await?;
            live.ear.recorder().appended(last);
        }
    }

    async fn record(
        &self,
        server: &mut Server,
        epoch: u64,
        items: &[Item],
        pulse: &Pulse,
    ) -> RedisResult<()> {
        let recorded = scripts::record(server, self.known.get(), epoch, items);
        match pulse.answer(recorded).await {
            Err(error) if scripts::is_stale(&error) => Err(stale()),
            other => other.map(drop),
        }
    }

    /// Appends what the last connection left, if this is the same life of the store and nothing is
    /// missing before it.
    async fn append_left(
        &mut self,
        live: &mut Recording,
        standing: &Standing,
        pulse: &Pulse,
    ) -> RedisResult<()> {
        let Some(mut left) = self.left.take() else {
            return Ok(());
        };
        let same = left.epoch() == Some(standing.head.epoch);
        if !same || !(left.duty() == Duty::Holder || left.covers(standing)) {
            return Ok(());
        }
        loop {
            let items = left.oldest(MAX_RECORD, MAX_RECORD_BYTES);
            let Some(last) = items.last().map(|item| item.at) else {
                return Ok(());
            };
            let epoch = standing.head.epoch;
            if let Err(error) = self.record(&mut live.server, epoch, &items, pulse).await {
                self.left = Some(left);
                return Err(error);
            }
            left.appended(last);
        }
    }

    /// Gives the lease back.
    async fn give_back(&self, live: &mut Recording) -> RedisResult<()> {
        self.append(live, &live.ear.pulse.clone()).await?;
        let done = live.ear.recorder().done();
        self.tick(&mut live.server, Claim::Leaves, done).await?;
        Ok(())
    }
}

fn stale() -> RedisError {
    lost("the store lives another life")
}

#[async_trait]
impl Purpose for RecorderLink {
    type Live = Recording;

    fn link(&self) -> Link {
        Link::Recorder
    }

    async fn open(&mut self, dialer: &RedisDialer, pulse: &Arc<Pulse>) -> RedisResult<Recording> {
        let ear = Arc::new(Ear {
            recorder: Mutex::new(Recorder::new(self.settings.max_payload)),
            work: Notify::new(),
            ready: Notify::new(),
            freed: Notify::new(),
            pulse: Arc::clone(pulse),
            counters: Arc::clone(&self.counters),
        });
        let hearing = Arc::clone(&ear);
        let on_push = move |push| hearing.hear(push);
        let server = pulse.answer(Server::connect(dialer, on_push)).await?;
        let mut live = Recording { server, ear };
        let mut connection = live.server.connection.clone();
        // Marks last: a message that is not heard must not stand behind a mark that is.
        pulse.answer(connection.psubscribe(EVERYTHING)).await?;
        pulse.answer(connection.subscribe(MARKS)).await?;

        // Before it knows whether it can vouch, it takes nothing.
        let standing = pulse
            .answer(self.tick(&mut live.server, Claim::Looks, None))
            .await?;
        pulse
            .answer(async {
                live.ear.ready.notified().await;
                Ok(())
            })
            .await?;
        self.settle(&live, &standing)?;
        self.turn(&mut live, pulse).await?;
        self.append(&mut live, pulse).await?;
        self.current = Some(live.clone());
        Ok(live)
    }

    async fn serve(&mut self, mut live: Recording, pulse: &Arc<Pulse>) -> RedisError {
        let mut ticks = interval_at(Instant::now() + TICK_EVERY, TICK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ear = Arc::clone(&live.ear);
        loop {
            let due = tokio::select! {
                biased;
                error = pulse.closed() => return error,
                _ = ticks.tick() => true,
                () = ear.freed.notified() => true,
                () = ear.work.notified() => false,
            };
            let mut done = Ok(());
            if due {
                done = self.turn(&mut live, pulse).await;
            }
            if done.is_ok() {
                done = self.append(&mut live, pulse).await;
            }
            if let Err(error) = done {
                return error;
            }
        }
    }

    fn run(live: &Recording) -> &Arc<str> {
        &live.server.run
    }

    fn lost(&mut self) {
        self.health.set_recording(false);
        if let Some(live) = self.current.take() {
            let anew = Recorder::new(self.settings.max_payload);
            let left = std::mem::replace(&mut *live.ear.recorder(), anew);
            self.left = Some(left);
        }
    }

    async fn stop(&mut self) {
        if let Some(mut live) = self.current.take() {
            // Whoever waits for the lease gets it a little later otherwise.
            let _ = timeout(STOP_LIMIT, self.give_back(&mut live)).await;
        }
    }
}
