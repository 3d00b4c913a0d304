//! Several issuers side by side: a token is judged by the rules and the keys of the issuer that it
//! names, and by nobody else's.
//!
//! Owns that choice and what it means that a key is gone. The token's `iss` is looked at before the
//! signature is checked, and decides nothing but whose keys are tried: the verified `iss` must then
//! be that issuer's. So a token that says A and is signed by a key of B is refused, whatever its
//! `kid` says. It does not own how keys are fetched ([`JwksSource`]), nor the remembering of verified
//! tokens: who remembers one keeps its [`TokenProof`] and asks [`Issuers::standing`] each time, which costs
//! a look for the issuer and three comparisons while keys and rules are the same. A proof keeps no
//! issuer alive and nothing that fetches.
//!
//! An issuer is trusted with the roles that [`TokenRules::allowed_roles`] names; without that list
//! with every role, `admin` among them.
//!
//! Limits: 32 issuers, 32 audiences each; keys as in [`VerificationKey`] and [`JwkSet`].
//!
//! [`JwkSet`]: super::JwkSet

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_lc_rs::digest;

use super::jwks::{JwksSource, JwksStatus};
use super::verifier::{
    ClaimPath, Claims, Jws, KeyError, KeyId, KeySet, RawClaims, TokenError, TokenRules,
    VerificationKey, check_keys, signer, unix_seconds,
};

/// The most issuers that are taken.
pub const MAX_ISSUERS: usize = 32;

/// Where an issuer's keys come from; at least one of these must give some.
#[derive(Debug, Default)]
pub struct IssuerKeys {
    /// Keys that are named one by one: at most 32, no two of one name and algorithm.
    pub named: Vec<VerificationKey>,
    /// Those of a JWK set that was read from a file.
    pub set: Vec<VerificationKey>,
    /// Those of a JWK set that is fetched, again and again.
    pub fetched: Option<Arc<JwksSource>>,
}

/// One issuer: what its tokens must say, and who may sign them.
#[derive(Debug)]
pub struct Issuer {
    rules: Arc<TokenRules>,
    fixed: KeySet,
    fetched: Option<Arc<JwksSource>>,
}

/// An accepted token.
#[derive(Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Its own name (`jti`), if it has one.
    pub token_id: Option<String>,
    /// Why it was accepted.
    pub proof: TokenProof,
    raw: RawClaims,
}

impl Verified {
    /// Another claim, if it is a text.
    pub fn text(&self, claim: &ClaimPath) -> Option<&str> {
        self.raw.text_at(claim)
    }
}

/// Why a token was accepted, for as long as it is remembered: the key that signed it, and the rules
/// that it met.
pub struct TokenProof {
    key: KeyId,
    /// The set in which the key was found last.
    generation: AtomicU64,
    rules: Arc<TokenRules>,
    /// As in the token.
    exp: u64,
}

impl fmt::Debug for TokenProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenProof")
            .field("issuer", &self.rules.issuer)
            .field("exp", &self.exp)
            .finish_non_exhaustive()
    }
}

impl TokenProof {
    /// A name for the key and the rules together, to be told to other processes: whoever has both may
    /// take this process's word for the token ([`Issuers::readmit`]). 32 hexadecimal digits. It is a
    /// hash, so that of a secret worth the name it tells nothing.
    pub fn mark(&self) -> String {
        mark(self.key, &self.rules)
    }
}

fn mark(key: KeyId, rules: &TokenRules) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"intellirouter key and rules");
    hash.update(key.as_bytes());
    // Every field, each with its type: equal texts are equal rules.
    hash.update(format!("{rules:?}").as_bytes());
    let mut text = String::with_capacity(32);
    for byte in &hash.finish().as_ref()[..16] {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// How a token stands that was accepted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is accepted still.
    Current,
    /// It has expired.
    Expired,
    /// Its issuer, or the key that signed it, is accepted no more.
    KeyGone,
    /// Its issuer's rules ask more or grant less than when it was accepted: it must be verified anew.
    RulesChanged,
}

