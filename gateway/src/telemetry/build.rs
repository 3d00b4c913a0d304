//! Which build this is, and since when it runs.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// `intellirouter_build_info`.
pub(super) fn register(registry: &mut Registry) {
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of the gateway", version);
}

/// The names that every process has, whatever it is.
pub(super) fn process() -> Registry {
    let started = Gauge::<f64, AtomicU64>::default();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 knows no better.
    started.set(since.map_or(0.0, |since| since.as_secs_f64()));
    let mut registry = Registry::default();
    let help = "When the process started, in seconds since 1970";
    registry.register("process_start_time_seconds", help, started);
    registry
}
