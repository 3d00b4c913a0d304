//! A bounded map of buckets, cut into shards.
//!
//! Owns the memory of buckets: how many there are, and which go when a shard
//! is full. Only idle ones go, whose loss changes nothing. Where none is idle,
//! new keys of the shard share one bucket, so that neither memory grows nor a
//! bucket is ever refilled by being forgotten. Costs one short lock per
//! look-up; a full shard is searched for idle buckets at most every 100 ms.
//!
//! Bounds: the keys that a rate may have (65,536 by default), in [`SHARDS`]
//! equal parts; under 64 bytes each for a local bucket, 256 for a global one,
//! with what a hash table keeps free.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::key::Key;

/// So many that workers seldom meet at one.
pub(super) const SHARDS: usize = 64;
/// How long a full shard is not searched again, in nanoseconds.
const SEARCH_EVERY: u64 = 100_000_000;

/// What a shard keeps.
pub(super) trait Slot {
    /// From when on its loss changes nothing.
    fn idle_at(&self) -> u64;
}

/// Where a key has its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Own,
    /// In the slot that the shard's other keys share.
    Shared,
}

/// What operators see of the map.
#[derive(Clone, Default)]
pub(super) struct KeyMetrics {
    pub(super) keys: Gauge,
    pub(super) overflow: Counter,
}

/// See the module's comment.
pub(super) struct Shards<V> {
    shards: Box<[Mutex<Shard<V>>]>,
    /// Of each shard.
    most: usize,
    metrics: KeyMetrics,
}

struct Shard<V> {
    kept: HashMap<Key, V, BuildHasherDefault<AlreadyHashed>>,
    shared: Option<V>,
    search_at: u64,
}

impl<V: Slot> Shards<V> {
    pub(super) fn new(keys: usize, metrics: KeyMetrics) -> Self {
        let empty = || {
            Mutex::new(Shard {
                kept: HashMap::default(),
                shared: None,
                search_at: 0,
            })
        };
        Self {
            shards: std::iter::repeat_with(empty).take(SHARDS).collect(),
            most: (keys / SHARDS).max(1),
            metrics,
        }
    }

    #[cfg(test)]
    pub(super) fn metrics(&self) -> &KeyMetrics {
        &self.metrics
    }

    /// Calls `then` with the key's slot, which `make` makes where it is new.
    pub(super) fn with<R>(
        &self,
        key: Key,
        now: impl FnOnce() -> u64,
        make: impl FnOnce(Place) -> V,
        then: impl FnOnce(&mut V, Place) -> R,
    ) -> R {
        let mut shard = self.lock(shard_of(key));
        if let Some(slot) = shard.kept.get_mut(&key) {
            return then(slot, Place::Own);
        }
        if shard.kept.len() >= self.most {
            let dropped = shard.drop_idle(now());
            self.metrics
                .keys
                .dec_by(i64::try_from(dropped).unwrap_or(i64::MAX));
        }
        if shard.kept.len() >= self.most {
            self.metrics.overflow.inc();
            let slot = shard.shared.get_or_insert_with(|| make(Place::Shared));
            return then(slot, Place::Shared);
        }
        self.metrics.keys.inc();
        let slot = shard.kept.entry(key).or_insert_with(|| make(Place::Own));
        then(slot, Place::Own)
    }

    /// Calls `then` with the slot that the key has, if it has one.
    pub(super) fn find<R>(&self, key: Key, then: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut shard = self.lock(shard_of(key));
        let shard = &mut *shard;
        let slot = shard.kept.get_mut(&key).or(shard.shared.as_mut());
        slot.map(then)
    }

    /// As [`Shards::find`], for a slot whose place is known.
    pub(super) fn at<R>(
        &self,
        key: Key,
        place: Place,
        then: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let mut shard = self.lock(shard_of(key));
        let slot = match place {
            Place::Own => shard.kept.get_mut(&key),
            Place::Shared => shard.shared.as_mut(),
        };
        slot.map(then)
    }

    /// Shows `each` every slot, shard by shard, then drops those that are
    /// idle. A shared slot is shown with any key of its shard.
    pub(super) fn sweep(&self, now: u64, mut each: impl FnMut(Key, Place, &mut V)) {
        for index in 0..SHARDS {
            let mut shard = self.lock(index);
            for (key, slot) in &mut shard.kept {
                each(*key, Place::Own, slot);
            }
            if let Some(slot) = &mut shard.shared {
                each(any_key_of(index), Place::Shared, slot);
            }
            shard.shared.take_if(|slot| slot.idle_at() <= now);
            let dropped = shard.drop_idle(now);
            self.metrics
                .keys
                .dec_by(i64::try_from(dropped).unwrap_or(i64::MAX));
        }
    }

