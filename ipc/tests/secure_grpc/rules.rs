//! Who may call which method, and what reflection shows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use intellirouter::generated::intellirouter::events::v1::event_service_client::EventServiceClient;
use intellirouter::generated::intellirouter::memory::v1 as memory;
use intellirouter::security::{
    SecureChannel, SecureGrpcClientBuilder, SecureGrpcServerBuilder, SecureRouter,
};
use memory::memory_chain_integration_service_client::MemoryChainIntegrationServiceClient;
use memory::memory_chain_integration_service_server::{
    MemoryChainIntegrationService, MemoryChainIntegrationServiceServer,
};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Response, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};
use tonic_types::StatusExt;

use crate::player::{self, Player};
use crate::support::*;

const SERVICE: &str = "intellirouter.memory.v1.MemoryChainIntegrationService";

/// A service whose methods ask for different roles.
#[derive(Clone, Default)]
struct Notes {
    calls: Arc<std::sync::atomic::AtomicU32>,
}

impl Notes {
    fn called<T: Default>(&self) -> Result<Response<T>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(T::default()))
    }

    fn router(&self, builder: &SecureGrpcServerBuilder) -> SecureRouter {
        let service = MemoryChainIntegrationServiceServer::new(self.clone());
        let router = builder.build::<Notes>().unwrap();
        builder.add_service(router, service)
    }
}

#[tonic::async_trait]
impl MemoryChainIntegrationService for Notes {
    async fn get_conversation_history_for_chain(
        &self,
        _: Request<memory::GetConversationHistoryForChainRequest>,
    ) -> Result<Response<memory::GetConversationHistoryForChainResponse>, Status> {
        self.called()
    }

    async fn store_chain_result_in_conversation(
        &self,
        _: Request<memory::StoreChainResultInConversationRequest>,
    ) -> Result<Response<memory::StoreChainResultInConversationResponse>, Status> {
        self.called()
    }

    async fn create_conversation_from_chain_execution(
        &self,
        _: Request<memory::CreateConversationFromChainExecutionRequest>,
    ) -> Result<Response<memory::CreateConversationFromChainExecutionResponse>, Status> {
        self.called()
    }
}

fn builder() -> SecureGrpcServerBuilder {
    SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .with_jwt(jwt(), vec![])
}

fn names(roles: &[&str]) -> Vec<String> {
    roles.iter().map(|role| (*role).to_owned()).collect()
}

async fn connect<C>(
    served: &Served,
    roles: Option<&[&str]>,
    make: impl FnOnce(SecureChannel) -> C,
) -> C {
    let mut builder = SecureGrpcClientBuilder::new("localhost").allow_plaintext();
    if let Some(roles) = roles {
        builder = builder.with_jwt(jwt(), "alice".to_owned(), names(roles));
    }
    builder
        .build_with(format!("http://{}", served.address), make)
        .await
        .unwrap()
}

/// How the calls of `GetConversationHistoryForChain` and of `StoreChainResultInConversation` end.
async fn verdicts(served: &Served, roles: &[&str]) -> [Code; 2] {
    let mut client = connect(
        served,
        Some(roles),
        MemoryChainIntegrationServiceClient::new,
    )
    .await;
    let get = client
        .get_conversation_history_for_chain(Request::new(Default::default()))
        .await;
    let store = client
        .store_chain_result_in_conversation(Request::new(Default::default()))
        .await;
    [
        get.map_or_else(|status| status.code(), |_| Code::Ok),
        store.map_or_else(|status| status.code(), |_| Code::Ok),
    ]
}

const DENIED: Code = Code::PermissionDenied;

#[tokio::test]
async fn each_method_asks_for_the_roles_in_its_options() {
    let notes = Notes::default();
    let builder = builder().with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    let served = Served::start(notes.router(&builder)).await;
    for (roles, expected, calls) in [
        (&["user"][..], [Code::Ok, DENIED], 1),
        (&["operator"], [DENIED, Code::Ok], 1),
        (&["user", "operator"], [Code::Ok, Code::Ok], 2),
        (&["admin"], [Code::Ok, Code::Ok], 2),
        (&["other"], [DENIED, DENIED], 0),
        (&[], [DENIED, DENIED], 0),
    ] {
        notes.calls.store(0, Ordering::SeqCst);
        assert_eq!(verdicts(&served, roles).await, expected, "{roles:?}");
        assert_eq!(notes.calls.load(Ordering::SeqCst), calls, "{roles:?}");
    }
    served.stop().await.unwrap();
}

