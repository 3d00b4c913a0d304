//! What is logged can change while the process runs. A process of its own: the log is one for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter::logging;
use tracing::{Level, enabled};

#[test]
fn a_new_filter_holds_at_once_and_a_bad_one_changes_nothing() {
    let _log = logging::start("warn,noisy=info", true);
    assert!(enabled!(Level::WARN) && !enabled!(Level::INFO));
    assert!(enabled!(target: "noisy", Level::INFO));

    logging::set_filter("debug,noisy=off").unwrap();
    assert!(enabled!(Level::DEBUG) && !enabled!(Level::TRACE));
    assert!(!enabled!(target: "noisy", Level::ERROR));

    let fault = logging::set_filter("debug,noisy=shrill").unwrap_err();
    assert!(!fault.is_empty());
    assert!(enabled!(Level::DEBUG) && !enabled!(target: "noisy", Level::ERROR));
}
