use http::header::RETRY_AFTER;
use serde_json::json;

use super::*;
use crate::connectors::test_server::End;

fn attempts(max_attempts: u32) -> RouteRequestRequest {
    routed(RoutingRequest {
        max_attempts,
        ..Default::default()
    })
}

fn limiting(seconds: &'static str) -> Reply {
    Reply::json(429, &json!({})).header(RETRY_AFTER, seconds)
}

#[tokio::test]
async fn when_a_model_fails_the_next_answers_and_the_answer_says_so() {
    let server = failing(503).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    let metadata = fixture.metadata(request()).await;
    assert_eq!(metadata.selected_model_id, "b");
    assert_eq!(metadata.attempts, 2);
    assert!(metadata.is_fallback);
    let criteria = "round robin: its turn among 1; 1 failed before";
    assert_eq!(metadata.selection_criteria, criteria);
    let failures = &metadata.additional_metadata["failures"];
    assert_eq!(failures, "a: status 503");
}

#[tokio::test]
async fn a_request_that_the_endpoint_refuses_is_not_tried_elsewhere() {
    let server = failing(400).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    let status = fixture.refusal(request()).await;
    assert_eq!(faulty_fields(&status), ["request"]);
    assert!(status.message().contains("as the test wants"), "{status:?}");
    assert_eq!(error_info(&status, "REQUEST_REFUSED")["model_ids"], "a");
}

#[tokio::test]
async fn a_refused_key_is_the_models_own_trouble() {
    let server = failing(401).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    assert_eq!(fixture.pick(request()).await, "b");
}

#[tokio::test]
async fn an_endpoint_that_limits_calls_is_left_alone_by_everyone_for_as_long_as_it_says() {
    let mut server = always(limiting("100")).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    assert_eq!(fixture.pick(request()).await, "b");
    server.request().await;

    let metadata = fixture.metadata(request()).await;
    assert_eq!(metadata.selected_model_id, "b");
    assert_eq!(metadata.attempts, 1);
    assert_eq!(metadata.additional_metadata["left_out.endpoint_limit"], "1");
}

#[tokio::test]
async fn when_all_limit_calls_the_caller_learns_when_to_come_back() {
    let (short, long) = (always(limiting("7")).await, always(limiting("100")).await);
    let models = [remote("a", &long.url()), remote("b", &short.url())];
    let mut fixture = Fixture::new(models).await;
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(retry_delay(&status), Duration::from_secs(7));
    error_info(&status, "ALL_MODELS_FAILED");

    // Now nobody needs to be asked.
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let left_out = error_info(&status, "NO_MODEL");
    assert_eq!(left_out["left_out.endpoint_limit"], "2");
    let delay = retry_delay(&status);
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(7));
}

#[tokio::test]
async fn when_all_fail_the_status_names_the_models_and_how_each_failed() {
    let (broken, garbage) = (
        failing(500).await,
        always(Reply::new(200, "text/plain", ["?"])).await,
    );
    let models = [remote("a", &broken.url()), remote("b", &garbage.url())];
    let mut fixture = Fixture::new(models).await;
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::Unavailable);
    let info = error_info(&status, "ALL_MODELS_FAILED");
    let expected = [
        ("attempts", "2"),
        ("model_ids", "a, b"),
        ("failures", "a: status 500, b: unusable answer"),
    ];
    assert_eq!(info, pairs(&expected));
    // What the endpoints said is for the log.
    assert!(!format!("{status:?}").contains("as the test wants"));
}

#[tokio::test]
async fn a_model_that_cannot_be_reached_is_reported_and_one_that_answers_is_not() {
    let server = failing(500).await;
    let gone = failing(500).await;
    let url = gone.url();
    gone.stop().await;
    let models = [remote("a", &url), remote("b", &server.url()), local("c")];
    let mut fixture = Fixture::new(models).await;
    assert_eq!(fixture.pick(request()).await, "c");
    assert_eq!(*fixture.models.unreachable.lock().unwrap(), ["a"]);
}

