//! The revocations that gateways share through Redis, and their changes.
//!
//! Three keys with one hash tag: a hash of the entries (the target, as a line has it, to its end
//! and its "issued before"), a sorted set of their ends, and a version that each change raises.
//! Changes are scripts, so they are whole and expired entries go with them. The version also tells
//! whether the store has lost something: since another version was seen, or, by its number of
//! entries, since the last change.
//!
//! Limits: connecting 2 s, each answer 1 s; a change and a reading each have the configured number
//! of entries at most.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use intellirouter::RedisDialer;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Script};

use super::entry::{ALWAYS, Entry, Target};
use crate::config::{RevocationConfig, RevocationStore};

pub(super) use follow::follow;

mod follow;

/// The longest that a connection may take until it is ready to be used.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The longest that one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

const VERSION: &str = "{intellirouter-revocation}:version";
const ENTRIES: &str = "{intellirouter-revocation}:entries";
const ENDS: &str = "{intellirouter-revocation}:ends";
/// What is read of a file of authorities, in bytes.
const MAX_CA_BYTES: u64 = 1024 * 1024;
/// Entries that one command reads or writes.
const PAGE: usize = 500;

const REVOKE: &str = concat!(
    include_str!("store/version.lua"),
    include_str!("store/revoke.lua")
);
const UNDO: &str = concat!(
    include_str!("store/version.lua"),
    include_str!("store/undo.lua")
);

/// A field of the hash and its value.
type Field = (Vec<u8>, Vec<u8>);

/// A store, and how much it may hold.
pub(crate) struct Store {
    dialer: RedisDialer,
    max_entries: usize,
}

/// What the store holds is the same as long as this is. All zero where nothing was ever revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Version {
    /// When the first entry came into the empty store.
    began: u64,
    changes: u64,
    /// When the last change was. Like the first, in microseconds of the server's clock.
    changed: u64,
    /// How many entries there were after it.
    entries: u64,
}

/// What one look finds, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    version: Version,
    /// The entries that are there.
    entries: u64,
}

impl Look {
    /// How many entries are gone that nobody has taken back: such as when a full server evicts.
    fn missing(self) -> u64 {
        self.version.entries.saturating_sub(self.entries)
    }
}

impl Version {
    fn read(text: &[u8]) -> Self {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self {
            began: next(),
            changes: next(),
            changed: next(),
            entries: next(),
        }
    }

    /// Whether something of what an earlier version had was lost without being taken back.
    fn lacks_some_of(self, earlier: Self) -> bool {
        earlier != Self::default()
            && self != earlier
            && (self.began != earlier.began || self.changes <= earlier.changes)
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("revocation store {address}: {source}")]
    Redis { address: String, source: RedisError },
    #[error("revocation store {address}: it has {most} entries, which is the most it may have")]
    Full { address: String, most: usize },
}

/// What a store holds.
pub(crate) struct Contents {
    pub(crate) entries: Vec<Entry>,
    /// How many were found, those that can't be taken included; `None` where not all were read.
    found: Option<u64>,
    /// What could not be taken, if anything.
    pub(crate) fault: Option<String>,
}

/// A store, and the content of the file of its authorities.
#[derive(PartialEq, Eq)]
pub(super) struct StorePlace {
    config: RevocationStore,
    authorities: Option<Vec<u8>>,
}

impl StorePlace {
    /// Reads the file. Fails with what was expected.
    pub(super) fn read(config: &RevocationStore) -> Result<Self, String> {
        let read = |path: &PathBuf| {
            let mut content = Vec::new();
            let file = crate::files::open(path);
            file.and_then(|file| file.take(MAX_CA_BYTES).read_to_end(&mut content))
                .map(|_| content)
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        Ok(Self {
            config: config.clone(),
            authorities: config.ca_file.as_ref().map(read).transpose()?,
        })
    }
}

/// What is wrong with the store that a configuration names, as far as can be told from here.
pub(crate) fn fault(config: &RevocationConfig) -> Option<String> {
    let store = config.store.as_ref()?;
    Store::new(store, config.max_entries).err()
}

impl Store {
    /// Fails with what was expected, without the URL.
    pub(crate) fn new(config: &RevocationStore, max_entries: usize) -> Result<Self, String> {
        Self::at(&StorePlace::read(config)?, max_entries)
    }

    pub(super) fn at(place: &StorePlace, max_entries: usize) -> Result<Self, String> {
        let dialer = RedisDialer::new(&place.config.url.0, place.authorities.clone())?;
        Ok(Self {
            dialer,
            max_entries,
        })
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        self.dialer.address()
    }

