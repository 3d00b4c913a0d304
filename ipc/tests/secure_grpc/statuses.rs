//! Statuses on their way to a caller: what is too long for it is cut, and nothing else suffers.

use events::event_service_client::EventServiceClient;
use events::event_service_server::{EventService, EventServiceServer};
use intellirouter::generated::intellirouter::events::v1 as events;
use intellirouter::security::{SecureChannel, SecureGrpcClientBuilder, SecureGrpcServerBuilder};
use tokio_stream::StreamExt;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use crate::player::{self, Player};
use crate::support::*;

type Client = EventServiceClient<SecureChannel>;

async fn connect(address: std::net::SocketAddr) -> Client {
    SecureGrpcClientBuilder::new("localhost")
        .allow_plaintext()
        .build(format!("http://{address}"))
        .await
        .unwrap()
}

fn assert_is_shortened(status: &Status) {
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let text = status.message().strip_suffix('…').unwrap();
    assert!(text.chars().all(|letter| letter == 'ж'), "{text}");
    assert!(text.chars().count() > 500, "{}", text.len());
}

#[tokio::test]
async fn a_status_too_long_for_its_caller_is_shortened_and_the_connection_lives() {
    let builder = SecureGrpcServerBuilder::new()
        .allow_plaintext()
        .allow_unauthenticated();
    let served = Served::start(Player::default().router(&builder)).await;
    let mut client = connect(served.address).await;
    let mut other = client.subscribe(player::subscribe("stays")).await.unwrap();
    assert!(other.get_mut().next().await.unwrap().is_ok());

    let call = client.publish(player::publish("fails at length")).await;
    assert_is_shortened(&call.unwrap_err());
    let stream = client.subscribe(player::subscribe("fails at length")).await;
    let mut stream = stream.unwrap().into_inner();
    assert!(stream.next().await.unwrap().is_ok());
    assert_is_shortened(&stream.next().await.unwrap().unwrap_err());

    let more = tokio::time::timeout(std::time::Duration::ZERO, other.get_mut().next()).await;
    assert!(
        more.is_err(),
        "the other stream is open, with nothing to say"
    );
    client.publish(player::publish("works")).await.unwrap();
}

#[tokio::test]
async fn a_client_takes_a_status_of_60_kib_from_servers_that_send_one() {
    struct Talks;
    #[tonic::async_trait]
    impl EventService for Talks {
        type SubscribeStream = tokio_stream::Empty<Result<events::SubscribeResponse, Status>>;
        async fn subscribe(
            &self,
            _: Request<events::SubscribeRequest>,
        ) -> Result<Response<Self::SubscribeStream>, Status> {
            Ok(Response::new(tokio_stream::empty()))
        }
        async fn publish(
            &self,
            _: Request<events::PublishRequest>,
        ) -> Result<Response<events::PublishResponse>, Status> {
            Err(Status::not_found("x".repeat(60 * 1024)))
        }
        async fn renew(
            &self,
            _: Request<events::RenewRequest>,
        ) -> Result<Response<events::RenewResponse>, Status> {
            Err(Status::not_found(""))
        }
    }
    let incoming = TcpIncoming::bind(LOOPBACK).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(EventServiceServer::new(Talks))
        .serve_with_incoming(incoming);
    tokio::spawn(server);

    let status = connect(address)
        .await
        .publish(player::publish("works"))
        .await
        .unwrap_err();

    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message().len(), 60 * 1024);
}
