//! Collects what is wrong with a request, so that the caller sees all faults at once.
//!
//! Owns the checks that are the same for every text, list, map and number. It does not know the
//! messages: whoever calls says which field has which bounds. It fails with INVALID_ARGUMENT and a
//! `google.rpc.BadRequest` that names each field and what was expected there, at most
//! [`FAULTS_NAMED`] of them and [`TEXT_BYTES`] bytes in all: they travel in headers, of which common
//! clients take 8 KiB, and the details travel as base64. Values are never repeated: they may be
//! secrets, or long; the key of an entry is cut to [`KEY_CHARS`] characters.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::model_registry::limits::{
    FAULTS_NAMED, LIST_ENTRIES, LIST_ENTRY_BYTES, MAP_ENTRIES, MAP_KEY_BYTES, MAP_VALUE_BYTES,
};

/// Most characters of a key that comes back, control characters written out.
const KEY_CHARS: usize = 64;
/// Longest name of a field, and longest description of what was expected there, in bytes.
const PART_BYTES: usize = 512;
/// Most bytes of all names and descriptions together.
const TEXT_BYTES: usize = 2 * 1024;

/// The faults found so far.
#[derive(Default)]
pub(crate) struct Faults {
    named: Vec<FieldViolation>,
    /// Their bytes.
    bytes: usize,
    /// All of them, also those past the number that is named.
    count: usize,
}

impl Faults {
    /// Records that `field` does not hold what was expected.
    pub(crate) fn add(&mut self, field: impl Into<String>, expected: impl Into<String>) {
        self.count += 1;
        if self.named.len() == FAULTS_NAMED {
            return;
        }
        let (field, expected) = (cut(field.into()), cut(expected.into()));
        let bytes = self.bytes + field.len() + expected.len();
        if bytes <= TEXT_BYTES {
            self.bytes = bytes;
            self.named.push(FieldViolation::new(field, expected));
        }
    }

    /// A text that may be empty.
    pub(crate) fn text(&mut self, field: &str, value: &str, max: usize) {
        if value.len() > max {
            let expected = format!("expected at most {max} bytes, got {}", value.len());
            self.add(field, expected);
        }
    }

    /// A text that may not be empty.
    pub(crate) fn required(&mut self, field: &str, value: &str, max: usize) {
        if value.is_empty() {
            self.add(field, "required");
        } else {
            self.text(field, value, max);
        }
    }

    /// A list of short texts.
    pub(crate) fn list(&mut self, field: &str, values: &[String]) {
        if !self.entries(field, values.len(), LIST_ENTRIES) {
            return;
        }
        for (index, value) in values.iter().enumerate() {
            if value.is_empty() || value.len() > LIST_ENTRY_BYTES {
                let expected = between(LIST_ENTRY_BYTES, value.len());
                self.add(format!("{field}[{index}]"), expected);
            }
        }
    }

    /// A map; the entry `own`, if there is one, is the registry's and takes no room.
    pub(crate) fn map(&mut self, field: &str, map: &HashMap<String, String>, own: Option<&str>) {
        let owned = own.is_some_and(|key| map.contains_key(key));
        if !self.entries(field, map.len() - usize::from(owned), MAP_ENTRIES) {
            return;
        }
        for (key, value) in map {
            if key.is_empty() || key.len() > MAP_KEY_BYTES {
                let expected = format!("key: {}", between(MAP_KEY_BYTES, key.len()));
                self.add(field, expected);
            } else {
                self.text(&entry(field, key), value, MAP_VALUE_BYTES);
            }
        }
    }

    /// A number of entries. Says whether it is within the bound, so that a list that is far too
    /// long costs no further look.
    pub(crate) fn entries(&mut self, field: &str, count: usize, max: usize) -> bool {
        if count > max {
            self.add(
                field,
                format!("expected at most {max} entries, got {count}"),
            );
        }
        count <= max
    }

    /// A whole number.
    pub(crate) fn at_most(&mut self, field: &str, value: u32, max: u32) {
        if value > max {
            self.add(field, format!("expected at most {max}, got {value}"));
        }
    }

    /// An amount of money or time.
    pub(crate) fn amount(&mut self, field: &str, value: f32) {
        if !value.is_finite() || value < 0.0 {
            self.add(
                field,
                format!("expected a finite number from 0 up, got {value}"),
            );
        }
    }

    /// A value of the enum `E`, named `name` in the contract.
    pub(crate) fn variant<E: TryFrom<i32>>(&mut self, field: &str, value: i32, name: &str) {
        if E::try_from(value).is_err() {
            self.add(field, format!("expected a value of {name}, got {value}"));
        }
    }

    /// How many there are so far.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Fails if there was a fault.
    pub(crate) fn into_result(self) -> Result<(), Status> {
        let Some(first) = self.named.first() else {
            return Ok(());
        };
        let message = match self.count {
            1 => format!("{}: {}", first.field, first.description),
            n => format!(
                "{n} faults; the first: {}: {}",
                first.field, first.description
            ),
        };
        let details = ErrorDetails::with_bad_request(self.named);
        Err(Status::with_error_details(
            Code::InvalidArgument,
            message,
            details,
        ))
    }
}

/// The entry of a map, as faults name it: the key is the caller's, so it is written out and cut.
pub(crate) fn entry(field: &str, key: &str) -> String {
    let mut shown = key.escape_debug();
    let start: String = shown.by_ref().take(KEY_CHARS).collect();
    let rest = if shown.next().is_some() { "…" } else { "" };
    format!("{field}[\"{start}{rest}\"]")
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(PART_BYTES));
    text
}

fn between(max: usize, got: usize) -> String {
    format!("expected 1 to {max} bytes, got {got}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_written_out_and_cut() {
        assert_eq!(entry("map", "plain"), "map[\"plain\"]");
        assert_eq!(entry("map", "a\n\"b\""), r#"map["a\n\"b\""]"#);
        let long = entry("map", &"\u{1}".repeat(128));
        assert_eq!(long.chars().count(), "map[\"\"]".len() + KEY_CHARS + 1);
        assert!(long.starts_with(r#"map["\u{1}\u{1}"#), "{long}");
    }

    #[test]
    fn what_is_wrong_fits_into_the_headers_that_clients_take_however_long_the_keys_are() {
        for key in ["\u{1}", "\u{10ffff}", "\u{fffd}", "x"] {
            let mut faults = Faults::default();
            for n in 0..100 {
                faults.add(
                    entry("a.map", &format!("{}{n}", key.repeat(120))),
                    "x".repeat(9999),
                );
                faults.add(
                    entry("a.map", &format!("{}{n}", key.repeat(120))),
                    "no such key",
                );
            }
            let status = faults.into_result().unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(
                status
                    .message()
                    .starts_with("200 faults; the first: a.map[")
            );
            assert!(
                !status
                    .get_error_details()
                    .bad_request()
                    .unwrap()
                    .field_violations
                    .is_empty()
            );
            // A character that is no ASCII takes three bytes for each of its own in a message.
            let headers = status.details().len().div_ceil(3) * 4 + 3 * status.message().len();
            assert!(status.details().len() < 4096 && headers < 8192, "{headers}");
        }
    }
}
