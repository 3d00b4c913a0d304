//! Patterns over channel names, for subscriptions and for the rules that allow them.
//!
//! A segment is literal or `*`. `*` stands for exactly one whole segment, and for the whole rest
//! where it is the last one. So `intellirouter:*` is every channel and
//! `intellirouter:chain_engine:*` every channel of one source. There is no `*` within a segment
//! and none in place of `intellirouter`. A pattern that no channel could match (too short without
//! a `*` at its end, or too long) is refused instead of being silently empty.

use std::fmt;

use super::channel::{CHANNEL_PREFIX, ChannelName, check_segment, invalid, is_segment, shown};
use crate::error::{IpcError, IpcResult};

/// Which channels. Equal when they match the same ones: `intellirouter:a:*` equals
/// `intellirouter:a:*:*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelPattern {
    /// Source, destination, event type. Channels have exactly these three, so a `*` for the rest
    /// is the same as one `*` for each; `None` is such a `*`.
    segments: [Option<Box<str>>; 3],
}

impl ChannelPattern {
    /// Reads a pattern, strictly.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] that says what breaks the rules and what was expected.
    pub fn parse(text: &str) -> IpcResult<Self> {
        let parts: Vec<&str> = text.split(':').take(5).collect();
        let (prefix, rest) = parts.split_first().unwrap_or((&"", &[]));
        if *prefix != CHANNEL_PREFIX {
            return Err(malformed(text, "it must start with intellirouter:"));
        }
        let last = rest.last().copied().unwrap_or_default();
        if rest.is_empty() || (rest.len() < 3 && last != "*") {
            return Err(malformed(
                text,
                "with fewer than four segments the last must be *",
            ));
        }
        if rest.len() > 3 {
            return Err(malformed(text, "it has more than four segments"));
        }
        let mut segments = [None, None, None];
        for ((slot, part), role) in segments.iter_mut().zip(rest).zip(ROLES) {
            *slot = literal(text, role, part)?;
        }
        Ok(Self { segments })
    }

    /// Whether the channel with this name is meant. False for what is no channel name at all.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        let mut parts = channel.split(':');
        parts.next() == Some(CHANNEL_PREFIX)
            && self.segments.iter().all(|wanted| {
                parts
                    .next()
                    .is_some_and(|part| is_segment(part) && accepts(wanted, part))
            })
            && parts.next().is_none()
    }

    /// [`ChannelPattern::matches`] for a name whose segments are known.
    #[must_use]
    pub fn matches_name(&self, channel: &ChannelName) -> bool {
        let [source, destination, event_type] = &self.segments;
        accepts(source, channel.source())
            && accepts(destination, channel.destination())
            && accepts(event_type, channel.event_type())
    }

    /// Whether every channel that this pattern matches is matched by `allowed` too.
    #[must_use]
    pub fn lies_within(&self, allowed: &Self) -> bool {
        let pairs = self.segments.iter().zip(&allowed.segments);
        pairs.into_iter().all(|pair| match pair {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(wanted), Some(allowed)) => wanted == allowed,
        })
    }
}

const ROLES: [&str; 3] = ["source", "destination", "event type"];

fn accepts(wanted: &Option<Box<str>>, part: &str) -> bool {
    wanted.as_deref().is_none_or(|wanted| wanted == part)
}

fn literal(text: &str, role: &str, part: &str) -> IpcResult<Option<Box<str>>> {
    if part == "*" {
        return Ok(None);
    }
    if part.contains('*') {
        return Err(malformed(text, "* stands for a whole segment only"));
    }
    check_segment(role, part)?;
    Ok(Some(part.into()))
}

fn malformed(text: &str, why: &str) -> IpcError {
    invalid(format!(
        "channel pattern {}: {why}; expected {CHANNEL_PREFIX}:<source>:<destination>:<event_type>, \
         where a segment may be * and a * at the end stands for the rest",
        shown(text)
    ))
}

