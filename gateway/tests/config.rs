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
                algorithm = \"HS256\"\nsecret_file = \"blank\"\n[identity]\nkey_file = \"blank\"\n";
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
    ];
    assert_eq!(found, expected, "{faults:?}");
}
