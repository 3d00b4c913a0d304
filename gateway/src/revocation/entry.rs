//! One revocation, and the line that says it.
//!
//! ```text
//! line    = [ entry ] [ "#" anything ]
//! entry   = "jti" text [ "until" time ]
//!         | "sub" text [ "issuer" text ] [ "issued_before" time ] [ "until" time ]
//! text    = a word, or a JSON string in quotes: it may hold spaces, quotes and a leading "#"
//! time    = RFC 3339, such as 2026-01-31T12:00:00Z
//! ```
//!
//! The issuer `certificate` stands for client certificates. Faults say what was expected and never repeat the line: somebody may have put a token there.
//! Limits: a text has 1 to 1024 bytes.

use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::layers::authenticate::CERTIFICATE_ISSUER;

/// The last second that RFC 3339 can write; stands for "without end".
pub(crate) const ALWAYS: u64 = 253_402_300_799;
const MAX_TEXT: usize = 1024;
/// What the longest entry has.
const MOST_WORDS: usize = 8;

/// What operators call the issuer of client certificates.
pub(crate) const CERTIFICATE_ALIAS: &str = "certificate";

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The token with this `jti`.
    Token(String),
    /// The tokens and certificates of a subject; of any issuer, if none is named.
    Subject {
        subject: String,
        issuer: Option<String>,
    },
}

/// A revocation; times in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) target: Target,
    /// Of a subject: what was issued in this second or earlier is revoked, so that it can log in
    /// again.
    pub(crate) issued_before: u64,
    /// It holds before this second.
    pub(crate) until: u64,
}

/// What a line should have been.
pub(crate) type Expected = &'static str;

impl Target {
    /// Checks the texts, as for a line, and puts the issuer's name for its alias.
    pub(crate) fn checked(mut self) -> Result<Self, Expected> {
        if let Self::Subject {
            issuer: Some(issuer),
            ..
        } = &mut self
            && issuer == CERTIFICATE_ALIAS
        {
            CERTIFICATE_ISSUER.clone_into(issuer);
        }
        let good = |text: &str| (1..=MAX_TEXT).contains(&text.len());
        let fits = match &self {
            Self::Token(id) => {
                // It would be no use, and tokens must not lie around.
                if id.starts_with("eyJ") && id.matches('.').count() == 2 {
                    return Err("expected the id of a token, its claim \"jti\", not the token");
                }
                good(id)
            }
            Self::Subject { subject, issuer } => {
                good(subject) && issuer.as_deref().is_none_or(good)
            }
        };
        if fits {
            Ok(self)
        } else {
            Err("expected texts of 1 to 1024 bytes")
        }
    }

    /// The target in a line that has no more than that.
    pub(crate) fn parse(line: &str) -> Result<Self, Expected> {
        match Entry::parse(line)? {
            Some(entry) if entry.issued_before == ALWAYS && entry.until == ALWAYS => {
                Ok(entry.target)
            }
            _ => Err("expected a target alone"),
        }
    }
}

impl Entry {
    /// Reads a line; `None` if there is no entry on it.
    pub(crate) fn parse(line: &str) -> Result<Option<Self>, Expected> {
        let words = words(line)?;
        let mut words = words.into_iter();
        let Some(kind) = words.next() else {
            return Ok(None);
        };
        if kind != "jti" && kind != "sub" {
            return Err("expected \"jti\" or \"sub\"");
        }
        let text = words.next().ok_or("expected what is revoked")?;
        let (mut issuer, mut issued_before, mut until) = (None, None, None);
        while let Some(key) = words.next() {
            let slot = match (key.as_str(), kind.as_str()) {
                ("until", _) => &mut until,
                ("issuer", "sub") => &mut issuer,
                ("issued_before", "sub") => &mut issued_before,
                (_, "jti") => return Err("expected \"until\" or the end of the line"),
                _ => return Err("expected \"issuer\", \"issued_before\", \"until\" or the end"),
            };
            let value = words.next().ok_or("expected a value at the end")?;
            if slot.replace(value).is_some() {
                return Err("expected each key once");
            }
        }
        let target = match kind.as_str() {
            "jti" => Target::Token(text),
            _ => Target::Subject {
                subject: text,
                issuer,
            },
        };
        Ok(Some(Self {
            target: target.checked()?,
            issued_before: issued_before.map_or(Ok(ALWAYS), |text| time(&text, Round::Down))?,
            until: until.map_or(Ok(ALWAYS), |text| time(&text, Round::Up))?,
        }))
    }

    /// Both revocations of one target as one.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.issued_before = self.issued_before.max(other.issued_before);
        self.until = self.until.max(other.until);
    }

    pub(crate) fn holds_at(&self, now: u64) -> bool {
        now < self.until
    }
}

/// What becomes of a part of a second: revocations hold rather longer than shorter.
enum Round {
    Down,
    Up,
}

/// Seconds since 1970.
pub(crate) fn parse_time(text: &str) -> Result<u64, Expected> {
    time(text, Round::Down)
}

fn time(text: &str, round: Round) -> Result<u64, Expected> {
    const EXPECTED: Expected = "expected a time such as 2026-01-31T12:00:00Z";
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| EXPECTED)?;
    let seconds = u64::try_from(time.unix_timestamp()).map_err(|_| EXPECTED)?;
    let more = u64::from(matches!(round, Round::Up) && time.nanosecond() > 0);
    Ok((seconds + more).min(ALWAYS))
}

fn words(line: &str) -> Result<Vec<String>, Expected> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        if words.len() == MOST_WORDS {
            return Err("expected the end of the line");
        }
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

fn word(text: &str) -> Result<(String, &str), Expected> {
    if !text.starts_with('"') {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if word.contains('"') {
            return Err("expected a text with a quote in it to stand in quotes");
        }
        return Ok((word.to_owned(), rest));
    }
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let word = strings.next().and_then(Result::ok);
    let rest = &text[strings.byte_offset()..];
    match word {
        Some(word) if rest.is_empty() || rest.starts_with(char::is_whitespace) => Ok((word, rest)),
        _ => Err("expected quoted text to be closed, and written as in JSON"),
    }
}

/// A text as a line has it: in quotes where it must be.
struct Text<'t>(&'t str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/@+=|".contains(c);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        // Fails for no string.
        f.write_str(&serde_json::to_string(self.0).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(id) => write!(f, "jti {}", Text(id)),
            Self::Subject { subject, issuer } => {
                write!(f, "sub {}", Text(subject))?;
                match issuer {
                    Some(issuer) => write!(f, " issuer {}", Text(issuer)),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |seconds: u64| {
            let time = i64::try_from(seconds).ok();
            let time = time.and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
            time.and_then(|time| time.format(&Rfc3339).ok())
                .ok_or(fmt::Error)
        };
        write!(f, "{}", self.target)?;
        let of_subject = matches!(self.target, Target::Subject { .. });
        if of_subject && self.issued_before < ALWAYS {
            write!(f, " issued_before {}", at(self.issued_before)?)?;
        }
        if self.until < ALWAYS {
            write!(f, " until {}", at(self.until)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
