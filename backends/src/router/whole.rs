//! A request that is answered as a whole: RouteRequest.
//!
//! Owns the answer's form. It fails as [`attempts`](super::attempts) does.

use std::time::Duration;

use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionRequest, ChatCompletionResponse, RouteRequestResponse,
};
use prost::Message;

use super::attempts::{self, Ask};
use super::error::RouteError;
use super::limits::ANSWER_BYTES;
use super::metrics::Record;
use super::plan::Plan;
use super::{Shared, report};
use crate::connectors::{ConnectorError, Connectors, Endpoint};

/// Asks for the whole answer.
struct Whole;

impl Ask for Whole {
    type Answer = ChatCompletionResponse;

    async fn ask(
        connectors: &Connectors,
        endpoint: &Endpoint,
        request: &ChatCompletionRequest,
        limit: Duration,
    ) -> Result<ChatCompletionResponse, ConnectorError> {
        let answer = connectors.complete(endpoint, request, limit).await?;
        // Larger, it would be sent, and the caller's side could not read it.
        match answer.encoded_len() > ANSWER_BYTES {
            true => Err(ConnectorError::TooLarge(ANSWER_BYTES)),
            false => Ok(answer),
        }
    }
}

/// Gets the answer.
pub(super) async fn route(
    shared: &Shared,
    plan: &Plan,
    record: &mut Record,
) -> Result<RouteRequestResponse, RouteError> {
    let mut answered = attempts::answer::<Whole>(shared, plan)
        .await
        .inspect_err(|error| record.ends(error.outcome()))?;
    report::decided(shared, plan, &answered);
    report::used(shared, plan, &answered, answered.answer.usage);
    if report::is_fallback(plan, &answered) {
        record.fell_back();
    }
    record.ends("ok");
    Ok(RouteRequestResponse {
        status: Ended::Success.into(),
        routing_metadata: Some(report::metadata(plan, &answered)),
        response: Some(std::mem::take(&mut answered.answer)),
        error: None,
    })
}
