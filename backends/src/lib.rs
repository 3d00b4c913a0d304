//! The services that stand behind the gateway, a module each.
//!
//! A module owns what its service does and keeps. It does not own transport, TLS or who may call:
//! the crate `intellirouter` serves it, and the gateway checks callers. Here is
//! [`model_registry`], the list of models and their state.
//!
//! A request that cannot be served fails with a gRPC status that carries `google.rpc` details.

pub mod connectors;
pub mod events;
pub mod model_registry;
pub mod storage;
