//! Where passes are kept: in this process, or in the Redis that gateways share for their events.
//!
//! What is given out, a ticket or a cookie, is never kept: only its SHA-256, by which it is looked up,
//! so that neither the store nor the time that a look takes tells anything of it. A ticket goes in the
//! same step in which its cookie's pass comes (in Redis the same script), so that it is good once,
//! wherever it is shown, and no failure between the two can lose both.
//!
//! Of one subject of an issuer the newest 256 are kept, tickets and cookies together, in the Redis for
//! all gateways: each puts its passes by one script ([`KEEP`]). One more takes the place of what ended,
//! else of what was given out or renewed longest ago: a page that loads again and again takes a new
//! ticket each time, and its old cookies are worth nothing to it. Who loses its cookie so notices when
//! its stream breaks and can't come back; the stream itself goes on.
//!
//! Limits: a pass has at most 16 KiB, so those of one subject 4 MiB. In the process ([`own`]) all have
//! 65,536 places and 64 MiB, and what finds no room is refused; a Redis has no bound for all subjects
//! together but its own, and spends up to 5.5 MB on one, their order (50 kB) included. An answer of
//! Redis takes 1 s at most.

mod own;

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use redis::Script;

use super::link::Link;
use super::pass::Pass;
use crate::reply::Reply;
use own::{Own, Place};

/// What a token of 8 KiB says, twice the claims that rules name, and a wish.
const MAX_PASS_BYTES: usize = 16 * 1024;
const MOST_OF_ONE: usize = 256;

static KEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("vault/keep.lua")));

/// The hash of what was given out, or of whom it was given to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Of a ticket, or of a ticket and a cookie.
    pub(super) fn of(kind: Kind, parts: &[&str]) -> Self {
        Self::hash(kind.name(), parts)
    }

    /// Of whom a pass is about. The subject alone names nobody: two issuers may give the same name.
    fn of_owner(pass: &Pass) -> Self {
        Self::hash("owner", &[&pass.word.issuer, &pass.word.subject])
    }

    fn hash(kind: &str, parts: &[&str]) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(kind.as_bytes());
        for part in parts {
            // With its length, so that no part can pass for two.
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        Self(key)
    }

    pub(super) fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Ticket,
    Session,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Session => "session",
        }
    }

    fn redis_key(self, key: &Key) -> String {
        format!("{{intellirouter}}:{}:{}", self.name(), key.hex())
    }
}

/// The passes of one owner, see [`KEEP`]. Of the same node of a cluster as they.
fn redis_key_of_all(owner: &Key) -> String {
    format!("{{intellirouter}}:sessions:{}", owner.hex())
}

/// See the module's comment.
pub(super) enum Vault {
    Own(Mutex<Own>),
    Shared(Arc<Link>),
}

impl Default for Vault {
    fn default() -> Self {
        Self::Own(Mutex::default())
    }
}

impl Vault {
    pub(super) async fn put(
        &self,
        at: (Kind, &Key),
        pass: &Pass,
        life: Duration,
    ) -> Result<(), Reply> {
        self.keep(at, None, pass, life).await.map(drop)
    }

    /// Keeps a session in the place of its ticket; tells whether the ticket was still there. Of
    /// several who do so at once one finds it.
    pub(super) async fn exchange(
        &self,
        ticket: &Key,
        session: &Key,
        pass: &Pass,
        life: Duration,
    ) -> Result<bool, Reply> {
        let at = (Kind::Session, session);
        self.keep(at, Some(ticket), pass, life).await
    }

    async fn keep(
        &self,
        (kind, key): (Kind, &Key),
        ticket: Option<&Key>,
        pass: &Pass,
        life: Duration,
    ) -> Result<bool, Reply> {
        let owner = Key::of_owner(pass);
        let pass = serde_json::to_vec(pass).map_err(|_| Reply::internal())?;
        if pass.len() > MAX_PASS_BYTES {
            let limit = MAX_PASS_BYTES / 1024;
            let message = format!(
                "expected channels, a filter and a token whose roles and claims have {limit} KiB \
                 at most"
            );
            return Err(Reply::invalid("channels", message));
        }
        let pass: Arc<[u8]> = pass.into();
        match self {
            Self::Own(own) => {
                let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                let at = (kind, *key);
                match ticket {
                    Some(ticket) => own.exchange(&(Kind::Ticket, *ticket), at, pass, life, owner),
                    None => own.put(at, pass, life, owner).map(|()| true),
                }
            }
            Self::Shared(link) => {
                let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
                let mut keep = KEEP.key(kind.redis_key(key));
                keep.key(redis_key_of_all(&owner)).arg(&*pass);
                if let Some(ticket) = ticket {
                    keep.key(Kind::Ticket.redis_key(ticket));
                }
                // Redis takes no life beyond what fits with its clock.
                keep.arg(millis.clamp(1, 1 << 45)).arg(MOST_OF_ONE);
                link.run(&keep).await
            }
        }
    }

    pub(super) async fn get(&self, kind: Kind, key: &Key) -> Result<Option<Pass>, Reply> {
        match self {
            Self::Own(own) => {
                let own = own.lock().unwrap_or_else(PoisonError::into_inner);
                let place = own.get(&(kind, *key));
                Ok(place.and_then(Place::current).and_then(read))
            }
            Self::Shared(link) => {
                let mut get = redis::cmd("GET");
                get.arg(kind.redis_key(key));
                let found: Option<Vec<u8>> = link.query(&get).await?;
                Ok(found.as_deref().and_then(read))
            }
        }
    }
}

/// What is no pass is none: a store that others write to may hold anything.
fn read(kept: &[u8]) -> Option<Pass> {
    serde_json::from_slice(kept).ok()
}

#[cfg(test)]
mod tests;
