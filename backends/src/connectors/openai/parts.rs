//! An answer that comes as server-sent events, part by part.
//!
//! Owns the order of things: chunks as they come, then the usage, once, then the end. Nothing is
//! read ahead: a part is read when it is asked for, so a slow reader slows the endpoint. It does not
//! own the JSON of an event. It fails with [`ConnectorError::Connection`] if the answer ends before
//! the endpoint said so, with `[DONE]` or a finish reason for every choice. Limits: the bytes of an
//! event and of the whole answer, 128 choices, 128 tool calls in each, and 1,024 bytes for the id of
//! one.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionChunk, ChatCompletionChunkChoice, ChatCompletionChunkDelta, FunctionCall,
    ToolCall, UsageInfo,
};
use serde::Deserialize;

use super::super::deadline::Deadline;
use super::super::{ConnectorError, Part, Parts};
use super::Bounds;
use super::answer::{self, Envelope, Logprobs};
use super::client::next_piece;
use super::events::{EventReader, TooLarge};
use super::failure::Censor;
use super::few::Few;

/// So that a bit each fits into a `u128`.
const MAX_CHOICES: u32 = 128;
const MAX_TOOL_CALLS: u32 = 128;
/// An id goes out with every piece of its call.
const MAX_ID_BYTES: usize = 1024;

pub(super) fn parts(body: Incoming, bounds: Bounds, deadline: Deadline, censor: Censor) -> Parts {
    let reader = Reader {
        body,
        bounds,
        deadline,
        events: EventReader::new(bounds.event_bytes),
        unread: Bytes::new(),
        taken: 0,
        progress: Progress::new(censor),
        done: false,
    };
    Box::pin(stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let part = reader.next().await.transpose()?;
        // After an error the reader is dropped, and the connection with it.
        let reader = part.is_ok().then_some(reader);
        Some((part, reader))
    }))
}

struct Reader {
    body: Incoming,
    bounds: Bounds,
    deadline: Deadline,
    events: EventReader,
    unread: Bytes,
    taken: usize,
    progress: Progress,
    done: bool,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Part>, ConnectorError> {
        while !self.done {
            match self.event().await? {
                Some(event) if event == b"[DONE]" => self.done = true,
                Some(event) => {
                    if let Some(chunk) = self.progress.chunk(&event)? {
                        return Ok(Some(Part::Chunk(chunk)));
                    }
                }
                None if self.progress.is_finished() => self.done = true,
                None => {
                    let why = "the answer ended before it was whole";
                    return Err(ConnectorError::Connection(why.to_owned()));
                }
            }
        }
        Ok(self.progress.usage.take().map(Part::Usage))
    }

    /// The data of the next event; none at the end of the body.
    async fn event(&mut self) -> Result<Option<Vec<u8>>, ConnectorError> {
        loop {
            match self.events.next(&mut self.unread) {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(Some(event)),
                Err(TooLarge) => {
                    let most = self.bounds.event_bytes;
                    let why = format!("an event of it has more than {most} bytes");
                    return Err(ConnectorError::Unusable(why));
                }
            }
            let piece = next_piece(&mut self.body, self.bounds.idle, self.deadline).await?;
            let Some(piece) = piece else {
                return Ok(None);
            };
            self.taken += piece.len();
            if self.taken > self.bounds.answer_bytes {
                return Err(ConnectorError::TooLarge(self.bounds.answer_bytes));
            }
            self.unread = piece;
        }
    }
}

/// What has to be known of earlier events to understand the next.
struct Progress {
    censor: Censor,
    usage: Option<UsageInfo>,
    /// Choices that began, and those that ended: a bit each.
    begun: u128,
    ended: u128,
    /// The ids of tool calls by choice and place. An endpoint names them once; here every piece has
    /// its id, as the contract has no place to go by.
    tool_calls: HashMap<(u32, u32), String>,
}

