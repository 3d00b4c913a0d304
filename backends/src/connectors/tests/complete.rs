use http::header::{LOCATION, RETRY_AFTER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn words(seen: &Seen) -> Reply {
    Reply::words(seen, &["Hello ", "you"])
}

#[tokio::test]
async fn a_whole_answer_comes_with_everything_that_the_endpoint_told() {
    let server = good_server().await;
    let answer = complete_at(&server).await.unwrap();
    assert_eq!(answer.id, "chat-1");
    assert_eq!(answer.object, "chat.completion");
    assert_eq!(answer.created, 1_700_000_000);
    assert_eq!(answer.model, "big-1");
    assert_eq!(answer.system_fingerprint, "fp");
    assert_eq!(answer.usage, Some(usage(7, 2)));
    let [choice] = &answer.choices[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(choice.finish_reason, "stop");
    assert_eq!(choice.message, Some(message("assistant", "Hello you")));
}

#[tokio::test]
async fn a_request_goes_to_the_path_below_the_base_url_with_its_key_and_organization() {
    let mut server = good_server().await;
    let mut endpoint = endpoint(&format!("{}/?version=2", server.url()));
    endpoint.config.org_id = "org-1".to_owned();
    let connectors = connectors();
    let answer = connectors.complete(&endpoint, &request("hi"), LIMIT).await;
    answer.unwrap();
    let seen = server.request().await;
    assert_eq!(seen.method, http::Method::POST);
    assert_eq!(seen.path, "/v1/chat/completions?version=2");
    assert_eq!(
        seen.header("authorization"),
        Some(&*format!("Bearer {KEY}"))
    );
    assert_eq!(seen.header("openai-organization"), Some("org-1"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    let body = json!({
        "model": "big",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": false,
    });
    assert_eq!(seen.json(), body);
}

#[tokio::test]
async fn without_a_key_there_is_no_authorization() {
    let mut server = good_server().await;
    let endpoint = Endpoint {
        api_key: ApiKey::default(),
        ..endpoint(&server.url())
    };
    let connectors = connectors();
    let answer = connectors.complete(&endpoint, &request("hi"), LIMIT).await;
    answer.unwrap();
    assert_eq!(server.request().await.header("authorization"), None);
}

#[tokio::test]
async fn the_parameter_model_names_the_model_at_the_endpoint() {
    let mut server = good_server().await;
    let mut endpoint = endpoint(&server.url());
    endpoint.config.parameters = config("", &[("model", "vendor/big-1")]).parameters;
    let connectors = connectors();
    let answer = connectors.complete(&endpoint, &request("hi"), LIMIT).await;
    answer.unwrap();
    assert_eq!(server.request().await.json()["model"], "vendor/big-1");
}

#[tokio::test]
async fn tool_calls_come_as_json_in_the_metadata_of_the_message() {
    let calls = json!([{
        "id": "call-1",
        "type": "function",
        "function": {"name": "weather", "arguments": "{\"town\":\"Bern\"}"},
    }]);
    let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
    let server = server(Reply::json(200, &json!({"choices": [choice]}))).await;
    let answer = complete_at(&server).await.unwrap();
    let message = answer.choices[0].message.clone().unwrap();
    assert_eq!(message.content, "");
    let in_metadata = &message.metadata.unwrap().values["tool_calls"];
    assert_eq!(serde_json::from_str::<Value>(in_metadata).unwrap(), calls);
}

#[tokio::test]
async fn log_probabilities_come_along() {
    let logprobs = json!({"content": [{
        "token": "Hi",
        "logprob": -0.5,
        "bytes": [72, 105],
        "top_logprobs": [{"token": "Hi", "logprob": -0.5}, {"token": "Ho", "logprob": -2.0}],
    }]});
    let choice = json!({"message": {"content": "Hi"}, "logprobs": logprobs});
    let server = server(Reply::json(200, &json!({"choices": [choice]}))).await;
    let answer = complete_at(&server).await.unwrap();
    let token = &answer.choices[0].logprobs.as_ref().unwrap().content[0];
    assert_eq!((token.token.as_str(), token.logprob), ("Hi", -0.5));
    let top = [("Hi".to_owned(), -0.5), ("Ho".to_owned(), -2.0)];
    assert_eq!(token.top_logprobs, top.into());
}

#[tokio::test]
async fn an_answer_over_tls_comes_from_a_server_of_the_given_ca_alone() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    let server = TestServer::start_tls(&ca, words).await;
    let trusting = ConnectorSettings {
        extra_ca: Some(ca),
        ..Default::default()
    };
    let trusting = Connectors::new(trusting).unwrap();
    let endpoint = endpoint(&server.url());
    let answer = trusting.complete(&endpoint, &request("hi"), LIMIT).await;
    assert_eq!(answer.unwrap().id, "chat-1");

    let error = complete_at(&server).await.unwrap_err();
    let ConnectorError::Connection(why) = &error else {
        panic!("{error:?}");
    };
    assert!(why.contains("certificate"), "{why}");
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = good_server().await;
    let connectors = connectors();
    let endpoint = endpoint(&server.url());
    for _ in 0..3 {
        let answer = connectors.complete(&endpoint, &request("hi"), LIMIT).await;
        answer.unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_endpoint_that_went_away_and_came_back_is_reached_again() {
    let server = good_server().await;
    let (address, connectors) = (server.address(), connectors());
    let endpoint = endpoint(&server.url());
    let request = request("hi");
    connectors
        .complete(&endpoint, &request, LIMIT)
        .await
        .unwrap();

    server.stop().await;
    let error = connectors.complete(&endpoint, &request, LIMIT).await;
    assert!(
        matches!(error, Err(ConnectorError::Connection(_))),
        "{error:?}"
    );

    let _server = TestServer::start_on(address, words).await;
    connectors
        .complete(&endpoint, &request, LIMIT)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = good_server().await;
    let reply = Reply::json(307, &json!({}));
    let server = server(reply.header(LOCATION, &target.url())).await;
    let error = complete_at(&server).await.unwrap_err();
    assert_eq!(
        error,
        ConnectorError::Unusable("expected status 200, got 307".to_owned())
    );
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn an_endpoint_that_limits_calls_says_until_when() {
    let error = json!({"error": {"message": "slow down"}});
    let reply = Reply::json(429, &error);
    let plain = server(reply.clone()).await;
    let error = complete_at(&plain).await.unwrap_err();
    assert_eq!(error, ConnectorError::Limited(None));
    let dated = server(reply.header(RETRY_AFTER, "20")).await;
    let error = complete_at(&dated).await.unwrap_err();
    assert_eq!(
        error,
        ConnectorError::Limited(Some(Duration::from_secs(20)))
    );
}

#[tokio::test]
async fn a_failure_and_a_refusal_come_with_status_and_message() {
    let body = json!({"error": {"message": "why", "type": "x"}});
    let failing = server(Reply::json(503, &body)).await;
    let (status, message) = (503, "why".to_owned());
    let error = complete_at(&failing).await.unwrap_err();
    assert_eq!(error, ConnectorError::Failed { status, message });
    let refusing = server(Reply::json(401, &body)).await;
    let (status, message) = (401, "why".to_owned());
    let error = complete_at(&refusing).await.unwrap_err();
    assert_eq!(error, ConnectorError::Refused { status, message });
}

#[tokio::test]
async fn an_error_never_holds_the_key_nor_more_than_512_bytes() {
    let text = format!("bad key {KEY}\u{1b}[31m {}", "x".repeat(2000));
    for body in [text.clone(), json!({"error": text}).to_string()] {
        let server = server(Reply::new(401, "text/plain", [body])).await;
        let error = complete_at(&server).await.unwrap_err();
        let ConnectorError::Refused { message, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(message.starts_with("bad key [key][31m xx"), "{message}");
        assert_eq!(message.len(), 512);
        assert!(!format!("{error} {error:?}").contains(KEY));
    }
}

#[tokio::test]
async fn an_endless_refusal_is_cut() {
    let reply = Reply::new(500, "text/plain", ["why "]);
    let server = server(reply.then(End::Endless("x".into()))).await;
    let error = complete_at(&server).await.unwrap_err();
    let message = format!("why {}", "x".repeat(508));
    assert_eq!(
        error,
        ConnectorError::Failed {
            status: 500,
            message
        }
    );
}

#[tokio::test]
async fn an_error_that_comes_with_a_good_status_is_an_error() {
    let body = json!({"error": {"message": "overloaded", "code": 529}});
    let server = server(Reply::json(200, &body)).await;
    let (status, message) = (529, "overloaded".to_owned());
    let error = complete_at(&server).await.unwrap_err();
    assert_eq!(error, ConnectorError::Failed { status, message });
}

#[tokio::test]
async fn garbage_is_unusable_and_not_repeated() {
    for garbage in [
        "<html>",
        "[]",
        "{}",
        r#"{"choices": []}"#,
        r#"{"choices": "text"}"#,
    ] {
        let server = server(Reply::new(200, "application/json", [garbage])).await;
        let error = complete_at(&server).await.unwrap_err();
        let ConnectorError::Unusable(why) = &error else {
            panic!("{garbage}: {error:?}");
        };
        assert!(!why.contains("html") && !why.contains("text"), "{why}");
    }
}

#[tokio::test]
async fn countless_choices_are_unusable() {
    let choices = vec![json!({}); 129];
    let server = server(Reply::json(200, &json!({"choices": choices}))).await;
    let error = complete_at(&server).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unusable(_)), "{error:?}");
}

#[tokio::test]
async fn an_empty_list_of_tool_calls_is_none() {
    for calls in ["null", "[]", "[ \n]"] {
        let body = format!(r#"{{"choices": [{{"message": {{"tool_calls": {calls}}}}}]}}"#);
        let server = server(Reply::new(200, "application/json", [body])).await;
        let answer = complete_at(&server).await.unwrap();
        assert_eq!(answer.choices[0].message, Some(message("assistant", "")));
    }
}

#[tokio::test]
async fn what_is_no_http_is_unusable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (endpoint, request, connectors) = (endpoint(&url), request("hi"), connectors());
    let call = connectors.complete(&endpoint, &request, LIMIT);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"+PONG\r\n+PONG\r\n\r\n").await.unwrap();
        stream
    };
    let (error, _stream) = tokio::join!(call, serve);
    let why = "expected HTTP/1.1".to_owned();
    assert_eq!(error, Err(ConnectorError::Unusable(why)));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_broken_connection() {
    let reply = Reply::new(200, "application/json", ["{\"choices\": ["]);
    let cut = server(reply.then(End::Cut)).await;
    let error = complete_at(&cut).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Connection(_)), "{error:?}");
}

#[tokio::test]
async fn an_endless_answer_is_given_up_at_the_bound() {
    let reply = Reply::new(200, "application/json", ["{\"id\": \""]);
    let server = server(reply.then(End::Endless("xxxxxxxx".repeat(128).into()))).await;
    let settings = ConnectorSettings {
        answer_bytes: 100_000,
        ..Default::default()
    };
    let connectors = Connectors::new(settings).unwrap();
    let endpoint = endpoint(&server.url());
    let answer = connectors.complete(&endpoint, &request("hi"), LIMIT).await;
    assert_eq!(answer, Err(ConnectorError::TooLarge(100_000)));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_given_up_at_the_limit() {
    let mut server = server(Reply::Silence).await;
    let (endpoint, request, connectors) = (endpoint(&server.url()), request("hi"), connectors());
    let mut call = Box::pin(connectors.complete(&endpoint, &request, LIMIT));
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        _ = server.request() => tokio::time::pause(),
    }
    assert_eq!(call.await, Err(ConnectorError::TimedOut(LIMIT)));
}

#[tokio::test]
async fn the_timeout_of_the_connector_shortens_the_limit_and_never_lengthens_it() {
    for (timeout_ms, expected) in [(20_000, Duration::from_secs(20)), (90_000, LIMIT)] {
        let mut server = server(Reply::Silence).await;
        let (mut endpoint, connectors) = (endpoint(&server.url()), connectors());
        endpoint.config.timeout_ms = timeout_ms;
        let request = request("hi");
        let mut call = Box::pin(connectors.complete(&endpoint, &request, LIMIT));
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            _ = server.request() => tokio::time::pause(),
        }
        assert_eq!(call.await, Err(ConnectorError::TimedOut(expected)));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_connection_whose_tls_does_not_get_ready_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    let (endpoint, request, connectors) = (endpoint(&url), request("hi"), connectors());
    let mut call = Box::pin(connectors.complete(&endpoint, &request, LIMIT));
    let _stalled = tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        accepted = listener.accept() => accepted.unwrap(),
    };
    tokio::time::pause();
    let connect = ConnectorSettings::default().connect_timeout;
    assert_eq!(call.await, Err(ConnectorError::TimedOut(connect)));
}

#[tokio::test]
async fn a_request_that_has_no_terms_is_not_sent() {
    let server = good_server().await;
    let mut request = request("hi");
    let forbidden = ("model".to_owned(), "other".to_owned());
    request.additional_parameters = [forbidden].into();
    let connectors = connectors();
    let answer = connectors
        .complete(&endpoint(&server.url()), &request, LIMIT)
        .await;
    let why = "additional_parameters.model: may not be set here".to_owned();
    assert_eq!(answer, Err(ConnectorError::Invalid(why)));
    assert_eq!(server.connections(), 0);
}
