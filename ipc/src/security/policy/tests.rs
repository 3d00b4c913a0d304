use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn verdict(any: &[&str], all: &[&str], roles: &[&str]) -> Result<(), Denied> {
    let access = Access::Roles {
        any: names(any),
        all: names(all),
    };
    access.judge(&names(roles))
}

fn policy(path: &str) -> MethodPolicy {
    let pool = DescriptorPool::decode(intellirouter_proto::FILE_DESCRIPTOR_SET).unwrap();
    let all = method_policies(&pool);
    all.into_iter().find(|one| one.path == path).unwrap()
}

#[test]
fn one_of_any_and_each_of_all_are_needed() {
    const MISSING: Result<(), Denied> = Err(Denied::RoleMissing);
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
fn admin_may_do_everything_that_a_rule_speaks_of_and_nothing_else() {
    assert_eq!(verdict(&["a"], &["b"], &["admin"]), Ok(()));
    assert!(verdict(&["a"], &[], &["Admin"]).is_err());
    assert_eq!(
        Access::NoRule.judge(&names(&["admin"])),
        Err(Denied::NoRule)
    );
}

#[test]
fn what_is_public_asks_for_no_role() {
    assert_eq!(Access::Public.judge(&[]), Ok(()));
}

#[test]
fn a_policy_of_the_method_replaces_the_default_of_its_service_as_a_whole() {
    let own = policy("/intellirouter.memory.v1.MemoryService/SaveConversation");
    let default = policy("/intellirouter.memory.v1.MemoryService/GetHistory");
    assert_eq!(own.access, Access::any_of(names(&["operator", "service"])));
    assert_eq!(default.access, Access::any_of(names(&["user", "service"])));
}

#[test]
fn timeouts_come_from_the_method_else_from_the_service_else_there_is_none() {
    let timeout = |path: &str| policy(path).timeout;
    let chain = "/intellirouter.chain_engine.v1.ChainEngineService";
    assert_eq!(
        timeout(&format!("{chain}/ExecuteChain")),
        Some(Duration::from_secs(300))
    );
    assert_eq!(
        timeout(&format!("{chain}/GetChainStatus")),
        Some(Duration::from_secs(30))
    );
    assert_eq!(
        timeout("/intellirouter.events.v1.EventService/Subscribe"),
        None
    );
}

#[test]
fn what_may_be_repeated_is_read_from_the_standard_option() {
    let level = |path: &str| policy(path).idempotency;
    let chain = "/intellirouter.chain_engine.v1.ChainEngineService";
    assert_eq!(
        level(&format!("{chain}/GetChainStatus")),
        Idempotency::NoSideEffects
    );
    assert_eq!(
        level(&format!("{chain}/CancelChainExecution")),
        Idempotency::Idempotent
    );
    assert_eq!(
        level(&format!("{chain}/ExecuteChain")),
        Idempotency::Unknown
    );
}

#[test]
fn a_method_without_any_option_lets_nobody_in() {
    let pool = DescriptorPool::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
    let policies = method_policies(&pool);
    assert!(policies.len() >= 2);
    for policy in policies {
        assert_eq!(
            (policy.access, policy.timeout, policy.idempotency),
            (Access::NoRule, None, Idempotency::Unknown),
            "{}",
            policy.path
        );
    }
}

#[test]
fn a_name_has_letters_digits_and_underscores_only() {
    for good in ["a", "MemoryService", "v1", "snake_case"] {
        assert!(is_name(good), "{good}");
    }
    for bad in ["", "a.b", "a/b", "a*", "ä", "a b"] {
        assert!(!is_name(bad), "{bad:?}");
    }
}