/// How an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerStatus {
    /// Its name, as in `iss`.
    pub issuer: String,
    /// The keys that can verify a token now, one for each algorithm that a key serves.
    pub keys: usize,
    /// Of the keys that are fetched, if some are.
    pub fetched: Option<JwksStatus>,
}

impl Issuer {
    /// Fails on rules that could never accept a token or would accept too much, and without a key.
    pub fn new(rules: TokenRules, keys: IssuerKeys) -> Result<Self, KeyError> {
        rules.check()?;
        let IssuerKeys {
            named,
            set,
            fetched,
        } = keys;
        if !named.is_empty() {
            check_keys(&named)?;
        } else if set.is_empty() && fetched.is_none() {
            return Err(KeyError::NoKeys);
        }
        Ok(Self {
            rules: Arc::new(rules),
            fixed: KeySet::new(named.into_iter().chain(set).collect()),
            fetched,
        })
    }

    /// Its name, as in `iss`.
    pub fn name(&self) -> &str {
        &self.rules.issuer
    }

    /// Where its keys are fetched from.
    pub fn fetched(&self) -> Option<&Arc<JwksSource>> {
        self.fetched.as_ref()
    }

    fn standing(&self, proof: &TokenProof, now: SystemTime) -> Standing {
        if !self.rules.has_time_left(proof.exp, unix_seconds(now)) {
            return Standing::Expired;
        }
        if !self.has(proof) {
            return Standing::KeyGone;
        }
        let same = Arc::ptr_eq(&self.rules, &proof.rules);
        match same || self.rules.accept_all_of(&proof.rules) {
            true => Standing::Current,
            false => Standing::RulesChanged,
        }
    }

    fn has(&self, key: &TokenProof) -> bool {
        let fetched = self.fetched.as_ref().map(|source| source.keys());
        let sets = [Some(&self.fixed), fetched.as_deref().map(|set| &**set)];
        let seen = key.generation.load(Ordering::Relaxed);
        if sets.iter().flatten().any(|set| set.generation() == seen) {
            return true;
        }
        // The keys were renewed since: is this one still among them?
        match sets.iter().flatten().find(|set| set.contains(key.key)) {
            Some(set) => {
                key.generation.store(set.generation(), Ordering::Relaxed);
                true
            }
            // Just configured to be fetched: whether the key is among them is known with the answer.
            None => {
                let source = self.fetched.as_ref();
                source.is_some_and(|source| source.is_starting())
            }
        }
    }

    /// A proof for a token that another process verified with the key and rules of `mark`.
    fn readmit(&self, mark_text: &str, exp: u64) -> Result<TokenProof, TokenError> {
        let fetched = self.fetched.as_ref().map(|source| source.keys());
        let sets = [Some(&self.fixed), fetched.as_deref().map(|set| &**set)];
        let mut keys = sets.into_iter().flatten().flat_map(KeySet::ids);
        let found = keys.find(|(_, key)| mark(*key, &self.rules) == mark_text);
        let (generation, key) = found.ok_or(TokenError::UnknownKey)?;
        Ok(TokenProof {
            key,
            generation: AtomicU64::new(generation),
            rules: Arc::clone(&self.rules),
            exp,
        })
    }

    fn verify(
        &self,
        jws: &Jws<'_>,
        raw: RawClaims,
        now: SystemTime,
    ) -> Result<Verified, TokenError> {
        let fetched = self.fetched.as_ref().map(|source| source.keys());
        let found = match &fetched {
            Some(fetched) => signer(&[&self.fixed, fetched], jws),
            None => signer(&[&self.fixed], jws),
        };
        let away = || {
            self.fetched
                .as_ref()
                .is_some_and(|source| !source.is_available())
        };
        let signer = found.map_err(|error| match error {
            TokenError::UnknownKey if away() => TokenError::KeysUnavailable,
            other => other,
        })?;
        let claims = raw.check(&self.rules, unix_seconds(now))?;
        Ok(Verified {
            token_id: raw.token_id()?.map(str::to_owned),
            proof: TokenProof {
                key: signer.key,
                generation: AtomicU64::new(signer.generation),
                rules: Arc::clone(&self.rules),
                exp: claims.exp,
            },
            claims,
            raw,
        })
    }

