//! One entrance in front of gRPC services.
//!
//! ```text
//! process    ports, threads, signals          admin      what operators read and do
//! server     TCP, TLS, HTTP/2, HTTP/1.1       telemetry  log lines and metrics
//! pipeline   the request path, in order       config     text -> checked
//! layers     its steps, one concern each      runtime    checked -> alive, one generation
//! routes     path -> rule and upstream        gateway    what outlives a generation
//! upstream   pooled HTTP/2 over mTLS          worker     one thread and its connections
//! relay      bodies into HTTP/2 streams       calls      every open call, and how to end it
//! io         between socket and HTTP          recheck    who may no longer go on
//! events     SSE, NDJSON, EventService        reload     a changed configuration
//! local      services of the gateway itself   shutdown   how it stops
//! reply      refusals in every dialect        files      whether files have changed
//! revocation who is refused all the same      trace      spans to a collector
//! ```
//!
//! Start reading at [`pipeline`].

mod admin;
mod body;
mod calls;
pub mod certs;
pub mod cli;
mod config;
mod events;
mod files;
mod gateway;
mod io;
mod layers;
mod limits;
mod local;
pub mod pipeline;
mod process;
mod recheck;
mod relay;
mod reload;
mod reply;
mod revocation;
mod routes;
mod runtime;
mod server;
mod shutdown;
mod telemetry;
#[cfg(test)]
mod test_util;
mod trace;
mod upstream;
mod worker;

pub use config::{Config, ConfigFaults, Fault};
pub use gateway::StartError;
pub use process::Bound;
