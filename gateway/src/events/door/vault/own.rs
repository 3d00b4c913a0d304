//! The passes of one process, where gateways share no Redis.
//!
//! Limits: 65,536 passes and 64 MiB in all; of one subject the newest 256, which is 4 MiB at most.
//! Beside its pass each takes about 250 bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Key, Kind, MAX_PASS_BYTES, MOST_OF_ONE};
use crate::events::door::tickets::LONGEST;
use crate::reply::Reply;

pub(super) const PLACES: usize = 65_536;
pub(super) const BYTES: usize = 64 * 1024 * 1024;

// The bound in number is one in bytes too: a subject has a sixteenth of them at most.
const _: () = assert!(MOST_OF_ONE * MAX_PASS_BYTES <= BYTES / 16);

/// See the module's comment.
#[derive(Default)]
pub(in crate::events::door) struct Own {
    pub(super) kept: HashMap<(Kind, Key), Place>,
    pub(super) bytes: usize,
    /// By owner, the oldest first.
    pub(super) of_one: HashMap<Key, VecDeque<(Kind, Key)>>,
}

pub(super) struct Place {
    pub(super) pass: Arc<[u8]>,
    until: Instant,
    owner: Key,
}

impl Place {
    /// The pass, while it holds.
    pub(super) fn current(&self) -> Option<&[u8]> {
        (Instant::now() < self.until).then_some(&*self.pass)
    }
}

impl Own {
    /// Takes the place of what stood there before, and then of what its owner put longest ago.
    pub(super) fn put(
        &mut self,
        at: (Kind, Key),
        pass: Arc<[u8]>,
        life: Duration,
        owner: Key,
    ) -> Result<(), Reply> {
        self.remove(&at);
        self.make_room(&owner);
        if self.is_full(pass.len()) {
            // Only now: it costs a look at all of them.
            self.drop_ended(self.kept.keys().copied().collect());
        }
        if self.is_full(pass.len()) {
            let message = "there is no room for another ticket or cookie";
            return Err(Reply::unavailable("too_many_tickets", message));
        }
        let until = Instant::now().checked_add(life);
        let until = until.unwrap_or_else(|| Instant::now() + LONGEST);
        self.insert(at, Place { pass, until, owner });
        Ok(())
    }

    /// Puts a pass in the place of a ticket, which goes; tells whether that was there. Where there is
    /// no room the ticket stays.
    pub(super) fn exchange(
        &mut self,
        ticket: &(Kind, Key),
        at: (Kind, Key),
        pass: Arc<[u8]>,
        life: Duration,
        owner: Key,
    ) -> Result<bool, Reply> {
        let Some(used) = self.remove(ticket) else {
            return Ok(false);
        };
        if used.current().is_none() {
            return Ok(false);
        }
        let put = self.put(at, pass, life, owner);
        if put.is_err() {
            self.insert(*ticket, used);
        }
        put.map(|()| true)
    }

    fn insert(&mut self, at: (Kind, Key), place: Place) {
        self.bytes += place.pass.len();
        self.of_one.entry(place.owner).or_default().push_back(at);
        self.kept.insert(at, place);
    }

    /// For one more of this owner: drops what has ended, then the oldest.
    fn make_room(&mut self, owner: &Key) {
        let full = |own: &VecDeque<_>| own.len() >= MOST_OF_ONE;
        if let Some(own) = self.of_one.get(owner).filter(|own| full(own)) {
            self.drop_ended(own.iter().copied().collect());
        }
        let own = self.of_one.get(owner).filter(|own| full(own));
        if let Some(oldest) = own.and_then(|own| own.front().copied()) {
            self.remove(&oldest);
        }
    }

    fn drop_ended(&mut self, among: Vec<(Kind, Key)>) {
        let now = Instant::now();
        for at in among {
            if self.kept.get(&at).is_some_and(|place| place.until <= now) {
                self.remove(&at);
            }
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.kept.len() >= PLACES || self.bytes + bytes > BYTES
    }

    pub(super) fn get(&self, at: &(Kind, Key)) -> Option<&Place> {
        self.kept.get(at)
    }

    pub(super) fn remove(&mut self, at: &(Kind, Key)) -> Option<Place> {
        let place = self.kept.remove(at)?;
        self.bytes -= place.pass.len();
        if let Some(own) = self.of_one.get_mut(&place.owner) {
            own.retain(|other| other != at);
            if own.is_empty() {
                self.of_one.remove(&place.owner);
            }
        }
        Some(place)
    }
}
