use super::*;
use crate::connectors::test_server::{End, chunk, event};

/// A piece of an answer, as the endpoint sends it.
fn word(word: &str) -> String {
    event(&chunk(word, None))
}

fn content(message: &RouteRequestStreamResponse) -> &str {
    let chunk = message.chunk.as_ref().unwrap();
    let delta = chunk.choices.first().and_then(|c| c.delta.as_ref());
    delta.map_or("", |delta| delta.content.as_str())
}

#[tokio::test]
async fn a_stream_brings_the_pieces_in_order_with_metadata_first_and_tokens_last() {
    let server = talking().await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let (messages, end) = fixture.stream(request()).await;
    end.unwrap();

    let (last, pieces) = messages.split_last().unwrap();
    let texts: Vec<_> = pieces.iter().map(content).collect();
    assert_eq!(texts.concat(), "one two three");
    for piece in pieces {
        assert_eq!(piece.status(), common::Status::InProgress);
        assert!(!piece.done);
    }
    let first = pieces[0].routing_metadata.as_ref().unwrap();
    assert_eq!(first.selected_model_id, "m");
    assert!(pieces[1..].iter().all(|p| p.routing_metadata.is_none()));

    assert!(last.done);
    assert_eq!(last.status(), common::Status::Success);
    assert_eq!(last.chunk, None);
    let mut told = last.routing_metadata.clone().unwrap();
    let tokens = ["prompt_tokens", "completion_tokens", "total_tokens"]
        .map(|key| told.additional_metadata.remove(key).unwrap());
    assert_eq!(tokens, ["7", "3", "10"]);
    assert_eq!(&told, first);
}

#[tokio::test]
async fn the_built_in_model_streams_too() {
    let mut fixture = Fixture::new([local("m")]).await;
    let (messages, end) = fixture.stream(request()).await;
    end.unwrap();
    let (last, pieces) = messages.split_last().unwrap();
    let texts: Vec<_> = pieces.iter().map(content).collect();
    assert!(texts.concat().trim_end().ends_with("hello"), "{texts:?}");
    assert!(last.done);
}

#[tokio::test]
async fn each_piece_comes_when_the_model_gives_it() {
    let reply = Reply::events([word("one "), word("two ")]).then(End::Stall);
    let server = always(reply).await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let stream = fixture.client.stream_route_request(request()).await;
    let mut stream = stream.unwrap().into_inner();
    // The model is silent from then on, and both are here.
    for expected in ["one ", "two "] {
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(content(&message), expected);
    }
}

#[tokio::test]
async fn a_failure_before_the_first_piece_leads_to_another_model() {
    for reply in [
        Reply::json(500, &serde_json::json!({})),
        Reply::events([": nothing yet\n\n"]).then(End::Cut),
        Reply::events(["data: [DONE]\n\n"]),
        Reply::events(["data: garbage\n\n"]),
    ] {
        let server = always(reply.clone()).await;
        let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
        let (messages, end) = fixture.stream(request()).await;
        end.unwrap();
        let metadata = messages[0].routing_metadata.as_ref().unwrap();
        assert_eq!(metadata.selected_model_id, "b", "{reply:?}");
        assert!(metadata.is_fallback);
        assert_eq!(metadata.attempts, 2);
    }
}

#[tokio::test]
async fn a_cut_after_the_first_piece_is_a_failed_stream_and_never_another_model() {
    let reply = Reply::events([word("one "), word("two ")]).then(End::Cut);
    let server = always(reply).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    let (messages, end) = fixture.stream(request()).await;
    let texts: Vec<_> = messages.iter().map(content).collect();
    assert_eq!(texts, ["one ", "two "]);
    assert!(messages.iter().all(|message| !message.done));
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let info = error_info(&status, "ANSWER_CUT");
    assert_eq!(info["failures"], "a: connection failed");
    assert_eq!(*fixture.models.unreachable.lock().unwrap(), ["a"]);
}

#[tokio::test]
async fn an_answer_that_ends_without_its_last_word_is_cut() {
    let server = always(Reply::events([word("one ")])).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    let (messages, end) = fixture.stream(request()).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_request_that_cannot_be_served_fails_before_the_first_message() {
    let mut fixture = Fixture::new([]).await;
    let status = fixture
        .client
        .stream_route_request(request())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("none is registered"));
}

#[tokio::test]
async fn a_model_that_says_it_cannot_stream_is_not_picked_for_a_stream() {
    let whole = ModelMetadata {
        capabilities: Some(pb::ModelCapabilities {
            seed: true,
            ..Default::default()
        }),
        ..local("whole")
    };
    let mut fixture = Fixture::new([whole]).await;
    let (_, end) = fixture.stream(request()).await;
    let left_out = error_info(&end.unwrap_err(), "NO_MODEL");
    assert_eq!(left_out["left_out.capabilities"], "1");
    assert_eq!(fixture.pick(request()).await, "whole");
}

#[tokio::test]
async fn a_panic_behind_a_stream_is_a_failed_stream_and_the_router_lives_on() {
    let reply = Reply::events([word("one ")]).then(End::Cut);
    let server = always(reply).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    let panics = &fixture.models.panics_on_reports;
    panics.store(true, std::sync::atomic::Ordering::Relaxed);
    let (messages, end) = fixture.stream(request()).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(end.unwrap_err().code(), Code::Internal);
    assert_eq!(fixture.models.load("a").in_flight(), 0);
    assert_eq!(fixture.pick(request()).await, "b");
}
