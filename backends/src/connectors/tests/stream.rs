use super::super::test_server::{chunk, event};
use super::*;

const IDLE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn parts_come_in_order_then_the_usage_then_the_end() {
    let mut server = good_server().await;
    let (parts, error) = collect(stream_at(&server).await.unwrap()).await;
    assert_eq!(error, None);
    assert_eq!(text(&parts), "Hello you");
    let [Part::Chunk(first), _, Part::Chunk(last), Part::Usage(told)] = &parts[..] else {
        panic!("{parts:?}");
    };
    assert_eq!(first.id, "chat-1");
    assert_eq!(first.object, "chat.completion.chunk");
    assert_eq!(first.created, 1_700_000_000);
    assert_eq!(first.model, "big-1");
    assert_eq!(first.system_fingerprint, "fp");
    assert_eq!(first.choices[0].delta.as_ref().unwrap().role, "assistant");
    assert_eq!(last.choices[0].finish_reason, "stop");
    assert_eq!(*told, usage(7, 2));

    let seen = server.request().await;
    assert_eq!(seen.header("accept"), Some("text/event-stream"));
    let body = seen.json();
    assert_eq!(body["stream"], true);
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn the_parts_are_the_same_when_every_byte_comes_alone() {
    let whole = |text: &str| event(&chunk(text, None));
    let events = [
        ": comment\r\n\r\n".to_owned(),
        whole("gr\u{fc}n"),
        whole("\u{1f332}"),
        event(&chunk("", Some("stop"))),
        "data: [DONE]\r\r".to_owned(),
    ]
    .concat();
    let bytes: Vec<Vec<u8>> = events.bytes().map(|byte| vec![byte]).collect();
    let server = server(Reply::events(bytes)).await;
    let (parts, error) = collect(stream_at(&server).await.unwrap()).await;
    assert_eq!(error, None);
    assert_eq!(text(&parts), "gr\u{fc}n\u{1f332}");
}

#[tokio::test]
async fn a_part_is_given_out_while_the_rest_is_still_to_come() {
    let first = event(&chunk("Hello", None));
    let server = server(Reply::events([first]).then(End::Stall)).await;
    let mut parts = stream_at(&server).await.unwrap();
    let part = parts.next().await.unwrap().unwrap();
    assert_eq!(text(&[part]), "Hello");
    assert!(parts.next().now_or_never().is_none());
}

#[tokio::test]
async fn every_piece_of_a_tool_call_carries_its_id() {
    let piece = |calls: Value| {
        let choice = json!({"index": 0, "delta": {"tool_calls": calls}});
        event(&json!({"choices": [choice]}))
    };
    let pieces = [
        piece(json!([
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
            {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        ])),
        piece(json!([{"index": 1, "function": {"arguments": "{}"}}])),
        piece(json!([{"index": 0, "function": {"arguments": "{\"x\":1}"}}])),
        "data: [DONE]\n\n".to_owned(),
    ];
    let server = server(Reply::events(pieces)).await;
    let (parts, error) = collect(stream_at(&server).await.unwrap()).await;
    assert_eq!(error, None);
    let calls = parts.iter().flat_map(|part| match part {
        Part::Chunk(chunk) => chunk.choices[0].delta.clone().unwrap().tool_calls,
        Part::Usage(_) => Vec::new(),
    });
    let calls = calls.map(|call| {
        let function = call.function.unwrap();
        assert_eq!(call.r#type, "function");
        (call.id, function.name, function.arguments)
    });
    let expected = [
        ("a", "f", ""),
        ("b", "g", ""),
        ("b", "", "{}"),
        ("a", "", "{\"x\":1}"),
    ];
    let expected = expected
        .map(|(id, name, arguments)| (id.to_owned(), name.to_owned(), arguments.to_owned()));
    assert_eq!(calls.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_usage_that_is_told_again_and_again_comes_once_and_last() {
    let told = |words: u32| {
        let mut piece = chunk("x", (words == 2).then_some("stop"));
        piece["usage"] = json!({
            "prompt_tokens": 3, "completion_tokens": words, "total_tokens": 3 + words,
        });
        event(&piece)
    };
    let server = server(Reply::events([told(1), told(2)])).await;
    let (parts, error) = collect(stream_at(&server).await.unwrap()).await;
    assert_eq!(error, None);
    let [Part::Chunk(_), Part::Chunk(_), Part::Usage(last)] = &parts[..] else {
        panic!("{parts:?}");
    };
    assert_eq!(*last, usage(3, 2));
}

#[tokio::test]
async fn an_end_with_a_finish_reason_is_an_end_without_the_last_word_too() {
    let pieces = [event(&chunk("Hi", None)), event(&chunk("", Some("stop")))];
    let server = server(Reply::events(pieces)).await;
    let (parts, error) = collect(stream_at(&server).await.unwrap()).await;
    assert_eq!((text(&parts).as_str(), error), ("Hi", None));
}

#[tokio::test]
async fn an_end_that_leaves_a_choice_open_is_a_broken_connection() {
    let mut second = chunk("Ho", None);
    second["choices"][0]["index"] = 1.into();
    let pieces = [event(&chunk("Hi", Some("stop"))), event(&second)];
    let server = server(Reply::events(pieces)).await;
    let error = error_in(stream_at(&server).await).await;
    assert!(matches!(error, ConnectorError::Connection(_)), "{error:?}");
}

#[tokio::test]
async fn an_end_that_nobody_announced_is_a_broken_connection() {
    for end in [End::Proper, End::Cut] {
        let reply = Reply::events([event(&chunk("Hello", None))]);
        let server = server(reply.then(end.clone())).await;
        let (parts, error) = collect(stream_at(&server).await.unwrap()).await;
        assert_eq!(text(&parts), "Hello", "{end:?}");
        assert!(
            matches!(error, Some(ConnectorError::Connection(_))),
            "{end:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn an_error_within_the_stream_ends_it() {
    let report = event(&json!({"error": {"message": format!("lost {KEY}"), "code": 502}}));
    let server = server(Reply::events([event(&chunk("Hello", None)), report])).await;
    let (parts, error) = collect(stream_at(&server).await.unwrap()).await;
    assert_eq!(text(&parts), "Hello");
    let (status, message) = (502, "lost [key]".to_owned());
    assert_eq!(error, Some(ConnectorError::Failed { status, message }));
}

#[tokio::test]
async fn a_refusal_comes_in_place_of_a_stream() {
    let server = server(Reply::json(
        404,
        &json!({"error": {"message": "no such model"}}),
    ))
    .await;
    let (status, message) = (404, "no such model".to_owned());
    let error = stream_at(&server).await.err();
    assert_eq!(error, Some(ConnectorError::Refused { status, message }));
}

#[tokio::test]
async fn what_is_no_event_stream_is_unusable() {
    let server = server(Reply::json(200, &json!({"choices": []}))).await;
    let error = stream_at(&server).await.err();
    assert!(
        matches!(error, Some(ConnectorError::Unusable(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_event_that_is_no_chunk_is_unusable() {
    for garbage in [
        "data: text\n\n",
        "data: {\"choices\": 1}\n\n",
        "data: \u{0}\n\n",
    ] {
        let server = server(Reply::events([garbage])).await;
        let error = error_in(stream_at(&server).await).await;
        assert!(matches!(error, ConnectorError::Unusable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn more_choices_or_tool_calls_than_are_taken_are_unusable() {
    let mut choice = chunk("Hi", None);
    choice["choices"][0]["index"] = 128.into();
    let call = |call: Value| json!({"choices": [{"delta": {"tool_calls": call}}]});
    let pieces = [
        choice,
        json!({"choices": vec![json!({}); 129]}),
        call(json!([{"index": 128}])),
        call(vec![json!({}); 129].into()),
        call(json!([{"id": "x".repeat(1025)}])),
    ];
    for piece in pieces {
        let server = server(Reply::events([event(&piece)])).await;
        let error = error_in(stream_at(&server).await).await;
        assert!(matches!(error, ConnectorError::Unusable(_)), "{error:?}");
    }
}

async fn bounded(reply: Reply) -> ConnectorError {
    let server = server(reply).await;
    let settings = ConnectorSettings {
        answer_bytes: 100_000,
        event_bytes: 10_000,
        ..Default::default()
    };
    let connectors = Connectors::new(settings).unwrap();
    let endpoint = endpoint(&server.url());
    error_in(connectors.stream(&endpoint, &request("hi"), LIMIT).await).await
}

#[tokio::test]
async fn an_endless_line_is_given_up_at_the_bound_of_an_event() {
    let reply = Reply::events(["data: "]).then(End::Endless("x".repeat(500).into()));
    let why = "an event of it has more than 10000 bytes".to_owned();
    assert_eq!(bounded(reply).await, ConnectorError::Unusable(why));
}

#[tokio::test]
async fn an_endless_answer_is_given_up_at_the_bound_of_an_answer() {
    for piece in [event(&chunk("x", None)), ": ping\n\n".to_owned()] {
        let reply = Reply::events([""; 0]).then(End::Endless(piece.into()));
        assert_eq!(bounded(reply).await, ConnectorError::TooLarge(100_000));
    }
}

#[tokio::test]
async fn a_stream_that_does_not_begin_is_given_up() {
    let mut server = server(Reply::Silence).await;
    let (endpoint, request, connectors) = (endpoint(&server.url()), request("hi"), connectors());
    let mut call = Box::pin(connectors.stream(&endpoint, &request, LIMIT));
    tokio::select! {
        _ = &mut call => panic!("an answer came"),
        _ = server.request() => tokio::time::pause(),
    }
    let first_byte = ConnectorSettings::default().first_byte_timeout;
    let error = call.await.err();
    assert_eq!(error, Some(ConnectorError::TimedOut(first_byte)));
}

#[tokio::test]
async fn a_stream_that_stops_midway_is_given_up() {
    let reply = Reply::events([event(&chunk("Hello", None))]);
    let server = server(reply.then(End::Stall)).await;
    let mut parts = stream_at(&server).await.unwrap();
    parts.next().await.unwrap().unwrap();
    tokio::time::pause();
    let error = parts.next().await.unwrap().unwrap_err();
    assert_eq!(error, ConnectorError::TimedOut(IDLE));
    assert!(parts.next().await.is_none());
}

#[tokio::test]
async fn a_stream_is_given_up_at_the_limit_even_if_pieces_come() {
    let reply = Reply::events([event(&chunk("Hello", None))]);
    let server = server(reply.then(End::Stall)).await;
    let connectors = connectors();
    let (endpoint, limit) = (endpoint(&server.url()), IDLE / 2);
    let parts = connectors.stream(&endpoint, &request("hi"), limit).await;
    let mut parts = parts.unwrap();
    parts.next().await.unwrap().unwrap();
    tokio::time::pause();
    let error = parts.next().await.unwrap().unwrap_err();
    assert_eq!(error, ConnectorError::TimedOut(limit));
}
