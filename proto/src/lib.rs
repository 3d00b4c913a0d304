//! The wire contract of IntelliRouter: the `.proto` files, the Rust code generated from them, and
//! their descriptor set.
//!
//! Owns the names and numbers that clients in any language rely on, and the policies that stand
//! beside the methods (`intellirouter/options/v1/options.proto`). It does not own behaviour: clients
//! with tokens and TLS, servers and events are in the crate `intellirouter`, the services in
//! `intellirouter-backends`.
//!
//! The modules follow the packages: `intellirouter.memory.v1` is [`intellirouter::memory::v1`]. Each
//! has the messages, and for every service a client module and a server module.
//!
//! Decoding fails with [`prost::DecodeError`] and never panics; prost nests at most 100 messages.
//! Sizes are not bounded here: tonic takes at most 4 MiB per message, unless told otherwise.

mod redact;

/// The Protobuf package `intellirouter`.
//
// Each `v1` is generated, so lints that ask for another spelling have nobody to talk to.
pub mod intellirouter {
    /// Chains and their executions.
    pub mod chain_engine {
        /// Package `intellirouter.chain_engine.v1`.
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod v1 {
            tonic::include_proto!("intellirouter.chain_engine.v1");
        }
    }

    /// What the packages share.
    pub mod common {
        /// Package `intellirouter.common.v1`.
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod v1 {
            tonic::include_proto!("intellirouter.common.v1");
        }
    }

    /// The event log over gRPC.
    pub mod events {
        /// Package `intellirouter.events.v1`.
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod v1 {
            tonic::include_proto!("intellirouter.events.v1");
        }
    }

    /// Conversations.
    pub mod memory {
        /// Package `intellirouter.memory.v1`.
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod v1 {
            tonic::include_proto!("intellirouter.memory.v1");
        }
    }

    /// Models and routing.
    pub mod model_registry {
        /// Package `intellirouter.model_registry.v1`.
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod v1 {
            tonic::include_proto!("intellirouter.model_registry.v1");
        }
    }

    /// Policies of methods and services.
    pub mod options {
        /// Package `intellirouter.options.v1`.
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod v1 {
            tonic::include_proto!("intellirouter.options.v1");
        }
    }

    /// Documents and personas.
    pub mod rag_manager {
        /// Package `intellirouter.rag_manager.v1`.
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod v1 {
            tonic::include_proto!("intellirouter.rag_manager.v1");
        }
    }
}

/// Every file of the contract and what it imports, as an encoded `google.protobuf.FileDescriptorSet`.
///
/// Serves reflection, and carries the policies as extension options. Those survive only a decoder
/// that knows extensions, such as `prost_reflect::DescriptorPool::decode`; decoding into
/// [`prost_types::FileDescriptorSet`] drops them.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));
