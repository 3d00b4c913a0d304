//! Partners who prove themselves by a certificate instead of a token.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use intellirouter_tests::certs::Authority;
use intellirouter_tests::client::{Connection, tls};
use intellirouter_tests::curl::request;
use intellirouter_tests::events::{CHANNEL, PAYLOAD};
use intellirouter_tests::grpc::Status;
use intellirouter_tests::messages::Seen;
use intellirouter_tests::service::{Interop, python};
use intellirouter_tests::{Config, Gateway, Process, Site, binary};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use prost::Message;
use serde_json::Value;

const EMPTY: &str = "/interop.testing.Interop/EmptyCall";
const INSPECT: &str = "/interop.testing.Interop/Inspect";
const BILLING: &str = "spiffe://corp/billing";
const ENTRIES: &str = "\
[[certificates]]\nsan = \"spiffe://corp/billing\"\nsubject = \"billing\"\nroles = [\"tester\"]\n\
[[certificates]]\nsubject_cn = \"report\"\nroles = [\"visitor\"]\n";

type Pair = (PathBuf, PathBuf);

/// A gateway that takes the certificates of one authority of partners.
struct Partners {
    site: Site,
    _service: Interop,
    gateway: Gateway,
    authority: Authority,
}

impl Partners {
    fn new() -> Self {
        Self::with("")
    }

    /// With further keys of `[listen]`.
    fn with(listen: &str) -> Self {
        let site = Site::new();
        let authority = Authority::new("partners");
        authority.write(site.dir(), "partners");
        let service = site.interop();
        let mut config = Config::interop(service.port)
            .events("")
            .with_text("[cors]\norigins = [\"https://app.example\"]\n")
            .with_text(ENTRIES)
            .with_text("[revocation]\nfile = \"revoked.txt\"\n");
        site.write("revoked.txt", "");
        config.listen = format!("client_ca_file = \"partners.crt\"\n{listen}");
        let gateway = site.gateway(&config);
        Self {
            site,
            _service: service,
            gateway,
            authority,
        }
    }

    fn issue(&self, name: &str, uris: &[&str]) -> Pair {
        self.authority.issue_client(self.site.dir(), name, uris)
    }

    async fn connect(&self, pair: &Pair) -> Connection {
        let tls = tls(&self.gateway.ca, Some((&pair.0, &pair.1)));
        Connection::open_with(self.gateway.port, &tls).await
    }

    async fn status(&self, pair: &Pair, path: &str, headers: &[(&str, &str)]) -> Status {
        let mut client = self.connect(pair).await;
        let answer = client.unary(path, headers, b"").await;
        client.close().await;
        answer.status()
    }

    /// What the service was told of the caller.
    async fn told(&self, client: &mut Connection, headers: &[(&str, &str)]) -> Value {
        let answer = client.unary(INSPECT, headers, b"").await;
        assert_eq!(answer.status().code, 0, "{:?}", answer.status());
        let seen = Seen::decode(&answer.body[5..]).unwrap();
        let [identity] = &seen.values("x-intellirouter-identity")[..] else {
            panic!("one identity is expected")
        };
        let key = self.site.certs.read("identity.pub");
        let key = DecodingKey::from_ec_pem(key.as_bytes()).unwrap();
        let mut expected = Validation::new(Algorithm::ES256);
        expected.set_audience(&["interop"]);
        jsonwebtoken::decode::<Value>(identity, &key, &expected)
            .unwrap()
            .claims
    }

    /// Publishes by POST with a certificate; gives the HTTP status.
    fn publish(&self, pair: &Pair, headers: &[&str]) -> u16 {
        let (cert, key) = (pair.0.to_str().unwrap(), pair.1.to_str().unwrap());
        let mut args = vec!["--cert", cert, "--key", key];
        args.extend(["-H", "content-type: application/json"]);
        args.extend(headers.iter().flat_map(|header| ["-H", header]));
        let path = format!("/events/{CHANNEL}");
        request(&self.gateway, &path, &args, Some(PAYLOAD.as_bytes())).status
    }
}

fn reason(status: &Status) -> (i32, &str) {
    let info = status.details.error_info.as_ref().expect("details say why");
    (status.code, &info.reason)
}

