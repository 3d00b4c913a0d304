//! `[events]`: the event log, and who may read and publish which channel.
//!
//! A pattern of a rule may name what is known of the caller, as a whole segment: `{sub}`, or a claim
//! of the caller's token by its name or JSON pointer, `{tenant}`, `{/org/id}`. One rule then stands
//! for as many as there are callers. Such a rule must say whose callers it means where more than
//! one issuer can name them: two issuers may give the same name to two people.

use std::path::PathBuf;
use std::time::Duration;

use intellirouter::RedisUrl;
use intellirouter::events::ChannelPattern;
use intellirouter::security::ClaimPath;
use serde::Deserialize;

use super::validate::{REDIS_EXPECTED, Validate};
use crate::layers::authenticate::CERTIFICATE_ISSUER;
use crate::revocation::CERTIFICATE_ALIAS;

/// The most claims that all rules together may name.
pub(crate) const MAX_RULE_CLAIMS: usize = 16;

/// The most replicas that a publish may wait for.
const MAX_REPLICAS: usize = 8;

/// `[events]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileEvents {
    /// `memory:`, `redis://HOST:PORT` or `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`, with
    /// `rediss` for TLS; default `memory:`.
    pub(crate) store: Option<String>,
    /// Authorities for `rediss://`, PEM; default: the system's.
    pub(crate) ca_file: Option<String>,
    /// What resume can reach back to, 1 MiB to 64 GiB in memory; default 67108864.
    pub(crate) retain_bytes: Option<u64>,
    /// The same in time, 1s to 168h; default `1h`.
    pub(crate) retain_age: Option<String>,
    /// The largest payload, 1 to 16777216 bytes; default 1048576.
    pub(crate) payload_bytes: Option<u64>,
    /// 1s to 60s; default `2s`.
    pub(crate) publish_timeout: Option<String>,
    /// Who must have an event before its publish is answered: `master`, or `replicas:N` as well, 1
    /// to 8 of them; default `master`.
    pub(crate) durability: Option<String>,
    /// How often a quiet stream gets a comment, 1s to 300s; default `15s`.
    pub(crate) heartbeat: Option<String>,
    /// A reader further behind is closed and can resume, 65536 bytes to 1 TiB; default
    /// 8388608.
    pub(crate) lag_bytes: Option<u64>,
    /// How many different conditions (`where`) the open streams of one subject may have at each
    /// gateway, 1 to 100000; default 64.
    pub(crate) filters_per_subject: Option<u64>,
    /// Who may read and publish what; the role `admin` may do everything.
    pub(crate) rules: Vec<FileEventRule>,
}

/// What holders of any of `roles` may do.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileEventRule {
    /// Any of these roles. Required.
    pub(crate) roles: Vec<String>,
    /// Only callers of this issuer, or `certificate`; default: of any. Required where there are
    /// several and a pattern names what is known of the caller.
    pub(crate) issuer: Option<String>,
    /// Channels and patterns that may be read. A segment may be `{sub}` or a claim of the caller:
    /// `{tenant}`, `{/org/id}`.
    pub(crate) subscribe: Vec<String>,
    /// Channels and patterns that may be published on, written in the same way.
    pub(crate) publish: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EventsConfig {
    /// `memory:` or the URL of a Redis; may hold a password.
    pub(crate) store: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) retain_bytes: usize,
    pub(crate) retain_age: Duration,
    pub(crate) payload_bytes: usize,
    pub(crate) publish_timeout: Duration,
    /// How many replicas must have an event before its publish is answered.
    pub(crate) replicas: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) lag_bytes: u64,
    pub(crate) filters_per_subject: usize,
    pub(crate) rules: Vec<EventRule>,
}

impl EventsConfig {
    /// Each claim that a rule names, once.
    pub(crate) fn claims(&self) -> Vec<ClaimPath> {
        let mut claims: Vec<ClaimPath> = Vec::new();
        let rules = self.rules.iter();
        for pattern in rules.flat_map(|rule| rule.subscribe.iter().chain(&rule.publish)) {
            for claim in pattern.claims() {
                if !claims.contains(claim) {
                    claims.push(claim.clone());
                }
            }
        }
        claims
    }
}

/// What holders of any of `roles` may read and publish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EventRule {
    pub(crate) roles: Vec<String>,
    /// Whose callers; `None`: anybody's.
    pub(crate) issuer: Option<String>,
    pub(crate) subscribe: Vec<RulePattern>,
    pub(crate) publish: Vec<RulePattern>,
}

