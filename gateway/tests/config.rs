//! Every fault of a config is found in one run and says where it is.

#![allow(clippy::expect_used)]

use std::path::Path;

use intellirouter_gateway::{Config, ConfigFaults};

fn faults(text: &str) -> ConfigFaults {
    Config::parse(text, "gateway.toml", Path::new("/nowhere")).expect_err("a fault")
}

#[test]
fn all_faults_are_reported_at_once_with_file_line_and_key() {
    let expected = include_str!("config/broken.expected");
    let found = format!("{}\n", faults(include_str!("config/broken.toml")));
    assert_eq!(found, expected, "\n{found}");
}

#[test]
fn a_syntax_error_names_its_line() {
    let found = faults("[listen]\naddress = \n").to_string();
    assert!(
        found.contains("gateway.toml:2: string values must be quoted"),
        "{found}"
    );
}

#[test]
fn an_empty_config_names_everything_that_must_be_there() {
    let found = faults("").to_string();
    for key in [
        "listen.cert_file",
        "listen.key_file",
        "auth.keys",
        "identity.key_file",
    ] {
        assert!(
            found.contains(&format!("gateway.toml:1: {key}: missing")),
            "{found}"
        );
    }
}

#[test]
fn a_secret_in_the_config_is_never_repeated() {
    let found = faults("[auth]\n[[auth.keys]]\nsecret = \"hunter2hunter2\"\n").to_string();
    assert!(found.contains("secret"), "{found}");
    assert!(!found.contains("hunter2"), "{found}");
}

/// Each config that the repository ships has the right shape: what is left to
/// complain about are the files that only exist where it runs.
#[test]
fn the_shipped_configs_are_well_formed() {
    for name in ["example", "dev", "production"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../config")
            .join(name)
            .with_extension("toml");
        if let Err(faults) = Config::load(&path) {
            for fault in faults.faults {
                assert!(fault.message.contains("No such file"), "{name}: {fault:?}");
            }
        }
    }
}

#[test]
fn faults_inside_the_files_it_names_come_all_at_once_with_line_and_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[listen]\ncert_file = \"blank\"\nkey_file = \"blank\"\n[auth]\n[[auth.keys]]\n\
                algorithm = \"HS256\"\nsecret_file = \"blank\"\n[identity]\nkey_file = \"blank\"\n\
                [[limits.rates]]\nname = \"typo\"\nper = []\nrate = 1\n\
                routes = [\"/grpc.health.v1.Health/*\", \"/grpc.health.v1.Heath/*\"]\n";
    let path = folder.path().join("gateway.toml");
    std::fs::write(folder.path().join("blank"), "\n").expect("a file");
    std::fs::write(&path, text).expect("a file");
    let faults = Config::load(&path).expect_err("faults").faults;
    let found: Vec<_> = faults
        .iter()
        .map(|fault| (fault.line, &*fault.key))
        .collect();
    let expected = [
        (2, "listen.cert_file"),
        (5, "auth.keys[0]"),
        (9, "identity.key_file"),
        (14, "limits.rates[0].routes[1]"),
    ];
    assert_eq!(found, expected, "{faults:?}");
    let typo = faults.iter().find(|fault| fault.key.starts_with("limits"));
    let message = typo.map(|fault| &*fault.message);
    assert_eq!(message, Some("no route is covered by this"));
}

#[test]
fn every_fault_of_a_limit_names_its_key_and_what_was_expected() {
    let text = r#"
[[limits.rates]]
name = "Per User"
per = ["subject", "host", "subject"]
rate = 0
[[limits.rates]]
name = "a"
per = []
rate = 2000000
period = "1s"
routes = ["/events", "events"]
scope = "global"
[[limits.rates]]
name = "a"
rate = 1
period = "24h"
burst = 8
keys = 10
scope = "cluster"
[[limits.rates]]
period = "2 days"
per = []
"#;
    let found = faults(text).to_string();
    for fault in [
        "2: limits.rates[0]: name: expected 1 to 64 of a-z, 0-9, _ and -",
        "4: limits.rates[0].per[1]: expected any of \"address\", \"subject\", \"role\", \"route\"",
        "4: limits.rates[0].per[2]: expected any of",
        "5: limits.rates[0].rate: expected 1 to 1000000000, found 0",
        "9: limits.rates[1].rate: expected at most 1,000,000 per second",
        "11: limits.rates[1].routes[1]: expected \"/package.Service/Method\"",
        "12: limits.rates[1].scope: \"global\" needs [limits.store]",
        "14: limits.rates[2].name: \"a\" is taken by a rate above",
        "13: limits.rates[2]: per: missing",
        "17: limits.rates[2].burst: expected a bucket that fills within 7 days",
        "18: limits.rates[2].keys: expected 1024 to 4194304, found 10",
        "19: limits.rates[2].scope: expected \"local\" or \"global\", found \"cluster\"",
        "20: limits.rates[3]: rate: missing; expected calls per period",
        "21: limits.rates[3].period: expected 1ms to 86400s, found \"2 days\"",
    ] {
        assert!(
            found.contains(&format!("gateway.toml:{fault}")),
            "{fault} is not in\n{found}"
        );
    }
}

