//! What was encoded is read back: server-sent events with a parser that
//! follows the WHATWG rules (HTML, 9.2.6), NDJSON line by line. Events come
//! from a real log.

use bytes::BytesMut;
use futures_util::FutureExt as _;
use intellirouter::events::{
    ChannelName, ChannelPattern, EventLog, GapReason, LogSettings, MemoryLog, Position,
};
use proptest::prelude::*;
use serde_json::Value;

use super::super::stream::End;
use super::*;
use crate::calls::Cut;

const SSE: Format = Format {
    ndjson: false,
    cloudevents: false,
};
const SSE_CLOUD: Format = Format {
    ndjson: false,
    cloudevents: true,
};
const NDJSON: Format = Format {
    ndjson: true,
    cloudevents: false,
};
const NDJSON_CLOUD: Format = Format {
    ndjson: true,
    cloudevents: true,
};

/// What a browser makes of a stream.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    events: Vec<(String, String)>,
    last_id: String,
    retry: Option<u32>,
}

/// HTML, 9.2.6 "Interpreting an event stream".
fn browser(stream: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut seen, mut id) = (Seen::default(), String::new());
    let (mut name, mut data) = (String::new(), String::new());
    // An unfinished last line is dropped.
    for line in text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        if line.is_empty() {
            seen.last_id.clone_from(&id);
            if let Some(data) = data.strip_suffix('\n') {
                let name = if name.is_empty() { "message" } else { &name };
                seen.events.push((name.to_owned(), data.to_owned()));
            }
            (name, data) = Default::default();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => data.extend([value, "\n"]),
            "id" if !value.contains('\0') => value.clone_into(&mut id),
            "retry" => seen.retry = value.parse().ok(),
            _ => {}
        }
    }
    seen
}

/// These payloads as entries of a log, on `intellirouter:a:b:kind`.
fn entries(payloads: &[&[u8]]) -> Vec<Entry> {
    let log = MemoryLog::new(LogSettings::default()).unwrap();
    let fill = async {
        let pattern = ChannelPattern::parse("intellirouter:*").unwrap();
        let mut subscription = log.subscribe(vec![pattern], None).await.unwrap();
        let channel = ChannelName::new("a", "b", "kind");
        for payload in payloads {
            log.publish(&channel, Bytes::copy_from_slice(payload), None)
                .await
                .unwrap();
        }
        let mut entries = Vec::new();
        while entries.len() < payloads.len() {
            subscription.next_batch(&mut entries).await;
        }
        entries
    };
    fill.now_or_never().unwrap()
}

fn position(entry: &Entry) -> String {
    match entry {
        Entry::Event(event) => event.position().to_string(),
        Entry::Gap(gap) => panic!("{gap:?}"),
    }
}

/// What a browser gets of one payload, which must be one event of its type,
/// with its own id.
fn data_of(format: Format, payload: &[u8]) -> String {
    let entries = entries(&[payload]);
    let id = position(&entries[0]);
    let mut seen = browser(&format.encode(&Signal::Entries(entries)));
    assert_eq!((seen.events.len(), seen.last_id), (1, id));
    let (name, data) = seen.events.remove(0);
    assert_eq!((name.as_str(), seen.retry), ("kind", None));
    data
}

