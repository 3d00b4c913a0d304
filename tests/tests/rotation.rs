//! What trust rests on is changed while the gateway runs: the authorities of
//! both ends of a connection to a backend, the key that identities are signed
//! with, what is known of methods. Calls that are open go on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::path::Path;

use intellirouter_tests::backend::Backend;
use intellirouter_tests::certs::Authority;
use intellirouter_tests::client::{Call, Connection, in_time};
use intellirouter_tests::foreign::{PATH, answer, bearer, endless, tells_headers};
use intellirouter_tests::reload::{REFUSED, TAKEN, hang_up, reload};
use intellirouter_tests::{Config, Gateway, Site, grpc};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use prost::Message;
use tokio::sync::mpsc;

const OPEN: &str = "/foreign.Service/Open";

/// Answers calls, and keeps those of one method open.
async fn backend(site: &Site) -> Backend {
    Backend::start(site, |request, respond| async move {
        if request.uri().path() == OPEN {
            endless(request, respond).await;
        } else {
            answer(respond);
        }
    })
    .await
}

fn before(backend: &Backend) -> Config {
    Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
}

/// A call that its backend keeps open, once it has said something.
async fn open(client: &mut Connection, bearer: &str) -> (Call, h2::RecvStream) {
    let mut call = client.call(OPEN, &[("authorization", bearer)]).await;
    call.send.send_data(grpc::frame(false, b""), true).unwrap();
    let mut body = call.head().await.into_body();
    in_time("a message", body.data()).await.unwrap().unwrap();
    (call, body)
}

/// Whether it neither ended nor broke.
async fn is_open(client: &mut Connection, (_, body): &mut (Call, h2::RecvStream)) -> bool {
    // What the gateway had to say of the stream has come before this answer.
    assert_eq!(health(client).await, 0);
    let mut data = std::pin::pin!(body.data());
    std::future::poll_fn(|cx| std::task::Poll::Ready(data.as_mut().poll(cx).is_pending())).await
}

async fn health(client: &mut Connection) -> i32 {
    let answer = client.unary("/grpc.health.v1.Health/Check", &[], b"");
    answer.await.status().code
}

