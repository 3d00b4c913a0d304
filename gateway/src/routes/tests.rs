//! Tables are built from configuration text and a descriptor set, as at start.

use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
};

use super::*;
use crate::test_util::config;

const UPSTREAM: &str = "[[upstreams]]\nname = 'a'\nendpoints = ['http://a:1']\n\
                        [[upstreams]]\nname = 'b'\nendpoints = ['http://b:1']\n";

fn built_in() -> DescriptorPool {
    DescriptorPool::decode(intellirouter_proto::FILE_DESCRIPTOR_SET).unwrap()
}

fn table_of(routes: &str, descriptors: &DescriptorPool) -> RouteTable {
    RouteTable::new(&config(&format!("{UPSTREAM}{routes}")), descriptors)
}

fn table(routes: &str) -> RouteTable {
    table_of(routes, &built_in())
}

fn route(pattern: &str, more: &str) -> String {
    format!("[[routes]]\nmatch = '{pattern}'\nupstream = 'a'\n{more}\n")
}

fn any(roles: &[&str]) -> Access {
    let any = roles.iter().map(|role| (*role).to_owned()).collect();
    Access::Roles {
        any,
        all: Vec::new(),
    }
}

fn access<'t>(table: &'t RouteTable, path: &str) -> &'t Access {
    &table.find(path).unwrap_or(&table.unknown).access
}

const MEMORY: &str = "/intellirouter.memory.v1.MemoryService";
const REGISTRY: &str = "/intellirouter.model_registry.v1.ModelRegistryService";
const CHAIN: &str = "/intellirouter.chain_engine.v1.ChainEngineService";

#[test]
fn the_most_specific_match_wins_in_any_order() {
    let rules = [
        route("/a.*", "roles = ['pkg']"),
        route("/a.b.*", "roles = ['sub']"),
        route("/a.b.S/*", "roles = ['service']"),
        route("/a.b.S/M", "roles = ['method']"),
    ];
    let mut reversed = rules.clone();
    reversed.reverse();
    for text in [rules.concat(), reversed.concat()] {
        let table = table(&text);
        for (path, role) in [
            ("/a.b.S/M", "method"),
            ("/a.b.S/Other", "service"),
            ("/a.b.T/M", "sub"),
            ("/a.c.d.T/M", "pkg"),
            ("/a.T/M", "pkg"),
        ] {
            assert_eq!(*access(&table, path), any(&[role]), "{path}");
        }
    }
}

#[test]
fn a_rule_covers_no_name_that_only_begins_alike() {
    let table = table(&(route("/a.b.*", "public = true") + &route("/x.S/*", "public = true")));
    for path in [
        "/a.bc.S/M",
        "/a.b/M",
        "/ab.S/M",
        "/x.SS/M",
        "/x.S",
        "/y.x.S/M",
        "/",
        "",
        "a.b.S/M",
    ] {
        assert!(table.find(path).is_none(), "{path}");
    }
}

#[test]
fn what_no_route_covers_goes_nowhere_and_lets_nobody_in() {
    let table = table("");
    assert!(table.find(&format!("{MEMORY}/GetHistory")).is_none());
    assert_eq!(table.unknown.target, Target::Nowhere);
    assert_eq!(table.unknown.access, Access::NoRule);
}

#[test]
fn a_routed_method_without_a_rule_lets_nobody_in() {
    assert_eq!(
        *access(&table(&route("/x.S/*", "")), "/x.S/M"),
        Access::NoRule
    );
}

#[test]
fn the_gateways_own_services_need_no_route() {
    let table = table("");
    assert_eq!(
        *access(&table, "/grpc.health.v1.Health/Check"),
        Access::Public
    );
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/intellirouter.events.v1.EventService/Publish",
    ] {
        assert_eq!(*access(&table, path), any(&[ANYONE]), "{path}");
        assert_eq!(table.find(path).unwrap().target, Target::Local);
    }
}

#[test]
fn the_config_can_narrow_the_gateways_own_services() {
    let table = table(
        "[[routes]]\nmatch = '/grpc.health.v1.Health/*'\nupstream = 'gateway'\nroles = ['ops']\n",
    );
    let route = table.find("/grpc.health.v1.Health/Check").unwrap();
    assert_eq!(
        (&route.access, route.target),
        (&any(&["ops"]), Target::Local)
    );
}

