//! `GET /events?channel=…` and `POST /events/{channel}`, `/events/renew` and
//! `/events/ticket`: no channel has a name of one word.

use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use intellirouter::events::{MAX_PATTERNS, Position};
use tonic::Code;

use super::door::{self, Entry};
use super::filter::Wanted;
use super::frames::Format;
use super::stream::EventStream;
use super::{EventPlane, access, publish_refusal, subscribe_refusal, too_large};
use crate::body::{Body, Kind};
use crate::calls::OpenCall;
use crate::layers::authenticate::Identity;
use crate::reply::Reply;

/// How long the payload of a publish may take to arrive.
const PAYLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest body of a ticket or a renewal.
const SMALL_BODY: usize = 64 * 1024;

/// The body of an event stream. Holds nothing that was encoded.
pub(crate) struct EventBody {
    stream: EventStream,
    format: Format,
}

impl EventBody {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let signal = ready!(self.stream.poll_next(cx));
        Poll::Ready(signal.map(|signal| self.format.encode(&signal)))
    }

    /// What ends each of its frames, and stands nowhere else in them.
    pub(crate) fn frame_end(&self) -> &'static [u8] {
        self.format.frame_end()
    }

    /// See [`EventStream::take_rest`].
    pub(crate) fn take_rest(&mut self) -> Option<Waker> {
        self.stream.take_rest()
    }

    /// The client took nothing.
    pub(crate) fn held_up(&mut self) {
        self.stream.held_up();
    }

    /// Says why the stream ends, unless that is settled; tells whether it was not.
    pub(crate) fn close(&mut self, reason: &'static str) -> bool {
        self.stream.close(reason)
    }
}

pub(super) async fn serve(
    plane: &Arc<EventPlane>,
    call: &Arc<OpenCall>,
    request: Request<Body>,
) -> Result<Response<Body>, Reply> {
    let path = request.uri().path();
    match path.strip_prefix("/events").unwrap_or_default() {
        "" | "/" if request.method() == Method::GET => {
            subscribe(plane, call, request.into_parts().0).await
        }
        "" | "/" => Err(wrong_method("GET")),
        _ if request.method() != Method::POST => Err(wrong_method("POST")),
        "/ticket" => {
            let caller = super::caller(call)?;
            let wish = receive(plane, request.into_body(), SMALL_BODY).await?;
            door::issue(plane, &caller, &wish).await
        }
        "/renew" => {
            let caller = super::caller(call)?;
            let body = receive(plane, request.into_body(), SMALL_BODY).await?;
            door::renew(plane, &caller, &renewed(&body)?).await?;
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        channel => {
            let channel = channel.trim_start_matches('/');
            let channel = percent_encoding::percent_decode_str(channel)
                .decode_utf8()
                .map_err(|_| Reply::invalid("path", "expected a channel name"))?
                .into_owned();
            publish(plane, &*super::caller(call)?, &channel, request).await
        }
    }
}

fn wrong_method(allowed: &'static str) -> Reply {
    Reply::new(
        Code::Unimplemented,
        "method_not_allowed",
        "this path does not know the method",
    )
    .status(StatusCode::METHOD_NOT_ALLOWED)
    .allow(allowed)
}

async fn subscribe(
    plane: &Arc<EventPlane>,
    call: &Arc<OpenCall>,
    mut head: Parts,
) -> Result<Response<Body>, Reply> {
    let entry = head.extensions.remove::<Entry>();
    let mut query = Query::parse(head.uri.query().unwrap_or_default(), entry.is_some())?;
    if let Some(entry) = &entry {
        query.channels = entry.channels().to_vec();
        query.wanted = entry.wanted();
    }
    let format = Format {
        ndjson: wants_ndjson(&head.headers)?,
        cloudevents: query.cloudevents,
    };
    let caller = super::caller(call)?;
    let patterns = access::subscribe(
        &plane.config.rules,
        &caller,
        query.channels.iter().map(String::as_str),
    )?;
    call.streams(patterns.clone());
    let after = head
        .headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok().map(str::to_owned))
        .or(query.last_event_id)
        .filter(|id| !id.is_empty())
        // An id that was never given out is answered by a gap, not by silence.
        .map(|id| id.parse().unwrap_or(Position::NOWHERE));
    let subscription = plane
        .log
        .subscribe(patterns, after)
        .await
        .map_err(|error| subscribe_refusal(&error))?;
    let most = plane.config.filters_per_subject;
    let filter = plane.door.filter(&caller, query.wanted, most)?;
    if let Some(entry) = &entry {
        // Last: whatever else refuses the stream leaves the ticket to be shown again.
        plane.door.redeem(entry, SystemTime::now()).await?;
    }
    let (cookies, session) = entry.map(Entry::into_parts).unzip();
    let stream = EventStream::new(plane.clone(), subscription, call.clone(), filter, session);
    let body = EventBody { stream, format };
    let mut response = Response::new(Body::new(Kind::Events(Box::new(body))));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    // Proxies on the way must neither keep, compress nor hold back what is sparse.
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-store, no-transform"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    for cookie in cookies.into_iter().flatten() {
        headers.append(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// The query of a subscription. What it does not know it refuses: a token, for
/// one, must never stand in a URL. A ticket says itself what may be read.
#[derive(Default)]
struct Query {
    channels: Vec<String>,
    wanted: Wanted,
    last_event_id: Option<String>,
    cloudevents: bool,
}

impl Query {
    fn parse(text: &str, by_ticket: bool) -> Result<Self, Reply> {
        let mut query = Self::default();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                "ticket" if by_ticket => {}
                "channel" | "type" | "where" if by_ticket => {
                    let expected = "a ticket says itself what may be read";
                    return Err(Reply::invalid(key.into_owned(), expected));
                }
                "type" => query.wanted.add_type(&value)?,
                "where" => query.wanted.add_where(&value)?,
                "channel" if query.channels.len() < MAX_PATTERNS => {
                    query.channels.push(value.into_owned());
                }
                "channel" => {
                    return Err(Reply::invalid(
                        "channel",
                        format!("expected at most {MAX_PATTERNS}"),
                    ));
                }
                "last_event_id" => query.last_event_id = Some(value.into_owned()),
                "envelope" if value == "cloudevents" => query.cloudevents = true,
                "envelope" => return Err(Reply::invalid("envelope", "expected cloudevents")),
                _ => {
                    let expected = "expected only channel, type, where, last_event_id and \
                                    envelope; a token belongs in the authorization header";
                    return Err(Reply::invalid("query", expected));
                }
            }
        }
        if query.channels.is_empty() && !by_ticket {
            let expected = "expected at least one channel or pattern, such as intellirouter:*";
            return Err(Reply::invalid("channel", expected));
        }
        Ok(query)
    }
}

