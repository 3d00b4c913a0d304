//! Building blocks for services behind the IntelliRouter gateway: secure gRPC
//! clients and servers, typed events, and one error type.
//!
//! The gateway itself is built from the same parts, so what a service author
//! configures here (tokens, TLS, event log) means the same on both sides.

pub mod admin;
pub mod clients;
pub mod error;
pub mod events;
pub mod generated;
pub mod logging;
mod redis_dialer;
pub mod resilience;
pub mod security;

pub use error::{IpcError, IpcResult};
pub use redis_dialer::{RedisDialer, RedisUrl};

/// The long paths that the guide uses for the modules of this crate.
pub mod modules {
    /// Inter-process communication: what this crate is about.
    pub mod ipc {
        pub use crate::clients;
        pub use crate::error::{IpcError, IpcResult};
        pub use crate::events as redis_pubsub;
        pub use crate::resilience;
        pub use crate::security;
    }
}
