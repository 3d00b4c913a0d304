//! What the Redis log promises beside the contract, against real servers that are killed, stopped,
//! emptied, cut off, replaced by their replicas, and asked for passwords and certificates.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests panic as the tests do"
)]

#[path = "../util/reading.rs"]
mod reading;
#[path = "../util/redis_server.rs"]
mod redis_server;

mod basic;
mod failover;
mod foreign;
mod loss;
mod plain;
mod resume;
mod support;
