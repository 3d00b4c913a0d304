//! What the benchmark's binaries share: TLS, sockets, the shape of the messages,
//! calls and answers, and the journal of what happened when.
//!
//! Owns: the fixed sizes of the workloads and how a listener and its TLS are
//! made, so that all peers are measured in front of the same.
//! Does not own: the runner, the peers' configs and the figures (`bench/run`).
//! Fails with a boxed error that names the file or the address; the binaries
//! print it and exit 1.

pub mod client;
pub mod feed;
pub mod journal;
pub mod net;
pub mod server;
pub mod tls;
pub mod wire;

/// Any failure of a benchmark binary; printed, then exit code 1.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Flow-control window of one stream, in bytes (1 MiB).
pub const STREAM_WINDOW: u32 = 1 << 20;

/// Flow-control window of one connection, in bytes (16 MiB).
pub const CONNECTION_WINDOW: u32 = 16 << 20;

/// Concurrent streams that a benchmark server allows on one connection.
pub const MAX_STREAMS: u32 = 4096;
