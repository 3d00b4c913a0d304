//! Every method says who may call it, for how long, and whether it may be repeated, and a reader of
//! the descriptor set can see it.

#![allow(
    clippy::expect_used,
    reason = "a test may fail on what it did not expect"
)]

use std::collections::BTreeMap;

use intellirouter_proto::FILE_DESCRIPTOR_SET;
use intellirouter_proto::intellirouter::options::v1::MethodPolicy;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage};

const POLICY: &str = "intellirouter.options.v1.policy";
const DEFAULT_POLICY: &str = "intellirouter.options.v1.default_policy";

/// Methods that do work for the caller without a change to what others see.
const WORK: [&str; 4] = [
    "ExecuteChain",
    "StreamChainExecution",
    "RouteRequest",
    "StreamRouteRequest",
];

/// One method and what holds for it.
struct Rule {
    policy: MethodPolicy,
    idempotency: String,
}

#[test]
fn every_method_has_a_policy_that_names_a_known_role() {
    let rules = rules();
    assert!(!rules.is_empty(), "no methods at all");
    for (method, rule) in rules {
        let MethodPolicy {
            roles,
            all_roles,
            public,
            ..
        } = rule.policy;
        assert!(!roles.is_empty(), "{method} lets nobody in");
        assert!(all_roles.is_empty() && !public, "{method}");
        let known = |role: &String| ["user", "service", "operator", "*"].contains(&role.as_str());
        assert!(roles.iter().all(known), "{method}: {roles:?}");
    }
}

#[test]
fn a_plain_user_may_not_change_what_others_see() {
    // The first stops what the caller may start; the second only fills the service's own memory;
    // the others write to the caller's own conversations.
    let harmless = [
        "CancelChainExecution",
        "LoadConversation",
        "CreateConversation",
        "AddMessage",
    ];
    for (method, rule) in rules() {
        let reads = rule.idempotency == "NO_SIDE_EFFECTS";
        let name = method.rsplit('.').next().unwrap_or_default();
        let open = reads || WORK.contains(&name) || harmless.contains(&name);
        // An execution is its starter's and the operators'.
        let watched = ["GetChainStatus", "CancelChainExecution"].contains(&name);
        let roles = rule.policy.roles;
        let expected = match (method.contains(".events.v1."), open) {
            (true, _) => vec!["*"],
            _ if watched => vec!["user", "operator", "service"],
            (_, true) => vec!["user", "service"],
            (_, false) => vec!["operator", "service"],
        };
        assert_eq!(roles, expected, "{method}");
    }
}

#[test]
fn work_gets_300_seconds_and_any_other_call_30_but_a_subscription_has_no_limit() {
    for (method, rule) in rules() {
        let name = method.rsplit('.').next().unwrap_or_default();
        let expected = match name {
            "Subscribe" => None,
            _ if WORK.contains(&name) => Some(300),
            _ => Some(30),
        };
        let timeout = rule.policy.timeout.map(|timeout| timeout.seconds);
        assert_eq!(timeout, expected, "{method}");
    }
}

#[test]
fn what_creates_or_spends_is_never_marked_as_repeatable() {
    let rules = rules();
    let prefixes = ["Create", "Add", "Register", "Index", "Store", "Publish"];
    for (method, rule) in &rules {
        let name = method.rsplit('.').next().unwrap_or_default();
        if WORK.contains(&name) || prefixes.iter().any(|p| name.starts_with(p)) {
            assert_eq!(rule.idempotency, "IDEMPOTENCY_UNKNOWN", "{method}");
        } else {
            assert_ne!(rule.idempotency, "IDEMPOTENCY_UNKNOWN", "{method}");
        }
    }
}

/// What holds for each method, its own policy before the default of its service.
fn rules() -> BTreeMap<String, Rule> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("descriptor set");
    let mut rules = BTreeMap::new();
    for service in pool.services() {
        for method in service.methods() {
            let own = policy(&pool, &method.options(), POLICY);
            let default = policy(&pool, &service.options(), DEFAULT_POLICY);
            let rule = Rule {
                policy: own
                    .or(default)
                    .unwrap_or_else(|| panic!("{} has no policy", method.full_name())),
                idempotency: idempotency(&method),
            };
            rules.insert(method.full_name().to_owned(), rule);
        }
    }
    rules
}

fn policy(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Option<MethodPolicy> {
    let extension = pool.get_extension_by_name(name).expect("extension");
    if !options.has_extension(&extension) {
        return None;
    }
    let value = options.get_extension(&extension);
    let message = value.as_message().expect("a message");
    Some(message.transcode_to().expect("a MethodPolicy"))
}

fn idempotency(method: &MethodDescriptor) -> String {
    let options = method.options();
    let field = options
        .descriptor()
        .get_field_by_name("idempotency_level")
        .expect("a standard option");
    let number = options.get_field(&field).as_enum_number();
    let kind = field.kind();
    let level = kind.as_enum().expect("an enum");
    number
        .and_then(|number| level.get_value(number))
        .expect("a known level")
        .name()
        .to_owned()
}
