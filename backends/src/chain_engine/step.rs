//! One step: asks the router for a completion and gathers it as it comes.
//!
//! Owns the request to the router and the reading of its answer. It does not own the choice of a
//! model, nor a second try: the router's. Dropped, it drops the call to the router at once.

use std::time::Duration;

use futures_util::StreamExt;
use intellirouter::clients::RouterClient;
use intellirouter_proto::intellirouter::chain_engine::v1::ChainStep;
use intellirouter_proto::intellirouter::common::v1::{Message, RequestContext, Status as Ended};
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionRequest, RouteRequestRequest, RouteRequestStreamResponse, RoutingMetadata,
    RoutingRequest,
};
use serde::de::IgnoredAny;

use super::failure::Failure;
use super::limits::NAME_BYTES;
use super::sink::Sink;

/// The longest time that the router takes for one request.
const ROUTER_LIMIT: Duration = Duration::from_secs(600);

/// What a step gave.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) output: String,
    pub(super) model: String,
    pub(super) tokens: u32,
    /// Why the model ended, as it says.
    pub(super) finish_reason: String,
}

/// The request for a step: the router may take until the end of the execution, and no longer.
pub(super) fn request(
    step: &ChainStep,
    input: String,
    context: RequestContext,
    left: Duration,
) -> RouteRequestRequest {
    let message = |role: &str, content: String| Message {
        role: role.to_owned(),
        content,
        ..Default::default()
    };
    let mut messages = Vec::new();
    if !step.system_prompt.is_empty() {
        messages.push(message("system", step.system_prompt.clone()));
    }
    messages.push(message("user", input));
    let left = left.min(ROUTER_LIMIT).as_millis().max(1);
    RouteRequestRequest {
        request: Some(ChatCompletionRequest {
            model: step.model.clone(),
            messages,
            max_tokens: step.max_tokens,
            temperature: step.temperature,
            stream: true,
            user: context.user_id.clone(),
            additional_parameters: step.parameters.clone(),
            ..Default::default()
        }),
        context: Some(context),
        routing: Some(RoutingRequest {
            timeout_ms: u32::try_from(left).unwrap_or(u32::MAX),
            ..Default::default()
        }),
    }
}

/// Asks, and passes on each piece of text. The output has at most `max` bytes.
pub(super) async fn ask(
    router: &dyn RouterClient,
    request: RouteRequestRequest,
    max: usize,
    step_id: &str,
    sink: &Sink,
) -> Result<Answer, Failure> {
    let asked = router.stream_route_request(request).await;
    let mut pieces = asked.map_err(Failure::router)?;
    let mut answer = Answer::default();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|status| Failure::router(status.into()))?;
        let done = piece.done;
        let text = answer.take(piece)?;
        if answer.output.len() + text.len() > max {
            return Err(Failure::too_large("output", max));
        }
        answer.output.push_str(&text);
        if !text.is_empty() {
            sink.token(step_id, text).await;
        }
        if done {
            return Ok(answer);
        }
    }
    Err(Failure::cut())
}

/// Whether the output has the form that the step asks for.
pub(super) fn check_format(step: &ChainStep, output: &str) -> Result<(), Failure> {
    if step.output_format == "json" {
        serde_json::from_str::<IgnoredAny>(output).map_err(|error| Failure::not_json(&error))?;
    }
    Ok(())
}

impl Answer {
    /// The text of a piece. All else is remembered.
    fn take(&mut self, piece: RouteRequestStreamResponse) -> Result<String, Failure> {
        let status = piece.status();
        let failed = matches!(status, Ended::Error | Ended::Timeout | Ended::Cancelled);
        if failed || piece.error.is_some() {
            return Err(Failure::routed(status, piece.error));
        }
        if let Some(metadata) = piece.routing_metadata {
            self.note(metadata);
        }
        let choices = piece.chunk.map(|chunk| chunk.choices).unwrap_or_default();
        // One answer was asked for, so that further ones would be a fault of the model.
        let Some(choice) = choices.into_iter().find(|choice| choice.index == 0) else {
            return Ok(String::new());
        };
        if !choice.finish_reason.is_empty() {
            self.finish_reason = cut(choice.finish_reason);
        }
        Ok(choice.delta.map(|delta| delta.content).unwrap_or_default())
    }

    fn note(&mut self, metadata: RoutingMetadata) {
        let number = |name: &str| metadata.additional_metadata.get(name)?.parse::<u32>().ok();
        if let Some(total) = number("total_tokens") {
            self.tokens = total;
        }
        if !metadata.selected_model_id.is_empty() {
            self.model = cut(metadata.selected_model_id);
        }
    }
}

/// A name as it may come back in an answer.
fn cut(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(NAME_BYTES));
    name
}
