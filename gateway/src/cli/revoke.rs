//! `intellirouter revoke`: what gateways refuse from within a second on.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::ArgGroup;

use super::{Failure, control_runtime};
use crate::Config;
use crate::config::{DEFAULT_MAX_ENTRIES, RevocationStore};
use crate::layers::authenticate::CERTIFICATE_ISSUER;
use crate::revocation::{
    ALWAYS, CERTIFICATE_ALIAS, Entry, RevocationFile, Store, Target, parse_time, unix_seconds,
};

/// The longest that a revocation may hold: ten years, in seconds.
const MAX_TTL: u64 = 10 * 365 * 86_400;

/// How long the revocation of a token holds by default.
const TOKEN_TTL: Duration = Duration::from_secs(86_400);
/// How far ahead the clocks of issuers may be, in seconds: what they issue now is revoked too.
const CLOCK_SKEW: u64 = 60;

/// Revocations go to the store where the config names one, else to its file.
#[derive(clap::Args)]
#[command(
    group(ArgGroup::new("place").required(true).args(["config", "store"])),
    group(ArgGroup::new("what").required(true).args(["jti", "subject", "list"])),
)]
pub(super) struct Revoke {
    /// The config file of the gateways (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The revocation store; a URL with a password is better kept in a config
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// The authorities that a rediss:// store is checked by
    #[arg(long, value_name = "FILE", requires = "store")]
    ca_file: Option<PathBuf>,
    /// Revoke the token with this id (`jti`)
    #[arg(long, value_name = "ID")]
    jti: Option<String>,
    /// Revoke the tokens and certificates of this subject that were issued so far
    #[arg(long)]
    subject: Option<String>,
    /// Only those of this issuer; `certificate` for client certificates
    #[arg(long, requires = "subject", conflicts_with_all = ["jti", "list"])]
    issuer: Option<String>,
    /// Only those issued in this second or earlier, such as 2026-01-31T12:00:00Z; default: a minute
    /// from now, for issuers whose clocks are ahead: who logs in again before that is refused too
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    #[arg(requires = "subject", conflicts_with_all = ["jti", "list"])]
    issued_before: Option<u64>,
    /// How long it holds: at least as long as what is revoked would; default: 24h for --jti, until
    /// it is undone for --subject, whose certificates may live for years
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Duration>,
    /// Take a revocation back
    #[arg(long, conflicts_with_all = ["list", "issued_before"])]
    undo: bool,
    /// Print what is revoked, as in a revocation file
    #[arg(long)]
    list: bool,
}

fn ttl(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .filter(|ttl| (1..=MAX_TTL).contains(&ttl.as_secs()))
        .ok_or_else(|| "expected 1s to 87600h, such as 24h".to_owned())
}

/// Where revocations are kept.
enum Place {
    File(RevocationFile),
    Store(Box<Store>),
}

