//! Serving and calling with tokens, with mutual TLS, with both, and behind the gateway.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use intellirouter::generated::intellirouter::rag_manager::v1::rag_persona_integration_service_client::RagPersonaIntegrationServiceClient;
use intellirouter::generated::intellirouter::rag_manager::v1::rag_persona_integration_service_server::RagPersonaIntegrationServiceServer;
use intellirouter::security::{
    BoundServer, IDENTITY_HEADER, IdentitySigner, IdentityVerifier, JwtAuthenticator, RoleConfig, SecureChannel,
    SecureGrpcClientBuilder, SecureGrpcServerBuilder, TlsConfig,
};
use intellirouter::{IpcError, IpcResult};
use intellirouter_proto::FILE_DESCRIPTOR_SET;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Request};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::service::{Personas, personas, question};
use super::settings::{Settings, example};
use super::support::{Certs, FREE_PORT, soon};

type Client = RagPersonaIntegrationServiceClient<SecureChannel>;

// guide: server
pub async fn bind(settings: &Settings, personas: Personas) -> IpcResult<BoundServer> {
    let builder = SecureGrpcServerBuilder::new()
        .with_tls(settings.tls())
        .with_jwt(settings.jwt()?, vec![])
        // Who may call which method, and for how long, stands in the .proto files.
        .with_descriptors(FILE_DESCRIPTOR_SET);
    let router = builder.build::<RagPersonaIntegrationServiceServer<Personas>>()?;
    let router = builder.add_service(router, RagPersonaIntegrationServiceServer::new(personas));
    router.bind(settings.listen).await
}
// guide: end

async fn run(
    settings: &Settings,
    personas: Personas,
    ready: oneshot::Sender<SocketAddr>,
    stop: impl Future<Output = ()>,
) -> IpcResult<()> {
    // guide: serve
    let server = bind(settings, personas).await?;
    // Whoever learns the address can connect at once.
    let _ = ready.send(server.local_addr());
    server.serve_with_shutdown(stop).await
    // guide: end
}

async fn connect(settings: &Settings, port: u16) -> IpcResult<Client> {
    let client = SecureGrpcClientBuilder::<Client>::new("localhost")
        .with_tls(settings.tls())
        .with_jwt(
            settings.jwt()?,
            "chain_engine".into(),
            vec!["service".into()],
        );
    client.build(format!("https://localhost:{port}")).await
}

async fn reflect(settings: &Settings, url: String) -> IpcResult<Code> {
    // guide: build-with
    let builder = SecureGrpcClientBuilder::new("localhost").with_tls(settings.tls());
    let mut reflection = builder
        .build_with(url, ServerReflectionClient::<SecureChannel>::new)
        .await?;
    // guide: end
    let asked = reflection.server_reflection_info(tokio_stream::empty());
    Ok(asked
        .await
        .map_or_else(|status| status.code(), |_| Code::Ok))
}

#[tokio::test]
async fn a_client_of_another_crate_is_made_with_its_own_new() {
    let certs = Certs::new();
    let settings = example(&certs);
    let (server, _) = with_tls_alone(settings.tls());
    let server = start(&server.with_descriptors(FILE_DESCRIPTOR_SET)).await;
    let url = format!("https://{}", server.address);
    assert_eq!(soon(reflect(&settings, url)).await.unwrap(), Code::Ok);
}

async fn ask(client: &mut Client) -> IpcResult<String> {
    // guide: client-call
    let mut request = Request::new(question("p1"));
    request.set_timeout(Duration::from_secs(2));
    let answer = client.augment_persona_request(request).await?;
    // guide: end
    Ok(answer.into_inner().augmented_request)
}