/// CR and CRLF read as LF.
fn as_read(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fn line_of(format: Format, payload: &[u8]) -> Value {
    let bytes = format.encode(&Signal::Entries(entries(&[payload])));
    let text = std::str::from_utf8(&bytes).unwrap();
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains(['\n', '\r']), "{line}");
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_payload_reads_back_and_forges_nothing() {
    for text in [
        "{\"a\": 1}",
        "",
        " leading and trailing ",
        "line\nline",
        "line\r\nline",
        "line\rline",
        "ends in LF\n",
        "ends in CR\r",
        "ends in CRLF\r\n",
        "\n\n\r\n\r\r\n",
        "x\nid: 99-99\nevent: ir.gap\ndata: forged\n\ndata: more\n\n",
        "x\r\rid: 99-99\revent: ir.gap\r\r",
        "id: 1\0\nretry: 1\n: comment",
        "nul \0 inside",
        "\u{feff}mark first",
        "{\n\t\"pretty\": [\r\n1,\r2]\n}",
        "\u{2028}\u{85}\u{b}\u{c}",
    ] {
        assert_eq!(data_of(SSE, text.as_bytes()), as_read(text), "{text:?}");
    }
}

#[test]
fn a_payload_of_one_mebibyte_reads_back() {
    for text in [
        "x".repeat(1 << 20),
        "\n".repeat(1 << 20),
        "\r".repeat(1 << 20),
        "\u{e9}\r\n".repeat(1 << 18),
    ] {
        assert!(data_of(SSE, text.as_bytes()) == as_read(&text));
    }
}

#[test]
fn a_payload_that_is_not_utf_8_comes_as_base64_and_nothing_is_lost() {
    let payload = b"\xff\xfe\nid: 1\n\n\x00";
    let data: Value = serde_json::from_str(&data_of(SSE, payload)).unwrap();
    assert_eq!(
        STANDARD
            .decode(data["payload_base64"].as_str().unwrap())
            .unwrap(),
        payload
    );
    let line = line_of(NDJSON, payload);
    assert_eq!(
        STANDARD
            .decode(line["data_base64"].as_str().unwrap())
            .unwrap(),
        payload
    );
    assert!(line.get("data").is_none());
}

#[test]
fn a_batch_is_every_event_in_order_with_the_id_of_the_last() {
    let payloads: Vec<String> = (0..50).map(|i| format!("{{\"n\":{i}}}\n")).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(|text| text.as_bytes()).collect();
    let entries = entries(&payloads);
    let last = position(&entries[49]);
    let seen = browser(&SSE.encode(&Signal::Entries(entries.clone())));
    let data: Vec<&[u8]> = seen
        .events
        .iter()
        .map(|(_, data)| data.as_bytes())
        .collect();
    assert_eq!((data, seen.last_id), (payloads, last));
    let lines = NDJSON.encode(&Signal::Entries(entries));
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 50);
}

#[test]
fn a_line_of_ndjson_names_the_event_and_carries_json_as_json() {
    let entries = entries(&[b"{\n\"a\": [1,\r\n2]}"]);
    let id = position(&entries[0]);
    let line: Value = serde_json::from_slice(&NDJSON.encode(&Signal::Entries(entries))).unwrap();
    let expected = json!({
        "id": id, "event": "kind", "channel": "intellirouter:a:b:kind", "data": {"a": [1, 2]},
    });
    assert_eq!(line, expected);
    assert_eq!(
        line_of(NDJSON, b"no json \"\n\r\0")["data"],
        "no json \"\n\r\0"
    );
}

/// What CloudEvents 1.0 asks of an event in JSON.
fn check_cloud_event(event: &Value) {
    for key in ["id", "source", "type", "subject"] {
        assert!(
            event[key].as_str().is_some_and(|text| !text.is_empty()),
            "{key}: {event}"
        );
    }
    assert_eq!(event["specversion"], "1.0");
    assert!(OffsetDateTime::parse(event["time"].as_str().unwrap(), &Rfc3339).is_ok());
    let data = [event.get("data"), event.get("data_base64")];
    assert_eq!(data.iter().flatten().count(), 1, "{event}");
}

#[test]
fn cloudevents_are_valid_and_carry_the_payload() {
    for format in [SSE_CLOUD, NDJSON_CLOUD] {
        let read = |payload: &[u8]| -> Value {
            if format.ndjson {
                line_of(format, payload)
            } else {
                serde_json::from_str(&data_of(format, payload)).unwrap()
            }
        };
        let json = read(b" {\"a\":\r\n[1]} ");
        check_cloud_event(&json);
        assert_eq!(
            (&json["data"], &json["datacontenttype"]),
            (&json!({"a": [1]}), &json!("application/json"))
        );
        assert_eq!(
            (&json["source"], &json["type"]),
            (&json!("/intellirouter/a"), &json!("intellirouter.kind"))
        );
        assert_eq!(json["subject"], "intellirouter:a:b:kind");
        let text = read(b"plain\ntext");
        check_cloud_event(&text);
        assert_eq!(text["data"], "plain\ntext");
    }
}

#[test]
fn a_cloudevent_of_bytes_is_not_called_json() {
    let event = line_of(NDJSON_CLOUD, b"\xff\x00");
    check_cloud_event(&event);
    assert_eq!(event["data_base64"], "/wA=");
    assert_eq!(event["datacontenttype"], "application/octet-stream");
}

#[test]
fn a_frame_is_kept_per_format_and_never_given_to_another() {
    let entries = entries(&[b"{\"a\":1}"]);
    let formats = [SSE, SSE_CLOUD, NDJSON, NDJSON_CLOUD];
    let encode = |format: &Format| format.encode(&Signal::Entries(entries.clone()));
    let first: Vec<Bytes> = formats.iter().map(encode).collect();
    let again: Vec<Bytes> = formats.iter().map(encode).collect();
    assert_eq!(first, again);
    for (i, frame) in first.iter().enumerate() {
        assert!(first[..i].iter().all(|other| other != frame));
    }
}

