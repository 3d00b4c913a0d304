//! Starts the real parts that the whole-process tests put together: the built
//! binary, a foreign gRPC service, Redis, other people's clients, a browser.
//!
//! Owns processes, ports, temporary folders and deadlines; knows nothing of
//! what the tests promise, which stands in `tests/*.rs`. Every part is bound
//! to a free port, is awaited by an event and never by a fixed time, and dies
//! with the test that started it. What goes wrong panics at once and shows
//! the last output of the process concerned. Every wait ends after
//! [`DEADLINE`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness that can't go on fails its test, at the place where it happened"
)]

pub mod abuse;
pub mod backend;
pub mod binary;
pub mod certs;
pub mod checker;
pub mod client;
pub mod collector;
pub mod curl;
pub mod events;
pub mod foreign;
pub mod gateway;
pub mod grpc;
pub mod issuer;
pub mod limits;
pub mod load;
pub mod messages;
pub mod process;
pub mod redis;
pub mod relay;
pub mod reload;
pub mod scripts;
pub mod sentinel;
pub mod service;
pub mod services;
pub mod site;
pub mod token;
pub mod up;
pub mod web;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use gateway::{Config, Gateway};
pub use process::Process;
pub use site::Site;
pub use token::Token;
pub use up::Up;

/// How long anything may take before its test fails: 20 s, which a loaded
/// machine with two cores keeps.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A path in this folder, such as `clients/browser.mjs`.
pub fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