#[tokio::test]
async fn the_server_of_the_guide_serves_its_client_until_it_is_stopped() {
    let certs = Certs::new();
    let mut settings = example(&certs);
    settings.listen = FREE_PORT;
    let (ready, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = run(&settings, personas(), ready, async {
        let _ = stopped.await;
    });
    let calling = async {
        let address = address.await.unwrap();
        let mut client = connect(&settings, address.port()).await.unwrap();
        let answer = ask(&mut client).await.unwrap();
        assert_eq!(answer, "Be brief.\nchain_engine asks: Why?");
        let missing = client.augment_persona_request(question("p9")).await;
        assert_eq!(missing.unwrap_err().code(), Code::NotFound);
        drop(stop);
    };
    let (served, ()) = soon(async { tokio::join!(serving, calling) }).await;
    served.unwrap();
}

fn with_a_token_alone(
    jwt: Arc<JwtAuthenticator>,
) -> (SecureGrpcServerBuilder, SecureGrpcClientBuilder<Client>) {
    // guide: token-alone
    let server = SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .with_jwt(Arc::clone(&jwt), vec!["service".into()]);
    let client = SecureGrpcClientBuilder::new("localhost")
        .allow_plaintext()
        .with_jwt(jwt, "chain_engine".into(), vec!["service".into()]);
    // guide: end
    (server, client)
}

fn with_tls_alone(tls: TlsConfig) -> (SecureGrpcServerBuilder, SecureGrpcClientBuilder<Client>) {
    // guide: tls-alone
    let server = SecureGrpcServerBuilder::new()
        .with_tls(tls.clone())
        .allow_unauthenticated();
    let client = SecureGrpcClientBuilder::new("localhost").with_tls(tls);
    // guide: end
    (server, client)
}

fn with_both(
    tls: TlsConfig,
    jwt: Arc<JwtAuthenticator>,
) -> (SecureGrpcServerBuilder, SecureGrpcClientBuilder<Client>) {
    // guide: both
    let server = SecureGrpcServerBuilder::new()
        .with_tls(tls.clone())
        .with_jwt(Arc::clone(&jwt), vec!["service".into()]);
    let client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(tls)
        .with_jwt(jwt, "chain_engine".into(), vec!["service".into()]);
    // guide: end
    (server, client)
}

/// A server on a free port, with the personas.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    _stop: oneshot::Sender<()>,
    _serving: JoinHandle<IpcResult<()>>,
}

pub(crate) async fn start(builder: &SecureGrpcServerBuilder) -> Running {
    let router = builder.build::<RagPersonaIntegrationServiceServer<Personas>>();
    let service = RagPersonaIntegrationServiceServer::new(personas());
    let router = builder.add_service(router.unwrap(), service);
    let bound = router.bind(FREE_PORT).await.unwrap();
    let address = bound.local_addr();
    let (_stop, stopped) = oneshot::channel();
    let _serving = tokio::spawn(bound.serve_with_shutdown(async {
        let _ = stopped.await;
    }));
    Running {
        address,
        _stop,
        _serving,
    }
}

