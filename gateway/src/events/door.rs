//! What event streams need beyond one generation of the configuration, and beyond one gateway: which
//! streams are open, by name; tickets and cookies; and the other gateways of the same store.
//!
//! Owns the presenting of a new token to a stream ([`renew`]), the passes of callers that can send no
//! header ([`tickets`]), where both are kept ([`Vault`]) and how gateways ask each other ([`link`]).
//! Without a Redis as event store all of it is within this process.
//!
//! What may go wrong with whom:
//! - Who finds out a stream's name can't renew it for itself: only a verified token of the same
//!   issuer and subject can, and the stream is then judged by that token alone.
//! - Who reads a URL in a log or a history has a ticket that is used or 30 s old, and no cookie.
//! - A page of another origin that makes a browser send the cookie is refused by the `Origin` that it
//!   can't forge, and may read no answer.
//! - Who can read or write the Redis of the events can read tickets' contents, though not tickets,
//!   cookies or tokens (hashes alone stand there), and can lengthen streams and change what they may
//!   read: the store is trusted as that of the revocations is. Each gateway still asks its own
//!   revocations and whether it knows the key and the rules that a token was verified with.

mod cookie;
mod issued;
mod link;
mod pass;
mod renew;
mod streams;
mod tickets;
mod vault;

use std::sync::Arc;

use crate::config::EventsConfig;
use crate::gateway::{Gateway, StartError};
use crate::layers::authenticate::Identity;
use crate::reply::Reply;
use crate::revocation::Revocations;

use super::filter::{Filter, Groups, Wanted};
use issued::Issued;
use link::Link;
pub(super) use pass::{Entry, Session};
pub(super) use renew::renew;
pub(super) use streams::Registered;
use streams::Streams;
pub(super) use tickets::issue;
pub(crate) use tickets::{enter, is_by_ticket, is_return};
use vault::Vault;

/// See the module's comment.
pub(crate) struct Door {
    pub(super) streams: Arc<Streams>,
    groups: Arc<Groups>,
    revocations: Arc<Revocations>,
    issued: Issued,
    vault: Vault,
    /// `None` with the embedded store.
    link: Option<Arc<Link>>,
}

impl Door {
    pub(crate) fn open(
        config: &EventsConfig,
        revocations: &Arc<Revocations>,
    ) -> Result<Arc<Self>, StartError> {
        let link = match config.store.as_str() {
            "memory:" => None,
            _ => Some(Link::new(config)?),
        };
        Ok(Arc::new(Self {
            streams: Arc::default(),
            groups: Arc::default(),
            revocations: revocations.clone(),
            issued: Issued::default(),
            vault: match &link {
                Some(link) => Vault::Shared(link.clone()),
                None => Vault::default(),
            },
            link,
        }))
    }

    /// The filter of one more stream of a caller, whose streams may have `most` different ones.
    pub(super) fn filter(
        &self,
        caller: &Identity,
        wanted: Wanted,
        most: usize,
    ) -> Result<Filter, Reply> {
        let owner = self.issued.owner(caller.issuer(), caller.subject());
        self.groups.filter(wanted, owner, most)
    }

    /// What does not work now, for operators.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let away = self.link.as_ref().is_some_and(|link| link.is_away());
        away.then_some("; tickets and renewals at other gateways do not work now")
    }

    /// Waits until the other gateways can be reached, for at most 3 s.
    pub(crate) async fn first_look(&self) {
        if let Some(link) = &self.link {
            link.wait(link::FIRST_LOOK).await;
        }
    }
}

/// Keeps the connection to the other gateways and answers what they ask.
pub(crate) async fn follow(gateway: Arc<Gateway>) -> std::convert::Infallible {
    let door = gateway.door.clone();
    match &door.link {
        Some(link) => link.follow(|ask| renew::answer(gateway.clone(), ask)).await,
        None => std::future::pending().await,
    }
}
