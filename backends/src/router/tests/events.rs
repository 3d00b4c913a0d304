use intellirouter::events::{
    ChannelPattern, Entry, EventPayload, LogSubscription, ModelRoutingDecisionEvent,
    ModelUsageEvent,
};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;
use crate::connectors::test_server::{End, chunk, event};

const DECISIONS: &str = "intellirouter:router_core:model_registry:model_routing_decision";
const USAGES: &str = "intellirouter:router_core:model_registry:model_usage";

/// What the router sends.
struct Seen {
    subscription: LogSubscription,
    waiting: Vec<Entry>,
}

impl Seen {
    async fn by(fixture: &Fixture) -> Self {
        let patterns = [DECISIONS, USAGES].map(|channel| ChannelPattern::parse(channel).unwrap());
        let subscription = fixture.log.subscribe(patterns.into(), None).await;
        Self {
            subscription: subscription.unwrap(),
            waiting: Vec::new(),
        }
    }

    /// The next event, which is of this channel.
    async fn next<E: EventPayload>(&mut self, channel: &str) -> E {
        while self.waiting.is_empty() {
            self.subscription.next_batch(&mut self.waiting).await;
        }
        let Entry::Event(event) = self.waiting.remove(0) else {
            panic!("a gap");
        };
        assert_eq!(event.channel().to_string(), channel);
        E::deserialize(str::from_utf8(event.payload()).unwrap()).unwrap()
    }

    async fn decision(&mut self) -> ModelRoutingDecisionEvent {
        self.next(DECISIONS).await
    }

    async fn usage(&mut self) -> ModelUsageEvent {
        self.next(USAGES).await
    }
}

fn named(id: &str) -> RouteRequestRequest {
    RouteRequestRequest {
        context: Some(common::RequestContext {
            request_id: id.to_owned(),
            ..Default::default()
        }),
        ..request()
    }
}

#[tokio::test]
async fn the_model_that_answers_is_told_of_once_with_what_it_used() {
    let (broken, server) = (failing(500).await, talking().await);
    let models = [remote("a", &broken.url()), remote("b", &server.url())];
    let mut fixture = Fixture::new(models).await;
    let mut events = Seen::by(&fixture).await;
    for streamed in [false, true] {
        match streamed {
            false => fixture.route(named("r")).await.map(|_| ()).unwrap(),
            true => fixture.stream(named("r")).await.1.unwrap(),
        }
        let decision = events.decision().await;
        assert_eq!(decision.request_id, "r");
        assert_eq!(decision.selected_model_id, "b");
        assert_eq!(decision.strategy_name, "round_robin");
        let usage = events.usage().await;
        assert_eq!((usage.input_tokens, usage.output_tokens), (7, 3));
        assert_eq!(
            (usage.model_id.as_str(), usage.request_id.as_str()),
            ("b", "r")
        );
        assert!(usage.latency_ms > 0.0);
    }
}

#[tokio::test]
async fn a_request_without_an_id_gets_one_that_events_and_answer_share() {
    let mut fixture = Fixture::new([local("m")]).await;
    let mut events = Seen::by(&fixture).await;
    let metadata = fixture.metadata(request()).await;
    let id = &metadata.additional_metadata["request_id"];
    uuid::Uuid::parse_str(id).unwrap();
    assert_eq!(&events.decision().await.request_id, id);
}

#[tokio::test]
async fn an_answer_that_broke_off_was_decided_on_but_is_no_usage() {
    let begin = event(&chunk("one ", None));
    let server = always(Reply::events([begin]).then(End::Cut)).await;
    let mut fixture = Fixture::new([remote("a", &server.url())]).await;
    let mut events = Seen::by(&fixture).await;
    fixture.stream(named("cut")).await.1.unwrap_err();
    fixture.refusal(RouteRequestRequest::default()).await;
    assert_eq!(events.decision().await.request_id, "cut");
    fixture.models.candidates.lock().unwrap()[0].model = Arc::new(local("a"));
    fixture.route(named("next")).await.unwrap();
    // Nothing came in between.
    assert_eq!(events.decision().await.request_id, "next");
    assert_eq!(events.usage().await.request_id, "next");
    fixture.events.flush(Duration::from_secs(5)).await;
    assert_eq!(fixture.events.dropped(), 0);
}

#[tokio::test]
async fn operators_see_calls_by_strategy_and_outcome_fallbacks_and_tokens() {
    let (broken, server) = (failing(500).await, talking().await);
    let models = [remote("a", &broken.url()), remote("b", &server.url())];
    let mut fixture = Fixture::new(models).await;
    fixture.route(request()).await.unwrap();
    fixture.stream(request()).await.1.unwrap();
    let limited = routed(RoutingRequest {
        strategy: RoutingStrategy::CostOptimized.into(),
        max_attempts: 1,
        ..Default::default()
    });
    fixture.refusal(limited).await;

    let mut registry = Registry::with_prefix("intellirouter");
    fixture.router.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        r#"intellirouter_router_calls_total{strategy="round_robin",outcome="ok"} 2"#,
        r#"intellirouter_router_calls_total{strategy="cost_optimized",outcome="all_failed"} 1"#,
        r#"intellirouter_router_fallbacks_total{strategy="round_robin"} 2"#,
        r#"intellirouter_router_failed_attempts_total 3"#,
        r#"intellirouter_router_tokens_total{direction="input"} 14"#,
        r#"intellirouter_router_tokens_total{direction="output"} 6"#,
        r#"intellirouter_router_call_seconds_count{strategy="round_robin"} 2"#,
        r#"intellirouter_router_open_calls 0"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_call_that_its_caller_gave_up_is_counted_as_cancelled() {
    let mut server = always(Reply::Silence).await;
    let fixture = Fixture::new([remote("m", &server.url())]).await;
    let mut registry = Registry::default();
    fixture.router.register(&mut registry);
    let mut client = fixture.client.clone();
    let call = tokio::spawn(async move { client.route_request(request()).await });
    promptly(server.request()).await;
    call.abort();
    promptly(server.all_closed()).await;
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let line = r#"router_calls_total{strategy="round_robin",outcome="cancelled"} 1"#;
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn calls_that_are_refused_are_counted_with_their_outcome() {
    let mut server = always(Reply::Silence).await;
    let settings = RouterSettings {
        max_calls: 1,
        ..Default::default()
    };
    let mut fixture = Fixture::with([remote("m", &server.url())], settings).await;
    let mut registry = Registry::default();
    fixture.router.register(&mut registry);
    fixture.refusal(RouteRequestRequest::default()).await;
    fixture
        .refusal(with_parameters(
            RoutingStrategy::Custom,
            &[("weights", "?")],
        ))
        .await;
    fixture
        .refusal(routed(RoutingRequest {
            preferred_model_id: "elsewhere".to_owned(),
            ..Default::default()
        }))
        .await;
    let mut client = fixture.client.clone();
    let call = tokio::spawn(async move { client.route_request(request()).await });
    promptly(server.request()).await;
    fixture.refusal(by(RoutingStrategy::CostOptimized)).await;
    fixture.stream(request()).await.1.unwrap_err();
    call.abort();
    promptly(server.all_closed()).await;

    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        r#"router_calls_total{strategy="unspecified",outcome="malformed"} 1"#,
        r#"router_calls_total{strategy="custom",outcome="malformed"} 1"#,
        r#"router_calls_total{strategy="unspecified",outcome="no_model"} 1"#,
        r#"router_calls_total{strategy="cost_optimized",outcome="too_many_calls"} 1"#,
        r#"router_calls_total{strategy="unspecified",outcome="too_many_calls"} 1"#,
        "router_open_calls 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
