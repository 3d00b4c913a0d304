//! An endpoint's answers in the contract's terms.
//!
//! Owns the JSON that is understood: fields that are missing or null are empty, fields that are not
//! known are left out. Tool calls of a whole answer have no field in the contract's message; they
//! are JSON text in its metadata, as `tool_calls`, just as they came. It fails with [`ConnectorError::Unusable`] for
//! what is no answer, and with the error that an answer reports in place of one. Limit: 128 choices.

use intellirouter_proto::intellirouter::common::v1::{Message, Metadata};
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionChoice, ChatCompletionResponse, LogprobsInfo, TokenLogprob, UsageInfo,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::super::ConnectorError;
use super::failure::{self, Censor};
use super::few::Few;

/// What whole answers and pieces have in common.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<C> {
    pub(super) id: Option<String>,
    pub(super) created: Option<i64>,
    pub(super) model: Option<String>,
    pub(super) choices: Option<Few<C>>,
    pub(super) usage: Option<Usage>,
    pub(super) system_fingerprint: Option<String>,
    error: Option<Box<RawValue>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct WholeChoice {
    index: Option<i32>,
    message: Option<WholeMessage>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Default, Deserialize)]
struct WholeMessage {
    role: Option<String>,
    content: Option<String>,
    tool_calls: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Logprobs {
    content: Option<Vec<Logprob>>,
}

#[derive(Debug, Deserialize)]
struct Logprob {
    token: String,
    logprob: f32,
    top_logprobs: Option<Vec<TopLogprob>>,
}

#[derive(Debug, Deserialize)]
struct TopLogprob {
    token: String,
    logprob: f32,
}

/// A whole answer.
pub(super) fn whole(
    body: &[u8],
    censor: &Censor,
) -> Result<ChatCompletionResponse, ConnectorError> {
    let answer: Envelope<WholeChoice> = parse(body, censor)?;
    let choices = answer.choices.filter(|choices| !choices.is_empty());
    let choices =
        choices.ok_or_else(|| ConnectorError::Unusable("it has no choices".to_owned()))?;
    Ok(ChatCompletionResponse {
        id: answer.id.unwrap_or_default(),
        object: "chat.completion".to_owned(),
        created: answer.created.unwrap_or_default(),
        model: answer.model.unwrap_or_default(),
        choices: choices.into_iter().map(choice).collect(),
        usage: answer.usage.map(usage),
        system_fingerprint: answer.system_fingerprint.unwrap_or_default(),
    })
}

/// Reads JSON that may report an error in place of what it should hold.
pub(super) fn parse<C: DeserializeOwned>(
    json: &[u8],
    censor: &Censor,
) -> Result<Envelope<C>, ConnectorError> {
    // The parser's own text may repeat what it read.
    let answer: Envelope<C> = serde_json::from_slice(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let why = if error.is_data() {
            "a value that is not as expected"
        } else {
            "no JSON"
        };
        ConnectorError::Unusable(format!("{why} at line {line}, column {column}"))
    })?;
    match &answer.error {
        Some(report) => Err(failure::of_report(report, censor)),
        None => Ok(answer),
    }
}

fn choice(choice: WholeChoice) -> ChatCompletionChoice {
    let message = choice.message.unwrap_or_default();
    let calls = message.tool_calls.filter(|calls| is_some_list(calls));
    let calls = calls.map(|calls| ("tool_calls".to_owned(), calls.get().to_owned()));
    ChatCompletionChoice {
        index: choice.index.unwrap_or_default(),
        message: Some(Message {
            role: message.role.unwrap_or_else(|| "assistant".to_owned()),
            content: message.content.unwrap_or_default(),
            timestamp: None,
            metadata: calls.map(|calls| Metadata {
                values: [calls].into(),
            }),
        }),
        finish_reason: choice.finish_reason.unwrap_or_default(),
        logprobs: choice.logprobs.map(logprobs),
    }
}

fn is_some_list(json: &RawValue) -> bool {
    let inside = json.get().strip_prefix('[');
    inside.is_some_and(|inside| !inside.trim_start().starts_with(']'))
}

pub(super) fn usage(usage: Usage) -> UsageInfo {
    let count = |number: Option<u64>| {
        let number = number.unwrap_or_default();
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    UsageInfo {
        prompt_tokens: count(usage.prompt_tokens),
        completion_tokens: count(usage.completion_tokens),
        total_tokens: count(usage.total_tokens),
    }
}

pub(super) fn logprobs(logprobs: Logprobs) -> LogprobsInfo {
    let top = |top: TopLogprob| (top.token, top.logprob);
    let token = |token: Logprob| TokenLogprob {
        token: token.token,
        logprob: token.logprob,
        top_logprobs: token.top_logprobs.into_iter().flatten().map(top).collect(),
    };
    LogprobsInfo {
        content: logprobs.content.into_iter().flatten().map(token).collect(),
    }
}
