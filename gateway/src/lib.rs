//! One entrance in front of gRPC services.
//!
//! ```text
//! process    ports, threads, signals          admin      what operators read
//! server     TCP, TLS, HTTP/2, HTTP/1.1       telemetry  log lines and metrics
//! pipeline   the request path, in order       config     text -> checked -> alive
//! layers     its steps, one concern each      routes     path -> rule and upstream
//! upstream   pooled HTTP/2 over mTLS          reply      refusals in every dialect
//! io         between socket and HTTP     relay      bodies into HTTP/2 streams
//! events     SSE, NDJSON, EventService        local      services of the gateway itself
//! ```
//!
//! Start reading at [`pipeline`].

mod admin;
mod body;
pub mod certs;
pub mod cli;
mod config;
mod events;
mod gateway;
mod io;
mod layers;
mod local;
pub mod pipeline;
mod process;
mod relay;
mod reply;
mod routes;
mod server;
mod telemetry;
#[cfg(test)]
mod test_util;
mod upstream;

pub use config::{Config, ConfigFaults, Fault};
pub use gateway::StartError;
pub use process::Bound;
