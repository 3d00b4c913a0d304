//! What a caller may call: the roles of a route against the caller's.
//!
//! Default deny: a route without a rule lets nobody in, `admin` included. The
//! answer names the route's rule in no way. The verdict itself is shared with every
//! server: [`intellirouter::security::policy`].

use intellirouter::security::policy::{Access, Denied};

use super::authenticate::Identity;
use crate::reply::Reply;

/// Refuses a caller that the route's rule does not name.
pub(crate) fn check(access: &Access, identity: &Identity) -> Result<(), Reply> {
    access.judge(identity.roles()).map_err(|denied| {
        let (label, message) = match denied {
            Denied::NoRule => ("no_rule", "no rule lets anybody call this method"),
            Denied::RoleMissing => (
                "role_missing",
                "the caller's roles do not allow this method",
            ),
        };
        Reply::denied(label, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::identity;

    fn rule(role: &str) -> Access {
        Access::any_of(vec![role.to_owned()])
    }

    #[test]
    fn the_callers_own_roles_are_judged() {
        assert!(check(&rule("user"), &identity("alice", &["user"])).is_ok());
        let reply = check(&rule("user"), &identity("user", &[])).unwrap_err();
        assert_eq!(
            (reply.code, reply.label),
            (tonic::Code::PermissionDenied, "role_missing")
        );
    }

    #[test]
    fn without_a_rule_nobody_gets_in_not_even_admin() {
        let reply = check(&Access::NoRule, &identity("root", &["admin"])).unwrap_err();
        assert_eq!(
            (reply.code, reply.label),
            (tonic::Code::PermissionDenied, "no_rule")
        );
    }

    #[test]
    fn a_refusal_names_no_role() {
        let reply = check(&rule("secret_role"), &identity("alice", &["user"])).unwrap_err();
        assert!(!reply.message.contains("secret_role") && !reply.message.contains("user"));
    }
}
