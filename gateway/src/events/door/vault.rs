//! Where passes are kept: in this process, or in the Redis that gateways share for their events.
//!
//! What is given out, a ticket or a cookie, is never kept: only its SHA-256, by which it is looked up,
//! so that neither the store nor the time that a look takes tells anything of it. A ticket is taken
//! out by the look itself (in Redis by GETDEL, which needs version 6.2), so that it is good once,
//! wherever it is shown.
//!
//! Limits: a pass has at most 128 KiB; in the process all have 65,536 places and 64 MiB, a quarter of
//! the places for one subject. What finds no room is refused. An answer of Redis takes 1 s at most.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::time::Instant;

use super::link::Link;
use super::pass::Pass;
use crate::reply::Reply;

const MAX_PASS_BYTES: usize = 128 * 1024;
const PLACES: usize = 65_536;
const BYTES: usize = 64 * 1024 * 1024;

/// The hash of what was given out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Of a ticket, or of a ticket and a cookie.
    pub(super) fn of(kind: Kind, parts: &[&str]) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(kind.name().as_bytes());
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

#[derive(Default)]
pub(super) struct Own {
    kept: HashMap<(Kind, Key), Place>,
    bytes: usize,
    of_one: HashMap<u64, usize>,
}

struct Place {
    pass: Arc<[u8]>,
    until: Instant,
    owner: u64,
}

impl Vault {
    pub(super) async fn put(
        &self,
        (kind, key): (Kind, &Key),
        pass: &Pass,
        life: Duration,
        owner: u64,
    ) -> Result<(), Reply> {
        let pass = serde_json::to_vec(pass).map_err(|_| Reply::internal())?;
        if pass.len() > MAX_PASS_BYTES {
            let message =
                "the channels, the filter and the token's roles are too large for a ticket";
            return Err(Reply::invalid("channels", message));
        }
        match self {
            Self::Own(own) => {
                let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                own.put((kind, *key), pass.into(), life, owner)
            }
            Self::Shared(link) => {
                let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
                let mut set = redis::cmd("SET");
                // Redis takes no life beyond what fits with its clock.
                set.arg(kind.redis_key(key)).arg(pass);
                set.arg("PX").arg(millis.clamp(1, 1 << 45));
                link.query::<()>(&set).await
            }
        }
    }

    /// Takes it out; nobody else gets it.
    pub(super) async fn take(&self, kind: Kind, key: &Key) -> Result<Option<Pass>, Reply> {
        match self {
            Self::Own(own) => {
                let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                let place = own.remove(&(kind, *key));
                Ok(place.and_then(|place| place.read()))
            }
            Self::Shared(link) => {
                let mut take = redis::cmd("GETDEL");
                take.arg(kind.redis_key(key));
                Ok(read(link.query::<Option<Vec<u8>>>(&take).await?))
            }
        }
    }

    pub(super) async fn get(&self, kind: Kind, key: &Key) -> Result<Option<Pass>, Reply> {
        match self {
            Self::Own(own) => {
                let own = own.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(own.kept.get(&(kind, *key)).and_then(Place::read))
            }
            Self::Shared(link) => {
                let mut get = redis::cmd("GET");
                get.arg(kind.redis_key(key));
                Ok(read(link.query::<Option<Vec<u8>>>(&get).await?))
            }
        }
    }
}

/// What is no pass is none: a store that others write to may hold anything.
fn read(kept: Option<Vec<u8>>) -> Option<Pass> {
    serde_json::from_slice(&kept?).ok()
}

impl Place {
    fn read(&self) -> Option<Pass> {
        let current = Instant::now() < self.until;
        current.then(|| serde_json::from_slice(&self.pass).ok())?
    }
}

impl Own {
    fn put(
        &mut self,
        at: (Kind, Key),
        pass: Arc<[u8]>,
        life: Duration,
        owner: u64,
    ) -> Result<(), Reply> {
        self.remove(&at);
        if self.is_full(owner, pass.len()) {
            // Only now: it costs a look at all of them.
            let now = Instant::now();
            let over = self.kept.extract_if(|_, place| place.until <= now);
            let over: Vec<Place> = over.map(|(_, place)| place).collect();
            over.iter().for_each(|place| self.forget(place));
        }
        if self.is_full(owner, pass.len()) {
            let message = "there is no room for another ticket or cookie";
            return Err(Reply::unavailable("too_many_tickets", message));
        }
        self.bytes += pass.len();
        *self.of_one.entry(owner).or_default() += 1;
        let until = Instant::now().checked_add(life);
        let until = until.unwrap_or_else(|| Instant::now() + super::tickets::LONGEST);
        self.kept.insert(at, Place { pass, until, owner });
        Ok(())
    }

    fn is_full(&self, owner: u64, bytes: usize) -> bool {
        self.kept.len() >= PLACES
            || self.bytes + bytes > BYTES
            || self
                .of_one
                .get(&owner)
                .is_some_and(|own| *own >= PLACES / 4)
    }

    fn remove(&mut self, at: &(Kind, Key)) -> Option<Place> {
        let place = self.kept.remove(at)?;
        self.forget(&place);
        Some(place)
    }

    fn forget(&mut self, place: &Place) {
        self.bytes -= place.pass.len();
        if let Some(own) = self.of_one.get_mut(&place.owner) {
            *own -= 1;
            if *own == 0 {
                self.of_one.remove(&place.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests;
