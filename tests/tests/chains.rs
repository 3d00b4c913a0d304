//! Chains, call by call through the gateway, by a client of another language:
//! how they run, what is told while they do, how they are stopped and stored.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::{Up, scripts, services};
use tempfile::TempDir;

fn keeps_its_promises(group: &str) {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &["up"]);
    scripts::run_alone(&services::groups(&up.gateway, &up.secret(), &[group]));
    up.stop();
}

#[test]
fn every_call_of_the_chain_engine_keeps_its_promises() {
    keeps_its_promises("chains");
}

#[test]
fn every_call_of_the_chain_store_keeps_its_promises() {
    keeps_its_promises("store");
}
