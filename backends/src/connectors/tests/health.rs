use super::*;

async fn check_at(server: &TestServer) -> Result<(), ConnectorError> {
    connectors().check(&endpoint(&server.url()), LIMIT).await
}

#[tokio::test]
async fn an_endpoint_that_lists_its_models_is_alive() {
    let mut server = good_server().await;
    check_at(&server).await.unwrap();
    let seen = server.request().await;
    assert_eq!(seen.method, http::Method::GET);
    assert_eq!(seen.path, "/v1/models");
    assert_eq!(
        seen.header("authorization"),
        Some(&*format!("Bearer {KEY}"))
    );
}

#[tokio::test]
async fn an_endpoint_without_a_list_of_models_is_alive() {
    for status in [404, 405] {
        let server = server(Reply::json(status, &json!({}))).await;
        check_at(&server).await.unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_the_key_is_not_healthy_and_says_why() {
    for status in [401, 403] {
        let server = server(Reply::json(status, &json!({"error": "bad key"}))).await;
        let message = "bad key".to_owned();
        let error = check_at(&server).await.unwrap_err();
        assert_eq!(error, ConnectorError::Refused { status, message });
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_not_healthy() {
    let server = server(Reply::json(500, &json!({}))).await;
    let error = check_at(&server).await.unwrap_err();
    assert!(
        matches!(error, ConnectorError::Failed { status: 500, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_not_healthy() {
    let server = good_server().await;
    let endpoint = endpoint(&server.url());
    server.stop().await;
    let error = connectors().check(&endpoint, LIMIT).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Connection(_)), "{error:?}");
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_not_healthy() {
    let mut server = server(Reply::Silence).await;
    let (endpoint, connectors) = (endpoint(&server.url()), connectors());
    let limit = Duration::from_secs(5);
    let mut check = Box::pin(connectors.check(&endpoint, limit));
    tokio::select! {
        outcome = &mut check => panic!("{outcome:?}"),
        _ = server.request() => tokio::time::pause(),
    }
    assert_eq!(check.await, Err(ConnectorError::TimedOut(limit)));
}

#[tokio::test]
async fn a_long_list_of_models_is_not_waited_for() {
    let reply = Reply::json(200, &json!({}));
    let mut server = server(reply.then(End::Stall)).await;
    check_at(&server).await.unwrap();
    server.all_closed().await;
}