#[tokio::test]
async fn a_token_alone_tells_the_server_who_calls_and_keeps_others_out() {
    let certs = Certs::new();
    let jwt = example(&certs).jwt().unwrap();
    let (server, client) = with_a_token_alone(jwt);
    let server = start(&server).await;
    let url = format!("http://{}", server.address);
    let mut client = client.build(&url).await.unwrap();
    let answer = soon(ask(&mut client)).await.unwrap();
    assert!(answer.contains("chain_engine asks"), "{answer}");

    let silent = SecureGrpcClientBuilder::new("localhost").allow_plaintext();
    let mut silent: Client = silent.build(&url).await.unwrap();
    let Err(IpcError::Status(refused)) = ask(&mut silent).await else {
        panic!("a call without a token was let in");
    };
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn mutual_tls_alone_lets_in_who_has_a_certificate_of_the_ca() {
    let certs = Certs::new();
    let (server, client) = with_tls_alone(example(&certs).tls());
    let server = start(&server).await;
    let url = format!("https://{}", server.address);
    let mut client = client.build(&url).await.unwrap();
    let answer = soon(ask(&mut client)).await.unwrap();
    assert!(answer.contains("anybody asks"), "{answer}");

    let stranger = Certs::new();
    let mut tls = example(&stranger).tls();
    tls.ca_cert_path = certs.path().join("ca.crt");
    let stranger = SecureGrpcClientBuilder::<Client>::new("localhost").with_tls(tls);
    // In TLS 1.3 a client may learn of the refusal only with its first call.
    if let Ok(mut stranger) = stranger.build(&url).await {
        assert!(ask(&mut stranger).await.is_err());
    }
}

#[tokio::test]
async fn with_both_a_certificate_does_not_replace_the_token() {
    let certs = Certs::new();
    let settings = example(&certs);
    let (server, client) = with_both(settings.tls(), settings.jwt().unwrap());
    let server = start(&server).await;
    let url = format!("https://{}", server.address);
    let mut client = client.build(&url).await.unwrap();
    let answer = soon(ask(&mut client)).await.unwrap();
    assert!(answer.contains("chain_engine asks"), "{answer}");

    let silent = SecureGrpcClientBuilder::new("localhost").with_tls(settings.tls());
    let mut silent: Client = silent.build(&url).await.unwrap();
    let Err(IpcError::Status(refused)) = ask(&mut silent).await else {
        panic!("a call without a token was let in");
    };
    assert_eq!(refused.code(), Code::Unauthenticated);
}

fn for_operators(builder: SecureGrpcServerBuilder) -> SecureGrpcServerBuilder {
    // guide: method-roles
    let builder = builder.with_method_roles(
        "/intellirouter.rag_manager.v1.RAGPersonaIntegrationService/*",
        vec!["operator".into()],
    );
    // guide: end
    builder
}

#[tokio::test]
async fn a_rule_by_name_asks_for_its_own_roles() {
    let certs = Certs::new();
    let jwt = example(&certs).jwt().unwrap();
    let (server, _) = with_a_token_alone(Arc::clone(&jwt));
    let server = start(&for_operators(server.with_jwt(Arc::clone(&jwt), vec![]))).await;
    for (role, expected) in [
        ("service", Err(Code::PermissionDenied)),
        ("operator", Ok(())),
    ] {
        let client = SecureGrpcClientBuilder::new("localhost")
            .allow_plaintext()
            .with_jwt(Arc::clone(&jwt), "chain_engine".into(), vec![role.into()]);
        let url = format!("http://{}", server.address);
        let mut client: Client = client.build(url).await.unwrap();
        let answer = soon(client.augment_persona_request(question("p1"))).await;
        let answer = answer.map(drop).map_err(|status| status.code());
        assert_eq!(answer, expected, "{role}");
    }
}

fn behind_the_gateway(certs: &Path, tls: TlsConfig) -> IpcResult<SecureGrpcServerBuilder> {
    // guide: gateway-identity
    let public = fs::read(certs.join("identity.pub"))
        .map_err(|error| IpcError::Security(format!("identity.pub: {error}")))?;
    let identity = IdentityVerifier::from_public_pem(&public, "intellirouter-gateway", "personas")
        .map_err(|error| IpcError::Security(error.to_string()))?;
    let server = SecureGrpcServerBuilder::new()
        .with_tls(tls)
        .with_gateway_identity(identity);
    // guide: end
    Ok(server)
}

#[tokio::test]
async fn behind_the_gateway_the_handler_learns_who_called_the_gateway() {
    let certs = Certs::new();
    let tls = example(&certs).tls();
    let server = behind_the_gateway(certs.path(), tls.clone()).unwrap();
    let server = start(&server).await;
    let client = SecureGrpcClientBuilder::new("localhost").with_tls(tls);
    let url = format!("https://{}", server.address);
    let mut client: Client = client.build(&url).await.unwrap();

    // What the gateway does for each call.
    let key = fs::read(certs.path().join("identity.key")).unwrap();
    let minute = Duration::from_secs(60);
    let signer = IdentitySigner::from_pkcs8_pem(&key, "intellirouter-gateway", minute).unwrap();
    let identity = signer.sign("alice", &[], "personas", SystemTime::now());
    let mut request = Request::new(question("p1"));
    let identity = identity.unwrap().parse().unwrap();
    request.metadata_mut().insert(IDENTITY_HEADER, identity);

    let answer = client.augment_persona_request(request).await.unwrap();
    let answer = answer.into_inner().augmented_request;
    assert!(answer.contains("alice asks"), "{answer}");
}

fn tokens(jwt: &JwtAuthenticator) -> IpcResult<(String, bool)> {
    // guide: roles
    let mut roles = RoleConfig::new();
    roles.add_role("chain_engine", "service");
    roles.add_role("chain_engine", "operator");
    let token = jwt.generate_token("chain_engine", roles.roles_of("chain_engine"))?;
    let claims = jwt.validate_token(&token)?;
    let may_reset = claims.roles.iter().any(|role| role == "operator");
    // guide: end
    Ok((claims.sub, may_reset))
}

#[test]
fn a_token_says_who_and_which_roles() {
    let certs = Certs::new();
    let jwt = example(&certs).jwt().unwrap();
    let said = tokens(&jwt).unwrap();
    assert_eq!(said, ("chain_engine".to_owned(), true));
}
