//! What changes while the gateway runs, and what does not: the config, keys,
//! certificates and authorities of both sides.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use intellirouter_tests::backend::Backend;
use intellirouter_tests::certs::Authority;
use intellirouter_tests::client::{Connection, code_with, in_time};
use intellirouter_tests::foreign::{PATH, answer, bearer, endless};
use intellirouter_tests::reload::{REFUSED, TAKEN, hang_up, reload, said, says_again};
use intellirouter_tests::{Config, Gateway, Process, Site, Token, Up, grpc};
use rustix::process::Signal;

/// A gateway in front of one backend.
async fn start(site: &Site, more: &str) -> (Backend, Gateway, Config) {
    let backend = Backend::start(site, |_, respond| {
        answer(respond);
        std::future::ready(())
    })
    .await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text(more);
    let gateway = site.gateway(&config);
    (backend, gateway, config)
}

fn page(gateway: &Gateway, path: &str) -> String {
    let mut command = std::process::Command::new("curl");
    let url = format!("http://127.0.0.1:{}{path}", gateway.admin);
    command.args(["-sS", "--max-time", "20", &url]);
    Process::run("curl", &command).1
}

async fn code(client: &mut Connection, bearer: &str, path: &str) -> i32 {
    let headers = [("authorization", bearer)];
    client.unary(path, &headers, b"").await.status().code
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_comes_and_goes_on_connections_that_stay_open() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let added = "/added.Service/Method";
    assert_eq!(code(&mut client, &bearer, added).await, 12);
    let more = config.clone().route("/added.Service/*", "foreign");
    reload(&site, &gateway, &more, TAKEN).await;
    assert_eq!(code(&mut client, &bearer, added).await, 0);
    assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    reload(&site, &gateway, &config, TAKEN).await;
    assert_eq!(code(&mut client, &bearer, added).await, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_is_taken_without_a_signal() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    let more = config.route("/added.Service/*", "foreign");
    site.write("gateway.toml", &more.render());
    says_again(&gateway, TAKEN, 0).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = code(&mut client, &bearer(&site), "/added.Service/Method").await;
    assert_eq!(answer, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_config_leaves_what_runs_and_is_told_in_log_metric_and_admin() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let faulty = config
        .clone()
        .with_text("[[routes]]\nmatch = \"nonsense\"\n");
    reload(&site, &gateway, &faulty, REFUSED).await;
    assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    assert_eq!(gateway.figure("config_last_reload_ok"), 0);
    let metrics = page(&gateway, "/metrics");
    assert!(
        metrics.contains("config_reloads_total{result=\"failed\"} 1"),
        "{metrics}"
    );
    let shown = page(&gateway, "/config");
    assert!(
        shown.contains("NOT IN USE") && shown.contains("routes[1].match"),
        "{shown}"
    );
    assert!(page(&gateway, "/readyz").contains("the last good one"));

    reload(&site, &gateway, &config, TAKEN).await;
    assert_eq!(gateway.figure("config_last_reload_ok"), 1);
    assert!(!page(&gateway, "/config").contains("NOT IN USE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_refused_by_name_and_nothing_else_is_taken() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    let changed = config
        .route("/added.Service/*", "foreign")
        .with_text("[workers]\ncount = 7\n");
    reload(&site, &gateway, &changed, REFUSED).await;
    assert_eq!(said(&gateway, "workers.count"), 1);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = code(&mut client, &bearer(&site), "/added.Service/Method").await;
    assert_eq!(answer, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connections_get_the_renewed_certificate_and_open_ones_go_on() {
    let site = Site::new();
    let (_backend, gateway, _) = start(&site, "").await;
    let bearer = bearer(&site);
    let mut old = Connection::open(gateway.port, &gateway.ca).await;
    let authority = Authority::new("another");
    let ca = authority.write(site.dir(), "another");
    let (cert, key) = authority.issue(site.dir(), "renewed");
    copy(&key, &site.certs.path("gateway.key"));
    copy(&cert, &site.certs.path("gateway.crt"));
    says_again(&gateway, TAKEN, 0).await;
    let mut new = Connection::open(gateway.port, &ca).await;
    assert_ne!(old.certificate, new.certificate);
    assert_eq!(code(&mut old, &bearer, PATH).await, 0);
    assert_eq!(code(&mut new, &bearer, PATH).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_never_used_without_its_key() {
    let site = Site::new();
    let (_backend, gateway, _) = start(&site, "").await;
    let old = Connection::open(gateway.port, &gateway.ca).await;
    let authority = Authority::new("another");
    let ca = authority.write(site.dir(), "another");
    let (cert, key) = authority.issue(site.dir(), "renewed");
    // Half of a pair, whole for long enough to be looked at.
    copy(&cert, &site.certs.path("gateway.crt"));
    says_again(&gateway, REFUSED, 0).await;
    let still = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(old.certificate, still.certificate);
    copy(&key, &site.certs.path("gateway.key"));
    says_again(&gateway, TAKEN, 0).await;
    let new = Connection::open(gateway.port, &ca).await;
    assert_ne!(old.certificate, new.certificate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_secret_that_is_swapped_by_its_link_is_seen() {
    let site = Site::new();
    // As kubelets do it: names link to `..data`, which links to a folder.
    let mount = site.dir().join("mount");
    let place = |version: &str, cert: &Path, key: &Path| {
        let folder = mount.join(version);
        std::fs::create_dir_all(&folder).unwrap();
        copy(cert, &folder.join("tls.crt"));
        copy(key, &folder.join("tls.key"));
        std::os::unix::fs::symlink(version, mount.join("..new")).unwrap();
        std::fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
    };
    place(
        "1",
        &site.certs.path("gateway.crt"),
        &site.certs.path("gateway.key"),
    );
    for name in ["tls.crt", "tls.key"] {
        let target = Path::new("..data").join(name);
        std::os::unix::fs::symlink(target, mount.join(name)).unwrap();
    }
    let text = Config::default()
        .render()
        .replace("certs/gateway.crt", "mount/tls.crt")
        .replace("certs/gateway.key", "mount/tls.key");
    let file = site.write("gateway.toml", &text);
    let gateway = Gateway::ready(
        site.certs.path("ca.crt"),
        &intellirouter_tests::binary::command(&["gateway", "--config", file.to_str().unwrap()]),
    );
    let old = Connection::open(gateway.port, &gateway.ca).await;
    let authority = Authority::new("another");
    let ca = authority.write(site.dir(), "another");
    let (cert, key) = authority.issue(site.dir(), "renewed");
    place("2", &cert, &key);
    says_again(&gateway, TAKEN, 0).await;
    let new = Connection::open(gateway.port, &ca).await;
    assert_ne!(old.certificate, new.certificate);
}

/// A backend that tells how many connections it was sent, and keeps calls of
/// one method open.
async fn counting(site: &Site) -> (Backend, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let backend = Backend::start(site, move |request, respond| {
        counted.fetch_add(1, Ordering::SeqCst);
        let open = request.uri().path().ends_with("/Open");
        async move {
            if open {
                endless(request, respond).await;
            } else {
                answer(respond);
            }
        }
    })
    .await;
    (backend, calls)
}

/// The connections to the first upstream, and the calls on them.
fn upstream(gateway: &Gateway) -> (u64, u64) {
    let shown: serde_json::Value = serde_json::from_str(&page(gateway, "/upstreams")).unwrap();
    let endpoint = &shown[0]["endpoints"][0];
    (
        endpoint["connections"].as_u64().unwrap(),
        endpoint["calls_in_flight"].as_u64().unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_client_certificate_retires_connections_once_their_calls_have_ended() {
    let site = Site::new();
    let (backend, calls) = counting(&site).await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text("[workers]\ncount = 1\n");
    let gateway = site.gateway(&config);
    let bearer = bearer(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut open = client
        .call("/foreign.Service/Open", &[("authorization", &bearer)])
        .await;
    open.send.send_data(grpc::frame(false, b""), true).unwrap();
    let mut body = open.head().await.into_body();
    assert_eq!(upstream(&gateway), (1, 1));

    // The same authority, another certificate.
    for (from, to) in [
        ("backend.crt", "gateway-client.crt"),
        ("backend.key", "gateway-client.key"),
    ] {
        copy(&site.certs.path(from), &site.certs.path(to));
    }
    says_again(&gateway, TAKEN, 0).await;
    // What is open goes on, on the old connection; a new call takes a new one.
    assert_eq!(
        upstream(&gateway).0,
        0,
        "the new upstream has no connection yet"
    );
    assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    assert_eq!(upstream(&gateway).0, 1);
    assert!(in_time("a message", body.data()).await.unwrap().is_ok());
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    drop((open, body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_did_not_change_keeps_its_connections() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "[workers]\ncount = 1\n").await;
    let bearer = bearer(&site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    let more = config.route("/added.Service/*", "foreign");
    reload(&site, &gateway, &more, TAKEN).await;
    assert_eq!(upstream(&gateway), (1, 0));
    assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    assert_eq!(upstream(&gateway), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_secret_refuses_old_tokens_also_known_ones_and_takes_new_ones() {
    let site = Site::new();
    let (_backend, gateway, _) = start(&site, "").await;
    let old = site.token(&["tester"]);
    assert_eq!(code_with(&gateway, PATH, &old).await, 0);
    let secret = "another secret that is long enough to be one";
    std::fs::write(site.certs.path("jwt.secret"), secret).unwrap();
    says_again(&gateway, TAKEN, 0).await;
    let new = Token::new("alice", &["tester"]).hs256(secret.as_bytes());
    assert_eq!(code_with(&gateway, PATH, &old).await, 16);
    assert_eq!(code_with(&gateway, PATH, &new).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_that_is_gone_leaves_what_runs_and_is_known_again_when_it_is_back() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    std::fs::remove_file(site.dir().join("gateway.toml")).unwrap();
    says_again(&gateway, REFUSED, 0).await;
    assert_eq!(said(&gateway, "cannot be read"), 1);
    assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    site.write("gateway.toml", &config.render());
    says_again(&gateway, "again the one in use", 0).await;
    assert_eq!(gateway.figure("config_last_reload_ok"), 1);
    assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    assert_eq!(said(&gateway, TAKEN), 0, "nothing had changed");
}

/// Waits until every gateway that runs by now has looked at its files twice,
/// which another one shows by taking two changes that it only sees by looking.
async fn two_looks() {
    let site = Site::new();
    let gateway = site.gateway(&Config::default());
    let text = Config::default().render();
    for change in 0..2 {
        site.write("gateway.toml", &format!("{text}# {change}\n"));
        says_again(&gateway, TAKEN, change).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_that_names_other_files_is_taken_once_and_the_old_ones_are_left_alone() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    for name in ["gateway.crt", "gateway.key"] {
        let other = site.certs.path(&format!("other-{name}"));
        copy(&site.certs.path(name), &other);
    }
    let text = config.render();
    let text = text.replace("certs/gateway.", "certs/other-gateway.");
    site.write("gateway.toml", &text);
    hang_up(&gateway, TAKEN).await;
    two_looks().await;
    assert_eq!(said(&gateway, TAKEN), 1);
    site.write("certs/gateway.crt", "nothing");
    two_looks().await;
    assert_eq!((said(&gateway, TAKEN), said(&gateway, REFUSED)), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_signals_fails_no_call_and_ends_with_the_newest_config() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    let newest = |number: usize| format!("/added.Service/Method{number}");
    for number in 0..50 {
        let added = config.clone().route(&newest(number), "foreign");
        site.write("gateway.toml", &added.render());
        gateway.process.signal(Signal::HUP);
        assert_eq!(code(&mut client, &bearer, PATH).await, 0);
    }
    in_time("the newest config", async {
        while code(&mut client, &bearer, &newest(49)).await != 0 {}
    })
    .await;
    assert_eq!(code(&mut client, &bearer, &newest(48)).await, 12);
    assert_eq!(gateway.figure("config_last_reload_ok"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_one_process_takes_a_renewed_certificate_too() {
    let site = Site::new();
    let up = Up::start(site.dir(), &["up"]);
    let old = Connection::open(up.gateway.port, &up.gateway.ca).await;
    hang_up(&up.gateway, TAKEN).await;
    let authority = Authority::new("another");
    let ca = authority.write(site.dir(), "another");
    let (cert, key) = authority.issue(site.dir(), "renewed");
    let before = said(&up.gateway, TAKEN);
    copy(&key, &site.certs.path("gateway.key"));
    copy(&cert, &site.certs.path("gateway.crt"));
    says_again(&up.gateway, TAKEN, before).await;
    let new = Connection::open(up.gateway.port, &ca).await;
    assert_ne!(old.certificate, new.certificate);
}

const AGAIN: &str = "the configuration on disk is again the one in use";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_is_told_for_as_long_as_it_holds_and_no_longer() {
    let site = Site::new();
    let authority = site.dir().join("collector.crt");
    copy(&site.certs.path("ca.crt"), &authority);
    let trace = "[trace]\notlp_endpoint = \"https://127.0.0.1:1\"\nca_file = \"collector.crt\"\n";
    let (_backend, gateway, config) = start(&site, trace).await;
    site.write("collector.crt", "nonsense");
    gateway.process.signal(Signal::HUP);
    says_again(&gateway, REFUSED, 0).await;
    // A change beside it is looked at too, and refused for the same reason.
    let more = config.clone().route("/added.Service/*", "foreign");
    site.write("gateway.toml", &more.render());
    says_again(&gateway, REFUSED, 1).await;
    assert_eq!(said(&gateway, AGAIN), 0);
    assert!(page(&gateway, "/config").contains("trace.ca_file"));
    site.write("gateway.toml", &config.render());
    copy(&site.certs.path("ca.crt"), &authority);
    says_again(&gateway, AGAIN, 0).await;
    assert_eq!(gateway.figure("config_last_reload_ok"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_the_place_of_a_file_is_a_fault_and_later_changes_are_taken() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    let key = site.certs.path("gateway.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let mut mkfifo = std::process::Command::new("mkfifo");
    assert!(mkfifo.arg(&key).status().unwrap().success());
    says_again(&gateway, REFUSED, 0).await;
    let shown = page(&gateway, "/config");
    assert!(shown.contains("expected a regular file"), "{shown}");
    std::fs::remove_file(&key).unwrap();
    std::fs::write(&key, kept).unwrap();
    says_again(&gateway, AGAIN, 0).await;
    let more = config.route("/added.Service/*", "foreign");
    reload(&site, &gateway, &more, TAKEN).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let answer = code(&mut client, &bearer(&site), "/added.Service/Method").await;
    assert_eq!(answer, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_changed_is_not_taken_again() {
    let site = Site::new();
    let (_backend, gateway, config) = start(&site, "").await;
    // What the looks compare is not what they compared before.
    let revocation = config.with_text("[revocation]\nfile = \"revoked.txt\"\n");
    site.write("revoked.txt", "");
    reload(&site, &gateway, &revocation, TAKEN).await;
    site.write("revoked.txt", "sub alice\n");
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(&site);
    in_time("the revocation", async {
        while code(&mut client, &bearer, PATH).await == 0 {}
    })
    .await;
    let more = revocation.route("/added.Service/*", "foreign");
    let before = said(&gateway, TAKEN);
    assert_eq!(before, 1);
    site.write("gateway.toml", &more.render());
    says_again(&gateway, TAKEN, before).await;
    assert_eq!(said(&gateway, TAKEN), 2);
}
