//! What operators see of a service: health, readiness, metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use intellirouter::admin::{self, Readiness, ServicePage};
use intellirouter::events::RedisClientImpl;
use intellirouter::generated::intellirouter::rag_manager::v1::rag_persona_integration_service_client::RagPersonaIntegrationServiceClient;
use intellirouter::generated::intellirouter::rag_manager::v1::rag_persona_integration_service_server::RagPersonaIntegrationServiceServer;
use intellirouter::security::{
    SecureChannel, SecureGrpcClientBuilder, SecureGrpcServerBuilder, SecureRouter, ServerMetrics,
};
use intellirouter::IpcResult;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::secure::start;
use super::service::{Personas, personas, question};
use super::support::{FREE_PORT, soon};

fn with_page(
    builder: SecureGrpcServerBuilder,
    redis: RedisClientImpl,
    listener: TcpListener,
) -> SecureGrpcServerBuilder {
    // guide: operate
    let mut registry = Registry::with_prefix("intellirouter");
    let metrics = ServerMetrics::register(&mut registry);
    let builder = builder.with_metrics(&metrics, "personas");

    let page = ServicePage::new(Arc::new(registry), move || {
        let store = redis.status();
        if store.connected {
            Readiness::Ready
        } else {
            Readiness::NotReady(store.detail)
        }
    });
    tokio::spawn(admin::serve(listener, Arc::new(page)));
    // guide: end
    builder
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut page = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: operators\r\n\r\n");
    page.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(page.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn the_page_of_a_service_says_whether_it_is_ready_and_counts_its_calls() {
    let builder = SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .allow_unauthenticated();
    let redis = RedisClientImpl::new("memory:").await.unwrap();
    let listener = TcpListener::bind(FREE_PORT).await.unwrap();
    let operators = listener.local_addr().unwrap();
    let builder = with_page(builder, redis, listener);
    let server = start(&builder).await;
    let client = SecureGrpcClientBuilder::new("localhost").allow_plaintext();
    let url = format!("http://{}", server.address);
    let mut client: RagPersonaIntegrationServiceClient<SecureChannel> =
        client.build(url).await.unwrap();
    client
        .augment_persona_request(question("p1"))
        .await
        .unwrap();
    client
        .augment_persona_request(question("p9"))
        .await
        .unwrap_err();

    assert!(get(operators, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(operators, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(operators, "/metrics").await;
    for code in ["OK", "NOT_FOUND"] {
        let line = metrics.lines().find(|line| {
            line.starts_with("intellirouter_server_calls_total")
                && line.contains("server=\"personas\"")
                && line.contains(&format!("code=\"{code}\""))
        });
        let line = line.unwrap_or_else(|| panic!("no call with {code} in:\n{metrics}"));
        assert!(line.ends_with(" 1"), "{line}");
    }
}

fn pause(router: &SecureRouter) -> IpcResult<()> {
    // guide: health
    let health = router.health();
    let service = "intellirouter.rag_manager.v1.RAGPersonaIntegrationService";
    health.set_serving(service, false)?;
    // guide: end
    assert_eq!(health.is_serving(service), Some(false));
    Ok(())
}

#[tokio::test]
async fn a_service_can_say_that_it_takes_no_calls_now() {
    let builder = SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .allow_unauthenticated();
    let router = builder.build::<Personas>().unwrap();
    let service = RagPersonaIntegrationServiceServer::new(personas());
    pause(&builder.add_service(router, service)).unwrap();
}
