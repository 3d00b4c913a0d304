//! The gRPC services that live in the gateway itself: health, reflection (v1)
//! and events. They are ordinary tonic services behind the same pipeline; only
//! the last step differs.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use intellirouter_proto::intellirouter::events::v1::event_service_server::EventServiceServer;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body as TonicBody;
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceExt as _};

use crate::body::{Body, BodyError, Kind};
use crate::calls::{Cut, OpenCall};
use crate::config::Config;
use crate::events::{EventApi, EventPlane};
use crate::gateway::{Lasting, StartError};
use crate::reply::Reply;

type Inner = BoxCloneSyncService<Request<TonicBody>, Response<TonicBody>, Infallible>;

/// The health service: SERVING until the gateway stops. One for all
/// generations, so that whoever watches it is told.
#[derive(Clone)]
pub(crate) struct Health(Inner);

impl Health {
    /// Must run on the runtime that lasts as long as the gateway.
    pub(crate) fn new(stopping: CancellationToken) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        tokio::spawn(async move {
            stopping.cancelled().await;
            reporter
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
        });
        Self(BoxCloneSyncService::new(
            health.max_decoding_message_size(SMALL_REQUEST),
        ))
    }
}

/// See the module's comment.
pub(crate) struct LocalServices {
    health: Inner,
    reflection: Inner,
    events: Inner,
    /// Places for payloads that arrive.
    publishing: Semaphore,
    drain: CancellationToken,
}

/// What a health or reflection request may have, in bytes.
const SMALL_REQUEST: usize = 4096;
/// How long a request may take to arrive and be answered; a stream may then go
/// on.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Payloads that arrive at the same time; more are refused.
const PUBLISHING: usize = 64;

/// Room for the fields around a payload in `PublishRequest`, in bytes.
const PUBLISH_OVERHEAD: usize = 4096;

impl LocalServices {
    pub(crate) fn new(
        config: &Config,
        events: Arc<EventPlane>,
        lasting: &Lasting,
    ) -> Result<Self, StartError> {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(intellirouter_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let files: Vec<Vec<u8>> = config
            .descriptor_files
            .iter()
            .map(std::fs::read)
            .collect::<Result<_, _>>()?;
        for file in &files {
            builder = builder.register_encoded_file_descriptor_set(file);
        }
        let reflection = builder.build_v1().map_err(|error| StartError::Setting {
            key: "descriptors".into(),
            message: error.to_string(),
        })?;
        let events = EventServiceServer::new(EventApi::new(events))
            .max_decoding_message_size(config.events.payload_bytes + PUBLISH_OVERHEAD);
        Ok(Self {
            health: lasting.health.0.clone(),
            reflection: BoxCloneSyncService::new(
                reflection.max_decoding_message_size(SMALL_REQUEST),
            ),
            events: BoxCloneSyncService::new(events),
            publishing: Semaphore::new(PUBLISHING),
            drain: lasting.drain.clone(),
        })
    }

    /// Hands a call to the service that its path names.
    pub(crate) async fn call(
        &self,
        mut request: Request<Body>,
        call: Arc<OpenCall>,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Reply> {
        let service_name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let mut service = match service_name {
            "grpc.health.v1.Health" => self.health.clone(),
            "grpc.reflection.v1.ServerReflection" => self.reflection.clone(),
            "intellirouter.events.v1.EventService" => self.events.clone(),
            _ => {
                let message = "there is no such service or method";
                return Err(Reply::new(
                    tonic::Code::Unimplemented,
                    "unknown_method",
                    message,
                ));
            }
        };
        // A payload is buffered whole before its channel is known.
        let _place = match request.uri().path().ends_with("/Publish") {
            true => Some(self.publishing.try_acquire().map_err(|_| {
                Reply::unavailable("too_many_publishes", "too many payloads are arriving")
            })?),
            false => None,
        };
        // Events say themselves that the gateway stops, and what is being
        // published has to be told how that went.
        let drain =
            (service_name != "intellirouter.events.v1.EventService").then(|| self.drain.clone());
        let unanswered = drain.clone();
        request.extensions_mut().insert(call);
        // No service needs a request that arrives after that.
        let drained = self.drain.clone().cancelled_owned();
        let request = request.map(|body| {
            TonicBody::new(Arriving {
                body,
                drained: Box::pin(drained),
            })
        });
        let answer = async {
            let ready = match service.ready().await {
                Ok(ready) => ready,
                Err(never) => match never {},
            };
            match ready.call(request).await {
                Ok(response) => response.map(|body| {
                    let body = Body::new(Kind::Local(body));
                    let body = match timeout {
                        Some(timeout) => body.with_timeout(timeout),
                        None => body,
                    };
                    match drain {
                        Some(drain) => body.until(drain),
                        None => body,
                    }
                }),
                Err(never) => match never {},
            }
        };
        let limit = timeout.map_or(RECEIVE_TIMEOUT, |timeout| timeout.min(RECEIVE_TIMEOUT));
        let drained = async {
            match &unanswered {
                Some(drain) => drain.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            () = tokio::time::sleep(limit) => Err(Reply::deadline()),
            () = drained => Err(stopping()),
        }
    }
}

/// A request, as long as the gateway waits for it.
struct Arriving {
    body: Body,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        // What is here already is taken.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(status)));
        }
        ready!(self.drained.as_mut().poll(cx));
        Poll::Ready(Some(Err(stopping().grpc())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn stopping() -> Reply {
    Cut::Draining.reply()
}

/// A request that breaks a rule keeps its own refusal on its way through tonic.
fn status(error: BodyError) -> tonic::Status {
    match error {
        BodyError::Refused(reply) => reply.grpc(),
        other => tonic::Status::from_error(Box::new(other)),
    }
}
