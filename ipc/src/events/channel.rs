//! The names of channels: `intellirouter:{source}:{destination}:{event_type}`.
//!
//! Owns the grammar: exactly four segments, the first `intellirouter`, the others 1 to 64 bytes of
//! `[a-z0-9_]`. So a name holds no wildcard, no separator and no line break, an event type can be
//! written into any framing as it is, and nobody can publish a control event (those start with
//! `ir.`, which no segment can hold).

use std::fmt;
use std::sync::Arc;

use crate::error::{IpcError, IpcResult};

/// The first segment of every channel.
pub const CHANNEL_PREFIX: &str = "intellirouter";

/// The longest source, destination or event type, in bytes.
pub const MAX_SEGMENT_BYTES: usize = 64;

/// The name of a channel. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName {
    text: Arc<str>,
    source_end: usize,
    destination_end: usize,
}

impl ChannelName {
    /// Puts a name together without checking it; [`ChannelName::validate`] does, and so does
    /// everything that publishes.
    #[must_use]
    pub fn new(source: &str, destination: &str, event_type: &str) -> Self {
        let source_end = CHANNEL_PREFIX.len() + 1 + source.len();
        Self {
            text: format!("{CHANNEL_PREFIX}:{source}:{destination}:{event_type}").into(),
            source_end,
            destination_end: source_end + 1 + destination.len(),
        }
    }

    /// Reads a whole channel name, strictly.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] that says which part breaks the grammar and what was expected.
    pub fn parse(text: &str) -> IpcResult<Self> {
        let segments: Vec<&str> = text.split(':').take(5).collect();
        let [prefix, source, destination, event_type] = segments[..] else {
            return Err(invalid(format!(
                "channel {} has not exactly four segments; expected \
                 {CHANNEL_PREFIX}:<source>:<destination>:<event_type>",
                shown(text)
            )));
        };
        if prefix != CHANNEL_PREFIX {
            return Err(invalid(format!(
                "channel {} starts with {}; expected {CHANNEL_PREFIX}",
                shown(text),
                shown(prefix)
            )));
        }
        let name = Self::new(source, destination, event_type);
        name.validate()?;
        Ok(name)
    }

    /// Checks each segment against the grammar.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] that names the segment and what was expected.
    pub fn validate(&self) -> IpcResult<()> {
        check_segment("source", self.source())?;
        check_segment("destination", self.destination())?;
        check_segment("event type", self.event_type())
    }

    /// Whether both share one text. Where they don't they may still be equal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.text, &other.text)
    }

    /// Who sends on the channel.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.text[CHANNEL_PREFIX.len() + 1..self.source_end]
    }

    /// For whom the channel is.
    #[must_use]
    pub fn destination(&self) -> &str {
        &self.text[self.source_end + 1..self.destination_end]
    }

    /// What its events say.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.text[self.destination_end + 1..]
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChannelName").field(&self.text).finish()
    }
}

/// Checks one segment; `role` is what the message calls it.
pub(super) fn check_segment(role: &str, segment: &str) -> IpcResult<()> {
    if is_segment(segment) {
        return Ok(());
    }
    Err(invalid(format!(
        "{role} {} is not 1 to {MAX_SEGMENT_BYTES} characters of a-z, 0-9 and _",
        shown(segment)
    )))
}

pub(super) fn is_segment(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=MAX_SEGMENT_BYTES).contains(&segment.len()) && segment.bytes().all(allowed)
}

pub(super) fn invalid(message: String) -> IpcError {
    IpcError::InvalidArgument(message)
}

/// The input as a message may show it: quoted, control characters escaped, at most 96 characters,
/// so that a hostile name can neither forge a log line nor fill one.
pub(crate) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(96).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_as_the_contract_writes_it() {
        let name = ChannelName::new("chain_engine", "router_core", "chain_execution_completed");
        assert_eq!(
            name.to_string(),
            "intellirouter:chain_engine:router_core:chain_execution_completed"
        );
        assert_eq!(name.source(), "chain_engine");
        assert_eq!(name.destination(), "router_core");
        assert_eq!(name.event_type(), "chain_execution_completed");
        assert!(name.validate().is_ok());
    }

    #[test]
    fn a_parsed_name_equals_the_built_one() {
        let built = ChannelName::new("a", "b_2", "c");
        assert_eq!(ChannelName::parse("intellirouter:a:b_2:c").unwrap(), built);
    }

    #[test]
    fn a_name_that_breaks_the_grammar_is_refused_with_what_was_expected() {
        let long = "x".repeat(65);
        let too_long = format!("intellirouter:{long}:b:c");
        for (text, expected) in [
            ("", "four segments"),
            ("intellirouter:a:b", "four segments"),
            ("intellirouter:a:b:c:d", "four segments"),
            ("other:a:b:c", "expected intellirouter"),
            ("intellirouter::b:c", "source \"\" is not 1 to 64"),
            ("intellirouter:a:B:c", "destination \"B\""),
            ("intellirouter:a:b:*", "event type \"*\""),
            ("intellirouter:a:b:c\nid", "event type \"c\\nid\""),
            ("intellirouter:a:b:ir.open", "event type \"ir.open\""),
            ("intellirouter:ä:b:c", "source \"ä\""),
            (too_long.as_str(), "source"),
        ] {
            let error = ChannelName::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?} gave: {error}");
        }
        assert!(ChannelName::parse(&format!("intellirouter:{}:b:c", &long[1..])).is_ok());
    }

    #[test]
    fn a_built_name_with_a_separator_inside_does_not_validate() {
        assert!(ChannelName::new("a:b", "c", "d").validate().is_err());
        assert_eq!(ChannelName::new("a:b", "c", "d").source(), "a:b");
    }

    #[test]
    fn a_huge_name_gives_a_short_message() {
        let error = ChannelName::parse(&"é:".repeat(100_000)).unwrap_err();
        assert!(error.to_string().len() < 600);
    }
}