#[tokio::test]
async fn no_more_models_are_tried_than_the_request_or_the_strategy_allows() {
    let server = failing(500).await;
    let models = ["a", "b", "c", "d", "e"].map(|id| remote(id, &server.url()));
    let mut fixture = Fixture::new(models).await;
    let mut tried = async |request| {
        let status = fixture.refusal(request).await;
        error_info(&status, "ALL_MODELS_FAILED")["attempts"].clone()
    };
    assert_eq!(tried(attempts(1)).await, "1");
    assert_eq!(tried(attempts(4)).await, "4");
    // Unless told otherwise a strategy allows two more.
    assert_eq!(tried(attempts(0)).await, "3");
    // Each at most once.
    assert_eq!(tried(attempts(10)).await, "5");
}

#[tokio::test]
async fn a_failing_model_is_called_again_as_often_as_its_connector_says_before_the_next() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let server = TestServer::start(move |request| {
        match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 | 1 => Reply::json(503, &json!({})),
            _ => Reply::words(request, &["late"]),
        }
    })
    .await;
    let with_retries = |max_retries| {
        let mut model = remote("a", &server.url());
        model.connector_config.as_mut().unwrap().max_retries = max_retries;
        model
    };
    let mut fixture = Fixture::new([with_retries(2), local("b")]).await;
    let metadata = fixture.metadata(request()).await;
    assert_eq!(metadata.selected_model_id, "a");
    assert_eq!(metadata.attempts, 1);
    assert!(!metadata.is_fallback);
    assert_eq!(metadata.additional_metadata["retries"], "2");
}

#[tokio::test]
async fn nobody_calls_one_model_more_than_four_times_for_a_request() {
    let mut server = failing(500).await;
    let mut model = remote("a", &server.url());
    model.connector_config.as_mut().unwrap().max_retries = 100;
    let mut fixture = Fixture::new([model, local("b")]).await;
    let metadata = fixture.metadata(request()).await;
    assert_eq!(metadata.selected_model_id, "b");
    assert_eq!(metadata.additional_metadata["retries"], "3");
    for _ in 0..4 {
        server.request().await;
    }
}

#[tokio::test]
async fn after_the_first_failure_the_fallback_strategy_picks_among_all() {
    let server = failing(500).await;
    let coder = ModelMetadata {
        tags: vec!["coding".to_owned()],
        ..remote("coder", &server.url())
    };
    let dear = ModelMetadata {
        cost_per_1k_output: 9.0,
        ..local("a-dear")
    };
    let mut fixture = Fixture::new([coder, dear, local("z-free")]).await;
    let rules = pairs(&[("rule.1", "hello => coding")]);
    let config = |fallback: RoutingStrategy| StrategyConfig {
        parameters: rules.clone(),
        fallback_strategy: fallback.into(),
        max_fallback_attempts: 2,
        ..Default::default()
    };
    let content = RoutingStrategy::ContentBased;
    let cheapest = Some(config(RoutingStrategy::CostOptimized));
    fixture.update(content, true, cheapest).await.unwrap();
    let metadata = fixture.metadata(by(content)).await;
    assert_eq!(metadata.selected_model_id, "z-free");
    assert_eq!(metadata.strategy_name, "content_based");
    let criteria = &metadata.selection_criteria;
    assert!(criteria.starts_with("cost optimized"), "{criteria}");

    // Without one the strategy itself goes on, and it wants no other.
    let alone = Some(config(RoutingStrategy::Unspecified));
    fixture.update(content, true, alone).await.unwrap();
    let status = fixture.refusal(by(content)).await;
    assert_eq!(error_info(&status, "ALL_MODELS_FAILED")["attempts"], "1");
}

#[tokio::test]
async fn where_the_strategy_wants_no_model_the_fallback_strategy_picks() {
    let mut fixture = Fixture::new([local("a")]).await;
    let config = StrategyConfig {
        parameters: pairs(&[("rule.1", "hello => missing")]),
        fallback_strategy: RoutingStrategy::RoundRobin.into(),
        ..Default::default()
    };
    let content = RoutingStrategy::ContentBased;
    fixture.update(content, true, Some(config)).await.unwrap();
    let metadata = fixture.metadata(by(content)).await;
    assert_eq!(metadata.selected_model_id, "a");
    assert!(!metadata.is_fallback, "no model failed");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    let server = always(Reply::new(200, "application/json", ["{\"id\""]).then(End::Cut)).await;
    let mut fixture = Fixture::new([remote("a", &server.url()), local("b")]).await;
    let metadata = fixture.metadata(request()).await;
    assert_eq!(metadata.selected_model_id, "b");
}
