//! `GET /events?channel=…` and `POST /events/{channel}`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use intellirouter::events::{MAX_PATTERNS, Position};
use tonic::Code;

use super::frames::Format;
use super::stream::{Closed, EventStream};
use super::{EventPlane, access, publish_refusal, subscribe_refusal, too_large};
use crate::body::{Body, Kind};
use crate::calls::OpenCall;
use crate::layers::authenticate::Identity;
use crate::reply::Reply;

/// How long the payload of a publish may take to arrive.
const PAYLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of an event stream. Holds one encoded batch at most.
pub(crate) struct EventBody {
    frames: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    closed: Closed,
    frame_end: &'static [u8],
}

impl EventBody {
    pub(crate) fn new(
        frames: impl Stream<Item = Bytes> + Send + 'static,
        closed: Closed,
        frame_end: &'static [u8],
    ) -> Self {
        Self {
            frames: Box::pin(frames),
            closed,
            frame_end,
        }
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.frames.poll_next_unpin(cx)
    }

    /// What ends each of its frames, and stands nowhere else in them.
    pub(crate) fn frame_end(&self) -> &'static [u8] {
        self.frame_end
    }

    /// Says why the stream ends, unless that is settled; tells whether it was not.
    pub(crate) fn close(&self, reason: &'static str) -> bool {
        self.closed.set(reason).is_ok()
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
        channel => {
            let channel = channel.trim_start_matches('/');
            let channel = percent_encoding::percent_decode_str(channel)
                .decode_utf8()
                .map_err(|_| Reply::invalid("path", "expected a channel name"))?
                .into_owned();
            publish(plane, super::caller(call)?, &channel, request).await
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
    head: Parts,
) -> Result<Response<Body>, Reply> {
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    let format = Format {
        ndjson: wants_ndjson(&head.headers)?,
        cloudevents: query.cloudevents,
    };
    let patterns = access::subscribe(
        &plane.config.rules,
        super::caller(call)?,
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
    let stream = EventStream::new(plane.clone(), subscription, call.clone());
    let closed = stream.closed();
    let frames = futures_util::stream::unfold(stream, move |mut stream| async move {
        let signal = stream.next().await?;
        Some((format.encode(&signal), stream))
    });
    let body = EventBody::new(frames, closed, format.frame_end());
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
    Ok(response)
}

/// The query of a subscription. What it does not know it refuses: a token, for
/// one, must never stand in a URL.
#[derive(Default)]
struct Query {
    channels: Vec<String>,
    last_event_id: Option<String>,
    cloudevents: bool,
}

impl Query {
    fn parse(text: &str) -> Result<Self, Reply> {
        let mut query = Self::default();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match &*key {
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
                    let expected = "expected only channel, last_event_id and envelope; a token \
                                    belongs in the authorization header";
                    return Err(Reply::invalid("query", expected));
                }
            }
        }
        if query.channels.is_empty() {
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
    let _place = plane
        .publishing
        .try_acquire()
        .map_err(|_| Reply::unavailable("too_many_publishes", "too many payloads are arriving"))?;
    let read = read_payload(body, plane.config.payload_bytes);
    let payload = tokio::time::timeout(PAYLOAD_TIMEOUT, read)
        .await
        .map_err(|_| Reply::deadline())??;
    check_payload(&payload)?;
    let published = plane
        .log
        .publish(&channel, payload, key)
        .await
        .map_err(|error| publish_refusal(&error))?;
    let answer = serde_json::json!({
        "channel": channel.as_str(),
        "id": published.position.map(|position| position.to_string()),
        "duplicate": published.duplicate,
    });
    let mut response = Response::new(Body::full(format!("{answer}\n")));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
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
mod tests {
    use super::*;

    fn refusal(query: &str) -> Reply {
        Query::parse(query).err().unwrap()
    }

    fn accept(value: &'static str) -> Option<bool> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]);
        wants_ndjson(&headers).ok()
    }

    #[test]
    fn a_query_names_channels_a_place_to_resume_from_and_an_envelope() {
        let query = "channel=intellirouter:a:*&channel=intellirouter%3Ab%3Ac%3Ad&last_event_id=1-2&envelope=cloudevents";
        let query = Query::parse(query).unwrap();
        assert_eq!(query.channels, ["intellirouter:a:*", "intellirouter:b:c:d"]);
        assert_eq!(query.last_event_id.as_deref(), Some("1-2"));
        assert!(query.cloudevents);
        assert!(!Query::parse("channel=x").unwrap().cloudevents);
    }

    #[test]
    fn a_token_in_the_query_is_refused_and_not_repeated() {
        for key in ["token", "access_token", "authorization", "jwt"] {
            let reply = refusal(&format!("channel=x&{key}=s3cret"));
            assert_eq!(reply.code, Code::InvalidArgument, "{key}");
            assert!(
                reply.message.contains("authorization header"),
                "{}",
                reply.message
            );
            assert!(!format!("{reply:?}").contains("s3cret"));
        }
    }

    #[test]
    fn an_unknown_key_or_value_is_refused_and_not_repeated() {
        for query in [
            "channel=x&chanel=hunter2",
            "channel=x&hunter2",
            "channel=x&envelope=hunter2",
        ] {
            let reply = refusal(query);
            assert_eq!(reply.code, Code::InvalidArgument, "{query}");
            assert!(!format!("{reply:?}").contains("hunter2"), "{query}");
        }
    }

    #[test]
    fn one_to_64_channels_must_be_named() {
        let of = |count: usize| vec!["channel=x"; count].join("&");
        assert!(refusal("").message.contains("at least one"));
        assert!(
            refusal("last_event_id=1-2")
                .message
                .contains("at least one")
        );
        assert_eq!(Query::parse(&of(MAX_PATTERNS)).unwrap().channels.len(), 64);
        assert!(
            refusal(&of(MAX_PATTERNS + 1))
                .message
                .contains("at most 64")
        );
    }

    #[test]
    fn the_first_format_that_both_speak_is_taken() {
        assert_eq!(accept("application/x-ndjson"), Some(true));
        assert_eq!(
            accept("text/html, application/x-ndjson;q=0.9, */*"),
            Some(true)
        );
        assert_eq!(
            accept("text/event-stream, application/x-ndjson"),
            Some(false)
        );
        assert_eq!(accept("*/*"), Some(false));
        assert_eq!(accept("application/json"), None);
        assert!(!wants_ndjson(&HeaderMap::new()).unwrap());
    }

    #[test]
    fn a_payload_is_one_json_object_or_refused_with_line_and_column() {
        assert!(check_payload(b" {\"a\": [1]} ").is_ok());
        for bad in [
            &b"[1]"[..],
            b"1",
            b"",
            b"{}{}",
            b"{\"a\":}",
            b"\xff",
            &[b'['; 100_000],
        ] {
            let reply = check_payload(bad).unwrap_err();
            assert!(reply.message.contains("line ") && reply.message.contains("column "));
        }
    }

    #[tokio::test]
    async fn a_payload_may_be_as_large_as_the_limit_and_no_byte_more() {
        let read = |size: usize| read_payload(Body::full(vec![b'x'; size]), 100);
        assert_eq!(read(100).await.unwrap().len(), 100);
        let reply = read(101).await.unwrap_err();
        assert_eq!(
            (reply.code, reply.status.as_u16()),
            (Code::ResourceExhausted, 413)
        );
        assert!(reply.message.contains("100 bytes"));
    }
}
