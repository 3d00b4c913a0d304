//! How a gateway stops, so that every client is told something that it can act
//! upon.
//!
//! SIGTERM, SIGINT or `/drain`: readiness and health say no, and for
//! `limits.drain_delay` nothing else changes, so that whoever sends connections
//! here can hear it. Then the listener closes, connections hear GOAWAY (twice,
//! RFC 9113, 6.8), event streams end with a last event. Calls may go on for
//! `limits.drain_timeout`; those still open are then cut with UNAVAILABLE in
//! their own dialect, and have [`LAST_WORD`] to take it. SIGINT or SIGTERM once
//! more cuts at once. The process ends with 0 and says how many calls were cut.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::calls::Cut;
use crate::gateway::{Gateway, StartError};

/// How long the last word to cut calls may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What asks a process to stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits until the gateway is to stop, and stops it. `workers` closes when the
/// last worker has ended.
pub(crate) async fn run(
    gateway: &Arc<Gateway>,
    mut signals: Signals,
    mut workers: mpsc::Receiver<()>,
) -> Result<(), StartError> {
    tokio::select! {
        () = signals.next() => {}
        () = gateway.stop_asked.cancelled() => {}
        // All workers gone without being asked: nothing is served any more.
        _ = workers.recv() => {
            return Err(StartError::System(std::io::Error::other("the workers stopped")));
        }
    }
    let limits = gateway.runtime().config.limits.clone();
    gateway.telemetry.draining.set(1);
    gateway.stopping.cancel();
    tracing::info!(
        open_calls = gateway.calls.count(),
        delay = ?limits.drain_delay,
        limit = ?limits.drain_timeout,
        "draining"
    );
    let in_time = tokio::select! {
        ended = drain(gateway, limits.drain_delay, limits.drain_timeout, &mut workers) => ended,
        () = signals.next() => {
            tracing::warn!("asked twice: cutting at once");
            gateway.drain.cancel();
            false
        }
    };
    if in_time {
        tracing::info!(cut = 0, "drained");
        return Ok(());
    }
    let cut = gateway.calls.cut_where(|_| Some(Cut::Draining));
    let told = tokio::time::timeout(LAST_WORD, workers.recv()).await;
    let open = gateway.calls.count();
    match told {
        Ok(_) => tracing::warn!(cut, "drained: calls still open at the limit were cut"),
        Err(_) => tracing::warn!(
            cut,
            untold = open,
            "drained: calls still open at the limit were cut; some clients took no last word"
        ),
    }
    Ok(())
}

/// Whether everything ended by itself.
async fn drain(
    gateway: &Gateway,
    delay: Duration,
    limit: Duration,
    workers: &mut mpsc::Receiver<()>,
) -> bool {
    tokio::time::sleep(delay).await;
    gateway.drain.cancel();
    tokio::time::timeout(limit, workers.recv()).await.is_ok()
}
