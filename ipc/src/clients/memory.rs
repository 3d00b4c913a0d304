//! Clients of the package `intellirouter.memory.v1`: conversations.

use intellirouter_proto::intellirouter::memory::v1::{
    AddMessageRequest, AddMessageResponse, CreateConversationFromChainExecutionRequest,
    CreateConversationFromChainExecutionResponse, CreateConversationRequest,
    CreateConversationResponse, DeleteConversationRequest, DeleteConversationResponse,
    GetConversationHistoryForChainRequest, GetConversationHistoryForChainResponse,
    GetConversationRequest, GetConversationResponse, GetHistoryRequest, GetHistoryResponse,
    ListConversationsRequest, ListConversationsResponse, LoadConversationRequest,
    LoadConversationResponse, SaveConversationRequest, SaveConversationResponse,
    SearchMessagesRequest, SearchMessagesResponse, StoreChainResultInConversationRequest,
    StoreChainResultInConversationResponse,
    memory_chain_integration_service_client::MemoryChainIntegrationServiceClient,
    memory_service_client::MemoryServiceClient,
};

service_client! {
    /// `MemoryService`: conversations and their messages.
    trait MemoryClient for "intellirouter.memory.v1.MemoryService";
    grpc GrpcMemoryClient(MemoryServiceClient);
    resilient ResilientMemoryClient;
    mock MockMemoryClient;

    /// Starts a conversation.
    unary once fn create_conversation(request: CreateConversationRequest)
        -> CreateConversationResponse;

    /// Returns a conversation with its messages.
    unary repeatable fn get_conversation(request: GetConversationRequest)
        -> GetConversationResponse;

    /// Appends a message to a conversation.
    unary once fn add_message(request: AddMessageRequest) -> AddMessageResponse;

    /// Returns the latest messages that fit the given bounds, oldest first.
    unary repeatable fn get_history(request: GetHistoryRequest) -> GetHistoryResponse;

    /// Writes a conversation to lasting storage.
    unary repeatable fn save_conversation(request: SaveConversationRequest)
        -> SaveConversationResponse;

    /// Reads a conversation from lasting storage back into memory.
    unary repeatable fn load_conversation(request: LoadConversationRequest)
        -> LoadConversationResponse;

    /// Deletes a conversation and its messages.
    unary repeatable fn delete_conversation(request: DeleteConversationRequest)
        -> DeleteConversationResponse;

    /// Lists conversations that match all given filters, one page at a time.
    unary repeatable fn list_conversations(request: ListConversationsRequest)
        -> ListConversationsResponse;

    /// Finds messages by their text.
    unary repeatable fn search_messages(request: SearchMessagesRequest) -> SearchMessagesResponse;
}

service_client! {
    /// `MemoryChainIntegrationService`: conversations as input and output of chains.
    trait MemoryChainIntegrationClient for "intellirouter.memory.v1.MemoryChainIntegrationService";
    grpc GrpcMemoryChainIntegrationClient(MemoryChainIntegrationServiceClient);
    resilient ResilientMemoryChainIntegrationClient;
    mock MockMemoryChainIntegrationClient;

    /// Returns a conversation's history as text that a chain can take as input.
    unary repeatable fn get_conversation_history_for_chain(request: GetConversationHistoryForChainRequest)
        -> GetConversationHistoryForChainResponse;

    /// Appends the result of an execution to a conversation.
    unary once fn store_chain_result_in_conversation(request: StoreChainResultInConversationRequest)
        -> StoreChainResultInConversationResponse;

    /// Starts a conversation from the input and result of an execution.
    unary once fn create_conversation_from_chain_execution(request: CreateConversationFromChainExecutionRequest)
        -> CreateConversationFromChainExecutionResponse;
}
