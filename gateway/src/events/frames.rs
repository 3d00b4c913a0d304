//! How events look on the wire: server-sent events (WHATWG HTML, 9.2) and
//! NDJSON, plain or wrapped as CloudEvents 1.0.
//!
//! Payloads come from anybody who can publish on Redis, so none may break out
//! of its frame. In SSE every line of a payload gets its own `data:`; CR, LF
//! and CRLF all become LF at the reader, which JSON does not mind. A payload
//! that is not UTF-8 becomes `{"payload_base64":"…"}`. In NDJSON and
//! CloudEvents a payload that is JSON stands as JSON, other text as a string,
//! anything else as base64 beside it.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use intellirouter::events::{Entry, Event, Gap};
use serde_json::json;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::stream::Signal;

/// What a client waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

/// One way of writing events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) ndjson: bool,
    pub(super) cloudevents: bool,
}

impl Format {
    pub(super) fn content_type(self) -> &'static str {
        if self.ndjson {
            "application/x-ndjson"
        } else {
            "text/event-stream"
        }
    }

    /// What ends each frame, and stands nowhere else in one.
    pub(super) fn frame_end(self) -> &'static [u8] {
        if self.ndjson { b"\n" } else { b"\n\n" }
    }

    /// The slot of [`Event::frame`] that keeps this format.
    fn slot(self) -> usize {
        usize::from(self.ndjson) * 2 + usize::from(self.cloudevents)
    }

    pub(super) fn encode(self, signal: &Signal) -> Bytes {
        match signal {
            Signal::Entries(entries) => self.entries(entries),
            Signal::Open { position, stream } => {
                let data = json!({ "stream": stream, "position": position.to_string() });
                self.control("ir.open", Some(&position.to_string()), &data, Some(RETRY))
            }
            Signal::Position(position) => {
                let id = position.to_string();
                self.control("ir.position", Some(&id), &json!({ "position": id }), None)
            }
            Signal::Expiring { at, stream } => {
                let at = OffsetDateTime::from(*at)
                    .format(&Rfc3339)
                    .unwrap_or_default();
                self.control(
                    "ir.expiring",
                    None,
                    &json!({ "at": at, "stream": stream }),
                    None,
                )
            }
            Signal::Heartbeat if self.ndjson => {
                Bytes::from_static(b"{\"event\":\"ir.heartbeat\"}\n")
            }
            Signal::Heartbeat => Bytes::from_static(b":\n\n"),
            Signal::End(end) => {
                let data = json!({ "reason": end.reason(), "message": end.message() });
                let retry = end.retry_after().unwrap_or(RETRY);
                self.control("ir.error", None, &data, Some(retry))
            }
        }
    }

    fn entries(self, entries: &[Entry]) -> Bytes {
        if let [entry] = entries {
            return self.entry(entry);
        }
        let frames: Vec<Bytes> = entries.iter().map(|entry| self.entry(entry)).collect();
        frames.concat().into()
    }

    fn entry(self, entry: &Entry) -> Bytes {
        match entry {
            Entry::Event(event) => event.frame(self.slot(), |event| self.event(event).into()),
            Entry::Gap(gap) => self.gap(gap),
        }
    }

    fn gap(self, gap: &Gap) -> Bytes {
        let to = gap.to.to_string();
        let data = json!({
            "from": gap.from.map(|from| from.to_string()),
            "to": to,
            "reason": gap.reason.as_str(),
        });
        self.control("ir.gap", Some(&to), &data, None)
    }

    fn control(
        self,
        name: &str,
        id: Option<&str>,
        data: &serde_json::Value,
        retry: Option<Duration>,
    ) -> Bytes {
        let retry = retry.map(|wait| wait.as_millis());
        if self.ndjson {
            let mut line = json!({ "event": name, "data": data });
            if let Some(wait) = retry {
                line["retry"] = u64::try_from(wait).unwrap_or(u64::MAX).into();
            }
            if let Some(id) = id {
                line["id"] = id.into();
            }
            return format!("{line}\n").into();
        }
        let mut frame = String::with_capacity(128);
        if let Some(wait) = retry {
            let _ = writeln!(frame, "retry: {wait}");
        }
        if let Some(id) = id {
            let _ = writeln!(frame, "id: {id}");
        }
        let _ = write!(frame, "event: {name}\ndata: {data}\n\n");
        frame.into()
    }

    fn event(self, event: &Event) -> String {
        let id = event.position();
        if !self.ndjson {
            let wrapped = self.cloudevents.then(|| cloud_event(event));
            let base64 =
                || json!({ "payload_base64": STANDARD.encode(event.payload()) }).to_string();
            let data = match (&wrapped, std::str::from_utf8(event.payload())) {
                (Some(wrapped), _) => wrapped.as_str().into(),
                (None, Ok(text)) => std::borrow::Cow::Borrowed(text),
                (None, Err(_)) => base64().into(),
            };
            return sse_event(&id.to_string(), event.event_type(), &data);
        }
        if self.cloudevents {
            return cloud_event(event) + "\n";
        }
        let mut line = format!(
            "{{\"id\":\"{id}\",\"event\":\"{}\",\"channel\":\"{}\",",
            event.event_type(),
            event.channel()
        );
        push_data(&mut line, event.payload());
        line.push_str("}\n");
        line
    }
}

fn sse_event(id: &str, name: &str, data: &str) -> String {
    let mut frame = String::with_capacity(data.len() + id.len() + name.len() + 32);
    let _ = write!(frame, "id: {id}\nevent: {name}\n");
    let mut rest = Some(data);
    while let Some(text) = rest {
        let end = text.find(['\r', '\n']);
        let _ = writeln!(frame, "data: {}", &text[..end.unwrap_or(text.len())]);
        rest = end.map(|end| text[end..].strip_prefix("\r\n").unwrap_or(&text[end + 1..]));
    }
    frame.push('\n');
    frame
}

/// CloudEvents 1.0, JSON format.
fn cloud_event(event: &Event) -> String {
    let channel = event.channel();
    let time = OffsetDateTime::from(event.recorded_at())
        .format(&Rfc3339)
        .unwrap_or_default();
    // Bytes that are no text are no JSON either.
    let text = std::str::from_utf8(event.payload()).is_ok();
    let media_type = if text {
        "application/json"
    } else {
        "application/octet-stream"
    };
    let mut text = format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{}\",\"source\":\"/intellirouter/{}\",\
         \"type\":\"intellirouter.{}\",\"subject\":\"{channel}\",\"time\":\"{time}\",\
         \"datacontenttype\":\"{media_type}\",",
        event.position(),
        channel.source(),
        channel.event_type(),
    );
    push_data(&mut text, event.payload());
    text.push('}');
    text
}

/// `"data": …` or `"data_base64": …`, on one line.
fn push_data(line: &mut String, payload: &Bytes) {
    match std::str::from_utf8(payload) {
        Ok(text) if serde_json::from_str::<&RawValue>(text).is_ok() => {
            line.push_str("\"data\":");
            // Between tokens a line break is white space; inside strings JSON has none.
            line.extend(
                text.trim()
                    .chars()
                    .map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }),
            );
        }
        Ok(text) => {
            line.push_str("\"data\":");
            line.push_str(&serde_json::Value::from(text).to_string());
        }
        Err(_) => {
            let _ = write!(line, "\"data_base64\":\"{}\"", STANDARD.encode(payload));
        }
    }
}

#[cfg(test)]
mod tests;