    /// Puts slots made from those of `old` into this map, which is new.
    pub(super) fn take_over<W: Slot>(&self, old: &Shards<W>, mut make: impl FnMut(&W) -> V) {
        for (index, from) in old.shards.iter().enumerate() {
            let from = from.lock().unwrap_or_else(PoisonError::into_inner);
            let mut shard = self.lock(index);
            // All of them, also where fewer may be kept now: none is refilled.
            for (key, slot) in &from.kept {
                shard.kept.insert(*key, make(slot));
            }
            shard.shared = from.shared.as_ref().map(&mut make);
            let kept = i64::try_from(shard.kept.len()).unwrap_or(i64::MAX);
            self.metrics.keys.inc_by(kept);
        }
    }
}

impl<V> Shards<V> {
    fn lock(&self, index: usize) -> MutexGuard<'_, Shard<V>> {
        self.shards[index % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Drop for Shards<V> {
    /// What the gauge still counts is gone, though another generation of the
    /// same rate may count on.
    fn drop(&mut self) {
        for index in 0..SHARDS {
            let kept = self.lock(index).kept.len();
            self.metrics
                .keys
                .dec_by(i64::try_from(kept).unwrap_or(i64::MAX));
        }
    }
}

impl<V: Slot> Shard<V> {
    /// Tells how many went.
    fn drop_idle(&mut self, now: u64) -> usize {
        if now < self.search_at {
            return 0;
        }
        let before = self.kept.len();
        self.kept.retain(|_, slot| slot.idle_at() > now);
        self.search_at = now + SEARCH_EVERY;
        before - self.kept.len()
    }
}

pub(super) fn shard_of(key: Key) -> usize {
    (key.low % SHARDS as u64) as usize
}

fn any_key_of(shard: usize) -> Key {
    Key {
        high: 0,
        low: shard as u64,
    }
}

/// Keys are hashes already, with a seed.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, half: u64) {
        self.0 ^= half;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Idle from its value on.
    impl Slot for u64 {
        fn idle_at(&self) -> u64 {
            *self
        }
    }

    fn key(n: u64) -> Key {
        Key { high: n, low: 0 }
    }

    fn put(shards: &Shards<u64>, n: u64, now: u64, until: u64) -> Place {
        shards.with(
            key(n),
            || now,
            |_| 0,
            |slot, place| {
                *slot = (*slot).max(until);
                place
            },
        )
    }

    fn two_per_shard() -> Shards<u64> {
        Shards::new(2 * SHARDS, KeyMetrics::default())
    }

    #[test]
    fn a_full_shard_drops_only_what_is_idle() {
        let shards = two_per_shard();
        put(&shards, 1, 10, 50);
        put(&shards, 2, 10, 200);
        assert_eq!(put(&shards, 3, 100, 300), Place::Own);
        assert_eq!(shards.at(key(1), Place::Own, |slot| *slot), None);
        assert_eq!(shards.at(key(2), Place::Own, |slot| *slot), Some(200));
        assert_eq!(shards.metrics.keys.get(), 2);
    }

    #[test]
    fn where_none_is_idle_new_keys_share_one_slot_and_old_ones_keep_theirs() {
        let shards = two_per_shard();
        put(&shards, 1, 10, 500);
        put(&shards, 2, 10, 500);
        for n in 3..1000 {
            assert_eq!(put(&shards, n, 20, 400 + n), Place::Shared);
        }
        assert_eq!(shards.find(key(777), |slot| *slot), Some(1399));
        assert_eq!(shards.find(key(1), |slot| *slot), Some(500));
        assert_eq!(shards.metrics.keys.get(), 2);
        assert_eq!(shards.metrics.overflow.get(), 997);
    }

    #[test]
    fn a_full_shard_is_not_searched_for_every_new_key() {
        let shards = two_per_shard();
        put(&shards, 1, 10, 500);
        put(&shards, 2, 10, 500);
        assert_eq!(put(&shards, 3, 20, 0), Place::Shared);
        assert_eq!(put(&shards, 3, 600, 0), Place::Shared, "searched just now");
        assert_eq!(put(&shards, 3, 20 + SEARCH_EVERY, 0), Place::Own);
    }

    #[test]
    fn a_sweep_sees_every_slot_and_drops_the_idle() {
        let shards = two_per_shard();
        for (n, until) in [(1, 50), (2, 500), (3, 700)] {
            put(&shards, n, 10, until);
        }
        let mut seen = Vec::new();
        shards.sweep(100 + SEARCH_EVERY, |_, place, slot| {
            seen.push((place, *slot))
        });
        seen.sort_by_key(|(_, slot)| *slot);
        assert_eq!(
            seen,
            [(Place::Own, 50), (Place::Own, 500), (Place::Shared, 700)]
        );
        assert_eq!(shards.find(key(1), |slot| *slot), None, "all were idle");
        assert_eq!(shards.metrics.keys.get(), 0);
    }
}