impl Revoke {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = unix_seconds(SystemTime::now());
        let target = self.target()?;
        let place = self.place(target.as_ref())?;
        control_runtime()?.block_on(async {
            match target {
                None => place.list(now).await,
                Some(target) if self.undo => place.undo(target, now).await,
                Some(target) => place.revoke(self.entry(target, now), now).await,
            }
        })
    }

    fn place(&self, target: Option<&Target>) -> Result<Place, Failure> {
        let (store, max_entries) = match (&self.config, &self.store) {
            (Some(path), _) => {
                let config = Config::load(path).map_err(Failure::usage)?;
                // What was revoked of an issuer that is gone can still be undone.
                if !self.undo {
                    check_issuer(&config, target).map_err(Failure::usage)?;
                }
                let section = config.revocation;
                match (section.store, section.file) {
                    (Some(store), _) => (store, section.max_entries),
                    (None, Some(path)) => {
                        return Ok(Place::File(RevocationFile {
                            path,
                            max_entries: section.max_entries,
                        }));
                    }
                    (None, None) => {
                        let expected = "revocation: expected file or store";
                        return Err(Failure::usage(format!("{}: {expected}", path.display())));
                    }
                }
            }
            (None, url) => {
                let url = url.clone().unwrap_or_default();
                let store = RevocationStore::from_arguments(url, self.ca_file.clone())
                    .map_err(|expected| Failure::usage(format!("--store: {expected}")))?;
                (store, DEFAULT_MAX_ENTRIES)
            }
        };
        Store::new(&store, max_entries)
            .map(|store| Place::Store(Box::new(store)))
            .map_err(|error| Failure::usage(format!("revocation store: {error}")))
    }

    /// `None` for a list.
    fn target(&self) -> Result<Option<Target>, Failure> {
        let target = match (&self.jti, &self.subject) {
            (Some(id), _) => Target::Token(id.clone()),
            (None, Some(subject)) => Target::Subject {
                subject: subject.clone(),
                issuer: self.issuer.clone(),
            },
            (None, None) => return Ok(None),
        };
        target.checked().map(Some).map_err(Failure::usage)
    }

    fn entry(&self, target: Target, now: u64) -> Entry {
        let issued_before = match target {
            Target::Token(_) => ALWAYS,
            Target::Subject { .. } => self.issued_before.unwrap_or(now + CLOCK_SKEW),
        };
        let ttl = match target {
            Target::Token(_) => Some(self.ttl.unwrap_or(TOKEN_TTL)),
            Target::Subject { .. } => self.ttl,
        };
        Entry {
            target,
            issued_before,
            until: ttl.map_or(ALWAYS, |ttl| now + ttl.as_secs()),
        }
    }
}

/// A revocation at an issuer whose callers the gateway does not take revokes nobody: a typing
/// error must not look like success.
fn check_issuer(config: &Config, target: Option<&Target>) -> Result<(), String> {
    let Some(Target::Subject {
        issuer: Some(issuer),
        ..
    }) = target
    else {
        return Ok(());
    };
    if issuer == CERTIFICATE_ISSUER {
        return match config.listen.clients {
            Some(_) => Ok(()),
            None => Err("--issuer: no client is asked for a certificate \
                 (listen.client_ca_file)"
                .to_owned()),
        };
    }
    let known: Vec<_> = config.auth.issuers.iter().map(|one| &one.issuer).collect();
    if known.contains(&issuer) {
        Ok(())
    } else {
        Err(format!(
            "--issuer: expected one of {known:?} or \"{CERTIFICATE_ALIAS}\""
        ))
    }
}

impl Place {
    async fn list(&self, now: u64) -> Result<(), Failure> {
        let (entries, fault) = match self {
            Self::File(file) => {
                let bytes = file.read().map_err(Failure::other)?;
                let entries = file.entries(&bytes).collect::<Result<Vec<_>, _>>();
                (entries.map_err(Failure::other)?, None)
            }
            Self::Store(store) => {
                let contents = store.list().await.map_err(Failure::other)?;
                (contents.entries, contents.fault)
            }
        };
        let holding = entries.iter().filter(|entry| entry.holds_at(now));
        let mut lines: Vec<_> = holding.map(ToString::to_string).collect();
        lines.sort_unstable();
        for line in lines {
            super::say(&line);
        }
        match fault {
            None => Ok(()),
            Some(fault) => Err(Failure::other(fault)),
        }
    }

    async fn undo(&self, target: Target, now: u64) -> Result<(), Failure> {
        let (found, place) = match self {
            Self::File(file) => {
                let found = file.undo(&target, now).map_err(Failure::other)?;
                (found, file.to_string())
            }
            Self::Store(store) => {
                let found = store.undo(&target).await.map_err(Failure::other)?;
                (found, store.address().to_owned())
            }
        };
        if !found {
            return Err(Failure::other(format!("{place}: not revoked: {target}")));
        }
        super::say(&format!("{place}: no longer revoked: {target}"));
        Ok(())
    }

    async fn revoke(&self, entry: Entry, now: u64) -> Result<(), Failure> {
        let (entry, place) = match self {
            Self::File(file) => {
                let entry = file.revoke(entry, now).map_err(Failure::other)?;
                (entry, file.to_string())
            }
            Self::Store(store) => {
                store.revoke(entry.clone()).await.map_err(Failure::other)?;
                (entry, store.address().to_owned())
            }
        };
        super::say(&format!("{place}: revoked: {entry}"));
        Ok(())
    }
}
