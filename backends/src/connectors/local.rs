//! The connector `local`: answers in this process, without a key and without a language model, so
//! that everything around a model can be tried and tested.
//!
//! The answer is the same for the same input and says what it is: it begins with
//! `[local: no language model]`, then comes a hash over everything a model would be sent (system
//! prompt, all messages, parameters), then the last user message, cut to 4,096 bytes. So two inputs
//! that differ give answers that differ. A token is a word: what stands between white space.
//! `max_tokens`, `stop` and `n` are honoured; tools and a response format are not.
//!
//! The parameter `delay_ms_per_token` (0 to 10,000) makes it as slow as a model. It fails if that
//! parameter is no such number, if the request asks for more than 128 answers, and when time is up.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::stream;
use intellirouter_proto::intellirouter::common::v1::{Message, Metadata};
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionChoice, ChatCompletionChunk, ChatCompletionChunkChoice, ChatCompletionChunkDelta,
    ChatCompletionRequest, ChatCompletionResponse, ConnectorConfig, UsageInfo,
};

use super::deadline::Deadline;
use super::openai::request_body;
use super::{ConnectorError, Endpoint, Part, Parts};

const INTRODUCTION: &str = "[local: no language model]";
const FINGERPRINT: &str = "local-no-language-model";
const DELAY: &str = "delay_ms_per_token";
const MAX_DELAY_MS: u64 = 10_000;
const MAX_ECHO_BYTES: usize = 4096;
const MAX_CHOICES: u32 = 128;

pub(super) fn check_settings(config: &ConnectorConfig) -> Result<(), ConnectorError> {
    delay(config).map(|_| ())
}

pub(super) async fn check(endpoint: &Endpoint, deadline: Deadline) -> Result<(), ConnectorError> {
    delay(&endpoint.config)?;
    // What runs here answers when this runtime gets round to it: that is all there is to wait for.
    deadline.run(tokio::task::yield_now()).await
}

pub(super) async fn complete(
    endpoint: &Endpoint,
    request: &ChatCompletionRequest,
    deadline: Deadline,
) -> Result<ChatCompletionResponse, ConnectorError> {
    let answer = Answer::to(endpoint, request)?;
    for _ in &answer.tokens {
        deadline.run(pause(answer.delay)).await?;
    }
    Ok(answer.whole())
}

pub(super) fn stream(
    endpoint: &Endpoint,
    request: &ChatCompletionRequest,
    deadline: Deadline,
) -> Result<Parts, ConnectorError> {
    let answer = Answer::to(endpoint, request)?;
    let parts = stream::unfold(Some((answer, 0)), move |state| async move {
        let (answer, step) = state?;
        let choice = step % answer.choices;
        // All choices grow at the same pace: a token each, then one pause.
        if choice == 0
            && let Err(error) = deadline.run(pause(answer.delay)).await
        {
            return Some((Err(error), None));
        }
        let part = answer.part(step / answer.choices, choice)?;
        let next = match part {
            Part::Chunk(_) => Some((answer, step + 1)),
            Part::Usage(_) => None,
        };
        Some((Ok(part), next))
    });
    Ok(Box::pin(parts))
}

async fn pause(delay: Duration) {
    if delay.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(delay).await;
    }
}

fn delay(config: &ConnectorConfig) -> Result<Duration, ConnectorError> {
    let Some(text) = config.parameters.get(DELAY) else {
        return Ok(Duration::ZERO);
    };
    match text.parse() {
        Ok(ms @ 0..=MAX_DELAY_MS) => Ok(Duration::from_millis(ms)),
        _ => Err(ConnectorError::Settings(format!(
            "parameters.{DELAY}: expected 0 to {MAX_DELAY_MS}"
        ))),
    }
}

/// An answer, made before its first token is given out.
struct Answer {
    id: String,
    model: String,
    created: i64,
    /// Each with the white space that follows it, so that together they are the text.
    tokens: Vec<String>,
    finish_reason: &'static str,
    choices: usize,
    usage: UsageInfo,
    delay: Duration,
}

