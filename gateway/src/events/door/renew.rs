//! A new token for an open stream: `POST /events/renew` and `EventService.Renew`.
//!
//! The token is verified where it arrives, as for any call. If the stream is not there, the gateways
//! of the same store are asked; they get what was verified, never the token, and each asks itself
//! whether it knows the key and the rules, and whether the token is revoked. The answer is true: the
//! stream goes on with the new token (done), no gateway has it (NOT_FOUND, 404), it is another's
//! (PERMISSION_DENIED, 403), it has a token that holds longer (FAILED_PRECONDITION, 409), or the new
//! token may not read what it reads, which ends it (PERMISSION_DENIED, 403). Who does not answer within
//! 2 s makes it UNAVAILABLE; to ask again is harmless.

use std::sync::Arc;
use std::time::SystemTime;

use tonic::Code;
use uuid::Uuid;

use super::Door;
use super::link::{Ask, Verdict};
use super::streams::Handle;
use crate::calls::Cut;
use crate::events::EventPlane;
use crate::gateway::Gateway;
use crate::layers::authenticate::Identity;
use crate::reply::Reply;

/// Presents the caller's token to the stream of this name.
pub(in crate::events) async fn renew(
    plane: &EventPlane,
    caller: &Arc<Identity>,
    stream: &str,
) -> Result<(), Reply> {
    let door = &plane.door;
    let stream: Uuid = stream.parse().map_err(|_| {
        let expected = "expected the name of a stream, as its opening tells it";
        Reply::invalid("stream", expected)
    })?;
    let word = caller.word().ok_or_else(|| {
        let message = "a stream is renewed by a token; a certificate holds until it ends";
        Reply::denied("needs_token", message)
    })?;
    let verdict = match (door.streams.get(stream), &door.link) {
        (Some(handle), _) => door.present(plane, &handle, caller.clone()).await,
        (None, None) => Verdict::Unknown,
        (None, Some(link)) => link.ask(stream, word).await?,
    };
    answer_of(verdict)
}

fn answer_of(verdict: Verdict) -> Result<(), Reply> {
    Err(match verdict {
        Verdict::Done => return Ok(()),
        Verdict::Unknown => Reply::new(
            Code::NotFound,
            "unknown_stream",
            "no gateway has a stream of this name open",
        ),
        Verdict::NotYours => Reply::denied("not_your_stream", "the stream is another caller's"),
        Verdict::NotLonger => Reply::new(
            Code::FailedPrecondition,
            "not_longer",
            "the stream has a token that holds longer",
        )
        .status(http::StatusCode::CONFLICT),
        Verdict::Withdrawn => Reply::denied(
            "role_withdrawn",
            "the new token does not allow what the stream reads; the stream has ended",
        ),
        Verdict::NotAccepted => Reply::unauthenticated(
            "not_accepted",
            "the gateway that has the stream does not accept the token",
        ),
    })
}

/// Answers another gateway.
pub(super) async fn answer(gateway: Arc<Gateway>, ask: Ask) -> Verdict {
    let door = &gateway.door;
    let Some(handle) = door.streams.get(ask.stream) else {
        return Verdict::Unknown;
    };
    let runtime = gateway.runtime();
    let now = SystemTime::now();
    match runtime.authenticate.by_word(ask.word, now).await {
        Ok(caller) => door.present(&runtime.events, &handle, caller).await,
        Err(_) => Verdict::NotAccepted,
    }
}

impl Door {
    async fn present(&self, plane: &EventPlane, handle: &Handle, caller: Arc<Identity>) -> Verdict {
        let verdict = self.judge(plane, handle, &caller);
        if verdict == Verdict::Done
            && let Some(session) = &handle.session
            && let Some(word) = caller.word()
        {
            let mut pass = session.pass.clone();
            pass.word = word;
            if let Err(reply) = self.keep(&session.key, &pass, SystemTime::now()).await {
                // The stream itself goes on; its browser can't come back with the cookie.
                tracing::warn!(
                    reason = reply.label,
                    "the cookie of a stream was not renewed"
                );
            }
        }
        verdict
    }

    fn judge(&self, plane: &EventPlane, handle: &Handle, caller: &Arc<Identity>) -> Verdict {
        let call = &handle.call;
        let Some(current) = call.caller().filter(|_| call.is_cut().is_none()) else {
            return Verdict::Unknown;
        };
        if (current.issuer(), current.subject()) != (caller.issuer(), caller.subject()) {
            return Verdict::NotYours;
        }
        if current.expires > caller.expires {
            return Verdict::NotLonger;
        }
        if !plane.may_read(caller, call.channels().unwrap_or_default()) {
            call.cut(Cut::RoleWithdrawn);
            return Verdict::Withdrawn;
        }
        call.renew(caller.clone());
        handle.tell();
        // After it is in its place: a revocation that came meanwhile looked at the token before.
        if self.revocations.check(caller, SystemTime::now()).is_err() {
            call.cut(Cut::Revoked);
            return Verdict::NotAccepted;
        }
        Verdict::Done
    }
}
