//! Who calls, once it is proven: what later steps know of a caller.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use http::HeaderValue;
use intellirouter::security::{ClaimPath, TokenProof};
use serde::{Deserialize, Serialize};

use crate::layers::conduct::Conduct;

/// The `issuer` of callers that prove with a certificate who they are. No issuer of tokens may have
/// this name.
pub(crate) const CERTIFICATE_ISSUER: &str = "urn:intellirouter:certificate";

/// A caller whose token or certificate was verified.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(super) caller: Arc<Caller>,
    /// Seconds since 1970; a leeway is not added.
    pub(crate) expires: u64,
    pub(super) issued_at: Option<u64>,
    pub(super) token_id: Option<Box<str>>,
    /// What the rules of channels ask of it.
    pub(super) claims: Claimed,
    pub(super) proof: Proof,
}

/// Claims by name, where they have a value that can be part of a channel's name.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    pub(super) names: Arc<[ClaimPath]>,
    pub(super) values: Box<[Option<Box<str>>]>,
}

/// Why the identity is believed.
#[derive(Debug)]
pub(super) enum Proof {
    Token(TokenProof),
    Certificate,
}

/// What a gateway says of a token that it has verified, to others or to itself later. Has no `Debug`:
/// it says all of its caller.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct VerifiedWord {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) roles: Vec<String>,
    /// Seconds since 1970, as the next.
    pub(crate) expires: u64,
    pub(crate) issued_at: Option<u64>,
    pub(crate) token_id: Option<String>,
    /// By the text of their path.
    pub(crate) claims: Vec<(String, String)>,
    /// Of the key and the rules that it was verified with.
    pub(crate) mark: String,
}

/// A subject of an issuer with its roles, whatever the token. The subject alone names nobody: two
/// issuers may give the same name to two people.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(super) issuer: Arc<str>,
    pub(super) subject: String,
    pub(super) roles: Vec<String>,
    /// Per upstream: the identity token in use, and when to make the next.
    pub(super) minted: Box<[Mutex<Option<Minted>>]>,
    pub(super) conduct: Arc<Conduct>,
}

/// An identity token, and when to make the next.
pub(super) type Minted = (HeaderValue, SystemTime);

impl Identity {
    pub(crate) fn subject(&self) -> &str {
        &self.caller.subject
    }

    pub(crate) fn roles(&self) -> &[String] {
        &self.caller.roles
    }

    /// What the subject takes of what all share.
    pub(crate) fn conduct(&self) -> &Arc<Conduct> {
        &self.caller.conduct
    }

    /// The `iss` of the token, or [`CERTIFICATE_ISSUER`].
    pub(crate) fn issuer(&self) -> &str {
        &self.caller.issuer
    }

    /// Whether a certificate, and no token, is the proof.
    pub(crate) fn is_by_certificate(&self) -> bool {
        matches!(self.proof, Proof::Certificate)
    }

    /// A claim that some channel rule names, if its value is a segment of a channel's name. Only
    /// what the rules named when the token was verified is known.
    pub(crate) fn claim(&self, path: &ClaimPath) -> Option<&str> {
        let at = self.claims.names.iter().position(|name| name == path)?;
        self.claims.values.get(at)?.as_deref()
    }

    /// What this gateway can say of the caller's token; `None` for a certificate.
    pub(crate) fn word(&self) -> Option<VerifiedWord> {
        let Proof::Token(proof) = &self.proof else {
            return None;
        };
        let claims = self.claims.names.iter().zip(&self.claims.values);
        let claims = claims
            .filter_map(|(name, value)| Some((name.to_string(), value.as_deref()?.to_owned())));
        Some(VerifiedWord {
            issuer: self.issuer().to_owned(),
            subject: self.subject().to_owned(),
            roles: self.roles().to_vec(),
            expires: self.expires,
            issued_at: self.issued_at,
            token_id: self.token_id().map(str::to_owned),
            claims: claims.collect(),
            mark: proof.mark(),
        })
    }

    /// Seconds since 1970, if the issuer said it.
    pub(crate) fn issued_at(&self) -> Option<u64> {
        self.issued_at
    }

    /// The token's own name (`jti`).
    pub(crate) fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }
}
