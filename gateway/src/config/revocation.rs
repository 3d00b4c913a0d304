//! `[revocation]`: where the gateway learns which tokens and callers are revoked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use intellirouter::RedisUrl;
use serde::Deserialize;

use super::validate::Validate;
use super::{mask_url, parse_duration};

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileRevocation {
    /// A text file with one revocation a line.
    pub(crate) file: Option<String>,
    /// The Redis that gateways share revocations through.
    pub(crate) store: Option<String>,
    /// The environment variable with the URL of the store.
    pub(crate) store_env: Option<String>,
    /// The authorities that `rediss://` trusts.
    pub(crate) ca_file: Option<String>,
    /// How often both are looked at.
    pub(crate) poll: Option<String>,
    /// The most entries that each of them may have.
    pub(crate) max_entries: Option<u64>,
}

/// Where revocations come from; from nowhere by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevocationConfig {
    pub(crate) file: Option<PathBuf>,
    pub(crate) store: Option<RevocationStore>,
    pub(crate) poll: Duration,
    /// Of each of the two.
    pub(crate) max_entries: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevocationStore {
    pub(crate) url: StoreUrl,
    pub(crate) ca_file: Option<PathBuf>,
}

/// A URL that may hold a password; shown without it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoreUrl(pub(crate) String);

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", mask_url(&self.0))
    }
}

pub(crate) const DEFAULT_MAX_ENTRIES: usize = 100_000;
const DEFAULT_POLL: Duration = Duration::from_millis(250);
const MIN_POLL: Duration = Duration::from_millis(50);
// A revocation holds within a second: that leaves half of it to read and to end streams.
const MAX_POLL: Duration = Duration::from_millis(500);
const URL_EXPECTED: &str = "expected \"redis://HOST:PORT\" or \
     \"redis+sentinel://HOST:PORT,HOST:PORT/SERVICE\", with rediss for TLS";

impl Validate<'_, '_> {
    pub(super) fn revocation(&mut self, file: FileRevocation) -> RevocationConfig {
        RevocationConfig {
            file: file
                .file
                .map(|path| self.file("revocation.file", Some(path))),
            store: self.revocation_store(file.store, file.store_env, file.ca_file),
            poll: self.poll(file.poll),
            max_entries: self.number(
                "revocation.max_entries",
                file.max_entries,
                DEFAULT_MAX_ENTRIES,
                1,
                1_000_000,
            ),
        }
    }

    fn revocation_store(
        &mut self,
        url: Option<String>,
        env: Option<String>,
        ca_file: Option<String>,
    ) -> Option<RevocationStore> {
        let (key, url) = match (url, env) {
            (Some(url), None) => ("revocation.store", url),
            (None, Some(name)) => match std::env::var(&name) {
                Ok(url) => ("revocation.store_env", url),
                Err(_) => {
                    let message = format!("the environment variable {name} is not set");
                    self.source.fault("revocation.store_env", message);
                    return None;
                }
            },
            (None, None) => {
                if ca_file.is_some() {
                    let message = "is for a store; expected store or store_env beside it";
                    self.source.fault("revocation.ca_file", message);
                }
                return None;
            }
            (Some(_), Some(_)) => {
                let message = "expected store or store_env, not both";
                self.source.fault("revocation", message);
                return None;
            }
        };
        let Ok(read) = RedisUrl::parse(&url) else {
            self.source.fault(key, URL_EXPECTED);
            return None;
        };
        if ca_file.is_some() && !read.is_tls() {
            let message = "is for a rediss:// store; a redis:// store has no certificate";
            self.source.fault("revocation.ca_file", message);
        }
        Some(RevocationStore {
            url: StoreUrl(url),
            ca_file: ca_file.map(|path| self.file("revocation.ca_file", Some(path))),
        })
    }

    fn poll(&mut self, given: Option<String>) -> Duration {
        let Some(text) = given else {
            return DEFAULT_POLL;
        };
        match parse_duration(&text) {
            Some(poll) if (MIN_POLL..=MAX_POLL).contains(&poll) => poll,
            _ => {
                let message = format!("expected {MIN_POLL:?} to {MAX_POLL:?}, found \"{text}\"");
                self.source.fault("revocation.poll", message);
                DEFAULT_POLL
            }
        }
    }
}

impl RevocationStore {
    /// A store that a command line names. Fails with what was expected, without the URL.
    pub(crate) fn from_arguments(
        url: String,
        ca_file: Option<PathBuf>,
    ) -> Result<Self, &'static str> {
        match RedisUrl::parse(&url) {
            Err(_) => Err(URL_EXPECTED),
            Ok(read) if ca_file.is_some() && !read.is_tls() => {
                Err("a CA file needs a rediss:// URL")
            }
            Ok(_) => Ok(Self {
                url: StoreUrl(url),
                ca_file,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    fn faults(section: &str) -> Vec<String> {
        let faults = Config::parse(section, "test.toml", Path::new("/nowhere")).unwrap_err();
        let ours = faults.faults.into_iter();
        ours.filter(|fault| fault.key.starts_with("revocation"))
            .map(|fault| format!("{}: {}", fault.key, fault.message))
            .collect()
    }

    #[test]
    fn every_fault_names_its_key_and_what_was_expected_and_no_password() {
        for (section, expected) in [
            ("file = 'gone.txt'", "revocation.file: /nowhere/gone.txt"),
            ("store = 'memory:'", "revocation.store: expected \"redis://"),
            (
                "store = 'http://u:hunter2@h'",
                "revocation.store: expected \"redis://",
            ),
            (
                "store = 'redis://u:hunter2@h#insecure'",
                "revocation.store: expected",
            ),
            (
                "store_env = 'NO_SUCH_VARIABLE'",
                "store_env: the environment variable NO_SUCH",
            ),
            (
                "store = 'redis://h'\nstore_env = 'HOME'",
                "revocation: expected store or",
            ),
            ("ca_file = 'ca.crt'", "revocation.ca_file: is for a store"),
            (
                "store = 'redis://h'\nca_file = 'ca.crt'",
                "revocation.ca_file: is for a rediss://",
            ),
            ("poll = '10ms'", "revocation.poll: expected 50ms to 500ms"),
            ("poll = '1s'", "revocation.poll: expected 50ms to 500ms"),
            ("poll = 'often'", "revocation.poll: expected 50ms to 500ms"),
            (
                "max_entries = 0",
                "revocation.max_entries: expected 1 to 1000000",
            ),
            ("files = []", "revocation.files: unknown field"),
        ] {
            let found = faults(&format!("[revocation]\n{section}"));
            assert!(
                found.iter().any(|fault| fault.contains(expected)),
                "{section}: {found:?}"
            );
            assert!(
                !found.iter().any(|fault| fault.contains("hunter2")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn the_password_of_the_store_is_not_in_what_is_shown() {
        let text = "[revocation]\nstore = 'redis://user:hunter2@redis.local:6379/1'";
        let shown = crate::test_util::config(text).masked();
        assert!(shown.contains("redis.local:6379"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
