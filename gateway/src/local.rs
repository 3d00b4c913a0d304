//! The gRPC services that live in the gateway itself: health, reflection (v1)
//! and events. They are ordinary tonic services behind the same pipeline; only
//! the last step differs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use intellirouter_proto::intellirouter::events::v1::event_service_server::EventServiceServer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body as TonicBody;
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceExt as _};

use crate::body::{Body, BodyError, Kind};
use crate::config::Config;
use crate::events::{EventApi, EventPlane};
use crate::gateway::StartError;
use crate::layers::authenticate::Identity;
use crate::reply::Reply;

type Inner = BoxCloneSyncService<Request<TonicBody>, Response<TonicBody>, Infallible>;

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
        drain: CancellationToken,
    ) -> Result<Self, StartError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let stopping = drain.clone();
        tokio::spawn(async move {
            stopping.cancelled().await;
            reporter
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
        });
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
            health: BoxCloneSyncService::new(health.max_decoding_message_size(SMALL_REQUEST)),
            reflection: BoxCloneSyncService::new(
                reflection.max_decoding_message_size(SMALL_REQUEST),
            ),
            events: BoxCloneSyncService::new(events),
            publishing: Semaphore::new(PUBLISHING),
            drain,
        })
    }

    /// Hands a call to the service that its path names.
    pub(crate) async fn call(
        &self,
        mut request: Request<Body>,
        caller: Option<Arc<Identity>>,
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
        // Events say themselves that the gateway stops.
        let drain =
            (service_name != "intellirouter.events.v1.EventService").then(|| self.drain.clone());
        let stopping = drain.clone();
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let request = request.map(|body| TonicBody::new(body.map_err(status)));
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
            match &stopping {
                Some(drain) => drain.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            () = tokio::time::sleep(limit) => Err(Reply::deadline()),
            () = drained => Err(Reply::unavailable("draining", "the gateway is stopping")),
        }
    }
}

/// A request that breaks a rule keeps its own refusal on its way through tonic.
fn status(error: BodyError) -> tonic::Status {
    match error {
        BodyError::Refused(reply) => reply.grpc(),
        other => tonic::Status::from_error(Box::new(other)),
    }
}
