use intellirouter_proto::intellirouter::model_registry::v1::ResponseFormat;

use super::*;

const START: &str = "[local: no language model] ";

fn local(parameters: &[(&str, &str)]) -> Endpoint {
    Endpoint {
        model_id: "echo".to_owned(),
        config: config("local", parameters),
        api_key: ApiKey::default(),
    }
}

async fn answer(request: &ChatCompletionRequest) -> ChatCompletionResponse {
    let connectors = connectors();
    let answer = connectors.complete(&local(&[]), request, LIMIT).await;
    answer.unwrap()
}

async fn answer_text(request: &ChatCompletionRequest) -> String {
    let mut answer = answer(request).await;
    answer.choices.remove(0).message.unwrap().content
}

async fn stream(request: &ChatCompletionRequest) -> Vec<Part> {
    let connectors = connectors();
    let parts = connectors.stream(&local(&[]), request, LIMIT).await;
    let (parts, error) = collect(parts.unwrap()).await;
    assert_eq!(error, None);
    parts
}

#[tokio::test]
async fn an_answer_says_that_it_is_no_language_models_and_shows_the_last_user_message() {
    let mut request = request("first");
    request.messages.push(message("assistant", "second"));
    request.messages.push(message("user", "what is\n this?"));
    request.messages.push(message("tool", "fourth"));
    let answer = answer(&request).await;
    assert_eq!(answer.model, "echo");
    assert_eq!(answer.system_fingerprint, "local-no-language-model");
    let message = answer.choices[0].message.clone().unwrap();
    assert!(message.content.starts_with(START), "{}", message.content);
    assert!(
        message.content.ends_with(" what is\n this?"),
        "{}",
        message.content
    );
    let metadata = message.metadata.unwrap().values;
    assert_eq!(metadata["language_model"], "false");
    assert_eq!(metadata["connector"], "local");
}

#[tokio::test]
async fn the_same_input_gives_the_same_answer() {
    let mut request = request("hi");
    for name in ["a", "b", "c", "d", "e"] {
        request.logit_bias.insert(name.to_owned(), 1.0);
        request
            .additional_parameters
            .insert(name.to_owned(), "1".to_owned());
    }
    let first = answer_text(&request).await;
    for _ in 0..5 {
        assert_eq!(answer_text(&request.clone()).await, first);
    }
}

