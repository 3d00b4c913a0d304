//! Clients of the package `intellirouter.rag_manager.v1`: documents and personas.

use intellirouter_proto::intellirouter::rag_manager::v1::{
    ApplyPersonaRequest, ApplyPersonaResponse, AugmentPersonaRequestRequest,
    AugmentPersonaRequestResponse, AugmentRequestRequest, AugmentRequestResponse,
    CreatePersonaRequest, CreatePersonaResponse, DeleteDocumentRequest, DeleteDocumentResponse,
    DeletePersonaRequest, DeletePersonaResponse, GetDocumentByIdRequest, GetDocumentByIdResponse,
    GetPersonaRequest, GetPersonaResponse, IndexDocumentRequest, IndexDocumentResponse,
    ListDocumentsRequest, ListDocumentsResponse, ListPersonasRequest, ListPersonasResponse,
    RetrieveDocumentsRequest, RetrieveDocumentsResponse, UpdatePersonaRequest,
    UpdatePersonaResponse, persona_layer_service_client::PersonaLayerServiceClient,
    rag_manager_service_client::RagManagerServiceClient,
    rag_persona_integration_service_client::RagPersonaIntegrationServiceClient,
};

service_client! {
    /// `RAGManagerService`: documents, and what in them fits a request.
    trait RagManagerClient for "intellirouter.rag_manager.v1.RAGManagerService";
    grpc GrpcRagManagerClient(RagManagerServiceClient);
    resilient ResilientRagManagerClient;
    mock MockRagManagerClient;

    /// Splits a document into chunks and stores it for retrieval.
    unary once fn index_document(request: IndexDocumentRequest) -> IndexDocumentResponse;

    /// Returns the documents that fit a query best, best first.
    unary repeatable fn retrieve_documents(request: RetrieveDocumentsRequest)
        -> RetrieveDocumentsResponse;

    /// Returns a request enriched with the documents that fit it.
    unary repeatable fn augment_request(request: AugmentRequestRequest) -> AugmentRequestResponse;

    /// Returns one document.
    unary repeatable fn get_document_by_id(request: GetDocumentByIdRequest)
        -> GetDocumentByIdResponse;

    /// Deletes a document and its chunks.
    unary repeatable fn delete_document(request: DeleteDocumentRequest) -> DeleteDocumentResponse;

    /// Lists documents, one page at a time.
    unary repeatable fn list_documents(request: ListDocumentsRequest) -> ListDocumentsResponse;
}

service_client! {
    /// `PersonaLayerService`: personas, and requests in their words.
    trait PersonaLayerClient for "intellirouter.rag_manager.v1.PersonaLayerService";
    grpc GrpcPersonaLayerClient(PersonaLayerServiceClient);
    resilient ResilientPersonaLayerClient;
    mock MockPersonaLayerClient;

    /// Adds a persona.
    unary once fn create_persona(request: CreatePersonaRequest) -> CreatePersonaResponse;

    /// Returns one persona.
    unary repeatable fn get_persona(request: GetPersonaRequest) -> GetPersonaResponse;

    /// Changes the given fields of a persona.
    unary repeatable fn update_persona(request: UpdatePersonaRequest) -> UpdatePersonaResponse;

    /// Deletes a persona.
    unary repeatable fn delete_persona(request: DeletePersonaRequest) -> DeletePersonaResponse;

    /// Lists personas, one page at a time.
    unary repeatable fn list_personas(request: ListPersonasRequest) -> ListPersonasResponse;

    /// Returns a request rewritten in the way of a persona.
    unary repeatable fn apply_persona(request: ApplyPersonaRequest) -> ApplyPersonaResponse;
}

service_client! {
    /// `RAGPersonaIntegrationService`: a persona and documents in one call.
    trait RagPersonaIntegrationClient for "intellirouter.rag_manager.v1.RAGPersonaIntegrationService";
    grpc GrpcRagPersonaIntegrationClient(RagPersonaIntegrationServiceClient);
    resilient ResilientRagPersonaIntegrationClient;
    mock MockRagPersonaIntegrationClient;

    /// Applies a persona to a request and enriches it with documents in one call.
    unary repeatable fn augment_persona_request(request: AugmentPersonaRequestRequest)
        -> AugmentPersonaRequestResponse;
}
