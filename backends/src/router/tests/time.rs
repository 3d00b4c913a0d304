use super::*;
use crate::connectors::test_server::{End, chunk, event};

fn within(timeout_ms: u32) -> RouteRequestRequest {
    routed(RoutingRequest {
        timeout_ms,
        ..Default::default()
    })
}

/// An answer that begins and then stalls.
async fn stalling() -> TestServer {
    let begin = event(&chunk("one ", None));
    always(Reply::events([begin]).then(End::Stall)).await
}

#[tokio::test]
async fn a_request_ends_when_its_time_is_over_and_so_does_the_call_to_the_model() {
    let mut server = always(Reply::Silence).await;
    let models = [remote("a", &server.url()), local("b")];
    let mut fixture = Fixture::new(models).await;
    let status = fixture.refusal(within(300)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("300 ms"), "{status:?}");
    assert_eq!(error_info(&status, "DEADLINE")["model_ids"], "a");
    promptly(server.request()).await;
    promptly(server.all_closed()).await;
}

#[tokio::test]
async fn a_model_that_takes_longer_than_its_own_time_gives_way_to_the_next() {
    let server = always(Reply::Silence).await;
    let mut silent = remote("a", &server.url());
    silent.connector_config.as_mut().unwrap().timeout_ms = 50;
    let mut fixture = Fixture::new([silent.clone(), local("b")]).await;
    let metadata = fixture.metadata(request()).await;
    assert_eq!(metadata.selected_model_id, "b");
    let failures = &metadata.additional_metadata["failures"];
    assert_eq!(failures, "a: no answer in time");

    let mut alone = Fixture::new([silent]).await;
    let status = alone.refusal(request()).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    error_info(&status, "ALL_MODELS_FAILED");
}

#[tokio::test]
async fn the_time_is_that_of_the_request_else_of_the_strategy_else_of_the_settings() {
    let server = always(Reply::Silence).await;
    let settings = RouterSettings {
        default_timeout: Duration::from_millis(30),
        ..Default::default()
    };
    let mut fixture = Fixture::with([remote("m", &server.url())], settings).await;
    let mut told = async |request, ms: &str| {
        let status = fixture.refusal(request).await;
        assert_eq!(status.message(), format!("no answer within {ms} ms"));
    };
    told(within(0), "30").await;
    let config = StrategyConfig {
        timeout_ms: 40,
        ..Default::default()
    };
    let kind = RoutingStrategy::RoundRobin;
    fixture.update(kind, true, Some(config)).await.unwrap();
    let mut told = async |request, ms: &str| {
        let status = fixture.refusal(request).await;
        assert_eq!(status.message(), format!("no answer within {ms} ms"));
    };
    told(within(0), "40").await;
    told(within(50), "50").await;
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_call_to_the_model() {
    let mut server = always(Reply::Silence).await;
    let fixture = Fixture::new([remote("m", &server.url())]).await;
    let mut client = fixture.client.clone();
    let call = tokio::spawn(async move { client.route_request(request()).await });
    promptly(server.request()).await;
    call.abort();
    promptly(server.all_closed()).await;
}

#[tokio::test]
async fn the_callers_own_deadline_ends_the_call_to_the_model() {
    let mut server = always(Reply::Silence).await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let mut request = tonic::Request::new(request());
    request.set_timeout(Duration::from_millis(300));
    fixture.client.route_request(request).await.unwrap_err();
    promptly(server.request()).await;
    promptly(server.all_closed()).await;
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_answer_at_the_model() {
    let mut server = stalling().await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let stream = fixture.client.stream_route_request(request()).await;
    let mut stream = stream.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    promptly(server.all_closed()).await;
}

#[tokio::test]
async fn a_stream_ends_when_the_time_is_over_though_it_has_begun() {
    let mut server = stalling().await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let (messages, end) = fixture.stream(within(500)).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(end.unwrap_err().code(), Code::DeadlineExceeded);
    promptly(server.all_closed()).await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_in_time_and_gives_its_place_back() {
    let piece = event(&chunk(&"x".repeat(16 * 1024), None));
    let reply = Reply::events([piece.clone()]).then(End::Endless(piece.into()));
    let mut server = always(reply).await;
    let settings = RouterSettings {
        max_calls: 1,
        ..Default::default()
    };
    let mut fixture = Fixture::with([remote("m", &server.url())], settings).await;
    let unread = fixture.client.stream_route_request(within(500)).await;
    // The connection to the model is closed though the stream is still held here.
    promptly(server.all_closed()).await;
    let (messages, _) = fixture.stream(within(500)).await;
    assert!(!messages.is_empty());
    drop(unread);
}
