//! Models and the choice among them, call by call through the gateway, by a
//! client of another language: what is answered, what is refused, what is told
//! as events.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::os::unix::fs::PermissionsExt;

use intellirouter_tests::{Up, scripts, services};
use tempfile::TempDir;

fn keeps_its_promises(groups: &[&str]) -> (TempDir, Up) {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &["up"]);
    scripts::run_alone(&services::groups(&up.gateway, &up.secret(), groups));
    (folder, up)
}

#[test]
fn every_call_of_the_model_registry_keeps_its_promises() {
    let (_folder, up) = keeps_its_promises(&["registry"]);
    // Keys of models are in there.
    let files: Vec<_> = std::fs::read_dir(up.data()).unwrap().collect();
    assert!(!files.is_empty(), "nothing is kept in {:?}", up.data());
    for file in files {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", file.file_name());
    }
}

#[test]
fn every_call_of_the_router_keeps_its_promises() {
    keeps_its_promises(&["router"]);
}

#[test]
fn every_method_is_open_to_its_roles_alone() {
    keeps_its_promises(&["roles"]);
}
