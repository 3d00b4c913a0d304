//! A service with a stream, that does what the channel's name says.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use intellirouter::generated::intellirouter::events::v1 as events;
use intellirouter::security::{SecureGrpcServerBuilder, SecureRouter};
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use events::event_service_server::{EventService, EventServiceServer};
use events::subscribe_response::Message;

pub(crate) const SERVICE: &str = "intellirouter.events.v1.EventService";
pub(crate) const PUBLISH: &str = "/intellirouter.events.v1.EventService/Publish";
pub(crate) const SUBSCRIBE: &str = "/intellirouter.events.v1.EventService/Subscribe";

/// What the tests hear of its handlers.
#[derive(Clone, Default)]
pub(crate) struct Player {
    /// A handler waits.
    pub(crate) entered: Arc<Notify>,
    /// What waited, or streamed, was dropped.
    pub(crate) dropped: Arc<Notify>,
}

impl Player {
    /// A router with this service alone.
    pub(crate) fn router(&self, builder: &SecureGrpcServerBuilder) -> SecureRouter {
        let router = builder.build::<EventServiceServer<Self>>().unwrap();
        builder.add_service(router, EventServiceServer::new(self.clone()))
    }

    fn guard(&self) -> TellsDrop {
        TellsDrop(Arc::clone(&self.dropped))
    }
}

struct TellsDrop(Arc<Notify>);

impl Drop for TellsDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn message(size: usize) -> events::SubscribeResponse {
    let event = events::Event {
        payload: vec![b'x'; size].into(),
        ..Default::default()
    };
    events::SubscribeResponse {
        message: Some(Message::Event(event)),
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<events::SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for Player {
    type SubscribeStream = Events;

    async fn subscribe(
        &self,
        request: Request<events::SubscribeRequest>,
    ) -> Result<Response<Events>, Status> {
        let channel = request.into_inner().channels.concat();
        let first = stream::iter([Ok(message(1))]);
        let rest: Events = match channel.as_str() {
            "ends" => Box::pin(stream::empty()),
            "fails" => Box::pin(stream::iter([Err(Status::not_found("no more"))])),
            "fails at length" => Box::pin(stream::iter([Err(long_status())])),
            "panics" => Box::pin(stream::poll_fn(|_| panic!("on purpose"))),
            "stays" => {
                let guard = self.guard();
                Box::pin(stream::poll_fn(move |_| {
                    let _kept = &guard;
                    std::task::Poll::Pending
                }))
            }
            "floods" => {
                let guard = self.guard();
                Box::pin(stream::repeat_with(move || {
                    let _kept = &guard;
                    Ok(message(1024))
                }))
            }
            other => return Err(Status::invalid_argument(other.to_owned())),
        };
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn publish(
        &self,
        request: Request<events::PublishRequest>,
    ) -> Result<Response<events::PublishResponse>, Status> {
        match request.get_ref().channel.as_str() {
            "works" => Ok(Response::new(Default::default())),
            "fails" => Err(Status::not_found("nothing there")),
            "fails at length" => Err(long_status()),
            "panics" => panic!("on purpose"),
            "waits" => {
                let _guard = self.guard();
                self.entered.notify_one();
                std::future::pending().await
            }
            other => Err(Status::invalid_argument(other.to_owned())),
        }
    }

    async fn renew(
        &self,
        _: Request<events::RenewRequest>,
    ) -> Result<Response<events::RenewResponse>, Status> {
        Err(Status::not_found("nothing here is renewed"))
    }
}

/// What a handler says that quotes all of its input: 600,000 bytes in `grpc-message`.
fn long_status() -> Status {
    Status::not_found("ж".repeat(100_000))
}

pub(crate) fn publish(channel: &str) -> events::PublishRequest {
    events::PublishRequest {
        channel: channel.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn subscribe(channel: &str) -> events::SubscribeRequest {
    events::SubscribeRequest {
        channels: vec![channel.to_owned()],
        ..Default::default()
    }
}
