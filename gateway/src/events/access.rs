//! Who may read and publish which channel.
//!
//! The rules map roles and what is known of the caller to channel patterns; `admin` may do everything, nobody
//! else anything that no rule allows. A requested pattern must lie inside one
//! allowed pattern; a list with one forbidden member is refused whole, and the
//! refusal names the member. A channel is never silently empty.
//!
//! Subjects and claims are chosen by whoever issues tokens, sometimes by the callers themselves. In a
//! pattern they are literal: one that is not a whole segment of a channel's name (`*`, `a:b`, an
//! upper case letter) makes the pattern match nothing, and nothing else of it is looked at.

use std::borrow::Cow;

use intellirouter::events::{CHANNEL_PREFIX, ChannelName, ChannelPattern};

use crate::config::{EventRule, RulePattern, Segment};
use crate::layers::authenticate::{Identity, is_segment};
use crate::reply::Reply;
use crate::routes::{ADMIN, ANYONE};

fn rules_of<'r>(
    rules: &'r [EventRule],
    caller: &'r Identity,
) -> impl Iterator<Item = &'r EventRule> {
    rules.iter().filter(|rule| {
        let issuer = rule.issuer.as_deref();
        issuer.is_none_or(|issuer| issuer == caller.issuer())
            && rule
                .roles
                .iter()
                .any(|role| role == ANYONE || caller.roles().contains(role))
    })
}

/// What a pattern of a rule allows this caller; `None` where the caller has nothing to put into it.
fn of_caller<'p>(pattern: &'p RulePattern, caller: &Identity) -> Option<Cow<'p, ChannelPattern>> {
    let segments = match pattern {
        RulePattern::Fixed(pattern) => return Some(Cow::Borrowed(pattern)),
        RulePattern::PerCaller(segments) => segments,
    };
    let mut text = CHANNEL_PREFIX.to_owned();
    for segment in segments {
        text.push(':');
        text.push_str(match segment {
            Segment::Text(text) => text,
            Segment::Subject => Some(caller.subject()).filter(|subject| is_segment(subject))?,
            // The caller keeps no claim that is not a segment.
            Segment::Claim(claim) => caller.claim(claim)?,
        });
    }
    ChannelPattern::parse(&text).ok().map(Cow::Owned)
}

fn is_admin(caller: &Identity) -> bool {
    caller.roles().iter().any(|role| role == ADMIN)
}

/// The patterns that a caller asks for, if it may read them all.
pub(super) fn subscribe<'t>(
    rules: &[EventRule],
    caller: &Identity,
    requested: impl IntoIterator<Item = &'t str>,
) -> Result<Vec<ChannelPattern>, Reply> {
    requested
        .into_iter()
        .map(|text| {
            let pattern = ChannelPattern::parse(text)
                .map_err(|error| Reply::invalid("channel", error.to_string()))?;
            if may_read(rules, caller, std::slice::from_ref(&pattern)) {
                return Ok(pattern);
            }
            let message = format!("the caller's roles do not allow to read \"{text}\"");
            Err(Reply::denied("channel_denied", message))
        })
        .collect()
}

/// Whether a caller may read all of these.
pub(super) fn may_read(
    rules: &[EventRule],
    caller: &Identity,
    patterns: &[ChannelPattern],
) -> bool {
    is_admin(caller)
        || patterns.iter().all(|pattern| {
            rules_of(rules, caller)
                .flat_map(|rule| &rule.subscribe)
                .filter_map(|allowed| of_caller(allowed, caller))
                .any(|allowed| pattern.lies_within(&allowed))
        })
}

