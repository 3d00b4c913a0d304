//! An output that can't be written touches no call and no exit code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::process::Command;

use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Connection, in_time};
use intellirouter_tests::foreign::{PATH, answer, bearer};
use intellirouter_tests::{Config, Gateway, Process, Site, binary};

/// A full disk.
const FULL: &str = "2>/dev/full";
/// A pipe whose reader is gone.
const GONE: &str = "3<>pipe 2>pipe 3>&-";
/// A pipe whose reader lives and does not read; 64 KiB stay in it.
const STALLED: &str = "2<>pipe";

/// Makes a named pipe in the folder of the site.
fn pipe(site: &Site) {
    let mut command = Command::new("mkfifo");
    let (status, _, err) = Process::run("mkfifo", command.arg(site.dir().join("pipe")));
    assert!(status.success(), "{err}");
}

/// A gateway whose streams are redirected, in front of a backend that answers.
async fn redirected(site: &Site, redirections: &str, level: &str) -> (Backend, Gateway) {
    let backend = Backend::start(site, |_, respond| {
        answer(respond);
        std::future::ready(())
    })
    .await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text(&format!("[log]\nlevel = \"{level}\"\n"));
    pipe(site);
    let gateway = Gateway::start_redirected(site, &config, redirections);
    (backend, gateway)
}

/// Calls with a token and without one are answered as they always are.
async fn serves(site: &Site, gateway: &Gateway, calls: usize) {
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = bearer(site);
    for _ in 0..calls {
        let refused = client.unary(PATH, &[], b"").await.status();
        assert_eq!(refused.code, 16, "{refused:?}");
        let status = client
            .unary(PATH, &[("authorization", &bearer)], b"")
            .await
            .status();
        assert_eq!(status.code, 0, "{status:?}");
    }
    client.close().await;
}

fn stops(gateway: &mut Gateway) {
    gateway.interrupt();
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_touches_no_call_and_no_exit_code() {
    let site = Site::new();
    let (_backend, mut gateway) = redirected(&site, FULL, "debug").await;
    serves(&site, &gateway, 3).await;
    stops(&mut gateway);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_reader_is_gone_touches_no_call_and_no_exit_code() {
    let site = Site::new();
    let (_backend, mut gateway) = redirected(&site, GONE, "debug").await;
    serves(&site, &gateway, 3).await;
    stops(&mut gateway);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_loses_lines_and_counts_them_and_delays_no_call() {
    let site = Site::new();
    // So many lines that the queue is full after a few calls.
    let (_backend, mut gateway) = redirected(&site, STALLED, "trace").await;
    in_time("lost lines", async {
        while gateway.figure("log_lines_dropped") == 0 {
            serves(&site, &gateway, 20).await;
        }
    })
    .await;
    serves(&site, &gateway, 20).await;
    stops(&mut gateway);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_can_not_say_where_it_listens_serves_all_the_same() {
    let site = Site::new();
    let port = intellirouter_tests::redis::free_port();
    let config = Config::default().render().replacen(
        "address = \"127.0.0.1:0\"",
        &format!("address = \"127.0.0.1:{port}\""),
        1,
    );
    site.write("gateway.toml", &config);
    let mut command = binary::redirected(&["gateway", "--config", "gateway.toml"], ">/dev/full");
    let mut process = Process::spawn("gateway", command.current_dir(site.dir()));
    in_time("a listener", async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut client = Connection::open(port, &site.certs.path("ca.crt")).await;
    let health = client.unary("/grpc.health.v1.Health/Check", &[], b"").await;
    assert_eq!(health.status().code, 0);
    client.close().await;
    process.signal(rustix::process::Signal::INT);
    assert_eq!(process.wait().code(), Some(0), "{}", process.output());
}

#[test]
fn a_command_whose_stdout_is_dead_does_not_panic() {
    let site = Site::new();
    pipe(&site);
    for args in [
        &["token", "--subject", "a", "--role", "r", "--certs", "certs"][..],
        &["certs", "--dir", "certs"],
        &["--help"],
    ] {
        for redirections in [">/dev/full", "3<>pipe >pipe 3>&-"] {
            let mut command = binary::redirected(args, redirections);
            let (status, _, err) = Process::run("command", command.current_dir(site.dir()));
            let code = status.code();
            assert!(matches!(code, Some(0 | 1)), "{args:?}: {status} {err}");
            assert!(!err.contains("panicked"), "{args:?}: {err}");
        }
    }
}
