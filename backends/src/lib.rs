//! The services that stand behind the gateway, a module each, and the programs that run them.
//!
//! [`model_registry`] keeps the models and their state, [`router`] picks one for a request and calls
//! it through [`connectors`], and [`chain_engine`] runs chains of such requests. A module owns what
//! its service does and keeps. It does not own transport, TLS or who may call: the crate
//! `intellirouter` serves it. [`services`] puts a service together, [`cli`] makes it a process.
//!
//! A request that cannot be served fails with a gRPC status that carries `google.rpc` details.

pub mod chain_engine;
pub mod cli;
pub mod connectors;
pub mod events;
mod faults;
pub mod model_registry;
pub mod router;
pub mod services;
pub mod storage;
