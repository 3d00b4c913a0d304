//! The generated gRPC code, under the path that the guide uses.
//!
//! The guide names a service both `ChainEngine` and `ChainEngineService`. On the wire it is the
//! second, so the code is generated from that; the shorter Rust names stand here beside it.

macro_rules! short_names {
    ($(
        $(#[$doc:meta])*
        $package:ident {$(
            $client:ident::$Client:ident = $long_client:ident::$LongClient:ident,
            $server:ident::{$Service:ident, $Server:ident} =
                $long_server:ident::{$LongService:ident, $LongServer:ident};
        )+}
    )+) => {$(
        $(#[$doc])*
        pub mod $package {
            #[doc = concat!("Package `intellirouter.", stringify!($package), ".v1`.")]
            pub mod v1 {
                pub use intellirouter_proto::intellirouter::$package::v1::*;

                $(
                    #[doc = concat!("The client of `", stringify!($LongService), "`.")]
                    pub mod $client {
                        pub use super::$long_client::$LongClient as $Client;
                    }

                    #[doc = concat!("The server of `", stringify!($LongService), "`.")]
                    pub mod $server {
                        pub use super::$long_server::{
                            $LongServer as $Server, $LongService as $Service,
                        };
                    }
                )+
            }
        }
    )+};
}

/// The Protobuf package `intellirouter`.
pub mod intellirouter {
    pub use intellirouter_proto::intellirouter::{common, events, options};

    short_names! {
        /// Chains and their executions.
        chain_engine {
            chain_engine_client::ChainEngineClient =
                chain_engine_service_client::ChainEngineServiceClient,
            chain_engine_server::{ChainEngine, ChainEngineServer} =
                chain_engine_service_server::{ChainEngineService, ChainEngineServiceServer};

            chain_store_client::ChainStoreClient =
                chain_store_service_client::ChainStoreServiceClient,
            chain_store_server::{ChainStore, ChainStoreServer} =
                chain_store_service_server::{ChainStoreService, ChainStoreServiceServer};
        }

        /// Conversations.
        memory {
            memory_client::MemoryClient = memory_service_client::MemoryServiceClient,
            memory_server::{Memory, MemoryServer} =
                memory_service_server::{MemoryService, MemoryServiceServer};

            memory_chain_integration_client::MemoryChainIntegrationClient =
                memory_chain_integration_service_client::MemoryChainIntegrationServiceClient,
            memory_chain_integration_server::{
                MemoryChainIntegration, MemoryChainIntegrationServer
            } = memory_chain_integration_service_server::{
                MemoryChainIntegrationService, MemoryChainIntegrationServiceServer
            };
        }

        /// Models and routing.
        model_registry {
            model_registry_client::ModelRegistryClient =
                model_registry_service_client::ModelRegistryServiceClient,
            model_registry_server::{ModelRegistry, ModelRegistryServer} =
                model_registry_service_server::{ModelRegistryService, ModelRegistryServiceServer};

            router_client::RouterClient = router_service_client::RouterServiceClient,
            router_server::{Router, RouterServer} =
                router_service_server::{RouterService, RouterServiceServer};
        }

        /// Documents and personas.
        rag_manager {
            rag_manager_client::RagManagerClient =
                rag_manager_service_client::RagManagerServiceClient,
            rag_manager_server::{RagManager, RagManagerServer} =
                rag_manager_service_server::{RagManagerService, RagManagerServiceServer};

            persona_layer_client::PersonaLayerClient =
                persona_layer_service_client::PersonaLayerServiceClient,
            persona_layer_server::{PersonaLayer, PersonaLayerServer} =
                persona_layer_service_server::{PersonaLayerService, PersonaLayerServiceServer};

            rag_persona_integration_client::RagPersonaIntegrationClient =
                rag_persona_integration_service_client::RagPersonaIntegrationServiceClient,
            rag_persona_integration_server::{
                RagPersonaIntegration, RagPersonaIntegrationServer
            } = rag_persona_integration_service_server::{
                RagPersonaIntegrationService, RagPersonaIntegrationServiceServer
            };
        }
    }
}
