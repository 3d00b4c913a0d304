//! What a stream wants of its channels: events of some types, or with some values in their payload.
//!
//! Owns reading a filter from a request, and the verdicts. `type` is compared with the event's type.
//! `where` asks for a value of a top-level field of a payload that is a JSON object: a string must be
//! equal as it is, a number, `true`, `false` and `null` by the text that stands in the payload (`1.0`
//! is not `1`). Every condition must hold; a payload that is no JSON object meets none, and where a
//! field stands twice the last counts, as in browsers. Gaps always pass.
//!
//! A filter takes events away before they are encoded, so what it drops costs its stream no queue and
//! no wake-up beyond those of its channels. Streams with equal conditions form a group: each payload
//! is read once for all of them, as long as they are within 1,024 entries of each other.
//!
//! Limits: 16 types; 8 conditions, each a field of 1 to 128 bytes and a value of at most 256. A group
//! takes about 600 bytes beside its conditions. Each different group reads each payload of its
//! channels, so of one subject's streams there are `events.filters_per_subject` at most at a time (64);
//! one more fails with RESOURCE_EXHAUSTED. Types cost no reading and have no such bound.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use intellirouter::events::{Entry, Event, MAX_SEGMENT_BYTES, Position};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tonic::Code;

use crate::layers::authenticate::is_segment;
use crate::reply::Reply;

const MAX_TYPES: usize = 16;
/// When streams may have been closed by those who have too many filters.
const COME_AGAIN: Duration = Duration::from_secs(1);
const MAX_CONDITIONS: usize = 8;
const MAX_FIELD_BYTES: usize = 128;
const MAX_VALUE_BYTES: usize = 256;

/// A field and the value that it must have.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub(super) struct Condition {
    field: String,
    value: String,
}

/// What a request asks for; nothing asked for is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Wanted {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    types: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
}

impl Wanted {
    pub(super) fn add_type(&mut self, name: &str) -> Result<(), Reply> {
        if self.types.len() == MAX_TYPES {
            return Err(Reply::invalid(
                "type",
                format!("expected at most {MAX_TYPES}"),
            ));
        }
        if !is_segment(name) {
            let expected =
                format!("expected 1 to {MAX_SEGMENT_BYTES} characters of a-z, 0-9 and _");
            return Err(Reply::invalid("type", expected));
        }
        self.types.push(name.to_owned());
        Ok(())
    }

    /// `field:value`; the field ends at the first colon.
    pub(super) fn add_where(&mut self, text: &str) -> Result<(), Reply> {
        let expected = "expected field:value, such as execution_id:abc";
        let (field, value) = text
            .split_once(':')
            .ok_or_else(|| Reply::invalid("where", expected))?;
        self.add_condition(field, value)
    }

    pub(super) fn add_condition(&mut self, field: &str, value: &str) -> Result<(), Reply> {
        if self.conditions.len() == MAX_CONDITIONS {
            let expected = format!("expected at most {MAX_CONDITIONS}");
            return Err(Reply::invalid("where", expected));
        }
        if !(1..=MAX_FIELD_BYTES).contains(&field.len()) || value.len() > MAX_VALUE_BYTES {
            let expected = format!(
                "expected a field of 1 to {MAX_FIELD_BYTES} bytes and a value of at most \
                 {MAX_VALUE_BYTES}"
            );
            return Err(Reply::invalid("where", expected));
        }
        self.conditions.push(Condition {
            field: field.to_owned(),
            value: value.to_owned(),
        });
        Ok(())
    }
}

/// All groups of streams, over all generations of the configuration.
#[derive(Default)]
pub(crate) struct Groups(Mutex<Known>);

#[derive(Default)]
struct Known {
    groups: HashMap<Arc<[Condition]>, Weak<Group>>,
    /// Of each owner of streams: how many of them have which conditions.
    of_one: HashMap<u64, HashMap<Arc<[Condition]>, usize>>,
}

impl Groups {
    /// The filter of one stream of `owner`, whose streams may have `most` different conditions.
    pub(super) fn filter(
        self: &Arc<Self>,
        wanted: Wanted,
        owner: u64,
        most: usize,
    ) -> Result<Filter, Reply> {
        let mut conditions = wanted.conditions;
        // Equal conditions in another order are equal.
        conditions.sort_unstable();
        conditions.dedup();
        let member = match conditions.is_empty() {
            true => None,
            false => Some(self.join(conditions.into(), owner, most)?),
        };
        Ok(Filter {
            types: wanted.types,
            member,
        })
    }

