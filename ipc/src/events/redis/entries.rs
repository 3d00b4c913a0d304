//! What the stream holds, read as the entries of a log.
//!
//! An entry is an event (`c` its channel, `p` its payload) or a gap (`g` its reason, `c` its channel,
//! empty for all), with the time `t` in ms. What is neither, or is larger than this process takes,
//! becomes a gap: it stands in the order of the log, and somebody may have meant to be heard.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis::Value;

use crate::events::channel::ChannelName;
use crate::events::log::GapReason;
use crate::events::position::Position;
use crate::events::ring::{Found, What};

/// Above this the scripts don't count exactly, so nothing of theirs is there.
const HIGHEST: u64 = 1 << 53;

/// What one reading brought.
#[derive(Default)]
pub(super) struct Reading {
    /// How many entries, also those without a place in a log.
    pub(super) count: usize,
    pub(super) entries: Vec<Entry>,
}

impl Reading {
    /// Whether there is nothing in it but what has no place in a log. Who reads on gets it again.
    pub(super) fn is_foreign(&self) -> bool {
        self.count > 0 && self.entries.is_empty()
    }
}

/// The entries of one stream as XREAD gives them: none, or `{key: [[id, [field, value, …]], …]}`.
pub(super) fn of_reply(reply: Value) -> Reading {
    let Value::Map(mut streams) = reply else {
        return Reading::default();
    };
    let Some((_, Value::Array(entries))) = streams.pop() else {
        return Reading::default();
    };
    Reading {
        count: entries.len(),
        entries: entries.into_iter().filter_map(Entry::read).collect(),
    }
}

/// An entry, not yet understood.
pub(super) struct Entry {
    position: Position,
    channel: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    gap: Option<Vec<u8>>,
    millis: u64,
}

impl Entry {
    /// `None` for what has no place in a log.
    fn read(entry: Value) -> Option<Self> {
        let Value::Array(parts) = entry else {
            return None;
        };
        let mut parts = parts.into_iter();
        let (Some(Value::BulkString(id)), Some(Value::Array(fields))) =
            (parts.next(), parts.next())
        else {
            return None;
        };
        let position: Position = std::str::from_utf8(&id).ok()?.parse().ok()?;
        let mut entry = Self {
            position,
            channel: None,
            payload: None,
            gap: None,
            millis: 0,
        };
        let mut fields = fields.into_iter();
        while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) =
            (fields.next(), fields.next())
        {
            match &name[..] {
                b"c" => entry.channel = Some(value),
                b"p" => entry.payload = Some(value),
                b"g" => entry.gap = Some(value),
                b"t" => entry.millis = decimal(&value),
                _ => {}
            }
        }
        // The scripts count from 1.
        let counted = (1..=HIGHEST).contains(&position.offset);
        (counted && position.epoch <= HIGHEST).then_some(entry)
    }

    /// As the ring takes it, when it is `now` at the store. The payload is at most `limit` bytes.
    pub(super) fn found(self, now: u64, limit: usize) -> Found {
        let age = Duration::from_millis(now.saturating_sub(self.millis));
        let recorded_at = UNIX_EPOCH.checked_add(Duration::from_millis(self.millis));
        Found {
            position: self.position,
            age,
            recorded_at: recorded_at.unwrap_or(SystemTime::UNIX_EPOCH),
            what: self.what(limit),
        }
    }

    fn what(self, limit: usize) -> What {
        let channel = self.channel.unwrap_or_default();
        let name = std::str::from_utf8(&channel).ok();
        let name = name.and_then(|name| ChannelName::parse(name).ok());
        match (self.gap, self.payload, name) {
            (None, Some(payload), Some(name)) if payload.len() <= limit => {
                What::Event(name, Bytes::from(payload))
            }
            (None, Some(_), Some(name)) => What::Gap(GapReason::Trimmed, Some(name)),
            (Some(reason), _, name) => What::Gap(read_reason(&reason), name),
            (None, ..) => What::Gap(GapReason::StoreLostData, None),
        }
    }
}

/// The reasons that are recorded; another is of a later version.
fn read_reason(reason: &[u8]) -> GapReason {
    if reason == GapReason::Trimmed.as_str().as_bytes() {
        GapReason::Trimmed
    } else {
        GapReason::RecorderAway
    }
}

fn decimal(digits: &[u8]) -> u64 {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn reply(id: &str, fields: &[&str]) -> Value {
        let fields = fields.iter().map(|field| bulk(field)).collect();
        let entry = Value::Array(vec![bulk(id), Value::Array(fields)]);
        Value::Map(vec![(bulk("log"), Value::Array(vec![entry]))])
    }

    fn found(fields: &[&str]) -> Found {
        let entry = of_reply(reply("7-3", fields)).entries.pop().unwrap();
        entry.found(5000, 4)
    }

    #[test]
    fn an_event_comes_with_its_place_its_age_and_its_payload() {
        let found = found(&["t", "3000", "c", "intellirouter:a:b:c", "p", "data"]);
        let position = Position {
            epoch: 7,
            offset: 3,
        };
        assert_eq!(found.position, position);
        assert_eq!(found.age, Duration::from_secs(2));
        assert_eq!(found.recorded_at, UNIX_EPOCH + Duration::from_secs(3));
        assert!(matches!(found.what, What::Event(channel, payload)
            if channel == ChannelName::new("a", "b", "c") && payload == "data"));
    }

    #[test]
    fn what_can_not_be_given_out_is_a_gap_and_never_nothing() {
        let channel = ChannelName::new("a", "b", "c");
        for (fields, reason, on) in [
            (
                &["c", "intellirouter:a:b:c", "p", "large"][..],
                GapReason::Trimmed,
                Some(&channel),
            ),
            (
                &["c", "intellirouter:a:b:c", "g", "trimmed"],
                GapReason::Trimmed,
                Some(&channel),
            ),
            (
                &["c", "", "g", "recorder_away"],
                GapReason::RecorderAway,
                None,
            ),
            (
                &["c", "", "g", "of a later version"],
                GapReason::RecorderAway,
                None,
            ),
            (
                &["c", "intellirouter:A:b:c", "p", "x"],
                GapReason::StoreLostData,
                None,
            ),
            (&["something", "else"], GapReason::StoreLostData, None),
            (&[], GapReason::StoreLostData, None),
        ] {
            let What::Gap(got, channel) = found(fields).what else {
                panic!("{fields:?} is an event");
            };
            assert_eq!((got, channel.as_ref()), (reason, on), "{fields:?}");
        }
    }

    #[test]
    fn what_has_no_place_in_a_log_is_left_out() {
        for value in [Value::Nil, Value::Int(1)] {
            let reading = of_reply(value);
            assert!(reading.entries.is_empty() && !reading.is_foreign());
        }
        for id in ["7-0", "x", "9007199254740993-1", "7-9007199254740993"] {
            assert!(of_reply(reply(id, &[])).is_foreign(), "{id}");
        }
    }
}
