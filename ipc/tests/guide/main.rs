//! The guide (docs/guide.md), run: each of its Rust snippets stands in one of these files between
//! `// guide: <name>` and `// guide: end`, within a test that uses it over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "helpers of tests panic as the tests do; snippets stand as they would in a library"
)]

#[path = "../util/redis_server.rs"]
mod redis_server;

mod clients;
mod document;
mod errors;
mod events;
mod operate;
mod processes;
mod protocol;
mod secure;
mod service;
mod settings;
mod support;