async fn code(client: &mut Connection, bearer: &str) -> i32 {
    let headers = [("authorization", bearer)];
    client.unary(PATH, &headers, b"").await.status().code
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_and_certificates_of_both_ends_are_swapped_at_once_and_open_calls_go_on() {
    let (site, other) = (Site::new(), Site::new());
    let (old, new) = (backend(&site).await, backend(&other).await);
    let gateway = site.gateway(&before(&old));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let mut stream = open(&mut client, &bearer).await;
    for name in ["ca.crt", "gateway-client.crt", "gateway-client.key"] {
        copy(&other.certs.path(name), &site.certs.path(name));
    }
    reload(&site, &gateway, &before(&new), TAKEN).await;
    // The other backend proves itself by the other authority, and asks for a
    // certificate of it.
    assert_eq!(code(&mut client, &bearer).await, 0);
    assert!(is_open(&mut client, &mut stream).await);
    drop(old);
    assert_eq!(code(&mut client, &bearer).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_is_withdrawn_lets_no_new_connection_through_and_cuts_no_call() {
    let site = Site::new();
    let backend = backend(&site).await;
    let config = before(&backend).with_text("[workers]\ncount = 1\n");
    // The clients' own authority stays.
    let text = config
        .render()
        .replace("certs/ca.crt", "certs/upstream.crt");
    copy(&site.certs.path("ca.crt"), &site.certs.path("upstream.crt"));
    let gateway = start(&site, &text);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let mut stream = open(&mut client, &bearer).await;
    Authority::new("another").write(&site.dir().join("certs"), "upstream");
    hang_up(&gateway, TAKEN).await;
    assert_eq!(code(&mut client, &bearer).await, 14);
    assert!(is_open(&mut client, &mut stream).await);
    copy(&site.certs.path("ca.crt"), &site.certs.path("upstream.crt"));
    hang_up(&gateway, TAKEN).await;
    assert_eq!(code(&mut client, &bearer).await, 0);
    assert!(is_open(&mut client, &mut stream).await);
}

fn start(site: &Site, text: &str) -> Gateway {
    let file = site.write("gateway.toml", text);
    let file = file.to_str().expect("a temporary folder has a plain name");
    let command = intellirouter_tests::binary::command(&["gateway", "--config", file]);
    Gateway::ready(site.certs.path("ca.crt"), &command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_identity_key_signs_the_next_call_also_of_a_caller_who_is_known() {
    let (site, other) = (Site::new(), Site::new());
    let (tell, mut told) = mpsc::unbounded_channel();
    let backend = Backend::start(&site, tells_headers(tell)).await;
    let gateway = site.gateway(&before(&backend));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let mut signed_by = async |site: &Site| {
        assert_eq!(code(&mut client, &bearer).await, 0);
        let headers = told.recv().await.unwrap();
        let identity = headers["x-intellirouter-identity"].to_str().unwrap();
        verifies(identity, &site.certs.read("identity.pub"))
    };
    assert!(signed_by(&site).await);
    copy(
        &other.certs.path("identity.key"),
        &site.certs.path("identity.key"),
    );
    hang_up(&gateway, TAKEN).await;
    assert!(signed_by(&other).await);
}

fn verifies(identity: &str, public_key: &str) -> bool {
    let key = DecodingKey::from_ec_pem(public_key.as_bytes()).unwrap();
    let mut expected = Validation::new(Algorithm::ES256);
    expected.set_audience(&["foreign"]);
    jsonwebtoken::decode::<serde_json::Value>(identity, &key, &expected).is_ok()
}

/// The parts of `google.protobuf.FileDescriptorSet` that name a service.
#[derive(Message)]
struct DescriptorSet {
    #[prost(message, repeated, tag = "1")]
    files: Vec<DescriptorFile>,
}

#[derive(Message)]
struct DescriptorFile {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    services: Vec<ServiceName>,
}

#[derive(Message)]
struct ServiceName {
    #[prost(string, tag = "1")]
    name: String,
}

fn descriptors(package: &str) -> Vec<u8> {
    let file = DescriptorFile {
        name: format!("{package}.proto"),
        package: package.into(),
        services: vec![ServiceName {
            name: "Service".into(),
        }],
    };
    DescriptorSet { files: vec![file] }.encode_to_vec()
}

/// What reflection lists.
async fn listed(client: &mut Connection, bearer: &str) -> String {
    // ServerReflectionRequest.list_services
    let question = [0x3a, 1, b'*'];
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let headers = [("authorization", bearer)];
    let answer = client.unary(path, &headers, &question).await;
    assert_eq!(answer.status().code, 0, "{:?}", answer.status());
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_descriptor_file_is_taken_and_a_broken_one_leaves_what_is_known() {
    let site = Site::new();
    let path = site.dir().join("services.binpb");
    std::fs::write(&path, descriptors("first")).unwrap();
    let text = "[descriptors]\nfiles = [\"services.binpb\"]\n";
    let gateway = site.gateway(&Config::default().with_text(text));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    assert!(listed(&mut client, &bearer).await.contains("first.Service"));
    std::fs::write(&path, descriptors("second")).unwrap();
    hang_up(&gateway, TAKEN).await;
    let known = listed(&mut client, &bearer).await;
    assert!(known.contains("second.Service") && !known.contains("first.Service"));
    std::fs::write(&path, b"\xff").unwrap();
    hang_up(&gateway, REFUSED).await;
    assert_eq!(listed(&mut client, &bearer).await, known);
    std::fs::remove_file(&path).unwrap();
    hang_up(&gateway, REFUSED).await;
    assert_eq!(listed(&mut client, &bearer).await, known);
}