impl Answer {
    fn to(endpoint: &Endpoint, request: &ChatCompletionRequest) -> Result<Self, ConnectorError> {
        let choices = request.n.max(1);
        if choices > MAX_CHOICES {
            let why = format!("n: expected at most {MAX_CHOICES}");
            return Err(ConnectorError::Invalid(why));
        }
        let hash = hash(&request_body(&endpoint.model_id, request, None)?);
        let text = format!("{INTRODUCTION} {hash} {}", echo(request));
        let text = before_stop(&text, &request.stop);
        let mut tokens = tokens(text);
        let finish_reason = shorten(&mut tokens, request.max_tokens);
        Ok(Self {
            id: format!("local-{hash}"),
            model: endpoint.model_id.clone(),
            created: now(),
            usage: usage(request, tokens.len(), choices),
            tokens,
            finish_reason,
            choices: choices as usize,
            delay: delay(&endpoint.config)?,
        })
    }

    fn whole(&self) -> ChatCompletionResponse {
        let choice = |index| ChatCompletionChoice {
            index,
            message: Some(Message {
                role: "assistant".to_owned(),
                content: self.tokens.concat(),
                timestamp: None,
                metadata: Some(metadata()),
            }),
            finish_reason: self.finish_reason.to_owned(),
            logprobs: None,
        };
        ChatCompletionResponse {
            id: self.id.clone(),
            object: "chat.completion".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices: (0..).take(self.choices).map(choice).collect(),
            usage: Some(self.usage),
            system_fingerprint: FINGERPRINT.to_owned(),
        }
    }

    /// What a choice gets at this step: the role with the first token, one token at a time, the
    /// reason why it ended; then, once, the usage.
    fn part(&self, step: usize, choice: usize) -> Option<Part> {
        let mut delta = ChatCompletionChunkDelta::default();
        if step == 0 {
            "assistant".clone_into(&mut delta.role);
        }
        let mut finish_reason = String::new();
        match (self.tokens.get(step), step.checked_sub(self.tokens.len())) {
            (Some(token), _) => delta.content.clone_from(token),
            (None, Some(0)) => self.finish_reason.clone_into(&mut finish_reason),
            (None, _) => return (choice == 0).then_some(Part::Usage(self.usage)),
        }
        Some(Part::Chunk(ChatCompletionChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices: vec![ChatCompletionChunkChoice {
                // At most 128.
                index: choice as i32,
                delta: Some(delta),
                finish_reason,
                logprobs: None,
            }],
            system_fingerprint: FINGERPRINT.to_owned(),
        }))
    }
}

/// The first 8 bytes of SHA-256, in hex: enough to tell inputs apart.
fn hash(input: &[u8]) -> String {
    let digest = digest(&SHA256, input);
    let start = digest.as_ref().iter().take(8);
    start.map(|byte| format!("{byte:02x}")).collect()
}

fn echo(request: &ChatCompletionRequest) -> &str {
    let messages = &request.messages;
    let last_user = messages.iter().rfind(|message| message.role == "user");
    let text = last_user
        .or(messages.last())
        .map_or("", |message| message.content.as_str());
    &text[..text.floor_char_boundary(MAX_ECHO_BYTES)]
}

fn before_stop<'a>(text: &'a str, stop: &[String]) -> &'a str {
    let stops = stop.iter().filter(|stop| !stop.is_empty());
    let end = stops.filter_map(|stop| text.find(stop.as_str())).min();
    &text[..end.unwrap_or(text.len())]
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let after = &rest[word..];
        let space = after
            .find(|c: char| !c.is_whitespace())
            .unwrap_or(after.len());
        let (token, tail) = rest.split_at(word + space);
        tokens.push(token.to_owned());
        rest = tail;
    }
    tokens
}

/// Drops what is more than `most` tokens (0: no limit), and says why the answer ends.
fn shorten(tokens: &mut Vec<String>, most: u32) -> &'static str {
    let most = match most {
        0 => usize::MAX,
        most => most as usize,
    };
    if tokens.len() <= most {
        return "stop";
    }
    tokens.truncate(most);
    "length"
}

fn usage(request: &ChatCompletionRequest, tokens: usize, choices: u32) -> UsageInfo {
    let words = |message: &Message| message.content.split_whitespace().count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let prompt_tokens = count(request.messages.iter().map(words).sum());
    let completion_tokens = count(tokens).saturating_mul(choices);
    UsageInfo {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens.saturating_add(completion_tokens),
    }
}

fn metadata() -> Metadata {
    let pairs = [("language_model", "false"), ("connector", "local")];
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    Metadata {
        values: pairs.map(own).into(),
    }
}

fn now() -> i64 {
    // A clock before 1970 counts as 1970.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}
