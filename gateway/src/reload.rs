//! Takes a changed configuration while calls go on: at SIGHUP at once, and
//! when the config file or a file that it names has changed.
//!
//! One verdict for everything: the file and all that it names is read, checked
//! and built as at a start, and only then put in the place of what runs, as a
//! whole. Otherwise what runs stays, and the fault is logged once, counted,
//! and shown to operators until it is mended. Files are looked at every
//! [`EVERY`], by content; a change is taken when two looks in a row agree on
//! it, so that files still being written are left alone. Settings that a
//! process can't change while it runs are faults that name themselves.
//!
//! What is in use is known by what the files were before they were read, so a
//! change during a start or a reload shows at the next look. A disk that hangs
//! is a fault too: looks and readings have 10 s each ([`crate::files::LIMIT`]).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

use crate::config::Source;
use crate::files::{Disk, Fingerprint};
use crate::gateway::Gateway;
use crate::telemetry::{ResultLabels, Telemetry};

const EVERY: Duration = Duration::from_secs(1);

/// What operators are told of the configuration.
#[derive(Default)]
pub(crate) struct ReloadState(Mutex<State>);

#[derive(Default)]
struct State {
    loaded_at: Option<SystemTime>,
    /// Why the files as they are now are not in use.
    fault: Option<String>,
}

impl ReloadState {
    /// The files as they are now are in use.
    pub(crate) fn loaded(&self, telemetry: &Telemetry) {
        let now = SystemTime::now();
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since_1970.unwrap_or_default().as_secs();
        telemetry.loaded_at.set(seconds.cast_signed());
        telemetry.last_reload_ok.set(1);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State {
            loaded_at: Some(now),
            fault: None,
        };
    }

    /// They are not, because of this.
    fn failed(&self, telemetry: &Telemetry, fault: String) {
        telemetry.last_reload_ok.set(0);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.fault = Some(fault);
    }

    /// Why the files on disk are not in use, if they are not.
    pub(crate) fn fault(&self) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.fault.clone()
    }

    /// In words, for the operators' pages; each line starts with `prefix`.
    pub(crate) fn describe(&self, prefix: &str) -> String {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = state.loaded_at.map(OffsetDateTime::from);
        let at = at.and_then(|at| at.format(&Rfc3339).ok());
        let mut text = format!("{prefix}loaded at {}\n", at.unwrap_or_default());
        if let Some(fault) = &state.fault {
            text.push_str(prefix);
            text.push_str("NOT IN USE are the files as they are now:\n");
            for line in fault.lines() {
                text.push_str(&format!("{prefix}  {line}\n"));
            }
        }
        text
    }
}

/// What the looks have found so far.
struct Watch {
    source: Source,
    disk: Disk,
    /// What is in use.
    taken: Fingerprint,
    /// What was found faulty: not tried again before it changes.
    faulty: Option<Fingerprint>,
    /// The files can't be read in time.
    hangs: bool,
    /// What the last look found.
    candidate: Option<Fingerprint>,
}

/// Why a changed configuration is not used.
enum Refusal {
    Faulty(String),
    /// The files could not be read; they may be as good as ever.
    Hangs(String),
}

/// See the module's comment.
pub(crate) async fn follow(gateway: Arc<Gateway>, mut hangup: Signal) -> Infallible {
    let running = gateway.runtime();
    let mut watch = Watch {
        source: running.config.source.clone(),
        disk: Disk::default(),
        taken: running.config.loaded,
        faulty: None,
        hangs: false,
        candidate: None,
    };
    drop(running);
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(()) = hangup.recv() => {
                tracing::info!("SIGHUP: reading the configuration again");
                if let Some(found) = watch.find(&gateway).await {
                    watch.attempt(&gateway, found).await;
                }
            }
            _ = tick.tick() => watch.look(&gateway).await,
        }
    }
}

impl Watch {
    async fn look(&mut self, gateway: &Gateway) {
        if !self.disk.is_idle() {
            // Another thread would hang beside that one. SIGHUP still tries.
            return;
        }
        let Some(found) = self.find(gateway).await else {
            return;
        };
        let settled = self.candidate.replace(found) == Some(found);
        let hung = std::mem::take(&mut self.hangs);
        if found == self.taken {
            // A fault that the files do not show holds until the next SIGHUP.
            let changed_back = self.faulty.take_if(|faulty| *faulty != found).is_some();
            if changed_back || (hung && self.faulty.is_none()) {
                gateway.reload.loaded(&gateway.telemetry);
                tracing::info!("the configuration on disk is again the one in use");
            }
        } else if settled && self.faulty != Some(found) {
            self.attempt(gateway, found).await;
        }
    }

    /// The state of every file that matters: of those that the configuration
    /// on disk names, or, while it can't be used, of those in use. `None`, and
    /// a fault, if that can't be found out in time.
    async fn find(&mut self, gateway: &Gateway) -> Option<Fingerprint> {
        let (source, running) = (self.source.clone(), gateway.runtime());
        let look = self.disk.read(move || source.look(&running.config)).await;
        look.map_err(|fault| self.hung(gateway, fault)).ok()
    }

    async fn attempt(&mut self, gateway: &Gateway, found: Fingerprint) {
        let result = match self.reload(gateway).await {
            Ok(taken) => {
                self.taken = taken;
                self.faulty = None;
                self.hangs = false;
                gateway.reload.loaded(&gateway.telemetry);
                tracing::info!("the changed configuration is in use");
                "ok"
            }
            Err(Refusal::Faulty(fault)) => {
                self.faulty = Some(found);
                tracing::error!(
                    fault,
                    "the changed configuration is not used; the last good one is"
                );
                gateway.reload.failed(&gateway.telemetry, fault);
                "failed"
            }
            Err(Refusal::Hangs(fault)) => return self.hung(gateway, fault),
        };
        count(gateway, result);
    }

    /// Told once, until the files can be read again.
    fn hung(&mut self, gateway: &Gateway, fault: String) {
        // Whatever they hold is then new.
        self.faulty = None;
        self.candidate = None;
        if !std::mem::replace(&mut self.hangs, true) {
            tracing::error!(
                fault,
                "the configuration can't be read; the last good one is used"
            );
            count(gateway, "failed");
        }
        gateway.reload.failed(&gateway.telemetry, fault);
    }

    /// Gives what was taken.
    async fn reload(&self, gateway: &Gateway) -> Result<Fingerprint, Refusal> {
        let (source, running) = (self.source.clone(), gateway.runtime());
        let load = move || source.load(Some(&running.config));
        let loaded = self.disk.read(load).await.map_err(Refusal::Hangs)?;
        let config = loaded.map_err(|faults| Refusal::Faulty(faults.to_string()))?;
        let restart = config.needs_restart(&gateway.runtime().config);
        if !restart.is_empty() {
            let keys = restart.join(", ");
            return Err(Refusal::Faulty(format!(
                "{keys}: can't change while the gateway runs; restart it"
            )));
        }
        let taken = config.loaded;
        let taking = gateway.take(config).await;
        taking.map_err(|error| Refusal::Faulty(error.to_string()))?;
        Ok(taken)
    }
}

fn count(gateway: &Gateway, result: &'static str) {
    let labels = ResultLabels { result };
    gateway.telemetry.reloads.get_or_create(&labels).inc();
}
