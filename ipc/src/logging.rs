//! The log of a process: to stderr, and never in the way of the work.
//!
//! Owns the writing thread and its bound, and what may be said at all. It does not own what is
//! logged. A stderr that takes nothing, or is gone, costs lines and nothing else: 8,192 lines wait,
//! further ones are dropped and counted in [`dropped_lines`].

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

const WAITING_LINES: usize = 8192;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Lets the filter change while lines are written.
type Filter = reload::Layer<EnvFilter, Registry>;
/// What the lines go to.
type Filtered = Layered<Filter, Registry>;

/// Keeps the log's thread; dropping it writes what waits, for a second at most.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    _guard: WorkerGuard,
}

/// Logs by another filter from now on. One that is none changes nothing, and the message says why;
/// nor does one where nothing is logged.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let filter = parse(filter)?;
    FILTER.get().map_or(Ok(()), |current| {
        current.reload(filter).map_err(|error| error.to_string())
    })
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
    let filter = parse(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(lines(writer, json))
        .try_init();
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
    LogGuard { _guard: guard }
}

fn lines(
    writer: NonBlocking,
    json: bool,
) -> Box<dyn tracing_subscriber::Layer<Filtered> + Send + Sync> {
    let layer = fmt::layer()
        .with_writer(writer)
        // The library would print its own failures to the same stderr, and panic.
        .log_internal_errors(false);
    if json {
        Box::new(layer.json().flatten_event(true))
    } else {
        Box::new(layer.with_ansi(std::io::stderr().is_terminal()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}

/// Says what is wrong with a filter, if anything is.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse(filter).map(|_| ())
}

/// Lines that were dropped since the start.
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}
