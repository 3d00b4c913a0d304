//! Clients of the package `intellirouter.model_registry.v1`: models, and routing to them.

use intellirouter_proto::intellirouter::model_registry::v1::{
    CheckModelHealthRequest, CheckModelHealthResponse, FindModelsRequest, FindModelsResponse,
    GetModelRequest, GetModelResponse, GetRoutingStrategiesRequest, GetRoutingStrategiesResponse,
    ListModelsRequest, ListModelsResponse, RegisterModelRequest, RegisterModelResponse,
    RemoveModelRequest, RemoveModelResponse, RouteRequestRequest, RouteRequestResponse,
    RouteRequestStreamResponse, UpdateModelRequest, UpdateModelResponse, UpdateModelStatusRequest,
    UpdateModelStatusResponse, UpdateRoutingStrategyRequest, UpdateRoutingStrategyResponse,
    model_registry_service_client::ModelRegistryServiceClient,
    router_service_client::RouterServiceClient,
};

service_client! {
    /// `ModelRegistryService`: the models that there are, and how they are.
    trait ModelRegistryClient for "intellirouter.model_registry.v1.ModelRegistryService";
    grpc GrpcModelRegistryClient(ModelRegistryServiceClient);
    resilient ResilientModelRegistryClient;
    mock MockModelRegistryClient;

    /// Adds a model.
    unary once fn register_model(request: RegisterModelRequest) -> RegisterModelResponse;

    /// Returns one model.
    unary repeatable fn get_model(request: GetModelRequest) -> GetModelResponse;

    /// Replaces what is recorded about a model, found by `metadata.id`.
    unary repeatable fn update_model(request: UpdateModelRequest) -> UpdateModelResponse;

    /// Removes a model and returns what was recorded about it.
    unary repeatable fn remove_model(request: RemoveModelRequest) -> RemoveModelResponse;

    /// Lists all models.
    unary repeatable fn list_models(request: ListModelsRequest) -> ListModelsResponse;

    /// Lists the models that match all given conditions.
    unary repeatable fn find_models(request: FindModelsRequest) -> FindModelsResponse;

    /// Sets the state of a model.
    unary repeatable fn update_model_status(request: UpdateModelStatusRequest)
        -> UpdateModelStatusResponse;

    /// Asks the model's endpoint for a sign of life, and records the outcome.
    unary repeatable fn check_model_health(request: CheckModelHealthRequest)
        -> CheckModelHealthResponse;
}

service_client! {
    /// `RouterService`: requests to models, and how a model is picked.
    trait RouterClient for "intellirouter.model_registry.v1.RouterService";
    grpc GrpcRouterClient(RouterServiceClient);
    resilient ResilientRouterClient;
    mock MockRouterClient;

    /// Picks a model, forwards the request, and returns the whole answer.
    unary work fn route_request(request: RouteRequestRequest) -> RouteRequestResponse;

    /// Picks a model, forwards the request, and returns the answer piece by piece.
    stream work fn stream_route_request(request: RouteRequestRequest) -> RouteRequestStreamResponse;

    /// Lists the strategies by which a model can be picked, with their settings.
    unary repeatable fn get_routing_strategies(request: GetRoutingStrategiesRequest)
        -> GetRoutingStrategiesResponse;

    /// Changes the settings of one strategy.
    unary repeatable fn update_routing_strategy(request: UpdateRoutingStrategyRequest)
        -> UpdateRoutingStrategyResponse;
}
