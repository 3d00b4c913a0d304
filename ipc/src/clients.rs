//! A client trait for every service of the contract, so that code which calls a service does not
//! know whether it is a gRPC channel, a mock or a client with retries.

use std::pin::Pin;

use async_trait::async_trait;
use futures_util::Stream;
use intellirouter_proto::intellirouter::model_registry::v1::{
    GetRoutingStrategiesRequest, GetRoutingStrategiesResponse, RouteRequestRequest,
    RouteRequestResponse, RouteRequestStreamResponse, UpdateRoutingStrategyRequest,
    UpdateRoutingStrategyResponse,
};

use crate::error::IpcResult;

/// The messages of a server stream. It ends after the first error.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// `RouterService`.
#[async_trait]
pub trait RouterClient: Send + Sync {
    /// Picks a model, forwards the request, and returns the whole answer.
    async fn route_request(&self, request: RouteRequestRequest) -> IpcResult<RouteRequestResponse>;

    /// The same, with the answer as it comes.
    async fn stream_route_request(
        &self,
        request: RouteRequestRequest,
    ) -> IpcResult<ResponseStream<RouteRequestStreamResponse>>;

    /// The strategies and their settings.
    async fn get_routing_strategies(
        &self,
        request: GetRoutingStrategiesRequest,
    ) -> IpcResult<GetRoutingStrategiesResponse>;

    /// Changes the settings of a strategy.
    async fn update_routing_strategy(
        &self,
        request: UpdateRoutingStrategyRequest,
    ) -> IpcResult<UpdateRoutingStrategyResponse>;
}