fn controls() -> Vec<(Signal, &'static str, Option<&'static str>, Value)> {
    let at = Position {
        epoch: 7,
        offset: 42,
    };
    let gap = |from| {
        let reason = GapReason::StoreLostData;
        Signal::Entries(vec![Entry::Gap(Gap {
            from,
            to: at,
            reason,
        })])
    };
    let end = |end: End| json!({"reason": end.reason(), "message": end.message()});
    vec![
        (
            Signal::Open {
                position: at,
                stream: "s1".into(),
            },
            "ir.open",
            Some("7-42"),
            json!({"stream": "s1", "position": "7-42"}),
        ),
        (
            Signal::Position(at),
            "ir.position",
            Some("7-42"),
            json!({"position": "7-42"}),
        ),
        (
            gap(None),
            "ir.gap",
            Some("7-42"),
            json!({"from": null, "to": "7-42", "reason": "store_lost_data"}),
        ),
        (
            gap(Some(Position {
                epoch: 7,
                offset: 1,
            })),
            "ir.gap",
            Some("7-42"),
            json!({"from": "7-1", "to": "7-42", "reason": "store_lost_data"}),
        ),
        (
            Signal::End(End::Cut(Cut::Draining)),
            "ir.error",
            None,
            end(End::Cut(Cut::Draining)),
        ),
        (
            Signal::End(End::Cut(Cut::TokenExpired)),
            "ir.error",
            None,
            end(End::Cut(Cut::TokenExpired)),
        ),
        (Signal::End(End::Slow), "ir.error", None, end(End::Slow)),
    ]
}

#[test]
fn control_events_are_one_event_each_with_their_position_as_id() {
    for (signal, name, id, data) in controls() {
        let seen = browser(&SSE.encode(&signal));
        assert_eq!(seen.events.len(), 1);
        assert_eq!(seen.events[0].0, name);
        assert_eq!(
            serde_json::from_str::<Value>(&seen.events[0].1).unwrap(),
            data
        );
        assert_eq!(seen.last_id, id.unwrap_or_default());
        assert_eq!(seen.retry.is_some(), matches!(name, "ir.open" | "ir.error"));
        let line: Value = serde_json::from_slice(&NDJSON.encode(&signal)).unwrap();
        assert_eq!((&line["event"], &line["data"]), (&json!(name), &data));
        assert_eq!(line.get("id"), id.map(|id| json!(id)).as_ref());
        assert_eq!(line["retry"].is_u64(), seen.retry.is_some());
    }
}

#[test]
fn the_end_of_a_stream_leaves_the_id_to_resume_from_alone() {
    let mut stream = BytesMut::from(
        &SSE.encode(&Signal::Position(Position {
            epoch: 1,
            offset: 2,
        }))[..],
    );
    stream.extend_from_slice(&SSE.encode(&Signal::End(End::Slow)));
    assert_eq!(browser(&stream).last_id, "1-2");
}

#[test]
fn a_heartbeat_is_nothing_to_a_browser_and_a_line_in_ndjson() {
    assert_eq!(browser(&SSE.encode(&Signal::Heartbeat)), Seen::default());
    let line = NDJSON.encode(&Signal::Heartbeat);
    assert_eq!(
        serde_json::from_slice::<Value>(&line).unwrap(),
        json!({"event": "ir.heartbeat"})
    );
    assert!(line.ends_with(b"\n"));
}

proptest! {
    #[test]
    fn any_text_reads_back_as_exactly_one_event(
        text in "([ -~]|[\r\n:\0\u{feff}é]|(\n(id|event|data|retry): )|\r\n){0,60}",
    ) {
        prop_assert_eq!(data_of(SSE, text.as_bytes()), as_read(&text));
    }

    #[test]
    fn any_bytes_make_one_valid_line_and_one_valid_event(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        json in "[\\[\\]{}\",: \r\n\\\\0-9a-u]{0,24}",
    ) {
        for payload in [&bytes[..], json.as_bytes()] {
            check_cloud_event(&line_of(NDJSON_CLOUD, payload));
            let line = line_of(NDJSON, payload);
            let whole = match (line.get("data"), line.get("data_base64")) {
                (Some(Value::String(text)), None) if text.as_bytes() == payload => true,
                (Some(data), None) => serde_json::from_slice::<Value>(payload).is_ok_and(|sent| sent == *data),
                (None, Some(data)) => STANDARD.decode(data.as_str().unwrap_or_default()).is_ok_and(|sent| sent == payload),
                _ => false,
            };
            prop_assert!(whole, "{line}");
            data_of(SSE, payload);
        }
    }
}