    fn status(&self) -> IssuerStatus {
        let fetched = self.fetched.as_ref().map(|source| source.status());
        IssuerStatus {
            issuer: self.name().to_owned(),
            keys: self.fixed.len() + fetched.as_ref().map_or(0, |status| status.keys),
            fetched,
        }
    }
}

/// All issuers whose tokens are accepted.
#[derive(Debug)]
pub struct Issuers {
    issuers: Vec<Arc<Issuer>>,
}

impl Issuers {
    /// At least one, at most 32, no two of one name.
    pub fn new(issuers: Vec<Issuer>) -> Result<Self, KeyError> {
        if issuers.is_empty() {
            return Err(KeyError::NoKeys);
        }
        if issuers.len() > MAX_ISSUERS {
            return Err(KeyError::TooManyIssuers(issuers.len()));
        }
        for (i, issuer) in issuers.iter().enumerate() {
            if issuers[..i]
                .iter()
                .any(|other| other.name() == issuer.name())
            {
                return Err(KeyError::DuplicateIssuer(issuer.name().to_owned()));
            }
        }
        Ok(Self {
            issuers: issuers.into_iter().map(Arc::new).collect(),
        })
    }

    /// Checks a token as of `now`, with the keys that are there.
    pub fn verify_at(&self, token: &str, now: SystemTime) -> Result<Verified, TokenError> {
        let jws = Jws::parse(token)?;
        let raw = RawClaims::parse(&jws.payload)?;
        let issuer = Arc::clone(self.named_by(&raw)?);
        issuer.verify(&jws, raw, now)
    }

    /// The proof of a token that another process has verified, found by its issuer and its
    /// [`TokenProof::mark`]; whether it has expired is for [`Self::standing`] to say. Where the key is
    /// unknown here the issuer's keys are fetched anew, as for [`Self::verify_with_new_keys`]. Fails
    /// where key or rules are not the same here: then the token itself must be shown.
    pub async fn readmit(
        &self,
        issuer: &str,
        mark: &str,
        exp: u64,
    ) -> Result<TokenProof, TokenError> {
        let issuer = Arc::clone(self.get(issuer).ok_or(TokenError::Issuer)?);
        match (issuer.readmit(mark, exp), &issuer.fetched) {
            (Err(_), Some(source)) if source.renew().await => issuer.readmit(mark, exp),
            (found, _) => found,
        }
    }

    /// For a token whose key is unknown so far: has its issuer's keys fetched anew, if that may be
    /// done now, and checks it again. Waits at most [`JwksSettings::timeout`].
    ///
    /// [`JwksSettings::timeout`]: super::JwksSettings::timeout
    pub async fn verify_with_new_keys(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Verified, TokenError> {
        let unknown = match self.verify_at(token, now) {
            Err(error @ (TokenError::UnknownKey | TokenError::KeysUnavailable)) => error,
            known => return known,
        };
        let issuer = {
            let jws = Jws::parse(token)?;
            Arc::clone(self.named_by(&RawClaims::parse(&jws.payload)?)?)
        };
        match &issuer.fetched {
            Some(source) if source.renew().await => self.verify_at(token, now),
            _ => Err(unknown),
        }
    }

    /// How a token stands by `now` that these issuers, or those of a configuration before, have
    /// accepted. A key counts as accepted while the first fetch of its issuer's keys is under way.
    pub fn standing(&self, proof: &TokenProof, now: SystemTime) -> Standing {
        match self.get(&proof.rules.issuer) {
            Some(issuer) => issuer.standing(proof, now),
            None => Standing::KeyGone,
        }
    }

    /// The issuer of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.issuers.iter().find(|issuer| issuer.name() == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Issuer>> {
        self.issuers.iter()
    }

    /// How each one's keys are, in the order given.
    pub fn statuses(&self) -> Vec<IssuerStatus> {
        self.issuers.iter().map(|issuer| issuer.status()).collect()
    }

    fn named_by(&self, raw: &RawClaims) -> Result<&Arc<Issuer>, TokenError> {
        raw.issuer()
            .and_then(|name| self.get(name))
            .ok_or(TokenError::Issuer)
    }
}

#[cfg(test)]
mod tests;
