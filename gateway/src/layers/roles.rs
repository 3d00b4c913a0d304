//! What a caller may call: the roles of a route against the caller's.
//!
//! Default deny: a route without a rule lets nobody in, `admin` included. The
//! answer names the route's rule in no way.

use super::authenticate::Identity;
use crate::reply::Reply;
use crate::routes::{ADMIN, ANYONE, Access};

/// Refuses a caller that the route's rule does not name.
pub(crate) fn check(access: &Access, identity: &Identity) -> Result<(), Reply> {
    let Access::Roles { any, all } = access else {
        return match access {
            Access::Public => Ok(()),
            _ => Err(Reply::denied("no_rule", "no rule lets anybody call this method")),
        };
    };
    let roles = identity.roles();
    let has = |role: &String| role == ANYONE || roles.contains(role);
    if roles.iter().any(|role| role == ADMIN)
        || ((any.is_empty() || any.iter().any(has)) && all.iter().all(has))
    {
        return Ok(());
    }
    Err(Reply::denied("role_missing", "the caller's roles do not allow this method"))
}
