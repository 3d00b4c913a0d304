//! Collects what is wrong with a request, so that the caller sees all faults at once.
//!
//! Owns the checks that are the same for every text, list, map and number. It does not know the
//! messages: whoever calls says which field has which bounds. It fails with INVALID_ARGUMENT and a
//! `google.rpc.BadRequest` that names each field and what was expected there, at most
//! [`FAULTS_NAMED`] of them. Values are never repeated: they may be secrets, or long.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::model_registry::limits::{
    FAULTS_NAMED, LIST_ENTRIES, LIST_ENTRY_BYTES, MAP_ENTRIES, MAP_KEY_BYTES, MAP_VALUE_BYTES,
};

/// The faults found so far.
#[derive(Default)]
pub(crate) struct Faults {
    named: Vec<FieldViolation>,
    /// All of them, also those past the number that is named.
    count: usize,
}

impl Faults {
    /// Records that `field` does not hold what was expected.
    pub(crate) fn add(&mut self, field: impl Into<String>, expected: impl Into<String>) {
        self.count += 1;
        if self.named.len() < FAULTS_NAMED {
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
                self.text(&format!("{field}[{key:?}]"), value, MAP_VALUE_BYTES);
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

fn between(max: usize, got: usize) -> String {
    format!("expected 1 to {max} bytes, got {got}")
}
