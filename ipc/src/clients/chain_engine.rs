//! Clients of the package `intellirouter.chain_engine.v1`: executions of chains, and stored chains.

mod mock;

use std::collections::HashMap;

use intellirouter_proto::intellirouter::chain_engine::v1::{
    CancelChainRequest, CancelChainResponse, Chain, ChainExecutionEvent, ChainExecutionRequest,
    ChainExecutionResponse, ChainStatusRequest, ChainStatusResponse, DeleteChainRequest,
    DeleteChainResponse, GetChainRequest, GetChainResponse, ListChainsRequest, ListChainsResponse,
    PutChainRequest, PutChainResponse, chain_engine_service_client::ChainEngineServiceClient,
    chain_execution_request::ChainIdentifier, chain_store_service_client::ChainStoreServiceClient,
};

use crate::error::{IpcError, IpcResult};

service_client! {
    /// `ChainEngineService`: executions of chains.
    ///
    /// A chain is given by `chain_id` or as a whole in `chain`: one of the two, or the call fails
    /// with [`IpcError::InvalidArgument`]. Without `timeout_seconds` the service's own limit holds.
    trait ChainEngineClient for "intellirouter.chain_engine.v1.ChainEngineService";
    grpc GrpcChainEngineClient(ChainEngineServiceClient);
    resilient ResilientChainEngineClient;
    mock MockChainEngineClient { executions: mock::Executions };

    /// Runs a chain to its end and returns the result.
    unary work fn execute_chain(
        chain_id: Option<String>,
        chain: Option<Chain>,
        input: String,
        variables: HashMap<String, String>,
        stream: bool,
        timeout_seconds: Option<u32>,
    ) -> ChainExecutionResponse = ChainExecutionRequest {
        identify(chain_id, chain).map(|chain| ChainExecutionRequest {
            context: None,
            chain_identifier: Some(chain),
            input,
            variables,
            stream,
            timeout_seconds: timeout_seconds.unwrap_or_default(),
        })
    };

    /// Tells how far an execution has come, while it runs and after its end.
    unary repeatable fn get_chain_status(
        execution_id: &str,
    ) -> ChainStatusResponse = ChainStatusRequest {
        IpcResult::Ok(ChainStatusRequest {
            execution_id: execution_id.to_owned(),
        })
    };

    /// Stops an execution.
    unary repeatable fn cancel_chain_execution(
        execution_id: &str,
    ) -> CancelChainResponse = CancelChainRequest {
        IpcResult::Ok(CancelChainRequest {
            execution_id: execution_id.to_owned(),
        })
    };

    /// Runs a chain and reports each step, and each token, as it happens.
    stream work fn stream_chain_execution(
        chain_id: Option<String>,
        chain: Option<Chain>,
        input: String,
        variables: HashMap<String, String>,
        timeout_seconds: Option<u32>,
    ) -> ChainExecutionEvent = ChainExecutionRequest {
        identify(chain_id, chain).map(|chain| ChainExecutionRequest {
            context: None,
            chain_identifier: Some(chain),
            input,
            variables,
            stream: true,
            timeout_seconds: timeout_seconds.unwrap_or_default(),
        })
    };
}

fn identify(chain_id: Option<String>, chain: Option<Chain>) -> IpcResult<ChainIdentifier> {
    match (chain_id, chain) {
        (Some(id), None) => Ok(ChainIdentifier::ChainId(id)),
        (None, Some(chain)) => Ok(ChainIdentifier::Chain(chain)),
        (None, None) => Err(IpcError::InvalidArgument(
            "neither chain_id nor chain is given".to_owned(),
        )),
        (Some(_), Some(_)) => Err(IpcError::InvalidArgument(
            "both chain_id and chain are given; the request holds one".to_owned(),
        )),
    }
}

service_client! {
    /// `ChainStoreService`: the chains that can be run by id.
    trait ChainStoreClient for "intellirouter.chain_engine.v1.ChainStoreService";
    grpc GrpcChainStoreClient(ChainStoreServiceClient);
    resilient ResilientChainStoreClient;
    mock MockChainStoreClient;

    /// Stores a chain under its id, in place of the one that was there.
    unary repeatable fn put_chain(request: PutChainRequest) -> PutChainResponse;

    /// Returns one stored chain.
    unary repeatable fn get_chain(request: GetChainRequest) -> GetChainResponse;

    /// Lists the stored chains by id, one page at a time.
    unary repeatable fn list_chains(request: ListChainsRequest) -> ListChainsResponse;

    /// Removes a chain. Executions that run go on.
    unary repeatable fn delete_chain(request: DeleteChainRequest) -> DeleteChainResponse;
}
