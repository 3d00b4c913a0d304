//! Follows a store: its version and number of entries at each look, a reading when they have changed.
//!
//! While the store is away the last known entries hold, and it is tried again after a pause of at
//! most 1 s. They can tell that the store has lost entries: it was emptied, a full server evicted
//! some, or a replica that was behind took over. What is known here then holds on and is given back to the store, by every
//! gateway; what was taken back in the last moments before may come back with it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::{Look, Store};
use crate::revocation::entry::Entry;
use crate::revocation::kept::{Kept, State};
use crate::revocation::set::RevokedSet;
use crate::revocation::unix_seconds;

const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Follows for as long as the future is polled.
pub(in crate::revocation) async fn follow(store: Store, poll: Duration, kept: Arc<Kept>) {
    let mut follower = Follower {
        store,
        kept,
        seen: None,
        fault: None,
    };
    let mut pause = poll;
    loop {
        let Err(error) = follower.session(poll, &mut pause).await;
        let address = follower.store.address();
        let state = State::Bad(format!("{address}: {error}"));
        follower.kept.is(state);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

struct Follower {
    store: Store,
    kept: Arc<Kept>,
    /// What was found of the entries that hold, and what was wrong with them.
    seen: Option<Look>,
    fault: Option<String>,
}

impl Follower {
    /// Looks at the store until that fails.
    async fn session(
        &mut self,
        poll: Duration,
        pause: &mut Duration,
    ) -> Result<Infallible, RedisError> {
        let mut connection = self.store.dial().await?;
        loop {
            let look = Store::look(&mut connection).await?;
            if self.seen != Some(look) {
                self.read(&mut connection, look).await?;
            }
            // Else entries went while they were read: the next look tells why.
            if self.seen == Some(look) {
                self.kept.is(match &self.fault {
                    None => State::Good,
                    Some(fault) => State::Partly(format!("{}: {fault}", self.store.address())),
                });
            }
            *pause = poll;
            tokio::time::sleep(poll).await;
        }
    }

    /// Takes what the store holds. The look was before, so what changes meanwhile is read with the
    /// next one.
    async fn read(
        &mut self,
        connection: &mut MultiplexedConnection,
        look: Look,
    ) -> Result<(), RedisError> {
        let contents = self.store.contents(connection).await?;
        if contents.found.is_some_and(|found| found < look.entries) {
            return Ok(());
        }
        let behind = self
            .seen
            .is_some_and(|seen| look.version.lacks_some_of(seen.version));
        let missing = look.missing();
        if behind || missing > 0 {
            self.give_back(connection, contents.entries).await?;
        } else {
            let set = RevokedSet::new(contents.entries);
            let entries = set.len();
            tracing::info!(
                store = self.store.address(),
                entries,
                "revocations were read"
            );
            self.kept.take(set);
        }
        self.seen = Some(look);
        self.fault = contents.fault.or_else(|| {
            (missing > 0).then(|| {
                let all = look.version.entries;
                format!("it has lost {missing} of {all} entries; those not known here do not hold")
            })
        });
        Ok(())
    }

    /// Holds on to what is known here beside what is left, and gives it to the store again.
    async fn give_back(
        &self,
        connection: &mut MultiplexedConnection,
        left: Vec<Entry>,
    ) -> Result<(), RedisError> {
        let now = unix_seconds(SystemTime::now());
        let known: Vec<_> = self.kept.set().entries(now).collect();
        let mut all = HashMap::new();
        for entry in left.into_iter().chain(known.iter().cloned()) {
            all.entry(entry.target.clone())
                .and_modify(|same: &mut Entry| same.merge(&entry))
                .or_insert(entry);
        }
        self.kept.take(RevokedSet::new(all.into_values()));
        let refused = self.store.add(connection, &known).await?;
        tracing::warn!(
            store = self.store.address(),
            entries = known.len(),
            refused,
            "the revocation store had lost entries; it got back what is known here"
        );
        Ok(())
    }
}
