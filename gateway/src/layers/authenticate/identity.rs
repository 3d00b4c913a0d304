//! Who calls, once it is proven: what later steps know of a caller.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use http::HeaderValue;
use intellirouter::security::TokenProof;

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
    pub(super) proof: Proof,
}

/// Why the identity is believed.
#[derive(Debug)]
pub(super) enum Proof {
    Token(TokenProof),
    Certificate,
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

    /// Seconds since 1970, if the issuer said it.
    pub(crate) fn issued_at(&self) -> Option<u64> {
        self.issued_at
    }

    /// The token's own name (`jti`).
    pub(crate) fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }
}