#[tokio::test]
async fn a_partner_calls_with_its_certificate_alone_and_the_service_learns_who_it_is() {
    let partners = Partners::new();
    let pair = partners.issue("x", &[BILLING]);
    let mut client = partners.connect(&pair).await;
    for _ in 0..2 {
        let told = partners.told(&mut client, &[]).await;
        assert_eq!(
            (&told["sub"], &told["roles"][0]),
            (&"billing".into(), &"tester".into())
        );
    }
    client.close().await;
    assert_eq!(partners.publish(&pair, &[]), 202);
}

#[test]
fn a_client_of_another_language_proves_itself_by_its_certificate() {
    let partners = Partners::new();
    let (cert, key) = partners.issue("x", &[BILLING]);
    let script = "import sys, grpc\n\
        ca, key, cert = (open(path, 'rb').read() for path in sys.argv[2:5])\n\
        channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(ca, key, cert))\n\
        call = channel.unary_unary('/interop.testing.Interop/EmptyCall')\n\
        print('answer', call(b'', timeout=20))\n";
    let mut command = Command::new(python("").get_program());
    command.args(["-c", script, &partners.gateway.target()]);
    command.args([&partners.gateway.ca, &key, &cert]);
    let (status, out, err) = Process::run("grpcio", &command);
    assert!(status.success(), "{err}");
    assert_eq!(out, "answer b''");
}

#[tokio::test]
async fn the_roles_of_a_certificate_are_those_of_its_entry_and_no_more() {
    let partners = Partners::new();
    let status = partners
        .status(&partners.issue("report", &[]), EMPTY, &[])
        .await;
    assert_eq!(reason(&status), (7, "ROLE_MISSING"));
}

#[tokio::test]
async fn a_certificate_that_no_entry_names_is_nobody() {
    let partners = Partners::new();
    let pair = partners.issue("unknown", &["spiffe://corp/billing/other"]);
    let status = partners.status(&pair, EMPTY, &[]).await;
    assert_eq!(reason(&status), (16, "NO_TOKEN"));
    // Its holder may still have a token.
    let bearer = format!("Bearer {}", partners.site.token(&["tester"]));
    let status = partners
        .status(&pair, EMPTY, &[("authorization", &bearer)])
        .await;
    assert_eq!(status.code, 0, "{status:?}");
}

#[tokio::test]
async fn a_call_with_a_token_is_judged_by_the_token_alone() {
    let partners = Partners::new();
    let pair = partners.issue("x", &[BILLING]);
    for value in ["Bearer nonsense", "Bearer ", "Basic YTpi", ""] {
        let status = partners
            .status(&pair, EMPTY, &[("authorization", value)])
            .await;
        assert_eq!(status.code, 16, "{value}: {status:?}");
    }
    let bearer = format!("Bearer {}", partners.site.token(&["visitor"]));
    let status = partners
        .status(&pair, EMPTY, &[("authorization", &bearer)])
        .await;
    assert_eq!(reason(&status), (7, "ROLE_MISSING"));
    let bearer = format!("Bearer {}", partners.site.token(&["tester"]));
    let mut client = partners.connect(&pair).await;
    let told = partners
        .told(&mut client, &[("authorization", &bearer)])
        .await;
    assert_eq!(told["sub"], "alice");
}

#[tokio::test]
async fn where_certificates_are_optional_a_token_is_enough_and_nothing_is_nobody() {
    let partners = Partners::new();
    let mut client = Connection::open(partners.gateway.port, &partners.gateway.ca).await;
    let bearer = format!("Bearer {}", partners.site.token(&["tester"]));
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(client.unary(EMPTY, &headers, b"").await.status().code, 0);
    let status = client.unary(EMPTY, &[], b"").await.status();
    assert_eq!(reason(&status), (16, "NO_TOKEN"));
}

