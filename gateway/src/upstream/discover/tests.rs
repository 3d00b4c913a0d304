//! What a reload does to what is known.

use super::*;
use crate::config::Config;
use crate::test_util::{config, settle};

fn text(source: &str, more: &str) -> Config {
    config(&format!("[[upstreams]]\nname = 'b'\n{source}\n{more}\n"))
}

fn open(config: &Config, old: Option<&Arc<Upstream>>) -> Arc<Upstream> {
    Upstream::open(&config.upstreams[0], old, &Default::default()).unwrap()
}

const DNS: &str = "dns = 'http://b.test:80'";

fn found(hosts: &[&str]) -> Found {
    let endpoints = hosts.iter().map(|host| EndpointConfig {
        host: (*host).to_owned(),
        port: 80,
        tls: false,
    });
    Found::new(endpoints.collect())
}

/// Of the endpoints, each by its address.
fn standings(upstream: &Upstream) -> Vec<*const crate::upstream::endpoint::Standing> {
    let endpoints = upstream.endpoints();
    endpoints
        .iter()
        .map(|one| Arc::as_ptr(&one.standing))
        .collect()
}

#[test]
fn a_reload_that_keeps_the_source_begins_with_what_is_known() {
    let first = open(&text(DNS, ""), None);
    assert!(first.endpoints().is_empty());
    first.discovery.shared.serve(&first);
    first
        .discovery
        .shared
        .good(found(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(first.endpoints().len(), 2);
    for more in ["connect_timeout = '1s'", "dns_refresh = '20s'"] {
        let second = open(&text(DNS, more), Some(&first));
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(standings(&first), standings(&second), "{more}");
    }
    let elsewhere = open(&text("dns = 'http://c.test:80'", ""), Some(&first));
    assert!(elsewhere.endpoints().is_empty());
}

#[test]
fn a_faulty_file_that_is_followed_does_not_hold_up_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints");
    std::fs::write(&path, "http://10.0.0.1:80\n").unwrap();
    let source = format!("endpoints_file = '{}'", path.display());
    let first = open(&text(&source, ""), None);
    std::fs::write(&path, "nonsense").unwrap();
    let changed = text(&source, "connect_timeout = '1s'");
    assert_eq!(open(&changed, Some(&first)).endpoints().len(), 1);
    let upstream = &changed.upstreams[0];
    assert!(Upstream::check(upstream, true).is_ok());
    let fault = Upstream::check(upstream, false).unwrap_err().to_string();
    assert!(fault.contains("endpoints:1: expected"), "{fault}");
}

#[test]
fn whatever_is_found_goes_to_the_generation_that_is_in_use() {
    let first = open(&text(DNS, ""), None);
    let shared = first.discovery.shared.clone();
    shared.serve(&first);
    shared.good(found(&["10.0.0.1"]));
    // It is built, and may be refused still.
    let second = open(&text(DNS, "connect_timeout = '1s'"), Some(&first));
    shared.good(found(&["10.0.0.2"]));
    assert_eq!(&*first.endpoints()[0].name, "http://10.0.0.2:80");
    assert_eq!(&*second.endpoints()[0].name, "http://10.0.0.1:80");
    shared.serve(&second);
    assert_eq!(&*second.endpoints()[0].name, "http://10.0.0.2:80");
    shared.good(found(&["10.0.0.3"]));
    assert_eq!(&*first.endpoints()[0].name, "http://10.0.0.2:80");
    assert_eq!(&*second.endpoints()[0].name, "http://10.0.0.3:80");
}

#[tokio::test(start_paused = true)]
async fn looking_ends_with_the_last_upstream_that_has_the_source() {
    let first = open(&text("dns = 'http://127.0.0.1:80'", ""), None);
    first.start();
    let second = open(
        &text("dns = 'http://127.0.0.1:80'", "connect_timeout = '1s'"),
        Some(&first),
    );
    second.start();
    second.first_look().await;
    assert_eq!(second.endpoints().len(), 1);
    let shared = Arc::downgrade(&first.discovery.shared);
    drop(first);
    settle().await;
    // The upstream's and the task's.
    assert_eq!(shared.strong_count(), 2);
    drop(second);
    settle().await;
    assert_eq!(shared.strong_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn settings_that_change_may_be_tried_at_once_and_a_reload_of_others_is_no_reason_to() {
    let list = "endpoints = ['http://10.0.0.1:80']";
    let first = open(&text(list, ""), None);
    first.start();
    let dial = |upstream: &Upstream| upstream.endpoints()[0].standing.clone();
    let now = tokio::time::Instant::now();
    dial(&first).dial.failed(now, now);
    let same = open(&text(list, ""), Some(&first));
    same.start();
    assert!(dial(&same).dial.backs_off(now));
    let changed = open(&text(list, "connect_timeout = '1s'"), Some(&first));
    assert!(dial(&changed).dial.backs_off(now));
    changed.start();
    assert!(!dial(&changed).dial.backs_off(now));
    assert!(dial(&changed).dial.may_try(now));
}

#[test]
fn a_list_names_an_endpoint_once() {
    let list = "endpoints = ['http://10.0.0.1:80', 'http://10.0.0.1:80/', 'http://10.0.0.2:80']";
    let upstream = open(&text(list, ""), None);
    assert_eq!(upstream.endpoints().len(), 2);
    assert_eq!(
        upstream.describe()["discovery"],
        serde_json::json!({ "source": "list" })
    );
}

#[test]
fn a_host_that_no_certificate_can_name_is_a_fault_before_it_is_looked_up() {
    let config = text("dns = 'https://b..test:443'\nca_file = 'ca.crt'", "");
    let fault = Upstream::check(&config.upstreams[0], false).unwrap_err();
    assert!(matches!(fault, UpstreamError::ServerName { .. }), "{fault}");
}