fn wants_ndjson(headers: &HeaderMap) -> Result<bool, Reply> {
    let accept = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("*/*");
    for range in accept.split(',') {
        match range.split(';').next().unwrap_or_default().trim() {
            "application/x-ndjson" => return Ok(true),
            "text/event-stream" | "text/*" | "*/*" => return Ok(false),
            _ => {}
        }
    }
    Err(Reply::invalid(
        "accept",
        "expected text/event-stream or application/x-ndjson",
    )
    .status(StatusCode::NOT_ACCEPTABLE))
}

async fn publish(
    plane: &EventPlane,
    caller: &Identity,
    channel: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Reply> {
    let (head, body) = request.into_parts();
    let channel = match access::publish(&plane.config.rules, caller, channel) {
        Ok(channel) => channel,
        Err(reply) => {
            body.discard().await;
            return Err(reply);
        }
    };
    let key = match head.headers.get("idempotency-key") {
        Some(key) => Some(key.to_str().map_err(|_| {
            Reply::invalid(
                "idempotency-key",
                "expected 1 to 128 visible ASCII characters",
            )
        })?),
        None => None,
    };
    let payload = receive(plane, body, plane.config.payload_bytes).await?;
    check_payload(&payload)?;
    let published = plane
        .log
        .publish(&channel, payload, key)
        .await
        .map_err(|error| publish_refusal(&error))?;
    let answer = serde_json::json!({
        "channel": channel.as_str(),
        "id": published.position.to_string(),
        "duplicate": published.duplicate,
    });
    let mut response = Response::new(Body::full(format!("{answer}\n")));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A body, where there is a place for it.
async fn receive(plane: &EventPlane, body: Body, limit: usize) -> Result<Bytes, Reply> {
    let _place = plane
        .publishing
        .try_acquire()
        .map_err(|_| Reply::unavailable("too_many_publishes", "too many payloads are arriving"))?;
    tokio::time::timeout(PAYLOAD_TIMEOUT, read_payload(body, limit))
        .await
        .map_err(|_| Reply::deadline())?
}

/// The stream that a renewal names.
fn renewed(body: &[u8]) -> Result<String, Reply> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Renewal {
        stream: String,
    }
    let read = serde_json::from_slice::<Renewal>(body);
    read.map(|renewal| renewal.stream)
        .map_err(|_| Reply::invalid("body", "expected {\"stream\": \"…\"}"))
}

async fn read_payload(mut body: Body, limit: usize) -> Result<Bytes, Reply> {
    let mut payload = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Reply::new(Code::Cancelled, "client_gone", "the body broke off"))?;
        if let Ok(data) = frame.into_data() {
            if payload.len() + data.len() > limit {
                return Err(too_large(limit));
            }
            payload.extend_from_slice(&data);
        }
    }
    Ok(payload.freeze())
}

/// What this door lets in is what the contract says an event is.
pub(super) fn check_payload(payload: &[u8]) -> Result<(), Reply> {
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(payload) {
        Ok(_) => Ok(()),
        Err(error) => Err(Reply::invalid(
            "payload",
            format!(
                "expected one JSON object; line {}, column {}",
                error.line(),
                error.column()
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