#[tokio::test]
async fn any_difference_in_the_input_gives_another_answer() {
    let base = request("hi");
    let mut system = base.clone();
    system.messages.insert(0, message("system", "be kind"));
    let mut other_system = base.clone();
    other_system
        .messages
        .insert(0, message("system", "be brief"));
    let with = |change: fn(&mut ChatCompletionRequest)| {
        let mut request = base.clone();
        change(&mut request);
        request
    };
    let requests = [
        base.clone(),
        request("ho"),
        system,
        other_system,
        with(|r| r.messages[0].role = "assistant".to_owned()),
        with(|r| r.temperature = 0.5),
        with(|r| r.seed = 7),
        with(|r| r.max_tokens = 1000),
        with(|r| r.stop = vec!["never".to_owned()]),
        with(|r| {
            let r#type = "json_object".to_owned();
            r.response_format = Some(ResponseFormat { r#type });
        }),
        with(|r| r.additional_parameters = [("top_k".to_owned(), "3".to_owned())].into()),
    ];
    let mut answers = std::collections::BTreeSet::new();
    for request in &requests {
        assert!(answers.insert(answer_text(request).await), "{request:?}");
    }
}

#[tokio::test]
async fn a_stream_gives_the_same_text_token_by_token_and_then_the_usage() {
    let request = request("one  two\nthree ");
    let whole = answer(&request).await;
    let content = &whole.choices[0].message.as_ref().unwrap().content;
    let parts = stream(&request).await;
    assert_eq!(text(&parts), *content);
    // Four words of introduction, the hash, three words; then the reason; then the usage.
    assert_eq!(parts.len(), 8 + 1 + 1);
    let roles = parts.iter().filter(|part| match part {
        Part::Chunk(chunk) => !chunk.choices[0].delta.as_ref().unwrap().role.is_empty(),
        Part::Usage(_) => false,
    });
    assert_eq!(roles.count(), 1);
    let [.., Part::Chunk(last), Part::Usage(told)] = &parts[..] else {
        panic!("{parts:?}");
    };
    assert_eq!(last.choices[0].finish_reason, "stop");
    assert_eq!(*told, usage(3, 8));
    assert_eq!(whole.usage, Some(usage(3, 8)));
}

#[tokio::test]
async fn an_answer_has_at_most_as_many_tokens_as_asked_for() {
    let mut request = request("one two three four");
    request.max_tokens = 7;
    let answer = answer(&request).await;
    assert_eq!(answer.choices[0].finish_reason, "length");
    assert_eq!(answer.usage, Some(usage(4, 7)));
    let content = &answer.choices[0].message.as_ref().unwrap().content;
    assert!(content.ends_with("one two "), "{content}");
    assert_eq!(text(&stream(&request).await), *content);
    request.max_tokens = 9;
    let answer = self::answer(&request).await;
    assert_eq!(answer.choices[0].finish_reason, "stop");
}

#[tokio::test]
async fn an_answer_ends_before_the_first_stop_text() {
    let mut request = request("one two three");
    request.stop = vec![String::new(), " three".to_owned(), " two".to_owned()];
    let answer = answer(&request).await;
    assert_eq!(answer.choices[0].finish_reason, "stop");
    let content = &answer.choices[0].message.as_ref().unwrap().content;
    assert!(content.ends_with(" one"), "{content}");
}

#[tokio::test]
async fn as_many_answers_come_as_are_asked_for() {
    let mut request = request("hi");
    request.n = 2;
    let answer = answer(&request).await;
    let indexes: Vec<_> = answer.choices.iter().map(|choice| choice.index).collect();
    assert_eq!(indexes, [0, 1]);
    assert_eq!(answer.usage, Some(usage(1, 12)));
    let parts = stream(&request).await;
    let of_second = parts.iter().filter(|part| match part {
        Part::Chunk(chunk) => chunk.choices[0].index == 1,
        Part::Usage(_) => false,
    });
    assert_eq!(of_second.count(), 7);
    let usages = parts.iter().filter(|part| matches!(part, Part::Usage(_)));
    assert_eq!(usages.count(), 1);

    request.n = 129;
    let error = connectors().complete(&local(&[]), &request, LIMIT).await;
    let why = "n: expected at most 128".to_owned();
    assert_eq!(error, Err(ConnectorError::Invalid(why)));
}

#[tokio::test]
async fn a_long_message_is_cut_between_characters() {
    let answer = answer_text(&request(&"\u{20ac}".repeat(5000))).await;
    assert!(answer.ends_with('\u{20ac}'));
    assert_eq!(answer.len(), START.len() + "0123456789abcdef ".len() + 4095);
}

#[tokio::test]
async fn a_request_without_messages_is_answered_too() {
    let answer = answer(&ChatCompletionRequest::default()).await;
    assert_eq!(answer.usage, Some(usage(0, 5)));
}

#[tokio::test(start_paused = true)]
async fn a_delay_passes_before_every_token() {
    let endpoint = local(&[("delay_ms_per_token", "100")]);
    let (connectors, request) = (connectors(), request("hi"));
    let start = tokio::time::Instant::now();
    let answer = connectors.complete(&endpoint, &request, LIMIT).await;
    answer.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(600));

    let parts = connectors.stream(&endpoint, &request, LIMIT).await;
    let mut parts = parts.unwrap();
    let start = tokio::time::Instant::now();
    for token in 1..=6 {
        parts.next().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(100) * token);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_longer_than_the_limit_is_given_up() {
    let endpoint = local(&[("delay_ms_per_token", "1000")]);
    let (connectors, request) = (connectors(), request("hi"));
    let limit = Duration::from_millis(2500);
    let error = connectors.complete(&endpoint, &request, limit).await;
    assert_eq!(error, Err(ConnectorError::TimedOut(limit)));
    let parts = connectors.stream(&endpoint, &request, limit).await;
    let (parts, error) = collect(parts.unwrap()).await;
    assert_eq!(text(&parts), "[local: no ");
    assert_eq!(error, Some(ConnectorError::TimedOut(limit)));
}

#[tokio::test]
async fn it_is_always_healthy() {
    connectors().check(&local(&[]), LIMIT).await.unwrap();
}