/// The shortest way to write the pattern.
impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let literals = self.segments.iter().rposition(Option::is_some);
        let written = literals.map_or(0, |last| last + 1);
        f.write_str(CHANNEL_PREFIX)?;
        for segment in &self.segments[..written] {
            write!(f, ":{}", segment.as_deref().unwrap_or("*"))?;
        }
        if written < self.segments.len() {
            f.write_str(":*")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> ChannelPattern {
        ChannelPattern::parse(text).unwrap()
    }

    #[test]
    fn a_star_at_the_end_stands_for_the_whole_rest() {
        assert!(pattern("intellirouter:*").matches("intellirouter:a:b:c"));
        assert!(pattern("intellirouter:a:*").matches("intellirouter:a:b:c"));
        assert!(!pattern("intellirouter:a:*").matches("intellirouter:ab:b:c"));
        assert_eq!(pattern("intellirouter:a:*"), pattern("intellirouter:a:*:*"));
    }

    #[test]
    fn a_star_elsewhere_stands_for_one_whole_segment() {
        let one = pattern("intellirouter:*:b:c");
        assert!(one.matches("intellirouter:x:b:c"));
        assert!(!one.matches("intellirouter:x:y:c"));
    }

    #[test]
    fn what_is_no_channel_name_matches_nothing() {
        let all = pattern("intellirouter:*");
        for text in [
            "",
            "intellirouter",
            "intellirouter:a:b",
            "intellirouter:a:b:c:d",
            "intellirouter::b:c",
            "intellirouter:A:b:c",
            "other:a:b:c",
        ] {
            assert!(!all.matches(text), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_that_could_match_nothing_is_refused() {
        for (text, expected) in [
            ("", "must start with intellirouter"),
            ("*", "must start with intellirouter"),
            ("*:a:b:c", "must start with intellirouter"),
            ("intellirouter", "the last must be *"),
            ("intellirouter:a", "the last must be *"),
            ("intellirouter:*:b", "the last must be *"),
            ("intellirouter:a:b:c:*", "more than four"),
            ("intellirouter:a*:b:c", "whole segment only"),
            ("intellirouter:a:**:c", "whole segment only"),
            ("intellirouter:A:*", "source \"A\""),
            ("intellirouter::*", "source \"\""),
        ] {
            let error = ChannelPattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?} gave: {error}");
        }
    }

    #[test]
    fn a_pattern_is_shown_so_that_it_reads_back_the_same() {
        for text in [
            "intellirouter:*",
            "intellirouter:a:*",
            "intellirouter:*:b:*",
            "intellirouter:*:*:c",
            "intellirouter:a:b:c",
        ] {
            assert_eq!(pattern(text).to_string(), text);
        }
        assert_eq!(
            pattern("intellirouter:*:*:*").to_string(),
            "intellirouter:*"
        );
    }

    fn segment() -> impl Strategy<Value = String> {
        prop_oneof![Just("*".to_owned()), "[ab]".prop_map(|s| s)]
    }

    fn patterns() -> impl Strategy<Value = ChannelPattern> {
        prop_oneof![
            Just("intellirouter:*".to_owned()),
            segment().prop_map(|a| format!("intellirouter:{a}:*")),
            (segment(), segment(), segment())
                .prop_map(|(a, b, c)| format!("intellirouter:{a}:{b}:{c}")),
        ]
        .prop_map(|text| pattern(&text))
    }

    /// Every channel over an alphabet with one letter that no pattern names.
    fn every_channel() -> impl Iterator<Item = String> {
        let letters = ["a", "b", "z"];
        letters.into_iter().flat_map(move |a| {
            letters.into_iter().flat_map(move |b| {
                letters
                    .into_iter()
                    .map(move |c| format!("intellirouter:{a}:{b}:{c}"))
            })
        })
    }

    proptest! {
        #[test]
        fn lying_within_means_exactly_that_nothing_more_is_matched(
            requested in patterns(), allowed in patterns()
        ) {
            let contained =
                every_channel().all(|c| !requested.matches(&c) || allowed.matches(&c));
            prop_assert_eq!(requested.lies_within(&allowed), contained);
        }

        #[test]
        fn both_ways_to_match_agree(pattern in patterns()) {
            for channel in every_channel() {
                let name = ChannelName::parse(&channel).unwrap();
                prop_assert_eq!(pattern.matches(&channel), pattern.matches_name(&name));
            }
        }

        #[test]
        fn no_input_panics(text in ".{0,80}") {
            let _ = ChannelPattern::parse(&text);
            let _ = ChannelName::parse(&text);
            let _ = pattern("intellirouter:*").matches(&text);
        }
    }
}