    fn join(
        self: &Arc<Self>,
        conditions: Arc<[Condition]>,
        owner: u64,
        most: usize,
    ) -> Result<Member, Reply> {
        let mut known = self.known();
        let own = known.of_one.get(&owner);
        if own.is_some_and(|own| own.len() >= most && !own.contains_key(&conditions)) {
            let message = format!(
                "the caller's open streams have {most} different filters with conditions, which is \
                 the most; close one, or ask for the same conditions"
            );
            return Err(
                Reply::new(Code::ResourceExhausted, "too_many_filters", message)
                    .retry_after(COME_AGAIN),
            );
        }
        let group = match known.groups.get(&conditions).and_then(Weak::upgrade) {
            Some(group) => group,
            None => {
                let group = Arc::new(Group {
                    conditions: conditions.clone(),
                    verdicts: Mutex::default(),
                    groups: self.clone(),
                });
                let weak = Arc::downgrade(&group);
                known.groups.insert(conditions.clone(), weak);
                group
            }
        };
        let own = known.of_one.entry(owner).or_default();
        *own.entry(conditions).or_default() += 1;
        Ok(Member { group, owner })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one stream in a group.
struct Member {
    group: Arc<Group>,
    owner: u64,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut known = self.group.groups.known();
        let Some(own) = known.of_one.get_mut(&self.owner) else {
            return;
        };
        if let Some(streams) = own.get_mut(&self.group.conditions) {
            *streams -= 1;
            if *streams == 0 {
                own.remove(&self.group.conditions);
            }
        }
        if own.is_empty() {
            known.of_one.remove(&self.owner);
        }
    }
}

/// Streams with the same conditions.
struct Group {
    conditions: Arc<[Condition]>,
    verdicts: Mutex<Verdicts>,
    groups: Arc<Groups>,
}

impl Drop for Group {
    fn drop(&mut self) {
        let groups = &mut self.groups.known().groups;
        // Another one may have taken its place meanwhile.
        if groups
            .get(&self.conditions)
            .is_some_and(|group| group.strong_count() == 0)
        {
            groups.remove(&self.conditions);
        }
    }
}

/// Which of the last entries pass; 64 entries a word.
#[derive(Default)]
struct Verdicts([Word; 16]);

#[derive(Clone, Copy, Default)]
struct Word {
    /// What its first bit stands for. No log has an epoch of 0.
    start: (u64, u64),
    known: u64,
    passes: u64,
}

impl Verdicts {
    fn of(&mut self, at: Position, judge: impl FnOnce() -> bool) -> bool {
        let start = (at.epoch, at.offset / 64);
        let word = usize::try_from(start.1 % 16).unwrap_or_default();
        let (word, bit) = (&mut self.0[word], 1 << (at.offset % 64));
        if word.start != start {
            *word = Word {
                start,
                ..Word::default()
            };
        }
        if word.known & bit == 0 {
            word.known |= bit;
            if judge() {
                word.passes |= bit;
            }
        }
        word.passes & bit != 0
    }
}

/// What one stream lets through.
#[derive(Default)]
pub(super) struct Filter {
    types: Vec<String>,
    member: Option<Member>,
}

impl Filter {
    /// Takes away what is not wanted.
    pub(super) fn sift(&self, entries: &mut Vec<Entry>) {
        if self.types.is_empty() && self.member.is_none() {
            return;
        }
        entries.retain(|entry| match entry {
            Entry::Event(event) => self.passes(event),
            Entry::Gap(_) => true,
        });
    }

    fn passes(&self, event: &Event) -> bool {
        let typed =
            self.types.is_empty() || self.types.iter().any(|name| name == event.event_type());
        typed
            && self.member.as_ref().is_none_or(|Member { group, .. }| {
                // Held while the payload is read: who waits wants this very verdict.
                let verdicts = group.verdicts.lock();
                let mut verdicts = verdicts.unwrap_or_else(PoisonError::into_inner);
                let judge = || meets(&group.conditions, event.payload());
                verdicts.of(event.position(), judge)
            })
    }
}

/// Whether a payload is a JSON object that meets every condition.
fn meets(conditions: &[Condition], payload: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(payload) else {
        return false;
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let met = json.deserialize_map(Fields(conditions));
    met.is_ok_and(|met| met.iter().all(|met| *met)) && json.end().is_ok()
}

/// Says of each condition whether it is met.
struct Fields<'c>(&'c [Condition]);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<bool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Vec<bool>, M::Error> {
        let mut met = vec![false; self.0.len()];
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if !self.0.iter().any(|one| *one.field == *key.0) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?.get();
            for (condition, met) in self.0.iter().zip(&mut met) {
                if *condition.field == *key.0 {
                    *met = is(value, &condition.value);
                }
            }
        }
        Ok(met)
    }
}

/// Borrowed where the text has no escapes.
#[derive(serde::Deserialize)]
struct Text<'t>(#[serde(borrow)] std::borrow::Cow<'t, str>);

fn is(json: &str, wanted: &str) -> bool {
    match json.as_bytes().first() {
        Some(b'"') => {
            let text = serde_json::from_str::<Text<'_>>(json);
            text.is_ok_and(|text| *text.0 == *wanted)
        }
        Some(b'{' | b'[') | None => false,
        Some(_) => json == wanted,
    }
}

#[cfg(test)]
mod tests;