/// The channel to publish on, if the caller may.
pub(super) fn publish(
    rules: &[EventRule],
    caller: &Identity,
    channel: &str,
) -> Result<ChannelName, Reply> {
    let name = ChannelName::parse(channel)
        .map_err(|error| Reply::invalid("channel", error.to_string()))?;
    let allowed = is_admin(caller)
        || rules_of(rules, caller)
            .flat_map(|rule| &rule.publish)
            .filter_map(|allowed| of_caller(allowed, caller))
            .any(|allowed| allowed.matches_name(&name));
    if allowed {
        return Ok(name);
    }
    let message = format!("the caller's roles do not allow to publish on \"{name}\"");
    Err(Reply::denied("channel_denied", message))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::test_util::identity;

    fn rule(roles: &[&str], subscribe: &[&str], publish: &[&str]) -> EventRule {
        let patterns = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| RulePattern::parse(text).unwrap())
                .collect()
        };
        EventRule {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            issuer: None,
            subscribe: patterns(subscribe),
            publish: patterns(publish),
        }
    }

    fn rules() -> Vec<EventRule> {
        vec![
            rule(
                &["user"],
                &["intellirouter:chain:*"],
                &["intellirouter:ui:chain:click"],
            ),
            rule(
                &["ops"],
                &["intellirouter:*:ops:alert"],
                &["intellirouter:ops:*"],
            ),
            rule(&["*"], &["intellirouter:news:all:headline"], &[]),
        ]
    }

    fn read(roles: &[&str], requested: &[&str]) -> Result<usize, Reply> {
        subscribe(
            &rules(),
            &identity("alice", roles),
            requested.iter().copied(),
        )
        .map(|patterns| patterns.len())
    }

    fn write(roles: &[&str], channel: &str) -> Result<ChannelName, Reply> {
        publish(&rules(), &identity("alice", roles), channel)
    }

    #[test]
    fn a_requested_pattern_must_lie_inside_one_that_is_allowed() {
        assert_eq!(
            read(
                &["user"],
                &["intellirouter:chain:*", "intellirouter:chain:x:done"]
            )
            .unwrap(),
            2
        );
        assert_eq!(
            read(&["ops"], &["intellirouter:memory:ops:alert"]).unwrap(),
            1
        );
        for beyond in [
            "intellirouter:*",
            "intellirouter:*:x:done",
            "intellirouter:chains:*",
            "intellirouter:*:ops:*",
        ] {
            let reply = read(&["user", "ops"], &[beyond]).unwrap_err();
            assert_eq!(
                (reply.code, reply.label),
                (Code::PermissionDenied, "channel_denied"),
                "{beyond}"
            );
        }
    }

    #[test]
    fn a_list_with_one_forbidden_member_is_refused_whole_and_by_name() {
        let good = "intellirouter:chain:*";
        let bad = "intellirouter:memory:x:done";
        for list in [[good, bad], [bad, good]] {
            let reply = read(&["user"], &list).unwrap_err();
            assert!(
                reply.message.contains(bad) && !reply.message.contains(good),
                "{}",
                reply.message
            );
        }
    }

    #[test]
    fn a_rule_for_everybody_holds_for_callers_without_roles_and_gives_no_more() {
        assert!(read(&[], &["intellirouter:news:all:headline"]).is_ok());
        assert!(read(&[], &["intellirouter:news:*"]).is_err());
        assert!(
            read(&["*"], &["intellirouter:chain:*"]).is_err(),
            "a caller's own star is a plain name"
        );
    }

    #[test]
    fn admin_may_do_everything_that_is_a_channel() {
        assert!(read(&["admin"], &["intellirouter:*"]).is_ok());
        assert!(write(&["admin"], "intellirouter:a:b:c").is_ok());
        assert_eq!(
            write(&["admin"], "intellirouter:a:b:ir.gap")
                .unwrap_err()
                .code,
            Code::InvalidArgument
        );
        assert_eq!(
            read(&["admin"], &["other:*"]).unwrap_err().code,
            Code::InvalidArgument
        );
    }

    #[test]
    fn without_rules_only_admin_gets_in() {
        let ask = |roles: &[&str]| subscribe(&[], &identity("a", roles), ["intellirouter:*"]);
        assert!(ask(&["user", "ops"]).is_err());
        assert!(ask(&["admin"]).is_ok());
    }

    #[test]
    fn a_rule_with_the_subject_gives_each_caller_its_own_channels() {
        let rules = [rule(
            &["*"],
            &["intellirouter:*:{sub}:*"],
            &["intellirouter:ui:{sub}:click"],
        )];
        let may = |subject: &str, channel: &str| {
            subscribe(&rules, &identity(subject, &[]), [channel]).is_ok()
        };
        assert!(may("alice", "intellirouter:chain:alice:done"));
        assert!(may("alice", "intellirouter:*:alice:*"));
        assert!(!may("alice", "intellirouter:chain:bob:done"));
        assert!(!may("alice", "intellirouter:*"));
        let alice = identity("alice", &[]);
        assert!(publish(&rules, &alice, "intellirouter:ui:alice:click").is_ok());
        assert!(publish(&rules, &alice, "intellirouter:ui:bob:click").is_err());
    }

    #[test]
    fn a_subject_that_is_no_segment_gains_nothing() {
        let rules = [rule(
            &["*"],
            &["intellirouter:*:{sub}:*"],
            &["intellirouter:{sub}:b:c"],
        )];
        for subject in ["*", "a:b", "a:*", "Alice", "a b", "ä", "{sub}"] {
            let caller = identity(subject, &[]);
            for channel in [
                "intellirouter:*",
                "intellirouter:*:*:x",
                "intellirouter:*:a:b",
                "intellirouter:a:b:c",
            ] {
                assert!(subscribe(&rules, &caller, [channel]).is_err(), "{subject}");
                assert!(publish(&rules, &caller, channel).is_err(), "{subject}");
            }
        }
    }

    #[test]
    fn a_rule_for_one_issuer_holds_for_no_other() {
        let mut rules = rules();
        let ask = |rules: &[EventRule]| {
            subscribe(rules, &identity("a", &["user"]), ["intellirouter:chain:*"]).is_ok()
        };
        for (issuer, holds) in [("intellirouter", true), ("other", false)] {
            rules[0].issuer = Some(issuer.to_owned());
            assert_eq!(ask(&rules), holds, "{issuer}");
        }
    }

    #[test]
    fn who_may_read_may_not_therefore_publish() {
        assert!(write(&["user"], "intellirouter:ui:chain:click").is_ok());
        let reply = write(&["user"], "intellirouter:chain:x:done").unwrap_err();
        assert!(reply.message.contains("intellirouter:chain:x:done"));
        assert!(write(&["ops"], "intellirouter:ops:x:y").is_ok());
    }
}