#[test]
fn every_fault_of_the_limit_store_names_its_key_and_no_credential() {
    let of = |store: &str| faults(&format!("[limits.store]\n{store}")).to_string();
    for (store, fault) in [
        ("", "limits.store: expected exactly one of url, url_env"),
        (
            "url = 'memcached://u:hunter2@h'",
            "limits.store.url: expected \"redis://HOST:PORT\"",
        ),
        (
            "url_env = 'NO_SUCH_VARIABLE'",
            "limits.store.url_env: NO_SUCH_VARIABLE is not set",
        ),
        (
            "url = 'redis://h'\ntimeout = '1s'",
            "limits.store.timeout: expected 1ms to 100ms, found \"1s\"",
        ),
        (
            "url = 'redis://h'\nlease = '1ms'",
            "limits.store.lease: expected 20ms to 500ms, found \"1ms\"",
        ),
        (
            "url = 'redis://h'\nexpected_gateways = 0",
            "limits.store.expected_gateways: expected 1 to 1000, found 0",
        ),
        (
            "url = 'rediss://h'\nca_file = 'none.pem'",
            "limits.store.ca_file: /nowhere/none.pem: No such file",
        ),
    ] {
        let found = of(store);
        assert!(found.contains(fault), "{fault} is not in\n{found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn settings_of_an_upstream_that_contradict_what_is_meant_are_faults() {
    let of = |endpoints: &str, more: &str| {
        let text = format!("[[upstreams]]\nname = \"a\"\n{endpoints}\n{more}\n");
        faults(&text).to_string()
    };
    let (plain, tls) = ("endpoints = ['http://h:1']", "endpoints = ['https://h:1']");
    let unused = "expected beside https:// endpoints only, and there is none";
    for (endpoints, more, key, fault) in [
        (plain, "ca_file = 'none.crt'", "ca_file", unused),
        (plain, "server_name = 'h'", "server_name", unused),
        (
            "dns = 'http://h:1'",
            "cert_file = 'none.crt'\nkey_file = 'none.key'",
            "key_file",
            unused,
        ),
        (
            "endpoints_file = 'none'",
            "cert_file = 'none.crt'\nkey_file = 'none.key'",
            "cert_file",
            "needs ca_file beside it",
        ),
        (
            "endpoints = ['http://h:0']",
            "",
            "endpoints[0]",
            "expected \"https://HOST:PORT\" or \"http://HOST:PORT\", found port 0",
        ),
        (
            "endpoints = ['http://:hunter2@h:1']",
            "",
            "endpoints[0]",
            "expected \"https://HOST:PORT\" or \"http://HOST:PORT\" and nothing beside it",
        ),
        (
            "dns = 'http://h:1#there'",
            "",
            "dns",
            "expected \"https://HOST:PORT\" or \"http://HOST:PORT\" and nothing beside it",
        ),
        (
            tls,
            "[upstreams.retries]\nreplay_bytes = 1000\nreplay_bytes_in_all = 1999",
            "retries.replay_bytes_in_all",
            "expected at least twice replay_bytes, 2000, found 1999",
        ),
        (
            tls,
            "[upstreams.retries]\nreplay_bytes_in_all = 0",
            "retries.replay_bytes_in_all",
            "expected at least twice replay_bytes, 131072, found 0",
        ),
        (
            tls,
            "[upstreams.ejection]\nmargin = 1.0",
            "ejection.margin",
            "expected above 0 and below 1, found 1; max_share = 0 turns ejection off",
        ),
        (
            tls,
            "[upstreams.ejection]\nmargin = 0.0",
            "ejection.margin",
            "expected above 0 and below 1, found 0; max_share = 0 turns ejection off",
        ),
        (
            tls,
            "[upstreams.ejection]\nmin_calls = 0",
            "ejection.min_calls",
            "expected 1 to 4294967295, found 0",
        ),
    ] {
        let found = of(endpoints, more);
        let fault = format!(": upstreams[0].{key}: {fault}\n");
        assert!(
            format!("{found}\n").contains(&fault),
            "{fault} is not in\n{found}"
        );
        assert!(!found.contains("hunter2"), "{found}");
    }
    let found = of(
        plain,
        "[upstreams.retries]\nreplay_bytes = 0\nreplay_bytes_in_all = 0",
    );
    assert!(!found.contains("replay"), "nothing is kept:\n{found}");
}
