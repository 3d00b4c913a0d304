//! Events out of the gateway and into it: server-sent events, NDJSON and the
//! gRPC `EventService`, over one log.
//!
//! Owns who may read and publish which channel, what of it a stream wants, the
//! framing, the life of a stream, and how browsers come to one. Does not own the log: that is [`intellirouter::events`]. A stream
//! keeps no queue of its own but a cursor into the log, so a slow reader costs
//! one frame in flight and what its connection's windows allow.

mod access;
mod bell;
mod door;
mod filter;
mod frames;
mod grpc;
mod http;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use intellirouter::events::{
    ChannelPattern, EventLog, LogSettings, LogUse, PublishError, SubscribeError,
};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::body::Body;
use crate::calls::OpenCall;
use crate::config::EventsConfig;
use crate::gateway::{Lasting, StartError};
use crate::layers::authenticate::Identity;
use crate::reply::Reply;
use crate::telemetry::{EventPayloadLabels, Telemetry};

pub(crate) use door::{Door, enter, follow, is_by_ticket, is_return};
pub(crate) use grpc::EventApi;
pub(crate) use http::EventBody;

/// What all event streams share.
pub(crate) struct EventPlane {
    log: Arc<dyn EventLog>,
    config: EventsConfig,
    telemetry: Arc<Telemetry>,
    drain: CancellationToken,
    /// Places for payloads that arrive by POST.
    publishing: Arc<Semaphore>,
    door: Arc<Door>,
}

/// Opens the log that the configuration names. Used by a gateway it follows and records at once;
/// else it touches no more than it must.
pub(crate) async fn open_log(
    config: &EventsConfig,
    usage: LogUse,
) -> Result<Arc<dyn EventLog>, StartError> {
    let settings = LogSettings {
        usage,
        replicas: config.replicas,
        retain_bytes: config.retain_bytes,
        retain_age: config.retain_age,
        max_payload: config.payload_bytes,
        publish_timeout: config.publish_timeout,
        ca_file: config.ca_file.clone(),
        ..LogSettings::default()
    };
    intellirouter::events::open(&config.store, settings)
        .await
        .map_err(|error| StartError::setting("events.store", error))
}

impl EventPlane {
    pub(crate) fn new(config: &EventsConfig, lasting: &Lasting) -> Arc<Self> {
        Arc::new(Self {
            log: lasting.log.clone(),
            config: config.clone(),
            telemetry: lasting.telemetry.clone(),
            drain: lasting.drain.clone(),
            publishing: lasting.publishing.clone(),
            door: lasting.door.clone(),
        })
    }

    /// Whether `caller` may still read what it reads.
    pub(crate) fn may_read(&self, caller: &Identity, channels: &[ChannelPattern]) -> bool {
        access::may_read(&self.config.rules, caller, channels)
    }

    /// Puts the log's own counters into the metrics; called before each scrape.
    pub(crate) fn observe(&self) {
        let status = self.log.status();
        let telemetry = &self.telemetry;
        telemetry.store_connected.set(i64::from(status.connected));
        raise(&telemetry.events_recorded, status.recorded);
        raise(&telemetry.events_ignored, status.ignored);
        for (payload, count) in [
            ("too_large", status.oversized),
            ("not_utf8", status.not_utf8),
            ("not_json", status.not_json),
        ] {
            let labels = EventPayloadLabels { payload };
            raise(&telemetry.events_malformed.get_or_create(&labels), count);
        }
    }

    /// How the store is doing, in words without credentials.
    pub(crate) fn status(&self) -> String {
        let status = self.log.status();
        let state = if status.connected {
            "connected"
        } else {
            "away"
        };
        let door = self.door.fault().unwrap_or_default();
        format!("event store {state}: {}{door}", status.detail)
    }
}

/// Brings a counter to what the log has counted.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// Answers `/events` and what is below it.
pub(crate) async fn serve(
    plane: &Arc<EventPlane>,
    call: &Arc<OpenCall>,
    request: Request<Body>,
) -> Result<Response<Body>, Reply> {
    http::serve(plane, call, request).await
}

/// Who calls: authenticated, as every call on channels is.
fn caller(call: &OpenCall) -> Result<Arc<Identity>, Reply> {
    call.caller()
        .ok_or_else(|| Reply::unauthenticated("no_token", "a bearer token is required"))
}

fn publish_refusal(error: &PublishError) -> Reply {
    match error {
        PublishError::InvalidChannel(expected) => Reply::invalid("channel", expected.clone()),
        PublishError::TooLarge { limit, .. } => too_large(*limit),
        PublishError::BadIdempotencyKey => Reply::invalid(
            "idempotency-key",
            "expected 1 to 128 visible ASCII characters",
        ),
        PublishError::Unavailable(_) => {
            tracing::warn!(%error, "event not published");
            Reply::unavailable(
                "store_away",
                "the event store is away, or too many publishes wait for it; nothing was published",
            )
        }
        PublishError::TimedOut(_)
        | PublishError::Interrupted(_)
        | PublishError::Unconfirmed { .. } => {
            tracing::warn!(%error, "event perhaps not published");
            Reply::unavailable(
                "store_unsure",
                "the event store did not answer; the event may have been published: repeat it \
                 with the same idempotency key",
            )
        }
    }
}

fn subscribe_refusal(error: &SubscribeError) -> Reply {
    match error {
        SubscribeError::Unavailable(_) => {
            Reply::unavailable("store_away", "the event store is away")
                .retry_after(Duration::from_secs(1))
        }
        other => Reply::invalid("channel", other.to_string()),
    }
}

fn too_large(limit: usize) -> Reply {
    let message = format!("the payload is larger than {limit} bytes");
    Reply::new(Code::ResourceExhausted, "too_large", message)
        .status(::http::StatusCode::PAYLOAD_TOO_LARGE)
}
