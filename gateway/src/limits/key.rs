//! What a bucket belongs to, and the two short forms of it.
//!
//! In memory a bucket is found by 128 bits of a hash whose seed is this
//! process's own: a caller can choose its name but not what it collides with,
//! nothing is allocated for a look-up, and no name is kept. Between gateways it
//! is named by a digest, the same on all; the store never sees a name.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use aws_lc_rs::digest::{Context, SHA256};

/// Those parts of a call that a rate tells apart.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Parts<'c> {
    pub(super) address: Option<Net>,
    /// Whose the subject is: two issuers may give the same name to two people.
    pub(super) issuer: Option<&'c str>,
    pub(super) subject: Option<&'c str>,
    pub(super) role: Option<&'c str>,
    pub(super) route: Option<&'c str>,
}

/// Who is behind an address: one IPv4 address, or the /64 that an IPv6 host
/// can choose its addresses from.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Net {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Net {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}

/// A bucket in memory.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) high: u64,
    pub(super) low: u64,
}

/// The seeds of one rate's keys.
#[derive(Clone, Default)]
pub(super) struct Seeds {
    high: RandomState,
    low: RandomState,
}

impl Seeds {
    pub(super) fn key(&self, parts: &Parts<'_>) -> Key {
        Key {
            high: self.high.hash_one(parts),
            low: self.low.hash_one(parts),
        }
    }
}

/// A bucket in the store.
pub(super) type Digest = [u8; 16];

/// The first half of the SHA-256 of `parts`.
pub(super) fn digest(parts: &Parts<'_>) -> Digest {
    let mut context = Context::new(&SHA256);
    for (tag, part) in [
        (b'a', parts.address.as_ref().map(Net::bytes)),
        (b'i', parts.issuer.map(str::as_bytes)),
        (b's', parts.subject.map(str::as_bytes)),
        (b'r', parts.role.map(str::as_bytes)),
        (b'p', parts.route.map(str::as_bytes)),
    ] {
        if let Some(part) = part {
            // With its length, so that no part can pass for two.
            context.update(&[tag]);
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    half(context)
}

/// The bucket that keys share for which there is no room.
pub(super) fn overflow_digest(shard: usize) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(b"overflow");
    context.update(&(shard as u64).to_be_bytes());
    half(context)
}

fn half(context: Context) -> Digest {
    let mut half = Digest::default();
    for (to, from) in half.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        Net::of(text.parse().unwrap())
    }

    #[test]
    fn ipv6_counts_by_its_64_and_mapped_ipv4_as_ipv4() {
        assert_eq!(net("2001:db8:1:2::1"), net("2001:db8:1:2:ffff::9"));
        assert_ne!(net("2001:db8:1:2::1"), net("2001:db8:1:3::1"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
        assert_ne!(net("192.0.2.1"), net("192.0.2.2"));
    }

    #[test]
    fn no_two_different_callers_share_a_key_or_a_digest() {
        let (seeds, of) = (Seeds::default(), |subject, role, route| Parts {
            address: None,
            issuer: None,
            subject,
            role,
            route,
        });
        let all = [
            of(Some("ab"), Some("c"), None),
            of(Some("a"), Some("bc"), None),
            of(Some("abc"), None, None),
            of(None, Some("abc"), None),
            of(None, None, Some("abc")),
            of(Some(""), None, None),
            of(None, None, None),
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(seeds.key(one), seeds.key(other), "{one:?} {other:?}");
                assert_ne!(digest(one), digest(other), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn keys_differ_by_process_and_digests_do_not() {
        let parts = Parts {
            issuer: Some("idp"),
            subject: Some("alice"),
            ..Parts::default()
        };
        assert_ne!(Seeds::default().key(&parts), Seeds::default().key(&parts));
        assert_eq!(digest(&parts), digest(&parts));
        assert_eq!(
            digest(&parts)[..2],
            [0x6c, 0x6d],
            "as other gateways have it"
        );
    }
}