/// A pattern over channels, the same for all callers or one for each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RulePattern {
    Fixed(ChannelPattern),
    /// The segments behind `intellirouter`.
    PerCaller(Vec<Segment>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Segment {
    /// A literal, or `*`.
    Text(String),
    Subject,
    Claim(ClaimPath),
}

impl RulePattern {
    /// Fails with what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.contains(['{', '}']) {
            let pattern = ChannelPattern::parse(text).map_err(|error| error.to_string())?;
            return Ok(Self::Fixed(pattern));
        }
        let mut segments = split(text).map(segment).collect::<Result<Vec<_>, _>>()?;
        // With a good value in the place of each name it must be a pattern.
        let example: Vec<&str> = segments.iter().map(|one| one.or("x")).collect();
        ChannelPattern::parse(&example.join(":")).map_err(|error| error.to_string())?;
        segments.remove(0);
        Ok(Self::PerCaller(segments))
    }

    fn claims(&self) -> impl Iterator<Item = &ClaimPath> {
        let segments = match self {
            Self::Fixed(_) => &[][..],
            Self::PerCaller(segments) => segments,
        };
        segments.iter().filter_map(|segment| match segment {
            Segment::Claim(claim) => Some(claim),
            _ => None,
        })
    }
}

impl Segment {
    fn or<'s>(&'s self, value: &'s str) -> &'s str {
        match self {
            Self::Text(text) => text,
            Self::Subject | Self::Claim(_) => value,
        }
    }
}

/// At each colon that is not within braces: the names of claims may hold some.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut named = false;
    text.split(move |c| {
        named = (named || c == '{') && c != '}';
        c == ':' && !named
    })
}

fn segment(text: &str) -> Result<Segment, String> {
    let expected = "expected {sub}, {claim} or {/json/pointer} as a whole segment";
    match text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
    {
        Some("sub") => Ok(Segment::Subject),
        Some("" | "/") => Err(expected.to_owned()),
        Some(name) if !name.contains(['{', '}']) => Ok(Segment::Claim(ClaimPath::new(name))),
        None if !text.contains(['{', '}']) => Ok(Segment::Text(text.to_owned())),
        _ => Err(expected.to_owned()),
    }
}

impl Validate<'_, '_> {
    /// `issuers` are those that can say who a caller is.
    pub(super) fn events(&mut self, file: FileEvents, issuers: &[&str]) -> EventsConfig {
        let store = file.store.unwrap_or_else(|| "memory:".into());
        if store != "memory:" && RedisUrl::parse(&store).is_err() {
            let expected = format!("expected \"memory:\", {REDIS_EXPECTED}");
            self.source.fault("events.store", expected);
        }
        let mib = 1024 * 1024;
        let config = EventsConfig {
            store,
            ca_file: file
                .ca_file
                .map(|path| self.file("events.ca_file", Some(path))),
            retain_bytes: self.number(
                "events.retain_bytes",
                file.retain_bytes,
                64 * mib,
                mib,
                64 << 30,
            ),
            retain_age: self.duration("events.retain_age", file.retain_age, (3600, 1, 7 * 86_400)),
            payload_bytes: self.number(
                "events.payload_bytes",
                file.payload_bytes,
                mib,
                1,
                16 * mib,
            ),
            publish_timeout: self.duration(
                "events.publish_timeout",
                file.publish_timeout,
                (2, 1, 60),
            ),
            replicas: self.replicas(file.durability),
            heartbeat: self.duration("events.heartbeat", file.heartbeat, (15, 1, 300)),
            lag_bytes: self.number(
                "events.lag_bytes",
                file.lag_bytes,
                8 * mib,
                64 * 1024,
                1 << 40,
            ) as u64,
            filters_per_subject: self.number(
                "events.filters_per_subject",
                file.filters_per_subject,
                64,
                1,
                100_000,
            ),
            rules: file
                .rules
                .into_iter()
                .enumerate()
                .map(|(i, rule)| self.event_rule(&format!("events.rules[{i}]"), rule, issuers))
                .collect(),
        };
        if config.claims().len() > MAX_RULE_CLAIMS {
            let message = format!("they name more than {MAX_RULE_CLAIMS} different claims");
            self.source.fault("events.rules", message);
        }
        config
    }

    /// How many replicas of the store must have an event before its publish is answered.
    fn replicas(&mut self, durability: Option<String>) -> usize {
        let Some(text) = durability else { return 0 };
        let replicas = text.strip_prefix("replicas:").and_then(|n| n.parse().ok());
        match (&*text, replicas) {
            ("master", _) => 0,
            (_, Some(replicas @ 1..=MAX_REPLICAS)) => replicas,
            _ => {
                let message = format!(
                    "expected \"master\" or \"replicas:N\" with N from 1 to {MAX_REPLICAS}, found \
                     \"{text}\""
                );
                self.source.fault("events.durability", message);
                0
            }
        }
    }

