//! A client trait for every service of the contract, so that code which calls a service does not
//! know whether it is a gRPC channel, a mock or a client with retries.
//!
//! For each service there are the trait (`RouterClient`), a client over a gRPC channel
//! (`GrpcRouterClient`), a programmable double for tests (`MockRouterClient`), and a wrapper with
//! timeouts, retries and a breaker (`ResilientRouterClient`). All four come from one macro.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use intellirouter::clients::*;
//! # use intellirouter::resilience::{Resilience, ResiliencePolicy};
//! # async fn connect() -> intellirouter::IpcResult<()> {
//! let grpc = GrpcRouterClient::new("http://localhost:50052").await?;
//! let policy = ResiliencePolicy::new("router", Resilience::default())?;
//! let router: Arc<dyn RouterClient> =
//!     Arc::new(ResilientRouterClient::new(Arc::new(grpc), Arc::new(policy)));
//! let answer = router.get_routing_strategies(Default::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Owns no connection settings (see [`security`](crate::security)) and no rules about failures (see
//! [`resilience`](crate::resilience)). A status that a server sends comes back as
//! [`IpcError::Status`](crate::IpcError::Status) with its code, message, details and metadata.
//!
//! Limits of the gRPC clients: a message from the server has at most 4 MiB (larger ones fail with
//! `OUT_OF_RANGE`; a generated client with a limit of its own can be turned into a `Grpc…Client` with
//! `from`); a call waits as long as the caller does, or as a policy lets it. Dropping the future of a
//! call, or a stream, cancels it at the server.

#[macro_use]
mod macros;

mod chain_engine;
mod grpc;
mod kind;
mod memory;
mod mock;
mod model_registry;
mod rag_manager;

#[cfg(test)]
mod tests;

use std::pin::Pin;

use futures_util::Stream;

pub use chain_engine::{
    ChainEngineClient, ChainStoreClient, GrpcChainEngineClient, GrpcChainStoreClient,
    MockChainEngineClient, MockChainStoreClient, ResilientChainEngineClient,
    ResilientChainStoreClient,
};
pub use memory::{
    GrpcMemoryChainIntegrationClient, GrpcMemoryClient, MemoryChainIntegrationClient, MemoryClient,
    MockMemoryChainIntegrationClient, MockMemoryClient, ResilientMemoryChainIntegrationClient,
    ResilientMemoryClient,
};
pub use mock::{MAX_MOCK_ANSWERS, MAX_MOCK_CALLS, MockMethod, MockStream};
pub use model_registry::{
    GrpcModelRegistryClient, GrpcRouterClient, MockModelRegistryClient, MockRouterClient,
    ModelRegistryClient, ResilientModelRegistryClient, ResilientRouterClient, RouterClient,
};
pub use rag_manager::{
    GrpcPersonaLayerClient, GrpcRagManagerClient, GrpcRagPersonaIntegrationClient,
    MockPersonaLayerClient, MockRagManagerClient, MockRagPersonaIntegrationClient,
    PersonaLayerClient, RagManagerClient, RagPersonaIntegrationClient, ResilientPersonaLayerClient,
    ResilientRagManagerClient, ResilientRagPersonaIntegrationClient,
};

/// The messages of a server stream. It ends after the first error.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;