#[test]
fn options_of_a_method_and_of_its_service_hold_where_the_config_is_silent() {
    let table = table(&route("/intellirouter.*", ""));
    // A policy of its own replaces the service's as a whole.
    assert_eq!(
        *access(&table, &format!("{MEMORY}/SaveConversation")),
        any(&["operator", "service"])
    );
    assert_eq!(
        *access(&table, &format!("{MEMORY}/GetHistory")),
        any(&["user", "service"])
    );
    // A method that the descriptor set does not know has no options.
    assert_eq!(
        *access(&table, &format!("{MEMORY}/Unheard")),
        Access::NoRule
    );
}

#[test]
fn the_config_overrides_the_options() {
    let table = table(&route(
        "/intellirouter.*",
        "roles = ['boss']\ntimeout = '7s'",
    ));
    let route = table.find(&format!("{CHAIN}/ExecuteChain")).unwrap();
    assert_eq!(route.access, any(&["boss"]));
    assert_eq!(route.timeout, Some(Duration::from_secs(7)));
}

#[test]
fn what_may_be_repeated_is_said_by_the_config_else_by_the_idempotency_level() {
    let table = table(
        &(route("/intellirouter.*", "")
            + &route("/x.*", "")
            + &route("/y.*", "idempotent = true")
            + &route(&format!("{REGISTRY}/ListModels"), "idempotent = false")
            + &route(&format!("{REGISTRY}/RemoveModel"), "timeout = '7s'")
            + &route(&format!("{CHAIN}/ExecuteChain"), "idempotent = true")),
    );
    for (path, expected) in [
        // NO_SIDE_EFFECTS, IDEMPOTENT and none.
        (format!("{REGISTRY}/GetModel"), true),
        (format!("{REGISTRY}/UpdateModel"), true),
        (format!("{REGISTRY}/RegisterModel"), false),
        // With a rule that says otherwise, nothing, and otherwise.
        (format!("{REGISTRY}/ListModels"), false),
        (format!("{REGISTRY}/RemoveModel"), true),
        (format!("{CHAIN}/ExecuteChain"), true),
        ("/x.Service/Method".into(), false),
        ("/y.Service/Method".into(), true),
    ] {
        assert_eq!(table.find(&path).unwrap().idempotent, expected, "{path}");
    }
}

#[test]
fn whether_a_method_streams_is_known_by_its_descriptor_alone() {
    let table = table(&(route("/intellirouter.*", "") + &route("/x.*", "")));
    for (path, expected) in [
        (format!("{REGISTRY}/GetModel"), (true, false)),
        (format!("{CHAIN}/StreamChainExecution"), (false, true)),
        (format!("{REGISTRY}/Unheard"), (false, false)),
        ("/x.Service/Method".into(), (false, false)),
    ] {
        let route = table.find(&path).unwrap();
        assert_eq!((route.unary, route.streams), expected, "{path}");
    }
}

#[test]
fn timeouts_come_from_the_config_else_from_the_method_else_from_the_service() {
    let table = table(
        &(route("/intellirouter.*", "roles = ['*']")
            + &route("/x.*", "")
            + &route(&format!("{CHAIN}/GetChainStatus"), "timeout = '1500ms'")),
    );
    let timeout = |path: &str| table.find(path).unwrap().timeout;
    assert_eq!(
        timeout(&format!("{CHAIN}/GetChainStatus")),
        Some(Duration::from_millis(1500))
    );
    assert_eq!(
        timeout(&format!("{CHAIN}/ExecuteChain")),
        Some(Duration::from_secs(300))
    );
    assert_eq!(
        timeout(&format!("{CHAIN}/CancelChainExecution")),
        Some(Duration::from_secs(30))
    );
    assert_eq!(timeout("/x.S/M"), None);
    // A stream that shall not end has a policy of its own without a limit.
    let events = "/intellirouter.events.v1.EventService";
    assert_eq!(timeout(&format!("{events}/Subscribe")), None);
    assert_eq!(
        timeout(&format!("{events}/Publish")),
        Some(Duration::from_secs(30))
    );
}

