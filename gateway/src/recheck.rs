//! Looks again at calls that were let in: a token that ends or is revoked, a
//! key that is gone, a rule that changes, must hold for streams that are already
//! open.
//!
//! Runs beside the workers: every [`EVERY`], and at once when the
//! configuration or the revocations change. A look costs a few comparisons for
//! each open call that has a caller; calls are only flagged here and end
//! themselves (see [`crate::calls`]). Calls that the descriptor set knows as
//! unary may end after their token, as their work is done then; a revocation
//! ends them too.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use intellirouter::security::Standing;
use tokio::time::MissedTickBehavior;

use crate::calls::{Cut, OpenCall};
use crate::gateway::Gateway;
use crate::layers::authenticate::Identity;
use crate::layers::roles;
use crate::runtime::Runtime;

const EVERY: Duration = Duration::from_millis(250);
/// See the module's comment.
pub(crate) async fn follow(gateway: Arc<Gateway>) -> Infallible {
    let mut generations = gateway.generations();
    let mut revocations = gateway.revocations.changes();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The senders live as long as the gateway.
        let revoked = tokio::select! {
            Ok(()) = generations.changed() => false,
            Ok(()) = revocations.changed() => true,
            _ = tick.tick() => false,
        };
        look(&gateway, revoked);
    }
}

fn look(gateway: &Gateway, revoked: bool) {
    let runtime = gateway.runtime();
    let now = SystemTime::now();
    let cut = gateway.calls.cut_where(|call| {
        let caller = call.caller();
        let is_revoked = |caller: &Arc<Identity>| gateway.revocations.check(caller, now).is_err();
        let caller = caller.as_ref();
        if revoked && caller.is_some_and(is_revoked) {
            return Some(Cut::Revoked);
        }
        let ended = caller.and_then(|caller| token_ended(&runtime, call, caller, now));
        ended.or_else(|| {
            // Calls that the rules of before let in, maybe after the last look.
            call.must_be_judged_by(runtime.generation)
                .then(|| rule_withdrawn(&runtime, call, now))
                .flatten()
        })
    });
    if cut > 0 {
        tracing::info!(
            calls = cut,
            "calls ended because their callers may not go on"
        );
    }
}

fn token_ended(
    runtime: &Runtime,
    call: &OpenCall,
    caller: &Identity,
    now: SystemTime,
) -> Option<Cut> {
    if call.route.unary {
        return None;
    }
    match runtime.authenticate.standing(caller, now) {
        Standing::Current => None,
        Standing::Expired => Some(Cut::TokenExpired),
        Standing::KeyGone => Some(Cut::KeyGone),
        Standing::RulesChanged => Some(Cut::RulesChanged),
    }
}

/// Judges a call by the rules that hold now. One that no rule covers any more
/// goes on: removing a route is no verdict on its callers.
fn rule_withdrawn(runtime: &Runtime, call: &OpenCall, now: SystemTime) -> Option<Cut> {
    let route = runtime.routes.find(call.path.path());
    let Some(caller) = call.caller() else {
        let closed = call.route.is_public() && route.is_some_and(|route| !route.is_public());
        return closed.then_some(Cut::RoleWithdrawn);
    };
    // Whom a certificate stands for is a rule too.
    let shown = call.client.certificate.as_ref();
    let caller = match shown.filter(|_| caller.is_by_certificate()) {
        Some(shown) => match shown.identity(&runtime.certificates, now) {
            Ok(Some(caller)) => caller,
            _ => return Some(Cut::RoleWithdrawn),
        },
        None => caller,
    };
    let allowed = route.is_none_or(|route| roles::check(&route.access, &caller).is_ok())
        && call
            .channels()
            .is_none_or(|channels| runtime.events.may_read(&caller, channels));
    (!allowed).then_some(Cut::RoleWithdrawn)
}
