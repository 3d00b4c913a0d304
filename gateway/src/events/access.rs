//! Who may read and publish which channel.
//!
//! The rules map roles to channel patterns; `admin` may do everything, nobody
//! else anything that no rule allows. A requested pattern must lie inside one
//! allowed pattern; a list with one forbidden member is refused whole, and the
//! refusal names the member. A channel is never silently empty.

use intellirouter::events::{ChannelName, ChannelPattern};

use crate::config::EventRule;
use crate::layers::authenticate::Identity;
use crate::reply::Reply;
use crate::routes::{ADMIN, ANYONE};

fn rules_of<'r>(
    rules: &'r [EventRule],
    caller: &'r Identity,
) -> impl Iterator<Item = &'r EventRule> {
    rules.iter().filter(|rule| {
        rule.roles.iter().any(|role| role == ANYONE || caller.roles().contains(role))
    })
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
            let allowed = is_admin(caller)
                || rules_of(rules, caller)
                    .flat_map(|rule| &rule.subscribe)
                    .any(|allowed| pattern.lies_within(allowed));
            if allowed {
                return Ok(pattern);
            }
            let message = format!("the caller's roles do not allow to read \"{text}\"");
            Err(Reply::denied("channel_denied", message))
        })
        .collect()
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
            .any(|allowed| allowed.matches_name(&name));
    if allowed {
        return Ok(name);
    }
    let message = format!("the caller's roles do not allow to publish on \"{name}\"");
    Err(Reply::denied("channel_denied", message))
}