#[test]
fn a_method_keeps_the_target_and_the_forwarding_of_the_route_that_covers_it() {
    let rules = route("/intellirouter.*", "")
        + &format!(
            "[[routes]]\nmatch = '{MEMORY}/*'\nupstream = 'b'\nforward_authorization = true\n"
        );
    let table = table(&rules);
    let memory = table.find(&format!("{MEMORY}/GetHistory")).unwrap();
    assert_eq!(
        (memory.target, memory.forward_authorization),
        (Target::Upstream(1), true)
    );
    let chain = table.find(&format!("{CHAIN}/ExecuteChain")).unwrap();
    assert_eq!(
        (chain.target, chain.forward_authorization),
        (Target::Upstream(0), false)
    );
}

/// `p.S` with methods that have no options at all.
fn bare(methods: &[&str]) -> DescriptorPool {
    let method = |name: &&str| MethodDescriptorProto {
        name: Some((*name).to_owned()),
        input_type: Some(".p.E".into()),
        output_type: Some(".p.E".into()),
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("p.proto".into()),
        package: Some("p".into()),
        syntax: Some("proto3".into()),
        message_type: vec![DescriptorProto {
            name: Some("E".into()),
            ..Default::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("S".into()),
            method: methods.iter().map(method).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let set = FileDescriptorSet { file: vec![file] };
    DescriptorPool::decode(set.encode_to_vec().as_slice()).unwrap()
}

#[test]
fn uncovered_names_each_routed_method_that_no_rule_covers_and_no_other() {
    let descriptors = bare(&["A", "B"]);
    let rules = route("/p.*", "") + &route("/p.S/A", "roles = ['r']");
    assert_eq!(
        table_of(&rules, &descriptors).uncovered(&descriptors),
        ["/p.S/B"]
    );
    // What is not routed needs no rule; what has options is covered by them.
    assert!(
        table_of("", &descriptors)
            .uncovered(&descriptors)
            .is_empty()
    );
    assert!(
        table(&route("/intellirouter.*", ""))
            .uncovered(&built_in())
            .is_empty()
    );
}

#[test]
fn a_long_or_deep_path_is_given_up_and_costs_no_more_than_its_bounds() {
    let deep = |dots: usize| format!("/a.{}S/M", "b.".repeat(dots));
    let table = table(&route("/a.*", "public = true"));
    assert!(table.find(&deep(MAX_DEPTH - 3)).is_some());
    assert!(
        table.find(&deep(MAX_DEPTH + 1)).is_none(),
        "more packages than are looked up"
    );
    let long = format!("/a.{}/M", "S".repeat(MAX_PATH));
    assert!(table.find(&long).is_none());
    // As long as a request may be. An unbounded walk would hash 256 MiB for each.
    let hostile = format!("/{}/M", "a.".repeat(16 * 1024));
    for _ in 0..1000 {
        assert!(table.find(&hostile).is_none());
    }
}

proptest::proptest! {
    #[test]
    fn any_path_is_found_or_not_and_never_a_panic(path in "\\PC{0,40}", dots in "[/.a]{0,30}") {
        let table = &*PACKAGE;
        for path in [&path, &dots, &format!("/{path}"), &format!("/a.{dots}")] {
            if let Some(route) = table.find(path) {
                proptest::prop_assert!(path.starts_with("/a.") || route.target == Target::Local);
            }
        }
    }
}

static PACKAGE: std::sync::LazyLock<RouteTable> =
    std::sync::LazyLock::new(|| table(&route("/a.*", "public = true")));

#[test]
fn a_rate_that_names_no_route_is_named_by_its_key() {
    let rules = format!("{UPSTREAM}{}{}", route("/a.b.S/*", ""), route("/c.*", ""));
    let rate = "[[limits.rates]]\nname = 'r'\nper = []\nrate = 1\nroutes = ";
    let right = "['/a.b.S/*', '/a.b.S/M', '/a.*', '/c.d.S/*', '/c.*', '/events']";
    for (patterns, wrong) in [
        (right, &[][..]),
        ("['/grpc.health.v1.Health/Check']", &[]),
        ("['/a.b.S/*', '/a.b.Z/*', '/a.b.T/M']", &[1, 2]),
        ("['/d.*']", &[0]),
    ] {
        let config = config(&format!("{rules}{rate}{patterns}\n"));
        let found = RouteTable::new(&config, &built_in()).uncovering(&config.limits);
        let keys = wrong.iter().map(|j| format!("limits.rates[0].routes[{j}]"));
        assert_eq!(found, keys.collect::<Vec<_>>(), "{patterns}");
    }
}
