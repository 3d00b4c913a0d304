//! The log of a process: to stderr, and never in the way of the work.
//!
//! Owns the writing thread and its bound. It does not own what is logged. A stderr that takes
//! nothing, or is gone, costs lines and nothing else: 8,192 lines wait, further ones are dropped
//! and counted in [`dropped_lines`].

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt};

const WAITING_LINES: usize = 8192;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Keeps the log's thread; dropping it writes what waits, for a second at most.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    _guard: WorkerGuard,
}

/// Starts logging to stderr, as text or as a JSON object a line. `filter` is of the form
/// `info,h2=warn`; one that is not counts as `info`. A second call in one process changes nothing.
pub fn start(filter: &str, json: bool) -> LogGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    // Only a second start in one process (tests) finds one in place.
    let _ = DROPPED.set(writer.error_counter());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // The library would print its own failures to the same stderr, and panic.
        .log_internal_errors(false);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
    let _ = started;
    LogGuard { _guard: guard }
}

/// Says what is wrong with a filter, if anything is.
pub fn check_filter(filter: &str) -> Result<(), String> {
    match EnvFilter::try_new(filter) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Lines that were dropped since the start.
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}
