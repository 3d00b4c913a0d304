use pb::ModelFilter;

use super::*;
use crate::connectors::test_server::{End, chunk, event};

fn preferring(id: &str) -> RouteRequestRequest {
    routed(RoutingRequest {
        preferred_model_id: id.to_owned(),
        ..Default::default()
    })
}

fn tags(tags: &[&str]) -> RouteRequestRequest {
    routed(RoutingRequest {
        model_filter: Some(ModelFilter {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

async fn picks(fixture: &mut Fixture, request: &RouteRequestRequest, count: usize) -> Vec<String> {
    let mut picks = Vec::new();
    for _ in 0..count {
        picks.push(fixture.pick(request.clone()).await);
    }
    picks
}

#[tokio::test]
async fn the_model_gets_the_chat_and_the_caller_gets_its_answer() {
    let mut fixture = Fixture::new([local("m")]).await;
    let answer = fixture.route(request()).await.unwrap();
    assert_eq!(answer.status(), common::Status::Success);
    assert_eq!(answer.error, None);
    assert!(text(&answer).ends_with("hello"), "{}", text(&answer));
    assert!(answer.response.unwrap().usage.unwrap().total_tokens > 0);
}

#[tokio::test]
async fn without_a_strategy_each_model_has_its_turn_in_the_order_of_ids() {
    let mut fixture = Fixture::new(["b", "c", "a"].map(local)).await;
    let picks = picks(&mut fixture, &request(), 6).await;
    assert_eq!(picks, ["a", "b", "c", "a", "b", "c"]);
}

#[tokio::test]
async fn turns_are_fair_between_requests_with_different_filters() {
    let models = [
        tagged("a", &["x"]),
        tagged("b", &["x"]),
        tagged("c", &["y"]),
    ];
    let mut fixture = Fixture::new(models).await;
    let mut picked = Vec::new();
    for _ in 0..4 {
        picked.push(fixture.pick(tags(&["x"])).await);
        fixture.pick(tags(&["y"])).await;
    }
    assert_eq!(picked, ["a", "b", "a", "b"]);
}

#[tokio::test]
async fn requests_at_once_never_take_the_same_turn() {
    let models: Vec<_> = (0..20).map(|n| local(&format!("m-{n:02}"))).collect();
    let fixture = Fixture::new(models).await;
    let calls = (0..20).map(|_| {
        let mut client = fixture.client.clone();
        async move {
            let answer = client.route_request(request()).await.unwrap().into_inner();
            answer.routing_metadata.unwrap().selected_model_id
        }
    });
    let mut picked = futures_util::future::join_all(calls).await;
    picked.sort();
    picked.dedup();
    assert_eq!(picked.len(), 20);
}

#[tokio::test]
async fn load_balanced_takes_the_model_with_the_fewest_calls_in_progress() {
    let mut fixture = Fixture::new(["a", "b", "c"].map(local)).await;
    let balanced = by(RoutingStrategy::LoadBalanced);
    let busy = ["a", "a", "b", "c", "c"].map(|id| fixture.models.load(id).begin());
    let metadata = fixture.metadata(balanced.clone()).await;
    assert_eq!(metadata.selected_model_id, "b");
    let criteria = "load balanced: 1 calls in progress, the fewest of 3";
    assert_eq!(metadata.selection_criteria, criteria);
    drop(busy);
    let picks = picks(&mut fixture, &balanced, 3).await;
    assert_eq!(picks, ["a", "c", "b"]);
}

#[tokio::test]
async fn a_call_counts_as_in_progress_until_it_ends() {
    let mut server = always(Reply::Silence).await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let load = fixture.models.load("m");
    let mut client = fixture.client.clone();
    let call = tokio::spawn(async move { client.route_request(request()).await });
    promptly(server.request()).await;
    assert_eq!(load.in_flight(), 1);
    call.abort();
    promptly(server.all_closed()).await;
    assert_eq!(load.in_flight(), 0);

    server.stop().await;
    fixture.refusal(request()).await;
    assert_eq!(load.in_flight(), 0);
}

#[tokio::test]
async fn a_stream_counts_as_in_progress_until_it_ends() {
    let begin = Reply::events([event(&chunk("one ", None))]);
    let mut server = always(begin.then(End::Stall)).await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    let load = fixture.models.load("m");
    let stream = fixture.client.stream_route_request(request()).await;
    let mut stream = stream.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    assert_eq!(load.in_flight(), 1);
    drop(stream);
    promptly(server.all_closed()).await;
    assert_eq!(load.in_flight(), 0);
}

#[tokio::test]
async fn content_based_takes_a_model_with_the_tag_that_the_last_user_message_asks_for() {
    let models = [tagged("plain", &["general"]), tagged("coder", &["coding"])];
    let mut fixture = Fixture::new(models).await;
    let rules = [
        ("rule.1", r"(?i)\bcode\b => coding"),
        ("default_tag", "general"),
    ];
    let asking = |texts: &[&str]| {
        let mut request = with_parameters(RoutingStrategy::ContentBased, &rules);
        let chat = request.request.as_mut().unwrap();
        chat.messages = texts.iter().map(|text| chat_message(text)).collect();
        request
    };
    assert_eq!(fixture.pick(asking(&["Some Code, please"])).await, "coder");
    assert_eq!(fixture.pick(asking(&["code", "a poem"])).await, "plain");

    let metadata = fixture.metadata(asking(&["code"])).await;
    let criteria = "content based: rule.1 asks for the tag coding";
    assert_eq!(metadata.selection_criteria, criteria);
}

fn chat_message(text: &str) -> common::Message {
    chat(text).messages.remove(0)
}

#[tokio::test]
async fn content_based_finds_no_model_if_none_has_the_tag() {
    let mut fixture = Fixture::new([local("a"), local("b")]).await;
    let rule = [("rule.1", "hello => missing")];
    let status = fixture
        .refusal(with_parameters(RoutingStrategy::ContentBased, &rule))
        .await;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let left_out = error_info(&status, "NO_MODEL");
    assert_eq!(left_out, pairs(&[("left_out.strategy", "2")]));
}

#[tokio::test]
async fn cost_optimized_takes_the_model_that_is_cheapest_for_this_request() {
    let priced = |id, input, output| ModelMetadata {
        cost_per_1k_input: input,
        cost_per_1k_output: output,
        ..local(id)
    };
    let models = [priced("cheap-in", 0.1, 9.0), priced("cheap-out", 5.0, 0.1)];
    let mut fixture = Fixture::new(models).await;
    let mut long_answer = by(RoutingStrategy::CostOptimized);
    long_answer.request.as_mut().unwrap().max_tokens = 1000;
    assert_eq!(fixture.pick(long_answer).await, "cheap-out");

    let mut long_prompt = by(RoutingStrategy::CostOptimized);
    let chat_request = long_prompt.request.as_mut().unwrap();
    *chat_request = chat(&"word ".repeat(2000));
    chat_request.max_tokens = 1;
    assert_eq!(fixture.pick(long_prompt).await, "cheap-in");
}

#[tokio::test]
async fn latency_optimized_measures_each_model_once_and_then_takes_the_fastest() {
    let measured = |id, avg_latency_ms| ModelMetadata {
        avg_latency_ms,
        ..local(id)
    };
    let models = [
        measured("fast", 2_000.0),
        local("new"),
        measured("slow", 90_000.0),
    ];
    let mut fixture = Fixture::new(models).await;
    let fastest = by(RoutingStrategy::LatencyOptimized);
    assert_eq!(fixture.pick(fastest.clone()).await, "new");
    let load = fixture.models.load("new");
    assert!(load.latency_ms().is_some_and(|ms| ms < 2_000.0));
    // Now it is the fastest; were it slower, it would not be.
    assert_eq!(fixture.pick(fastest.clone()).await, "new");
    load.set_latency(50_000.0);
    assert_eq!(fixture.pick(fastest).await, "fast");
}

#[tokio::test]
async fn custom_draws_by_weight_and_only_among_those_with_one() {
    let mut fixture = Fixture::new(["a", "b", "c"].map(local)).await;
    let weights = [("weights", "b=3, c=1")];
    let metadata = fixture
        .metadata(with_parameters(RoutingStrategy::Custom, &weights))
        .await;
    // The dice of the tests always show the lowest number.
    assert_eq!(metadata.selected_model_id, "b");
    let criteria = "custom: drawn with weight 3 of 4";
    assert_eq!(metadata.selection_criteria, criteria);
}

#[tokio::test]
async fn the_preferred_model_is_taken_by_either_field_and_the_routing_field_wins() {
    let mut fixture = Fixture::new(["a", "b", "c"].map(local)).await;
    let metadata = fixture.metadata(preferring("c")).await;
    assert_eq!(metadata.selected_model_id, "c");
    assert!(!metadata.is_fallback);

    let mut named = request();
    named.request.as_mut().unwrap().model = "b".to_owned();
    assert_eq!(fixture.pick(named.clone()).await, "b");
    named.routing.as_mut().unwrap().preferred_model_id = "c".to_owned();
    assert_eq!(fixture.pick(named).await, "c");
}

#[tokio::test]
async fn a_preferred_model_that_is_out_leads_to_another_and_the_answer_says_so() {
    let out = ModelMetadata {
        status: ModelStatus::Unavailable.into(),
        ..local("b")
    };
    let mut fixture = Fixture::new([local("a"), out]).await;
    let metadata = fixture.metadata(preferring("b")).await;
    assert_eq!(metadata.selected_model_id, "a");
    assert!(metadata.is_fallback);
    let additional = &metadata.additional_metadata;
    assert_eq!(additional["preferred_model_left_out"], "status");
    assert_eq!(additional["left_out.status"], "1");
}

#[tokio::test]
async fn a_preferred_model_that_is_not_registered_is_not_found() {
    let mut fixture = Fixture::new([local("a")]).await;
    let status = fixture.refusal(preferring("nobody")).await;
    assert_eq!(status.code(), Code::NotFound);
    let details = status.get_error_details();
    assert_eq!(details.resource_info().unwrap().resource_name, "nobody");
}

#[tokio::test]
async fn a_deprecated_model_answers_only_those_who_ask_for_it() {
    let old = ModelMetadata {
        status: ModelStatus::Deprecated.into(),
        ..local("old")
    };
    let mut fixture = Fixture::new([old]).await;
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(fixture.pick(preferring("old")).await, "old");
}

#[tokio::test]
async fn excluded_models_are_left_out() {
    let mut fixture = Fixture::new(["a", "b", "c"].map(local)).await;
    let without = routed(RoutingRequest {
        excluded_model_ids: vec!["a".to_owned(), "c".to_owned()],
        ..Default::default()
    });
    assert_eq!(picks(&mut fixture, &without, 2).await, ["b", "b"]);
}

#[tokio::test]
async fn the_filter_narrows_the_choice_by_the_live_latency_too() {
    let mut fixture = Fixture::new(["a", "b"].map(local)).await;
    fixture.models.load("a").set_latency(5_000.0);
    let fast = routed(RoutingRequest {
        model_filter: Some(ModelFilter {
            max_latency_ms: 4_000.0,
            ..Default::default()
        }),
        ..Default::default()
    });
    assert_eq!(picks(&mut fixture, &fast, 2).await, ["b", "b"]);
}

#[tokio::test]
async fn the_chat_may_stand_in_the_routing_context_instead() {
    let mut fixture = Fixture::new([local("m")]).await;
    let context = pb::RoutingContext {
        request: Some(chat("from the context")),
        ..Default::default()
    };
    let mut inner = routed(RoutingRequest {
        context: Some(context),
        ..Default::default()
    });
    inner.request = None;
    let answer = fixture.route(inner.clone()).await.unwrap();
    assert!(text(&answer).ends_with("from the context"));

    // The same in both places is one chat; two that differ are a fault.
    inner.request = Some(chat("from the context"));
    fixture.route(inner.clone()).await.unwrap();
    inner.request = Some(chat("another"));
    let status = fixture.refusal(inner).await;
    assert_eq!(faulty_fields(&status), ["routing.context.request"]);
}

#[tokio::test]
async fn the_answer_says_how_its_model_was_picked() {
    let models = [tagged("a", &["x"]), tagged("b", &["x"]), local("c")];
    let mut fixture = Fixture::new(models).await;
    let mut request = tags(&["x"]);
    request.routing.as_mut().unwrap().excluded_model_ids = vec!["a".to_owned()];
    request.context = Some(common::RequestContext {
        request_id: "r-1".to_owned(),
        ..Default::default()
    });
    let metadata = fixture.metadata(request).await;
    let (start, end) = (
        metadata.routing_start_time.unwrap(),
        metadata.routing_end_time.unwrap(),
    );
    assert!((start.seconds, start.nanos) <= (end.seconds, end.nanos));
    let expected = RoutingMetadata {
        selected_model_id: "b".to_owned(),
        strategy_name: "round_robin".to_owned(),
        routing_start_time: Some(start),
        routing_end_time: Some(end),
        routing_time_ms: metadata.routing_time_ms,
        // The filter lets two through; one of them is excluded.
        models_considered: 2,
        attempts: 1,
        is_fallback: false,
        selection_criteria: "round robin: its turn among 1".to_owned(),
        additional_metadata: pairs(&[
            ("request_id", "r-1"),
            ("left_out.filter", "1"),
            ("left_out.excluded", "1"),
        ]),
    };
    assert_eq!(metadata, expected);
}