    fn event_rule(&mut self, at: &str, file: FileEventRule, issuers: &[&str]) -> EventRule {
        if file.roles.is_empty() {
            self.source
                .fault(at, "roles: missing; the rule would hold for nobody");
        }
        let issuer = file.issuer.map(|name| match name.as_str() {
            CERTIFICATE_ALIAS => CERTIFICATE_ISSUER.to_owned(),
            _ => name,
        });
        if let Some(issuer) = &issuer
            && !issuers.contains(&issuer.as_str())
        {
            let message = "expected an issuer of [auth], or \"certificate\" with [[certificates]]";
            self.source.fault(&format!("{at}.issuer"), message);
        }
        let rule = EventRule {
            roles: file.roles,
            subscribe: self.patterns(&format!("{at}.subscribe"), &file.subscribe),
            publish: self.patterns(&format!("{at}.publish"), &file.publish),
            issuer,
        };
        let mut patterns = rule.subscribe.iter().chain(&rule.publish);
        if patterns.any(|pattern| matches!(pattern, RulePattern::PerCaller(_)))
            && rule.issuer.is_none()
            && issuers.len() > 1
        {
            let message = "issuer: missing; of several issuers each may give the same name to \
                           somebody else, so a pattern with {…} needs it";
            self.source.fault(at, message);
        }
        rule
    }

    fn patterns(&mut self, at: &str, texts: &[String]) -> Vec<RulePattern> {
        let mut patterns = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            match RulePattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.source.fault(&format!("{at}[{i}]"), error),
            }
        }
        patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_segment_may_be_the_subject_or_a_claim_by_name_or_pointer() {
        let parse = |text| match RulePattern::parse(text) {
            Ok(RulePattern::PerCaller(segments)) => segments,
            other => panic!("{text}: {other:?}"),
        };
        let claim = |name: &str| Segment::Claim(ClaimPath::new(name));
        let star = || Segment::Text("*".into());
        assert_eq!(
            parse("intellirouter:*:{sub}:*"),
            [star(), Segment::Subject, star()]
        );
        assert_eq!(
            parse("intellirouter:{https://login.example/tenant}:*"),
            [claim("https://login.example/tenant"), star()]
        );
        assert_eq!(
            parse("intellirouter:a:{/org/id}:{tenant}"),
            [Segment::Text("a".into()), claim("/org/id"), claim("tenant")]
        );
    }

    #[test]
    fn what_is_no_pattern_with_a_value_in_each_place_is_refused() {
        for text in [
            "{sub}",
            "{sub}:a:b:c",
            "intellirouter:{sub}",
            "intellirouter:{}:*",
            "intellirouter:{/}:*",
            "intellirouter:a{sub}:*",
            "intellirouter:{sub}a:*",
            "intellirouter:{sub:*",
            "intellirouter:sub}:*",
            "intellirouter:{{sub}}:*",
            "intellirouter:{sub}:b:c:d",
            "intellirouter:{sub}:B:c",
        ] {
            assert!(RulePattern::parse(text).is_err(), "{text}");
        }
    }

    fn faults(text: &str) -> String {
        let base = crate::test_util::files().jwt_secret.parent().unwrap();
        let text = format!(
            "[listen]\ncert_file = 'gateway.crt'\nkey_file = 'gateway.key'\n\
             [identity]\nkey_file = 'identity.key'\n\
             [[auth.keys]]\nalgorithm = 'HS256'\nsecret_file = 'jwt.secret'\n{text}"
        );
        let parsed = Config::parse(&text, "f", base);
        parsed
            .err()
            .map(|faults| faults.to_string())
            .unwrap_or_default()
    }

    const PER_CALLER: &str =
        "[[events.rules]]\nroles = ['*']\nsubscribe = ['intellirouter:*:{sub}:*']\n";

    #[test]
    fn where_several_issuers_name_callers_a_rule_with_their_names_says_whose() {
        let second = "[[auth.issuers]]\nissuer = 'b'\naudience = 'us'\nkeys = [{ algorithm = \
                      'HS256', secret_file = 'jwt.secret' }]\n";
        assert_eq!(faults(PER_CALLER), "");
        let fault = faults(&format!("{second}{PER_CALLER}"));
        assert!(
            fault.contains("events.rules[0]: issuer: missing"),
            "{fault}"
        );
        let named = |issuer: &str| faults(&format!("{second}{PER_CALLER}issuer = '{issuer}'\n"));
        assert_eq!((named("b"), named("intellirouter")), Default::default());
        for stranger in ["c", "certificate"] {
            let fault = named(stranger);
            assert!(
                fault.contains("events.rules[0].issuer: expected"),
                "{fault}"
            );
        }
    }

    #[test]
    fn rules_name_a_bounded_number_of_claims() {
        let rule = |count: usize| {
            let one = |i| format!("'intellirouter:{{c{i}}}:*'");
            let patterns: Vec<String> = (0..count).map(one).collect();
            let patterns = patterns.join(", ");
            faults(&format!(
                "[[events.rules]]\nroles = ['a']\nsubscribe = [{patterns}]\n"
            ))
        };
        assert_eq!(rule(MAX_RULE_CLAIMS), "");
        assert!(rule(MAX_RULE_CLAIMS + 1).contains("more than 16"));
    }
}
