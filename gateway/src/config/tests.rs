use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::test_util;

/// A configuration on disk that names a file under each key that has no
/// default, and the files' names.
fn everywhere() -> (TempDir, Config, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let sections = [
        ("trace", "otlp_endpoint = 'https://collector:4317'\n"),
        ("limits.store", "url = 'rediss://limits:6379'\n"),
        ("revocation", "store = 'rediss://revocations:6379'\n"),
        ("events", "store = 'rediss://events:6379'\n"),
    ];
    let mut text = String::new();
    let mut names = Vec::new();
    for (section, keys) in sections {
        let name = format!("{section}.crt");
        fs::write(dir.path().join(&name), "an authority").unwrap();
        let ca = dir.path().join(&name);
        text.push_str(&format!(
            "[{section}]\n{keys}ca_file = '{}'\n",
            ca.display()
        ));
        names.push(name);
    }
    let config = test_util::config(&text);
    (dir, config, names)
}

fn look(config: &Config) -> Fingerprint {
    config.source.look(config)
}

#[test]
fn each_authority_that_is_named_shows_when_it_changes_and_when_it_is_back() {
    let (dir, config, names) = everywhere();
    assert_eq!(look(&config), config.loaded);
    for name in names {
        fs::write(dir.path().join(&name), "another").unwrap();
        assert_ne!(look(&config), config.loaded, "{name}");
        fs::write(dir.path().join(&name), "an authority").unwrap();
        assert_eq!(look(&config), config.loaded, "{name}");
    }
}

#[test]
fn what_changes_after_it_was_read_shows_at_the_first_look() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authority.crt");
    fs::write(&path, "one").unwrap();
    let text = format!(
        "[events]\nstore = 'rediss://events:6379'\nca_file = '{}'\n",
        path.display()
    );
    // The state is that of before the files are used.
    let config = test_util::config(&text);
    fs::write(&path, "another").unwrap();
    assert_ne!(look(&config), config.loaded);
}

#[test]
fn a_revocation_file_shows_until_it_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked.txt");
    fs::write(&path, "sub alice\n").unwrap();
    let before = test_util::config("");
    let with = format!("[revocation]\nfile = '{}'\n", path.display());
    let with = test_util::config(&with);
    let looks = |running: &Config| with.source.look(running);
    let first = looks(&before);
    let followed = looks(&with);
    fs::write(&path, "nonsense\n").unwrap();
    assert_ne!(looks(&before), first);
    assert_eq!((looks(&with), followed), (with.loaded, with.loaded));
}

#[test]
fn a_pipe_is_no_config_file_and_no_file_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let text = format!("[revocation]\nfile = '{}'\n", pipe.display());
    let named = Config::parse(&text, "test.toml", Path::new("")).unwrap_err();
    for fault in [Config::load(&pipe).unwrap_err(), named] {
        let fault = fault.to_string();
        assert!(fault.contains("expected a regular file"), "{fault}");
    }
}
