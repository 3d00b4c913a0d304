use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::{FutureExt, StreamExt};
use intellirouter_proto::intellirouter::common::v1::Message;
use serde_json::{Value, json};

use super::test_server::{End, Reply, Seen, TestServer};
use super::*;

mod cancel;
mod complete;
mod health;
mod keys;
mod local;
mod settings;
mod stream;

const LIMIT: Duration = Duration::from_secs(60);
const KEY: &str = "sk-0123456789";

fn connectors() -> Connectors {
    Connectors::new(ConnectorSettings::default()).unwrap()
}

fn config(kind: &str, parameters: &[(&str, &str)]) -> ConnectorConfig {
    let parameters = parameters.iter();
    ConnectorConfig {
        r#type: kind.to_owned(),
        parameters: parameters
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        ..Default::default()
    }
}

/// A model at this URL, with a key of its own.
fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        model_id: "big".to_owned(),
        config: ConnectorConfig {
            endpoint_url: url.to_owned(),
            ..config("openai", &[])
        },
        api_key: ApiKey::new(KEY.to_owned()),
    }
}

fn request(text: &str) -> ChatCompletionRequest {
    ChatCompletionRequest {
        messages: vec![message("user", text)],
        ..Default::default()
    }
}

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_owned(),
        content: content.to_owned(),
        ..Default::default()
    }
}

/// A server that always does the same.
async fn server(reply: Reply) -> TestServer {
    TestServer::start(move |_| reply.clone()).await
}

/// A server that answers well.
async fn good_server() -> TestServer {
    TestServer::start(|seen| Reply::words(seen, &["Hello ", "you"])).await
}

async fn complete_at(server: &TestServer) -> Result<ChatCompletionResponse, ConnectorError> {
    let connectors = connectors();
    let endpoint = endpoint(&server.url());
    connectors.complete(&endpoint, &request("hi"), LIMIT).await
}

async fn stream_at(server: &TestServer) -> Result<Parts, ConnectorError> {
    let connectors = connectors();
    let endpoint = endpoint(&server.url());
    connectors.stream(&endpoint, &request("hi"), LIMIT).await
}

/// All parts, and the error that ended them.
async fn collect(mut parts: Parts) -> (Vec<Part>, Option<ConnectorError>) {
    let mut collected = Vec::new();
    while let Some(part) = parts.next().await {
        match part {
            Ok(part) => collected.push(part),
            Err(error) => {
                assert!(parts.next().await.is_none(), "a part after an error");
                return (collected, Some(error));
            }
        }
    }
    (collected, None)
}

async fn error_in(parts: Result<Parts, ConnectorError>) -> ConnectorError {
    collect(parts.unwrap()).await.1.unwrap()
}

/// The text of the first choice.
fn text(parts: &[Part]) -> String {
    let content = |part: &Part| match part {
        Part::Chunk(chunk) => chunk.choices[0].delta.clone().unwrap().content,
        Part::Usage(_) => String::new(),
    };
    parts.iter().map(content).collect()
}

fn usage(prompt: u32, completion: u32) -> UsageInfo {
    UsageInfo {
        prompt_tokens: prompt,
        completion_tokens: completion,
        total_tokens: prompt + completion,
    }
}

/// Starts a future and leaves it waiting.
async fn begin<F: Future + ?Sized>(mut future: Pin<&mut F>) {
    poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[test]
fn only_a_request_that_is_bad_as_such_is_kept_from_other_models() {
    let refused = |status| ConnectorError::Refused {
        status,
        message: String::new(),
    };
    for error in [
        refused(400),
        refused(413),
        refused(422),
        ConnectorError::Invalid(String::new()),
    ] {
        assert!(!error.another_may_do(), "{error:?}");
    }
    for error in [
        refused(401),
        refused(404),
        ConnectorError::Limited(None),
        ConnectorError::TimedOut(LIMIT),
        ConnectorError::Settings(String::new()),
    ] {
        assert!(error.another_may_do(), "{error:?}");
    }
}

#[test]
fn no_debug_output_shows_a_key() {
    let endpoint = endpoint("http://host/v1");
    assert!(!format!("{endpoint:?}").contains(KEY));
}
