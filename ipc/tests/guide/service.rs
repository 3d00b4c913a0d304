//! The service that the snippets serve and call.

use std::collections::HashMap;

use intellirouter::generated::intellirouter::rag_manager::v1::rag_persona_integration_service_server::RagPersonaIntegrationService;
use intellirouter::generated::intellirouter::rag_manager::v1::{
    AugmentPersonaRequestRequest, AugmentPersonaRequestResponse,
};
use intellirouter::security::Claims;
use intellirouter::{IpcError, IpcResult};
use tonic::{Request, Response, Status};

// guide: service
#[derive(Default)]
pub struct Personas {
    /// The prompt of each persona.
    pub prompts: HashMap<String, String>,
}

impl Personas {
    fn prompt(&self, id: &str) -> IpcResult<&str> {
        let prompt = self.prompts.get(id).map(String::as_str);
        prompt.ok_or_else(|| IpcError::NotFound("there is no persona with this id".into()))
    }
}

#[tonic::async_trait]
impl RagPersonaIntegrationService for Personas {
    async fn augment_persona_request(
        &self,
        request: Request<AugmentPersonaRequestRequest>,
    ) -> Result<Response<AugmentPersonaRequestResponse>, Status> {
        // Who calls, as its token or the gateway says. It was checked before the call came here.
        let caller = request.extensions().get::<Claims>();
        let caller = caller.map_or("anybody", |claims| claims.sub.as_str());
        // An IpcError becomes the status that fits: here NOT_FOUND.
        let prompt = self.prompt(&request.get_ref().persona_id)?;
        let text = &request.get_ref().request;
        Ok(Response::new(AugmentPersonaRequestResponse {
            augmented_request: format!("{prompt}\n{caller} asks: {text}"),
            ..Default::default()
        }))
    }
}
// guide: end

/// With one persona, `p1`.
pub(crate) fn personas() -> Personas {
    Personas {
        prompts: HashMap::from([("p1".to_owned(), "Be brief.".to_owned())]),
    }
}

/// A question to this persona.
pub(crate) fn question(persona: &str) -> AugmentPersonaRequestRequest {
    AugmentPersonaRequestRequest {
        persona_id: persona.to_owned(),
        request: "Why?".to_owned(),
        ..Default::default()
    }
}
