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
            _ => Err(Reply::denied(
                "no_rule",
                "no rule lets anybody call this method",
            )),
        };
    };
    let roles = identity.roles();
    let has = |role: &String| role == ANYONE || roles.contains(role);
    if roles.iter().any(|role| role == ADMIN)
        || ((any.is_empty() || any.iter().any(has)) && all.iter().all(has))
    {
        return Ok(());
    }
    Err(Reply::denied(
        "role_missing",
        "the caller's roles do not allow this method",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::identity;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn verdict(any: &[&str], all: &[&str], roles: &[&str]) -> Result<(), &'static str> {
        let access = Access::Roles {
            any: names(any),
            all: names(all),
        };
        check(&access, &identity("alice", roles)).map_err(|reply| reply.label)
    }

    #[test]
    fn one_of_any_and_each_of_all_are_needed() {
        const MISSING: Result<(), &str> = Err("role_missing");
        assert_eq!(verdict(&["a", "b"], &[], &["b"]), Ok(()));
        assert_eq!(verdict(&["a", "b"], &[], &["c"]), MISSING);
        assert_eq!(verdict(&[], &["a", "b"], &["a", "b", "c"]), Ok(()));
        assert_eq!(verdict(&[], &["a", "b"], &["a"]), MISSING);
        assert_eq!(verdict(&["a"], &["b"], &["a", "b"]), Ok(()));
        assert_eq!(verdict(&["a"], &["b"], &["a"]), MISSING);
        assert_eq!(verdict(&["a"], &["b"], &["b"]), MISSING);
    }

    #[test]
    fn a_star_stands_for_every_caller_and_never_for_a_part_of_a_name() {
        assert_eq!(verdict(&["*"], &[], &[]), Ok(()));
        assert!(verdict(&["mem*"], &[], &["member"]).is_err());
        assert!(
            verdict(&["member"], &[], &["*"]).is_err(),
            "a caller's own star is a plain name"
        );
    }

    #[test]
    fn admin_may_do_everything_that_a_rule_speaks_of() {
        assert_eq!(verdict(&["a"], &["b"], &["admin"]), Ok(()));
        assert!(verdict(&["a"], &[], &["Admin"]).is_err());
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
        let access = Access::Roles {
            any: names(&["secret_role"]),
            all: Vec::new(),
        };
        let reply = check(&access, &identity("alice", &["user"])).unwrap_err();
        assert!(!reply.message.contains("secret_role") && !reply.message.contains("user"));
    }
}
