//! `intellirouter.events.v1.EventService`: the same streams and the same
//! rules for gRPC and gRPC-Web clients.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use intellirouter::events::{Entry, GapReason, Position};
use intellirouter_proto::intellirouter::events::v1::event_service_server::EventService;
use intellirouter_proto::intellirouter::events::v1::{
    self as wire, PublishRequest, PublishResponse, RenewRequest, RenewResponse, SubscribeRequest,
    SubscribeResponse,
};
use tonic::{Request, Response, Status};

use super::filter::Wanted;
use super::http::check_payload;
use super::stream::{EventStream, Signal};
use super::{EventPlane, access, caller, door, publish_refusal, subscribe_refusal};
use crate::calls::OpenCall;
use crate::reply::Reply;

/// The service, behind the gateway's own authentication.
pub(crate) struct EventApi {
    plane: Arc<EventPlane>,
}

impl EventApi {
    pub(crate) fn new(plane: Arc<EventPlane>) -> Self {
        Self { plane }
    }
}

fn call<T>(request: &Request<T>) -> Result<Arc<OpenCall>, Status> {
    let call = request.extensions().get::<Arc<OpenCall>>().cloned();
    call.ok_or_else(|| Reply::internal().grpc())
}

#[tonic::async_trait]
impl EventService for EventApi {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let config = &self.plane.config;
        let caller = caller(&call).map_err(|reply| reply.grpc())?;
        let channels = request.channels.iter().map(String::as_str);
        let patterns = access::subscribe(&config.rules, &caller, channels);
        let patterns = patterns.map_err(|reply| reply.grpc())?;
        let wanted = wanted(&request).map_err(|reply| reply.grpc())?;
        call.streams(patterns.clone());
        let after = (!request.last_event_id.is_empty())
            .then(|| request.last_event_id.parse().unwrap_or(Position::NOWHERE));
        let subscription = self
            .plane
            .log
            .subscribe(patterns, after)
            .await
            .map_err(|error| subscribe_refusal(&error).grpc())?;
        let most = config.filters_per_subject;
        let filter = self.plane.door.filter(&caller, wanted, most);
        let filter = filter.map_err(|reply| reply.grpc())?;
        let plane = self.plane.clone();
        let mut events = EventStream::new(plane, subscription, call.clone(), filter, None);
        let signals = stream::poll_fn(move |cx| {
            if call.was_held_up() {
                events.held_up();
            }
            events.poll_next(cx)
        });
        let messages = signals.map(|signal| stream::iter(messages(signal)));
        Ok(Response::new(Box::pin(messages.flatten())))
    }

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let publish = async {
            let rules = &self.plane.config.rules;
            let channel = access::publish(rules, &*caller(&call)?, &request.channel)?;
            check_payload(&request.payload)?;
            let key = (!request.idempotency_key.is_empty()).then_some(&*request.idempotency_key);
            let published = self.plane.log.publish(&channel, request.payload, key).await;
            published.map_err(|error| publish_refusal(&error))
        };
        let published = publish.await.map_err(|reply| reply.grpc())?;
        let id = published.position.to_string();
        Ok(Response::new(PublishResponse { id }))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let call = call(&request)?;
        let renew = async {
            let stream = &request.get_ref().stream_id;
            door::renew(&self.plane, &caller(&call)?, stream).await
        };
        renew.await.map_err(|reply| reply.grpc())?;
        Ok(Response::new(RenewResponse {}))
    }
}

fn wanted(request: &SubscribeRequest) -> Result<Wanted, Reply> {
    let mut wanted = Wanted::default();
    for name in &request.types {
        wanted.add_type(name)?;
    }
    for condition in &request.conditions {
        wanted.add_condition(&condition.field, &condition.value)?;
    }
    Ok(wanted)
}

/// gRPC needs no heartbeat: HTTP/2 has pings.
fn messages(signal: Signal) -> Vec<Result<SubscribeResponse, Status>> {
    use wire::subscribe_response::Message;
    let one = |message| {
        vec![Ok(SubscribeResponse {
            message: Some(message),
        })]
    };
    match signal {
        Signal::Open { position, stream } => one(Message::Opened(wire::Opened {
            id: position.to_string(),
            stream_id: stream,
        })),
        Signal::Position(position) => one(Message::Position(wire::PositionMark {
            id: position.to_string(),
        })),
        Signal::Expiring { at, stream } => one(Message::Expiring(wire::Expiring {
            at: Some(at.into()),
            stream_id: stream,
        })),
        Signal::Heartbeat => Vec::new(),
        Signal::Entries(entries) => entries
            .iter()
            .map(|entry| {
                Ok(SubscribeResponse {
                    message: Some(message(entry)),
                })
            })
            .collect(),
        Signal::End(end) => {
            let mut last = one(Message::Error(wire::StreamError {
                reason: end.reason().to_owned(),
                message: end.message().to_owned(),
            }));
            last.push(Err(end.reply().grpc()));
            last
        }
    }
}

fn message(entry: &Entry) -> wire::subscribe_response::Message {
    use wire::subscribe_response::Message;
    match entry {
        Entry::Event(event) => Message::Event(wire::Event {
            id: event.position().to_string(),
            channel: event.channel().to_string(),
            event_type: event.event_type().to_owned(),
            payload: event.payload().clone(),
            recorded_at: Some(event.recorded_at().into()),
        }),
        Entry::Gap(gap) => Message::Gap(wire::Gap {
            from: gap.from.map(|from| from.to_string()).unwrap_or_default(),
            to: gap.to.to_string(),
            reason: reason(gap.reason) as i32,
        }),
    }
}

fn reason(reason: GapReason) -> wire::GapReason {
    match reason {
        GapReason::Trimmed => wire::GapReason::Trimmed,
        GapReason::StoreLostData => wire::GapReason::StoreLostData,
        GapReason::StoreRestarted => wire::GapReason::StoreRestarted,
        GapReason::RecorderAway => wire::GapReason::RecorderAway,
        GapReason::Slow => wire::GapReason::Slow,
    }
}