#[tokio::test]
async fn a_page_can_not_use_the_certificate_of_the_browser_that_it_is_in() {
    let partners = Partners::new();
    let pair = partners.issue("x", &[BILLING]);
    for header in [
        "origin: https://evil.example",
        "origin: null",
        // Pages that CORS lets in prove themselves by tokens.
        "origin: https://app.example",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
    ] {
        assert_eq!(partners.publish(&pair, &[header]), 401, "{header}");
    }
    // The address bar is no page.
    assert_eq!(partners.publish(&pair, &["sec-fetch-site: none"]), 202);
    let token = format!("authorization: Bearer {}", partners.site.token(&["tester"]));
    let page = ["origin: https://app.example", token.as_str()];
    assert_eq!(partners.publish(&pair, &page), 202);
}

#[tokio::test]
async fn a_resumed_session_is_the_same_caller() {
    let partners = Partners::new();
    let (cert, key) = partners.issue("x", &[BILLING]);
    let tls = tls(&partners.gateway.ca, Some((&cert, &key)));
    for resumed in [false, true] {
        let mut client = Connection::open_with(partners.gateway.port, &tls).await;
        assert_eq!(client.resumed, resumed);
        assert_eq!(partners.told(&mut client, &[]).await["sub"], "billing");
        client.close().await;
    }
}

#[tokio::test]
async fn a_revoked_partner_is_refused_on_the_connection_that_it_has() {
    let partners = Partners::new();
    let pair = partners.issue("x", &[BILLING]);
    let mut client = partners.connect(&pair).await;
    assert_eq!(client.unary(EMPTY, &[], b"").await.status().code, 0);
    let config = partners.site.dir().join("gateway.toml");
    let revoke = ["revoke", "--config", config.to_str().unwrap()];
    let whom = ["--subject", "billing", "--issuer", "certificate"];
    let command = binary::command(&[&revoke[..], &whom].concat());
    let (status, _, err) = Process::run("revoke", &command);
    assert!(status.success(), "{err}");
    let start = Instant::now();
    let status = loop {
        let status = client.unary(EMPTY, &[], b"").await.status();
        if status.code != 0 {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(1), "still in");
    };
    assert_eq!(reason(&status), (16, "REVOKED"));
}

/// Whether a client gets an answer at all; `args` are curl's own.
fn is_answered(gateway: &Gateway, args: &[&str]) -> bool {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--max-time", "20", "--cacert"])
        .arg(&gateway.ca);
    command.args(args).arg(gateway.url("/"));
    Process::run("curl", &command).0.success()
}

fn with_certificate(pair: &Pair) -> [&str; 4] {
    let (cert, key) = (pair.0.to_str().unwrap(), pair.1.to_str().unwrap());
    ["--cert", cert, "--key", key]
}

#[test]
fn a_certificate_of_another_authority_gets_no_connection_and_touches_no_other() {
    let partners = Partners::new();
    let stranger = Authority::new("partners");
    let stranger = stranger.issue_client(partners.site.dir(), "stranger", &[BILLING]);
    assert!(!is_answered(
        &partners.gateway,
        &with_certificate(&stranger)
    ));
    assert!(is_answered(&partners.gateway, &[]));
    let metrics = partners.gateway.page("/metrics");
    let counted = "intellirouter_connections_closed_total{reason=\"handshake_failed\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn where_certificates_are_required_a_client_without_one_gets_no_connection() {
    let partners = Partners::with("client_certificates = \"required\"\n");
    assert!(!is_answered(&partners.gateway, &[]));
    let pair = partners.issue("x", &[BILLING]);
    assert!(is_answered(&partners.gateway, &with_certificate(&pair)));
    assert_eq!(partners.publish(&pair, &[]), 202);
}

#[test]
fn a_ca_file_that_holds_none_is_a_fault_of_the_config() {
    let site = Site::new();
    site.write("blank.crt", "\n");
    let config = Config {
        listen: "client_ca_file = \"blank.crt\"\n".into(),
        ..Config::default()
    };
    let file = site.write("bad.toml", &config.render());
    let args = ["check", "--config", file.to_str().unwrap()];
    let (status, _, err) = Process::run("check", &intellirouter_tests::binary::command(&args));
    assert_eq!(status.code(), Some(64), "{err}");
    assert!(err.contains("listen.client_ca_file: "), "{err}");
    assert!(
        err.contains("expected at least one PEM certificate"),
        "{err}"
    );
}
