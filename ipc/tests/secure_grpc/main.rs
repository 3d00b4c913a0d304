//! A secure client and a secure server over a real loopback socket: who gets through, who does not,
//! and what the refused one is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod connections;
mod health;
mod limits;
mod metrics;
mod player;
mod raw;
mod reload;
mod rules;
mod statuses;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use intellirouter::IpcError;
use intellirouter::clients::GrpcRagPersonaIntegrationClient;
use intellirouter::security::{
    IDENTITY_HEADER, IdentitySigner, IdentityVerifier, JwtAuthenticator, SecureGrpcClientBuilder,
    SecureGrpcServerBuilder,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;

use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

fn url(server: &Running, scheme: &str) -> String {
    format!("{scheme}://{}", server.address)
}

async fn call(client: &mut Client) -> Result<String, Status> {
    call_with(client, &[]).await
}

async fn call_with(
    client: &mut Client,
    headers: &[(&'static str, &str)],
) -> Result<String, Status> {
    let mut request = Request::new(Default::default());
    for (name, value) in headers {
        request
            .metadata_mut()
            .insert(*name, MetadataValue::try_from(*value).unwrap());
    }
    let answer = client.augment_persona_request(request).await?;
    Ok(answer.into_inner().augmented_request)
}

fn plaintext_jwt_server(required: &[&str]) -> SecureGrpcServerBuilder {
    let required = required.iter().map(|role| (*role).to_owned()).collect();
    SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .with_jwt(jwt(), required)
}

async fn plaintext_client(server: &Running) -> Client {
    SecureGrpcClientBuilder::new("localhost")
        .allow_plaintext()
        .build(url(server, "http"))
        .await
        .unwrap()
}

#[tokio::test]
async fn mutual_tls_alone_lets_a_peer_of_the_ca_in_and_names_it() {
    let pki = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .allow_unauthenticated();
    let server = Running::start(&builder).await;
    let mut client: Client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .build(url(&server, "https"))
        .await
        .unwrap();

    assert_eq!(call(&mut client).await.unwrap(), "nobody, 1 certificates");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_alone_lets_its_caller_in_and_the_handler_knows_who() {
    let server = Running::start(&plaintext_jwt_server(&["reader"])).await;
    let mut client: Client = SecureGrpcClientBuilder::new("localhost")
        .allow_plaintext()
        .with_jwt(jwt(), "chain_engine".to_owned(), vec!["reader".to_owned()])
        .build(url(&server, "http"))
        .await
        .unwrap();

    assert_eq!(
        call(&mut client).await.unwrap(),
        "chain_engine, 0 certificates"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn mutual_tls_and_a_token_work_together_also_for_a_client_of_the_authors_own() {
    let pki = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .with_jwt(jwt(), vec![]);
    let server = Running::start(&builder).await;
    let mut client: Client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .with_jwt(jwt(), "memory".to_owned(), vec![])
        .build_with(url(&server, "https"), Client::new)
        .await
        .unwrap();

    assert_eq!(call(&mut client).await.unwrap(), "memory, 1 certificates");
    // TLS does not replace the token.
    let mut silent: Client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .build(url(&server, "https"))
        .await
        .unwrap();
    assert_eq!(
        call(&mut silent).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused_and_others_still_get_in() {
    let pki = Pki::new();
    let stranger = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .allow_unauthenticated();
    let server = Running::start(&builder).await;
    // Trusts the server, but shows a certificate that the server has no reason to trust.
    let mut tls = stranger.tls("client");
    tls.ca_cert_path = pki.tls("client").ca_cert_path;

    let connected = SecureGrpcClientBuilder::<Client>::new("localhost")
        .with_tls(tls)
        .build(url(&server, "https"))
        .await;
    // In TLS 1.3 a client learns of the refusal only after its own side of the handshake is done.
    if let Ok(mut client) = connected {
        assert!(call(&mut client).await.is_err());
    }
    assert_eq!(server.calls.load(Ordering::SeqCst), 0);

    let mut good: Client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .build(url(&server, "https"))
        .await
        .unwrap();
    assert!(call(&mut good).await.is_ok());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_refuses_a_server_of_another_ca_or_name() {
    let pki = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .allow_unauthenticated();
    let server = Running::start(&builder).await;
    for (tls, domain) in [
        (Pki::new().tls("client"), "localhost"),
        (pki.tls("client"), "other.example"),
    ] {
        let error = SecureGrpcClientBuilder::<Client>::new(domain)
            .with_tls(tls)
            .build(url(&server, "https"))
            .await
            .unwrap_err();
        assert!(matches!(error, IpcError::Transport(_)), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn peers_that_talk_nonsense_or_say_nothing_do_not_keep_others_out() {
    let pki = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .allow_unauthenticated();
    let server = Running::start(&builder).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let mut nonsense = TcpStream::connect(server.address).await.unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // Waits until the server has given it up.
    let mut alert = Vec::new();
    let _ = nonsense.read_to_end(&mut alert).await;

    let mut client: Client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .build(url(&server, "https"))
        .await
        .unwrap();
    assert!(call(&mut client).await.is_ok());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_closed_after_10_s() {
    let pki = Pki::new();
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(pki.tls("server"))
        .allow_unauthenticated();
    let server = Running::start(&builder).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    tokio::time::pause();
    let before = tokio::time::Instant::now();

    let mut said = Vec::new();
    silent.read_to_end(&mut said).await.unwrap();

    assert_eq!(said, b"");
    assert_eq!(before.elapsed().as_secs(), 10);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_call_with_an_authorization_of_its_own_keeps_it() {
    let server = Running::start(&plaintext_jwt_server(&[])).await;
    let mut client: Client = SecureGrpcClientBuilder::new("localhost")
        .allow_plaintext()
        .with_jwt(jwt(), "memory".to_owned(), vec![])
        .build(url(&server, "http"))
        .await
        .unwrap();
    let own = format!("Bearer {}", jwt().generate_token("alice", vec![]).unwrap());

    let answer = call_with(&mut client, &[("authorization", &own)]).await;

    assert_eq!(answer.unwrap(), "alice, 0 certificates");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_caller_without_the_role_is_denied_with_a_reason_and_never_reaches_the_handler() {
    let server = Running::start(&plaintext_jwt_server(&["writer"])).await;
    let mut client: Client = SecureGrpcClientBuilder::new("localhost")
        .allow_plaintext()
        .with_jwt(jwt(), "memory".to_owned(), vec!["reader".to_owned()])
        .build(url(&server, "http"))
        .await
        .unwrap();

    let status = call(&mut client).await.unwrap_err();

    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.get_details_error_info().unwrap().reason, "ROLE");
    assert_eq!(server.calls.load(Ordering::SeqCst), 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn no_forged_or_stale_token_reaches_the_handler() {
    let server = Running::start(&plaintext_jwt_server(&[])).await;
    let mut client = plaintext_client(&server).await;
    for (what, token) in bad_tokens() {
        let value = format!("Bearer {token}");
        let status = call_with(&mut client, &[("authorization", &value)])
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
    }
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.get_details_error_info().unwrap().reason, "NO_TOKEN");
    assert_eq!(server.calls.load(Ordering::SeqCst), 0);

    // The claims of all these are good: signed in the right way, they get in.
    let good = format!(
        "Bearer {}",
        sign(&claims(), &Header::default(), SECRET.as_bytes())
    );
    assert!(
        call_with(&mut client, &[("authorization", &good)])
            .await
            .is_ok()
    );
    server.stop().await.unwrap();
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({
        "sub": "mallory", "roles": ["admin"], "iss": "intellirouter",
        "aud": "intellirouter-services", "iat": now(), "exp": now() + 600,
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn sign(claims: &Value, header: &Header, secret: &[u8]) -> String {
    encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn bad_tokens() -> Vec<(&'static str, String)> {
    let hs256 = Header::default();
    let secret = SECRET.as_bytes();
    let good = sign(&claims(), &hs256, secret);
    let (message, _) = good.rsplit_once('.').unwrap();
    let (_, payload) = message.split_once('.').unwrap();
    // {"alg":"none"}
    let none = format!("eyJhbGciOiJub25lIn0.{payload}.");
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rs256 = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    vec![
        ("alg none", none),
        ("no signature", format!("{message}.")),
        ("null signature", format!("{message}.{}", "A".repeat(43))),
        ("blank secret", sign(&claims(), &hs256, b"")),
        (
            "public key as secret",
            sign(&claims(), &hs256, rsa.public_key_pem().as_bytes()),
        ),
        ("algorithm of another family", {
            encode(&Header::new(Algorithm::RS256), &claims(), &rs256).unwrap()
        }),
        (
            "stronger hash, same secret",
            sign(&claims(), &Header::new(Algorithm::HS512), secret),
        ),
        (
            "oversize",
            sign(&with("filler", json!("x".repeat(9000))), &hs256, secret),
        ),
        (
            "expired",
            sign(&with("exp", json!(now() - 1)), &hs256, secret),
        ),
        (
            "not yet valid",
            sign(&with("nbf", json!(now() + 600)), &hs256, secret),
        ),
        (
            "other issuer",
            sign(&with("iss", json!("other")), &hs256, secret),
        ),
        (
            "other audience",
            sign(&with("aud", json!("other")), &hs256, secret),
        ),
        ("no subject", sign(&with("sub", json!("")), &hs256, secret)),
        ("rubbish", "rubbish".to_owned()),
    ]
}

#[tokio::test]
async fn a_caller_that_the_gateway_vouches_for_gets_in_where_the_gateway_is_trusted() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let minute = Duration::from_secs(60);
    let signer =
        IdentitySigner::from_pkcs8_pem(key.serialize_pem().as_bytes(), "gw", minute).unwrap();
    let verifier =
        || IdentityVerifier::from_public_pem(key.public_key_pem().as_bytes(), "gw", "rag").unwrap();
    let builder = SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .with_gateway_identity(verifier());
    let server = Running::start(&builder).await;
    let mut client = plaintext_client(&server).await;

    let identity = |audience| {
        signer
            .sign("alice", &[], audience, SystemTime::now())
            .unwrap()
    };
    let vouched = call_with(&mut client, &[(IDENTITY_HEADER, &identity("rag"))]).await;
    let for_another = call_with(&mut client, &[(IDENTITY_HEADER, &identity("memory"))]).await;

    assert_eq!(vouched.unwrap(), "alice, 0 certificates");
    assert_eq!(for_another.unwrap_err().code(), Code::Unauthenticated);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_running_call_is_finished_after_the_signal_and_then_the_port_is_free() {
    let server = Running::start(&plaintext_jwt_server(&[])).await;
    let (address, gate) = (server.address, Arc::clone(&server.gate));
    let mut client = plaintext_client(&server).await;
    let token = format!("Bearer {}", jwt().generate_token("memory", vec![]).unwrap());
    let running = tokio::spawn(async move {
        call_with(&mut client, &[("authorization", &token), ("wait", "1")]).await
    });
    gate.entered.notified().await;

    let stopping = tokio::spawn(server.stop());
    gate.open.notify_one();

    assert_eq!(running.await.unwrap().unwrap(), "memory, 0 certificates");
    stopping.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_call_that_does_not_end_holds_up_the_shutdown_for_30_s_and_no_longer() {
    let server = Running::start(&plaintext_jwt_server(&[])).await;
    let gate = Arc::clone(&server.gate);
    let mut client = plaintext_client(&server).await;
    let token = format!("Bearer {}", jwt().generate_token("memory", vec![]).unwrap());
    let running = tokio::spawn(async move {
        call_with(&mut client, &[("authorization", &token), ("wait", "1")]).await
    });
    gate.entered.notified().await;

    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let error = server.stop().await.unwrap_err();

    assert!(matches!(error, IpcError::Timeout(_)), "{error}");
    assert_eq!(before.elapsed().as_secs(), 30);
    running.abort();
}

#[test]
fn letting_everybody_in_and_checking_callers_contradict_each_other() {
    let builder = plaintext_jwt_server(&[]).allow_unauthenticated();
    let error = builder.build::<Client>().unwrap_err();
    assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
    assert!(
        error.to_string().contains("allow_unauthenticated"),
        "{error}"
    );
}

#[tokio::test]
async fn a_star_among_the_required_roles_stands_for_every_caller_with_a_token() {
    let server = Running::start(&plaintext_jwt_server(&["*"])).await;
    let mut client = plaintext_client(&server).await;
    let token = jwt().generate_token("memory", vec!["any".into()]).unwrap();
    let value = format!("Bearer {token}");
    let answer = call_with(&mut client, &[("authorization", &value)]).await;
    assert_eq!(answer.unwrap(), "memory, 0 certificates");

    let refused = call(&mut client).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    server.stop().await.unwrap();
}

#[test]
fn a_server_without_tls_or_without_anyone_to_trust_is_not_built() {
    let no_tls = SecureGrpcServerBuilder::new().with_jwt(jwt(), vec![]);
    let no_auth = SecureGrpcServerBuilder::new().allow_plaintext();
    let no_files = SecureGrpcServerBuilder::new().with_tls(Pki::new().tls("absent"));
    let bad_jwt = JwtAuthenticator::new(jwt_config("short"));
    let bad_jwt = SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .with_jwt(Arc::new(bad_jwt), vec![]);
    for (builder, hint) in [
        (no_tls, "with_tls"),
        (no_auth, "with_jwt"),
        (no_files, "absent.crt"),
        (bad_jwt, "5 bytes"),
    ] {
        let error = builder.build::<Client>().unwrap_err();
        assert!(matches!(error, IpcError::Security(_)), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn a_service_that_is_added_twice_is_reported_and_not_a_panic() {
    let builder = plaintext_jwt_server(&[]);
    let router = builder.build::<Client>().unwrap();
    let router = builder.add_service(router, Echo::default().into_service());
    let router = builder.add_service(router, Echo::default().into_service());
    let error = router.bind(LOOPBACK).await.unwrap_err();
    assert!(
        error.to_string().contains("RAGPersonaIntegrationService"),
        "{error}"
    );
}

#[tokio::test]
async fn a_taken_port_is_reported_with_its_address() {
    let server = Running::start(&plaintext_jwt_server(&[])).await;
    let router = plaintext_jwt_server(&[]).build::<Client>().unwrap();
    let error = router.serve(server.address).await.unwrap_err();
    assert!(matches!(error, IpcError::Connection(_)), "{error}");
    assert!(
        error.to_string().contains(&server.address.to_string()),
        "{error}"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_does_not_connect_in_plaintext_unless_that_was_asked_for() {
    let build = |builder: SecureGrpcClientBuilder<Client>, url| builder.build(url);
    let plain = SecureGrpcClientBuilder::new("localhost");
    let error = build(plain, "http://localhost:1").await.unwrap_err();
    assert!(matches!(error, IpcError::Security(_)), "{error}");

    let plain = SecureGrpcClientBuilder::new("localhost").allow_plaintext();
    let error = build(plain, "https://localhost:1").await.unwrap_err();
    assert!(matches!(error, IpcError::Security(_)), "{error}");
}

#[tokio::test]
async fn no_error_shows_the_password_or_the_rest_of_a_url_that_is_refused() {
    let refused = [
        "https://bob:hunter2@127.0.0.1:1",
        "http://bob:hunter2@127.0.0.1:1",
        "http://bob:12345/hunter2@127.0.0.1:1",
        "bob:hunter2@127.0.0.1",
        "http://127.0.0.1:1/?key=hunter2",
        "hunter2 is none",
    ];
    for url in refused {
        let plain = SecureGrpcClientBuilder::<Client>::new("localhost").allow_plaintext();
        for error in [
            plain.build(url).await.unwrap_err(),
            GrpcRagPersonaIntegrationClient::new(url).await.unwrap_err(),
        ] {
            let text = format!("{error} {error:?}");
            assert!(text.contains("URL"), "{text}");
            assert!(
                !text.contains("hunter2") && !text.contains("12345"),
                "{text}"
            );
            assert!(!text.contains("bob"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_bad_jwt_config_shows_when_the_client_is_built_and_not_at_the_first_call() {
    let jwt = Arc::new(JwtAuthenticator::new(jwt_config("short")));
    let error = SecureGrpcClientBuilder::<Client>::new("localhost")
        .allow_plaintext()
        .with_jwt(jwt, "memory".to_owned(), vec![])
        .build("http://localhost:1")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("5 bytes"), "{error}");
}