    /// Adds an entry, or makes the one that is there hold longer.
    pub(crate) async fn revoke(&self, entry: Entry) -> Result<(), StoreError> {
        let mut connection = self.connect().await?;
        match self.add(&mut connection, &[entry]).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(StoreError::Full {
                address: self.address().to_owned(),
                most: self.max_entries,
            }),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Removes an entry; tells whether it was there.
    pub(crate) async fn undo(&self, target: &Target) -> Result<bool, StoreError> {
        let mut connection = self.connect().await?;
        let script = Script::new(UNDO);
        let mut undo = script.key(VERSION);
        undo.key(ENTRIES).key(ENDS).arg(target.to_string());
        let removed: u64 = undo
            .invoke_async(&mut connection)
            .await
            .map_err(|source| self.failed(source))?;
        Ok(removed > 0)
    }

    /// What the store holds.
    pub(crate) async fn list(&self) -> Result<Contents, StoreError> {
        let mut connection = self.connect().await?;
        let contents = self.contents(&mut connection).await;
        contents.map_err(|source| self.failed(source))
    }

    async fn dial(&self) -> RedisResult<MultiplexedConnection> {
        let answer = Some(ANSWER_LIMIT);
        self.dialer.dial(CONNECT_LIMIT, answer, |_| {}).await
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let connection = self.dial().await;
        connection.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: RedisError) -> StoreError {
        StoreError::Redis {
            address: self.address().to_owned(),
            source,
        }
    }

    /// Adds entries; tells how many found no room.
    async fn add(
        &self,
        connection: &mut MultiplexedConnection,
        entries: &[Entry],
    ) -> Result<u64, RedisError> {
        let script = Script::new(REVOKE);
        let mut refused = 0;
        for page in entries.chunks(PAGE) {
            let mut add = script.key(VERSION);
            add.key(ENTRIES).key(ENDS).arg(self.max_entries);
            for entry in page {
                add.arg(entry.target.to_string())
                    .arg(entry.until)
                    .arg(entry.issued_before);
            }
            refused += add.invoke_async::<u64>(connection).await?;
        }
        Ok(refused)
    }

    async fn look(connection: &mut MultiplexedConnection) -> Result<Look, RedisError> {
        let mut both = redis::pipe();
        // A change between the two would look like a loss.
        both.atomic().get(VERSION).hlen(ENTRIES);
        let (version, entries): (Option<Vec<u8>>, u64) = both.query_async(connection).await?;
        Ok(Look {
            version: Version::read(&version.unwrap_or_default()),
            entries,
        })
    }

    /// Reads page by page, so that no command keeps the server from others for long. An entry that
    /// is there all the while is read; one that comes meanwhile has raised the version.
    async fn contents(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Contents, RedisError> {
        let mut found = std::collections::HashMap::new();
        let (mut cursor, mut strange) = (0_u64, 0_usize);
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(ENTRIES).arg(cursor).arg("COUNT").arg(PAGE);
            let (next, page): (u64, Vec<Field>) = scan.query_async(connection).await?;
            for (target, times) in page {
                match read(&target, &times) {
                    // A page may repeat what another had.
                    Some(entry) => drop(found.insert(target, entry)),
                    None => strange += 1,
                }
            }
            cursor = next;
            if cursor == 0 || found.len() > self.max_entries || strange > self.max_entries {
                break;
            }
        }
        let over = found.len() > self.max_entries || strange > self.max_entries;
        let fault = if over {
            let most = self.max_entries;
            Some(format!(
                "it has more than {most} entries (revocation.max_entries); the others do not hold"
            ))
        } else {
            (strange > 0).then(|| format!("{strange} of its entries can't be read"))
        };
        let all = u64::try_from(found.len() + strange).unwrap_or(u64::MAX);
        let entries = found.into_values().take(self.max_entries).collect();
        Ok(Contents {
            entries,
            found: (!over).then_some(all),
            fault,
        })
    }
}

/// An entry of the hash, if it is one.
fn read(target: &[u8], times: &[u8]) -> Option<Entry> {
    let target = Target::parse(std::str::from_utf8(target).ok()?).ok()?;
    let (until, issued_before) = std::str::from_utf8(times).ok()?.split_once(' ')?;
    Some(Entry {
        target,
        issued_before: issued_before.parse::<u64>().ok()?.min(ALWAYS),
        until: until.parse::<u64>().ok()?.min(ALWAYS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_nothing_else_is() {
        let entry = read(b"sub \"a b\" issuer i", b"60 10").unwrap();
        assert_eq!(
            entry.to_string(),
            "sub \"a b\" issuer i issued_before 1970-01-01T00:00:10Z until 1970-01-01T00:01:00Z"
        );
        for (target, times) in [
            (&b"sub a"[..], &b"60"[..]),
            (b"sub a", b"x 1"),
            (b"sub a", b"-1 1"),
            (b"sub a until 1970-01-01T00:01:00Z", b"60 10"),
            (b"", b"60 10"),
            (b"# sub a", b"60 10"),
            (b"sub \xff", b"60 10"),
        ] {
            assert_eq!(read(target, times), None);
        }
    }

    #[test]
    fn a_version_tells_changes_from_losses() {
        let seen = Version::read(b"100 7 900");
        for (text, lost) in [
            ("100 7 900", false),
            ("100 8 950", false),
            ("100 12 951", false),
            // Emptied, also with new changes since.
            ("", true),
            ("500 1 500", true),
            ("500 9 990", true),
            // A replica that was behind, also with new changes since.
            ("100 5 800", true),
            ("100 7 950", true),
            ("what", true),
        ] {
            let version = Version::read(text.as_bytes());
            assert_eq!(version.lacks_some_of(seen), lost, "{text}");
        }
        let nothing = Version::read(b"");
        assert!(!Version::read(b"100 1 100").lacks_some_of(nothing));
    }

    #[test]
    fn entries_that_are_gone_without_a_change_are_missing() {
        let look = |version: &str, entries| Look {
            version: Version::read(version.as_bytes()),
            entries,
        };
        assert_eq!(look("100 7 900 3", 3).missing(), 0);
        assert_eq!(look("100 7 900 3", 0).missing(), 3);
        // Somebody adds by hand; the version of an older gateway has no number.
        assert_eq!(look("100 7 900 3", 5).missing(), 0);
        assert_eq!(look("100 7 900", 0).missing(), 0);
    }

    #[test]
    fn the_keys_share_a_hash_tag() {
        let tag = |key: &str| key.split(['{', '}']).nth(1).map(str::to_owned);
        assert!(tag(VERSION).is_some());
        assert_eq!(tag(VERSION), tag(ENTRIES));
        assert_eq!(tag(VERSION), tag(ENDS));
    }
}
