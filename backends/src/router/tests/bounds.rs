use intellirouter::security::Claims;
use pb::router_service_server::RouterService;
use tonic::Request;

use super::*;
use crate::connectors::test_server::{End, chunk, event};

fn per_minute(id: &str, max: u32) -> ModelMetadata {
    ModelMetadata {
        max_requests_per_minute: max,
        ..local(id)
    }
}

#[tokio::test]
async fn a_model_gets_no_more_calls_in_a_minute_than_it_allows() {
    let mut fixture = Fixture::new([per_minute("a", 1), per_minute("b", 2)]).await;
    let mut picked = Vec::new();
    for _ in 0..3 {
        picked.push(fixture.pick(request()).await);
    }
    assert_eq!(picked, ["a", "b", "b"]);
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let left_out = error_info(&status, "NO_MODEL");
    assert_eq!(left_out, pairs(&[("left_out.calls_per_minute", "2")]));
    assert!(retry_delay(&status) > Duration::ZERO);
}

#[tokio::test]
async fn calls_at_once_do_not_go_past_the_limit_per_minute() {
    let fixture = Fixture::new([per_minute("a", 5)]).await;
    let calls = (0..20).map(|_| {
        let mut client = fixture.client.clone();
        async move { client.route_request(request()).await.is_ok() }
    });
    let answered = futures_util::future::join_all(calls).await;
    assert_eq!(answered.iter().filter(|ok| **ok).count(), 5);
}

#[tokio::test]
async fn a_repeated_call_counts_as_a_call_of_the_minute() {
    let mut server = failing(503).await;
    let mut model = remote("a", &server.url());
    model.max_requests_per_minute = 2;
    model.connector_config.as_mut().unwrap().max_retries = 3;
    let mut fixture = Fixture::new([model, local("b")]).await;
    let metadata = fixture.metadata(request()).await;
    assert_eq!(metadata.selected_model_id, "b");
    assert_eq!(metadata.additional_metadata["retries"], "1");
    promptly(server.request()).await;
    promptly(server.request()).await;
}

#[tokio::test]
async fn no_more_calls_are_in_progress_than_the_settings_allow_and_streams_count() {
    let mut server = TestServer::start(|request| match request.json()["stream"] == true {
        true => Reply::events([event(&chunk("one ", None))]).then(End::Stall),
        false => Reply::Silence,
    })
    .await;
    let settings = RouterSettings {
        max_calls: 2,
        ..Default::default()
    };
    let mut fixture = Fixture::with([remote("m", &server.url())], settings).await;
    let mut client = fixture.client.clone();
    let call = tokio::spawn(async move { client.route_request(request()).await });
    promptly(server.request()).await;
    let stream = fixture.client.stream_route_request(request()).await;
    let stream = stream.unwrap();

    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("2 calls"), "{status:?}");
    let details = status.get_error_details();
    let quota = &details.quota_failure().unwrap().violations[0];
    assert_eq!(quota.subject, "router");
    assert!(retry_delay(&status) > Duration::ZERO);

    // Both give their places back.
    call.abort();
    drop(stream);
    promptly(server.all_closed()).await;
    let first = fixture.client.stream_route_request(request()).await;
    let second = fixture.client.stream_route_request(request()).await;
    first.and(second).unwrap();
}

#[tokio::test]
async fn a_model_that_is_out_is_counted_by_its_reason_and_the_caller_may_come_back() {
    let is = |id, status: ModelStatus| ModelMetadata {
        status: status.into(),
        ..local(id)
    };
    let mut without = local("d");
    without.connector_config = None;
    let models = [
        is("a", ModelStatus::Unavailable),
        is("b", ModelStatus::Maintenance),
        is("c", ModelStatus::Limited),
        without,
    ];
    let mut fixture = Fixture::new(models).await;
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let left_out = error_info(&status, "NO_MODEL");
    let expected = [("left_out.status", "3"), ("left_out.connector", "1")];
    assert_eq!(left_out, pairs(&expected));
    let text = "no model can be picked; left out: 1 connector, 3 status";
    assert_eq!(status.message(), text);
}

fn of(text: String) -> RouteRequestRequest {
    RouteRequestRequest {
        request: Some(chat(&text)),
        ..request()
    }
}

