//! The entries of one source, ready to be looked up.

use std::collections::HashMap;

use super::entry::{Entry, Target};

/// A caller as a revocation sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bearer<'b> {
    pub(crate) issuer: &'b str,
    pub(crate) subject: &'b str,
    pub(crate) token_id: Option<&'b str>,
    /// Seconds since 1970. Who does not say counts as issued before any revocation.
    pub(crate) issued_at: Option<u64>,
}

/// Two tables: a look-up costs one hash for the subject and one for the token's id.
#[derive(Debug, Default)]
pub(crate) struct RevokedSet {
    /// Until when.
    tokens: HashMap<String, u64>,
    subjects: HashMap<String, Vec<Rule>>,
    entries: usize,
}

#[derive(Debug)]
struct Rule {
    issuer: Option<String>,
    issued_before: u64,
    until: u64,
}

impl Rule {
    fn revokes(&self, bearer: Bearer<'_>, now: u64) -> bool {
        now < self.until
            && bearer.issued_at.unwrap_or(0) <= self.issued_before
            && self
                .issuer
                .as_ref()
                .is_none_or(|issuer| issuer == bearer.issuer)
    }
}

impl RevokedSet {
    pub(crate) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut set = Self::default();
        for entry in entries {
            set.add(entry);
        }
        set
    }

    pub(crate) fn add(&mut self, entry: Entry) {
        self.entries += 1;
        let Entry {
            target,
            issued_before,
            until,
        } = entry;
        match target {
            Target::Token(id) => {
                let known = self.tokens.entry(id).or_insert(until);
                *known = until.max(*known);
            }
            Target::Subject { subject, issuer } => {
                self.subjects.entry(subject).or_default().push(Rule {
                    issuer,
                    issued_before,
                    until,
                });
            }
        }
    }

    /// How many entries it was made of.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    pub(crate) fn revokes(&self, bearer: Bearer<'_>, now: u64) -> bool {
        if self.entries == 0 {
            return false;
        }
        let token = bearer.token_id.and_then(|id| self.tokens.get(id));
        token.is_some_and(|until| now < *until)
            || self
                .subjects
                .get(bearer.subject)
                .is_some_and(|rules| rules.iter().any(|rule| rule.revokes(bearer, now)))
    }

    /// The entries that still hold.
    pub(crate) fn entries(&self, now: u64) -> impl Iterator<Item = Entry> {
        let tokens = self.tokens.iter().map(|(id, until)| Entry {
            target: Target::Token(id.clone()),
            issued_before: super::entry::ALWAYS,
            until: *until,
        });
        let subjects = self.subjects.iter().flat_map(|(subject, rules)| {
            rules.iter().map(|rule| Entry {
                target: Target::Subject {
                    subject: subject.clone(),
                    issuer: rule.issuer.clone(),
                },
                issued_before: rule.issued_before,
                until: rule.until,
            })
        });
        tokens
            .chain(subjects)
            .filter(move |entry| entry.holds_at(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(lines: &[&str]) -> RevokedSet {
        RevokedSet::new(
            lines
                .iter()
                .map(|line| Entry::parse(line).unwrap().unwrap()),
        )
    }

    const ALICE: Bearer<'static> = Bearer {
        issuer: "idp",
        subject: "alice",
        token_id: Some("t1"),
        issued_at: Some(100),
    };
    const BEFORE_99: &str = "1970-01-01T00:01:39Z";
    const BEFORE_100: &str = "1970-01-01T00:01:40Z";

    #[test]
    fn a_token_is_revoked_by_its_id_until_the_time_given() {
        let set = set(&[&format!("jti t1 until {BEFORE_100}"), "jti t2"]);
        assert!(set.revokes(ALICE, 99));
        assert!(!set.revokes(ALICE, 100));
        let other = Bearer {
            token_id: Some("t2"),
            ..ALICE
        };
        assert!(set.revokes(other, 4_000_000_000));
        let unnamed = Bearer {
            token_id: None,
            ..ALICE
        };
        assert!(!set.revokes(unnamed, 1));
    }

    #[test]
    fn a_subject_is_revoked_with_what_was_issued_before_and_can_log_in_again() {
        assert!(set(&[&format!("sub alice issued_before {BEFORE_100}")]).revokes(ALICE, 200));
        assert!(!set(&[&format!("sub alice issued_before {BEFORE_99}")]).revokes(ALICE, 200));
        assert!(set(&["sub alice"]).revokes(ALICE, 200));
        assert!(!set(&["sub bob"]).revokes(ALICE, 200));
    }

    #[test]
    fn a_token_that_does_not_say_when_it_was_issued_counts_as_old() {
        let set = set(&[&format!("sub alice issued_before {BEFORE_99}")]);
        let silent = Bearer {
            issued_at: None,
            ..ALICE
        };
        assert!(set.revokes(silent, 200));
    }

    #[test]
    fn a_named_issuer_limits_a_revocation_to_its_tokens() {
        assert!(set(&["sub alice issuer idp"]).revokes(ALICE, 1));
        assert!(!set(&["sub alice issuer other"]).revokes(ALICE, 1));
    }

    #[test]
    fn of_several_entries_for_one_subject_each_holds_by_itself() {
        let set = set(&[
            &format!("sub alice issuer other until {BEFORE_100}"),
            &format!("sub alice issuer idp issued_before {BEFORE_99}"),
            &format!("sub alice issued_before {BEFORE_100} until {BEFORE_100}"),
        ]);
        assert!(set.revokes(ALICE, 99));
        assert!(!set.revokes(ALICE, 100));
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn what_still_holds_can_be_told_again() {
        let lines = [
            "jti t1".to_owned(),
            format!("jti t2 until {BEFORE_100}"),
            format!("sub alice issuer idp issued_before {BEFORE_99}"),
        ];
        let set = set(&[&lines[0], &lines[1], &lines[2]]);
        let told = |now| {
            let mut told: Vec<_> = set.entries(now).map(|entry| entry.to_string()).collect();
            told.sort();
            told
        };
        assert_eq!(told(99), lines);
        assert_eq!(told(100), [lines[0].clone(), lines[2].clone()]);
    }
}
