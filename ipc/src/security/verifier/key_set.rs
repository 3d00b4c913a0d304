//! The keys that one issuer has at one time, and which of them signed.
//!
//! A set never changes; a new one takes its place. Its generation is a number that no other set of
//! the process has, so that whoever remembers a verified token can tell with one comparison that
//! nothing has changed since.

use std::sync::atomic::{AtomicU64, Ordering};

use super::jws::Jws;
use super::key::KeyId;
use super::{Algorithm, KeyError, MAX_KEYS, TokenError, VerificationKey};

static GENERATIONS: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub(in crate::security) struct KeySet {
    generation: u64,
    keys: Vec<VerificationKey>,
}

/// The key that signed a token.
pub(in crate::security) struct Signer {
    pub(in crate::security) key: KeyId,
    /// Of the set that the key was found in.
    pub(in crate::security) generation: u64,
}

impl KeySet {
    pub(in crate::security) fn new(keys: Vec<VerificationKey>) -> Self {
        Self {
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed),
            keys,
        }
    }

    pub(in crate::security) fn generation(&self) -> u64 {
        self.generation
    }

    pub(in crate::security) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(in crate::security) fn contains(&self, id: KeyId) -> bool {
        self.keys.iter().any(|key| key.id() == id)
    }

    /// Each key, with the set's generation.
    pub(in crate::security) fn ids(&self) -> impl Iterator<Item = (u64, KeyId)> {
        self.keys.iter().map(|key| (self.generation, key.id()))
    }

    /// Whether `keys` are the same and have the same names, in whatever order.
    pub(in crate::security) fn is_same(&self, keys: &[VerificationKey]) -> bool {
        let is_here = |key: &VerificationKey| {
            let same = |own: &VerificationKey| own.id() == key.id() && own.kid() == key.kid();
            self.keys.iter().any(same)
        };
        keys.len() == self.keys.len() && keys.iter().all(is_here)
    }
}

/// What somebody wrote down by hand: at least one key, at most 32, and no two that nothing tells
/// apart.
pub(in crate::security) fn check_keys(keys: &[VerificationKey]) -> Result<(), KeyError> {
    if keys.is_empty() {
        return Err(KeyError::NoKeys);
    }
    if keys.len() > MAX_KEYS {
        return Err(KeyError::TooManyKeys(keys.len()));
    }
    for (i, key) in keys.iter().enumerate() {
        let same = |other: &VerificationKey| {
            other.kid() == key.kid() && other.algorithm() == key.algorithm()
        };
        if let Some(kid) = key.kid()
            && keys[..i].iter().any(same)
        {
            return Err(KeyError::DuplicateKid(kid.to_owned(), key.algorithm()));
        }
    }
    Ok(())
}

/// The key of `sets` that signed `jws`. A `kid` chooses only if somebody named the keys.
pub(in crate::security) fn signer(sets: &[&KeySet], jws: &Jws<'_>) -> Result<Signer, TokenError> {
    let algorithm = Algorithm::from_name(&jws.header.alg).ok_or(TokenError::Algorithm)?;
    let all = || {
        sets.iter()
            .flat_map(|set| set.keys.iter().map(|key| (set.generation, key)))
    };
    let any_kid = all().any(|(_, key)| key.kid().is_some());
    let named = jws.header.kid.as_deref().filter(|_| any_kid);
    let mut meant = all()
        .filter(|(_, key)| named.is_none_or(|kid| key.kid() == Some(kid)))
        .peekable();
    if meant.peek().is_none() {
        return Err(TokenError::UnknownKey);
    }
    let mut candidates = meant
        .filter(|(_, key)| key.algorithm() == algorithm)
        .peekable();
    if candidates.peek().is_none() {
        return Err(TokenError::Algorithm);
    }
    candidates
        .find(|(_, key)| key.verifies(jws.signed, &jws.signature))
        .map(|(generation, key)| Signer {
            key: key.id(),
            generation,
        })
        .ok_or(TokenError::Signature)
}