#[tokio::test]
async fn the_builders_roles_go_before_the_options() {
    let builder = builder()
        .with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET)
        .with_method_roles(
            format!("/{SERVICE}/GetConversationHistoryForChain"),
            names(&["boss"]),
        );
    let served = Served::start(Notes::default().router(&builder)).await;
    assert_eq!(verdicts(&served, &["user"]).await, [DENIED, DENIED]);
    assert_eq!(verdicts(&served, &["boss"]).await, [Code::Ok, DENIED]);
    assert_eq!(verdicts(&served, &["operator"]).await, [DENIED, Code::Ok]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn an_author_without_descriptors_gives_roles_to_a_service_or_a_method() {
    let builder = builder()
        .with_method_roles(format!("/{SERVICE}/*"), names(&["*"]))
        .with_method_roles(
            format!("/{SERVICE}/StoreChainResultInConversation"),
            names(&["writer"]),
        );
    let served = Served::start(Notes::default().router(&builder)).await;
    assert_eq!(verdicts(&served, &[]).await, [Code::Ok, DENIED]);
    assert_eq!(verdicts(&served, &["writer"]).await, [Code::Ok, Code::Ok]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_method_without_a_rule_is_closed_even_to_admin_and_the_reason_is_told() {
    let builder = builder().with_method_roles(format!("/{SERVICE}/*"), names(&["*"]));
    let player = tonic_service(&Player::default());
    let router = builder.add_service(Notes::default().router(&builder), player);
    let served = Served::start(router).await;
    let mut client = connect(&served, Some(&["admin"]), EventServiceClient::new).await;

    let denied = client.publish(player::publish("works")).await.unwrap_err();

    assert_eq!(denied.code(), DENIED);
    assert_eq!(denied.get_details_error_info().unwrap().reason, "NO_RULE");
    served.stop().await.unwrap();
}

fn tonic_service(
    player: &Player,
) -> intellirouter::generated::intellirouter::events::v1::event_service_server::EventServiceServer<
    Player,
> {
    intellirouter::generated::intellirouter::events::v1::event_service_server::EventServiceServer::new(player.clone())
}

#[tokio::test]
async fn a_rule_for_a_service_that_is_not_served_is_reported_when_the_server_is_bound() {
    let builder = builder().with_method_roles("/a.Stranger/*", names(&["user"]));
    let error = Notes::default()
        .router(&builder)
        .bind(LOOPBACK)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("a.Stranger"), "{error}");
}

#[test]
fn bad_patterns_and_descriptors_are_reported_when_the_server_is_built() {
    let pattern = builder().with_method_roles("memory", names(&["user"]));
    let nobody = builder().with_method_roles(format!("/{SERVICE}/*"), vec![]);
    let set = builder().with_descriptors(b"rubbish");
    // One letter too many: the rule would protect nothing.
    let misspelt = builder()
        .with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET)
        .with_method_roles(format!("/{SERVICE}/*"), names(&["*"]))
        .with_method_roles(
            format!("/{SERVICE}/StoreChainResultInConversations"),
            names(&["admin"]),
        );
    for (builder, hint) in [
        (misspelt, "StoreChainResultInConversations"),
        (pattern, "/package.Service/Method"),
        (nobody, "no role is named"),
        (set, "FileDescriptorSet"),
    ] {
        let error = builder.build::<Notes>().unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
    }
}

type Reflection = ServerReflectionClient<SecureChannel>;

async fn ask(client: &mut Reflection, what: MessageRequest) -> Result<MessageResponse, Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(what),
    };
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await?;
    let answer = answers.into_inner().next().await.unwrap()?;
    Ok(answer.message_response.unwrap())
}

#[tokio::test]
async fn reflection_lists_the_services_and_shows_their_files_to_callers_with_a_token() {
    let builder = builder().with_descriptors(intellirouter_proto::FILE_DESCRIPTOR_SET);
    let served = Served::start(Notes::default().router(&builder)).await;
    let list = || MessageRequest::ListServices(String::new());

    let mut nobody = connect(&served, None, Reflection::new).await;
    let refused = ask(&mut nobody, list()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let mut client = connect(&served, Some(&[]), Reflection::new).await;
    let MessageResponse::ListServicesResponse(ListServiceResponse { service }) =
        ask(&mut client, list()).await.unwrap()
    else {
        panic!("not a list");
    };
    let mut listed: Vec<_> = service.into_iter().map(|service| service.name).collect();
    listed.sort();
    assert_eq!(
        listed,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            SERVICE
        ]
    );
    let file = MessageRequest::FileContainingSymbol(SERVICE.to_owned());
    let shown = ask(&mut client, file).await.unwrap();
    assert!(matches!(shown, MessageResponse::FileDescriptorResponse(_)));
    drop((client, nobody));
    served.stop().await.unwrap();
}
