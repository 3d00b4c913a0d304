//! How many connections each client address has.
//!
//! An IPv6 client owns a whole /64, so those 64 bits are its address; an IPv4
//! address in IPv6 clothes counts as IPv4. A connection that was closed for a
//! flood keeps [`FLOOD_PLACES`] places for [`FLOOD_TIME`] beyond its end:
//! otherwise who is closed would just connect again.
//!
//! Bounds: an entry of some 50 bytes per address that has a place.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Places of a connection that flooded.
const FLOOD_PLACES: usize = 20;
/// For how long it keeps them.
const FLOOD_TIME: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Addresses {
    /// A place for one connection, if its address has less than `most`.
    pub(super) fn place(&self, address: IpAddr, most: usize) -> Option<Place> {
        let key = key(address);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(key).or_default();
        // An entry that was made just now has room: `most` is at least 1.
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            addresses: self.clone(),
            key,
            places: 1,
        })
    }
}

/// What a connection takes of its address, until it is dropped.
pub(super) struct Place {
    addresses: Addresses,
    key: IpAddr,
    places: usize,
}

impl Place {
    /// Keeps more places for a while. Must be called on a runtime.
    pub(super) fn keep_for_flood(mut self) {
        self.places += FLOOD_PLACES - 1;
        let mut taken = self.lock();
        *taken.entry(self.key).or_default() += FLOOD_PLACES - 1;
        drop(taken);
        tokio::spawn(async move {
            tokio::time::sleep(FLOOD_TIME).await;
            drop(self);
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        let taken = self.addresses.0.lock();
        taken.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count = count.saturating_sub(self.places);
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_as_many_places_as_it_may_and_others_have_theirs() {
        let addresses = Addresses::default();
        let first = addresses.place(ip("192.0.2.1"), 2).unwrap();
        let _second = addresses.place(ip("192.0.2.1"), 2).unwrap();
        assert!(addresses.place(ip("192.0.2.1"), 2).is_none());
        assert!(addresses.place(ip("192.0.2.2"), 2).is_some());
        drop(first);
        assert!(addresses.place(ip("192.0.2.1"), 2).is_some());
    }

    #[test]
    fn a_network_of_64_bits_is_one_address_and_an_ipv4_address_is_itself_in_ipv6() {
        let addresses = Addresses::default();
        let _v6 = addresses.place(ip("2001:db8:1:2::1"), 1).unwrap();
        assert!(addresses.place(ip("2001:db8:1:2:ffff::9"), 1).is_none());
        assert!(addresses.place(ip("2001:db8:1:3::1"), 1).is_some());
        let _v4 = addresses.place(ip("192.0.2.1"), 1).unwrap();
        assert!(addresses.place(ip("::ffff:192.0.2.1"), 1).is_none());
        assert!(addresses.place(ip("::ffff:192.0.2.2"), 1).is_some());
    }

    #[test]
    fn an_address_without_connections_costs_no_memory() {
        let addresses = Addresses::default();
        for last in 0..=255 {
            drop(addresses.place(IpAddr::from([192, 0, 2, last]), 1).unwrap());
        }
        assert!(addresses.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_closed_for_a_flood_keeps_its_places_for_ten_seconds() {
        let addresses = Addresses::default();
        let place = addresses.place(ip("192.0.2.1"), 20).unwrap();
        place.keep_for_flood();
        assert!(addresses.place(ip("192.0.2.1"), 20).is_none());
        // Those who may have more still get in.
        assert!(addresses.place(ip("192.0.2.1"), 21).is_some());
        tokio::time::sleep(FLOOD_TIME + Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
        assert!(addresses.0.lock().unwrap().is_empty());
    }
}
