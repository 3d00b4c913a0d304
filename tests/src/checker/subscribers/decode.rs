//! Server-sent events and NDJSON as they come in, in pieces of any size. What is not whole counts for nothing, as the
//! standard has it for EventSource.

use serde_json::Value;

use crate::checker::history::{Item, Place};
use crate::checker::payload;

/// The lines of one body.
pub(super) struct Lines {
    ndjson: bool,
    rest: Vec<u8>,
    frame: Frame,
}

#[derive(Default)]
struct Frame {
    id: Option<String>,
    event: Option<String>,
    data: Vec<String>,
}

impl Lines {
    pub(super) fn new(ndjson: bool) -> Self {
        Self {
            ndjson,
            rest: Vec::new(),
            frame: Frame::default(),
        }
    }

    /// What the next bytes say.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Item> {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut items = Vec::new();
        let mut lines = rest.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            if lines.peek().is_none() {
                self.rest = line.to_vec();
                break;
            }
            let line = String::from_utf8_lossy(line);
            items.extend(if self.ndjson {
                json_line(&line)
            } else {
                self.sse_line(&line)
            });
        }
        items
    }

    fn sse_line(&mut self, line: &str) -> Option<Item> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            // A comment alone dispatches nothing.
            return (!frame.data.is_empty()).then(|| frame.item());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "id" => self.frame.id = Some(value),
            "event" => self.frame.event = Some(value),
            "data" => self.frame.data.push(value),
            _ => {}
        }
        None
    }
}

impl Frame {
    fn item(self) -> Item {
        let data = self.data.join("\n");
        let value = serde_json::from_str(&data).unwrap_or(Value::Null);
        let key = || payload::read(data.as_bytes());
        let name = self.event.as_deref().unwrap_or_default();
        told(name, self.id.as_deref(), &value, key)
    }
}

fn json_line(line: &str) -> Option<Item> {
    let value: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    let name = value["event"].as_str().unwrap_or_default();
    if name == "ir.heartbeat" {
        return None;
    }
    let key = || payload::read_value(&value["data"]);
    Some(told(name, value["id"].as_str(), &value["data"], key))
}

fn told(
    name: &str,
    id: Option<&str>,
    data: &Value,
    key: impl FnOnce() -> Option<crate::checker::history::Key>,
) -> Item {
    let place = |text: &Value| text.as_str().and_then(|text| text.parse::<Place>().ok());
    let id = id.and_then(|id| id.parse::<Place>().ok());
    let item = match (name, id) {
        ("ir.open", Some(id)) => Some(Item::Opened { resumed: None, id }),
        ("ir.position", Some(id)) => Some(Item::Position { id }),
        ("ir.gap", Some(id)) if place(&data["to"]) == Some(id) => Some(Item::Gap {
            from: place(&data["from"]),
            to: id,
            reason: data["reason"].as_str().unwrap_or_default().into(),
        }),
        ("ir.error", _) => Some(Item::Lost {
            why: format!("told: {}", data["reason"]),
        }),
        (name, Some(id)) if !name.starts_with("ir.") => Some(Item::Event { id, key: key() }),
        _ => None,
    };
    item.unwrap_or_else(|| Item::Nonsense {
        what: format!("{name} {id:?} {data}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::history::Key;

    const KEY: Key = Key {
        publisher: 3,
        number: 7,
    };

    fn sse() -> String {
        let payload = payload::write(KEY, 20);
        format!(
            "retry: 2000\nid: 5-1\nevent: ir.open\ndata: {{}}\n\n:\n\nid: 5-2\nevent: a\ndata: {payload}\n\n\
             id: 5-4\nevent: ir.gap\ndata: {{\"from\":\"5-2\",\"to\":\"5-4\",\"reason\":\"slow\"}}\n\n"
        )
    }

    fn ndjson() -> String {
        let payload = payload::write(KEY, 20);
        format!(
            "{{\"event\":\"ir.open\",\"id\":\"5-1\",\"data\":{{}}}}\n{{\"event\":\"ir.heartbeat\"}}\n\
             {{\"event\":\"a\",\"id\":\"5-2\",\"data\":{payload}}}\n\
             {{\"event\":\"ir.gap\",\"id\":\"5-4\",\"data\":{{\"from\":\"5-2\",\"to\":\"5-4\",\"reason\":\"slow\"}}}}\n"
        )
    }

    fn wanted() -> Vec<Item> {
        let place = |offset| Place::new(5, offset);
        vec![
            Item::Opened {
                resumed: None,
                id: place(1),
            },
            Item::Event {
                id: place(2),
                key: Some(KEY),
            },
            Item::Gap {
                from: Some(place(2)),
                to: place(4),
                reason: "slow".into(),
            },
        ]
    }

    #[test]
    fn a_body_means_the_same_in_pieces_of_any_size() {
        for (text, is_ndjson) in [(sse(), false), (ndjson(), true)] {
            for size in 1..=text.len() {
                let mut lines = Lines::new(is_ndjson);
                let items: Vec<_> = text
                    .as_bytes()
                    .chunks(size)
                    .flat_map(|piece| lines.feed(piece))
                    .collect();
                assert_eq!(items, wanted(), "in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_was_cut_off_counts_for_nothing() {
        let text = sse();
        let mut lines = Lines::new(false);
        let items = lines.feed(&text.as_bytes()[..text.len() - 1]);
        assert_eq!(items, wanted()[..2]);
    }

    #[test]
    fn a_payload_that_was_changed_is_no_event_of_ours() {
        let changed = sse().replace("hhhh", "hhhi");
        let items = Lines::new(false).feed(changed.as_bytes());
        assert_eq!(
            items[1],
            Item::Event {
                id: Place::new(5, 2),
                key: None
            }
        );
    }

    #[test]
    fn a_gap_whose_id_is_not_its_end_is_nonsense() {
        let changed = sse().replace("\"to\":\"5-4\"", "\"to\":\"5-5\"");
        let items = Lines::new(false).feed(changed.as_bytes());
        assert!(matches!(items[2], Item::Nonsense { .. }), "{items:?}");
    }
}