#[tokio::test]
async fn requests_in_progress_hold_no_more_bytes_than_the_settings_allow() {
    let mut server = TestServer::start(|request| match request.json()["stream"] == true {
        true => Reply::events([event(&chunk("one ", None))]).then(End::Stall),
        false => Reply::Silence,
    })
    .await;
    let settings = RouterSettings {
        max_request_bytes: 1024 * 1024,
        ..Default::default()
    };
    let mut fixture = Fixture::with([remote("m", &server.url())], settings).await;
    // Seven times as many bytes while it is sent: a control character becomes six.
    let large = || of("\u{1}".repeat(80 * 1024));
    let mut client = fixture.client.clone();
    let call = tokio::spawn(async move { client.route_request(large()).await });
    promptly(server.request()).await;

    let status = fixture.refusal(large()).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("1048576 bytes"), "{status:?}");
    let details = status.get_error_details();
    let quota = &details.quota_failure().unwrap().violations[0];
    assert_eq!(quota.subject, "router");
    assert!(retry_delay(&status) > Duration::ZERO);
    // A smaller one has room.
    let mut client = fixture.client.clone();
    let small = tokio::spawn(async move { client.route_request(request()).await });
    promptly(server.request()).await;

    call.abort();
    small.abort();
    promptly(server.all_closed()).await;
    // A stream whose answer has begun holds its request no longer.
    let first = fixture.client.stream_route_request(large()).await.unwrap();
    let second = fixture.client.stream_route_request(large()).await.unwrap();
    drop((first, second));
}

fn by_caller(sub: &str, role: &str) -> Request<RouteRequestRequest> {
    let mut request = Request::new(request());
    request.extensions_mut().insert(Claims {
        sub: sub.to_owned(),
        iss: "intellirouter".to_owned(),
        aud: "model_registry".to_owned(),
        exp: u64::MAX,
        iat: 0,
        roles: vec![role.to_owned()],
    });
    request
}

#[tokio::test]
async fn one_caller_takes_no_more_than_its_share_of_the_calls() {
    let server = always(Reply::events([event(&chunk("one ", None))]).then(End::Stall)).await;
    let settings = RouterSettings {
        max_calls: 8,
        ..Default::default()
    };
    let fixture = Fixture::with([remote("m", &server.url())], settings).await;
    let router = &fixture.router;
    let stream = |sub, role| router.stream_route_request(by_caller(sub, role));
    let mut open = vec![
        stream("ann", "user").await.unwrap(),
        stream("ann", "user").await.unwrap(),
    ];
    let Err(status) = stream("ann", "user").await else {
        panic!("a third call");
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.message().contains("the caller has 2 calls"),
        "{status:?}"
    );
    let details = status.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "caller"
    );
    assert!(retry_delay(&status) > Duration::ZERO);

    open.push(stream("bob", "user").await.unwrap());
    for _ in 0..5 {
        open.push(stream("chain_engine", "service").await.unwrap());
    }
}

#[tokio::test]
async fn an_answer_that_clients_cannot_read_is_no_answer_and_no_other_model_is_asked() {
    let words = "x".repeat(5 * 1024 * 1024);
    let large = TestServer::start(move |request| Reply::words(request, &[&words])).await;
    let other = talking().await;
    let models = [remote("a", &large.url()), remote("b", &other.url())];
    let mut fixture = Fixture::new(models).await;
    let status = fixture.refusal(request()).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(
        status.message().contains("more than 4128768 bytes"),
        "{status:?}"
    );
    let info = error_info(&status, "ANSWER_TOO_LARGE");
    assert_eq!(info["failures"], "a: answer too large");
    assert_eq!((large.connections(), other.connections()), (1, 0));
}

#[tokio::test]
async fn an_answer_as_large_as_clients_take_is_given() {
    let words = "x".repeat(crate::router::limits::ANSWER_BYTES - 1024);
    let server = TestServer::start(move |request| Reply::words(request, &[&words])).await;
    let mut fixture = Fixture::new([remote("m", &server.url())]).await;
    fixture.route(request()).await.unwrap();
}

#[tokio::test]
async fn what_all_models_failed_with_fits_into_the_headers_that_clients_take() {
    let server = failing(500).await;
    let id = |n| format!("{n}{}", "x".repeat(127));
    let models = (0..10).map(|n| remote(&id(n), &server.url()));
    let mut fixture = Fixture::new(models).await;
    for _ in 0..20 {
        let all = routed(RoutingRequest {
            max_attempts: 10,
            ..Default::default()
        });
        let status = fixture.refusal(all).await;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().ends_with("more"), "{status:?}");
        assert_eq!(error_info(&status, "ALL_MODELS_FAILED")["attempts"], "10");
    }
}