#[derive(Deserialize)]
struct PieceChoice {
    index: Option<u32>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Default, Deserialize)]
struct Delta {
    role: Option<String>,
    content: Option<String>,
    tool_calls: Option<Few<ToolCallDelta>>,
}

#[derive(Deserialize)]
struct ToolCallDelta {
    index: Option<u32>,
    id: Option<String>,
    r#type: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Default, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

impl Progress {
    fn new(censor: Censor) -> Self {
        Self {
            censor,
            usage: None,
            begun: 0,
            ended: 0,
            tool_calls: HashMap::new(),
        }
    }

    fn is_finished(&self) -> bool {
        self.begun != 0 && self.begun == self.ended
    }

    /// Takes an event in. One without choices has no chunk in it, only the usage or nothing.
    fn chunk(&mut self, event: &[u8]) -> Result<Option<ChatCompletionChunk>, ConnectorError> {
        let piece: Envelope<PieceChoice> = answer::parse(event, &self.censor)?;
        // Some endpoints tell it again and again as it grows: the last one counts.
        self.usage = piece.usage.map(answer::usage).or(self.usage);
        let Some(choices) = piece.choices.filter(|choices| !choices.is_empty()) else {
            return Ok(None);
        };
        let choices = choices.into_iter().map(|choice| self.choice(choice));
        Ok(Some(ChatCompletionChunk {
            choices: choices.collect::<Result<_, _>>()?,
            id: piece.id.unwrap_or_default(),
            object: "chat.completion.chunk".to_owned(),
            created: piece.created.unwrap_or_default(),
            model: piece.model.unwrap_or_default(),
            system_fingerprint: piece.system_fingerprint.unwrap_or_default(),
        }))
    }

    fn choice(&mut self, choice: PieceChoice) -> Result<ChatCompletionChunkChoice, ConnectorError> {
        let index = below(MAX_CHOICES, choice.index, "choices")?;
        self.begun |= 1 << index;
        let finish_reason = choice.finish_reason.unwrap_or_default();
        if !finish_reason.is_empty() {
            self.ended |= 1 << index;
        }
        let delta = choice.delta.unwrap_or_default();
        let calls = delta.tool_calls.into_iter().flatten();
        let calls = calls.map(|call| self.tool_call(index, call));
        Ok(ChatCompletionChunkChoice {
            // Below 128.
            index: index.cast_signed(),
            delta: Some(ChatCompletionChunkDelta {
                tool_calls: calls.collect::<Result<_, _>>()?,
                role: delta.role.unwrap_or_default(),
                content: delta.content.unwrap_or_default(),
            }),
            finish_reason,
            logprobs: choice.logprobs.map(answer::logprobs),
        })
    }

    fn tool_call(&mut self, choice: u32, call: ToolCallDelta) -> Result<ToolCall, ConnectorError> {
        let index = below(MAX_TOOL_CALLS, call.index, "tool calls")?;
        let known = self.tool_calls.entry((choice, index)).or_default();
        if let Some(id) = call.id.filter(|id| !id.is_empty()) {
            if id.len() > MAX_ID_BYTES {
                let why = format!("the id of a tool call has more than {MAX_ID_BYTES} bytes");
                return Err(ConnectorError::Unusable(why));
            }
            *known = id;
        }
        let function = call.function.unwrap_or_default();
        Ok(ToolCall {
            id: known.clone(),
            r#type: call.r#type.unwrap_or_else(|| "function".to_owned()),
            function: Some(FunctionCall {
                name: function.name.unwrap_or_default(),
                arguments: function.arguments.unwrap_or_default(),
            }),
        })
    }
}

fn below(most: u32, index: Option<u32>, what: &str) -> Result<u32, ConnectorError> {
    let index = index.unwrap_or_default();
    if index >= most {
        let why = format!("it has more than {most} {what}");
        return Err(ConnectorError::Unusable(why));
    }
    Ok(index)
}
