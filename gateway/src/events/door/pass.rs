//! What a ticket or a cookie stands for: a verified token, and what may be read with it.

use serde::{Deserialize, Serialize};

use super::vault::Key;
use crate::events::filter::Wanted;
use crate::layers::authenticate::VerifiedWord;

/// See the module's comment. Kept in the vault as JSON.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Pass {
    pub(super) word: VerifiedWord,
    pub(super) channels: Vec<String>,
    #[serde(default)]
    pub(super) wanted: Wanted,
    /// Of a cookie: the origin of the page that it was given to, if that is not the gateway's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
}

/// Where a browser's pass is kept, and what it says.
pub(in crate::events) struct Session {
    pub(super) key: Key,
    pub(super) pass: Pass,
}

/// A caller that came with a ticket or a cookie; stands in the request's extensions.
#[derive(Clone)]
pub(in crate::events) struct Entry {
    /// The ticket that the stream will use up; `None` of who came with a cookie.
    pub(super) ticket: Option<Key>,
    /// Where the pass is kept, or will be.
    pub(super) key: Key,
    pub(super) pass: Pass,
    /// To be set with the answer.
    pub(super) cookies: Vec<http::HeaderValue>,
}

impl Entry {
    pub(in crate::events) fn channels(&self) -> &[String] {
        &self.pass.channels
    }

    pub(in crate::events) fn wanted(&self) -> Wanted {
        self.pass.wanted.clone()
    }

    /// What belongs into the answer's `set-cookie`, and what the stream keeps.
    pub(in crate::events) fn into_parts(self) -> (Vec<http::HeaderValue>, Session) {
        let session = Session {
            key: self.key,
            pass: self.pass,
        };
        (self.cookies, session)
    }
}
