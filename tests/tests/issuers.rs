//! Several issuers side by side, with keys that are fetched: rotation, outages, and who pays for
//! made-up key names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{call, code_with};
use intellirouter_tests::foreign::{self, PATH};
use intellirouter_tests::issuer::{ForeignIssuer, claims};
use intellirouter_tests::{Config, DEADLINE, Gateway, Process, Site};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const ISSUER: &str = "https://issuer.example";
const ALGORITHMS: [&str; 13] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "ES512", "EdDSA",
];

fn issuer(name: &str, keys: &str) -> String {
    format!(
        "[[auth.issuers]]\nissuer = \"{name}\"\naudience = \"intellirouter-services\"\n{keys}\n"
    )
}

fn fetched(issuer_of: &ForeignIssuer, more: &str) -> String {
    issuer(ISSUER, &format!("jwks_url = \"{}\"\n{more}", issuer_of.url))
}

/// A gateway with these issuers, in front of a backend that tells the headers of each call.
async fn gateway(
    site: &Site,
    auth: String,
) -> (Backend, Gateway, mpsc::UnboundedReceiver<http::HeaderMap>) {
    let (tell, told) = mpsc::unbounded_channel();
    let backend = Backend::start(site, foreign::tells_headers(tell)).await;
    let mut config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign");
    config.auth = auth;
    let gateway = site.gateway(&config);
    (backend, gateway, told)
}

/// The label of the refusal of a call with this token.
async fn refusal(gateway: &Gateway, token: &str) -> String {
    let bearer = format!("Bearer {token}");
    let answer = call(gateway, PATH, &[("authorization", &bearer)]).await;
    let status = answer.status();
    assert_eq!(status.code, 16, "{status:?}");
    status.details.error_info.expect("details say why").reason
}

/// Status and text of a page of the admin address.
fn admin(gateway: &Gateway, path: &str) -> (String, String) {
    let mut command = Command::new("curl");
    let url = format!("http://127.0.0.1:{}{path}", gateway.admin);
    command.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", &url]);
    let (_, text, err) = Process::run("curl", &command);
    let (body, code) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{err}"));
    (code.to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_token_of_each_algorithm_by_another_library_is_accepted_with_keys_fetched_over_https() {
    let site = Site::new();
    let (cert, key) = (
        site.certs.path("backend.crt"),
        site.certs.path("backend.key"),
    );
    let foreign = ForeignIssuer::start_tls(&cert, &key);
    for alg in ALGORITHMS {
        foreign.add(alg, alg);
    }
    // Without `alg` in the set: what its kind allows.
    foreign.add_unnamed("unnamed-rs", "RS512");
    foreign.add_unnamed("unnamed-ps", "PS256");
    let list = ALGORITHMS.map(|alg| format!("\"{alg}\"")).join(", ");
    let more = format!("jwks_ca_file = \"certs/ca.crt\"\nalgorithms = [{list}]");
    let (_backend, gateway, _told) = gateway(&site, fetched(&foreign, &more)).await;
    for kid in ALGORITHMS.into_iter().chain(["unnamed-rs", "unnamed-ps"]) {
        let token = foreign.token(ISSUER, kid);
        assert_eq!(code_with(&gateway, PATH, &token).await, 0, "{kid}");
        // The same by a token that says another algorithm than its key has.
        for alg in ["none", "HS256", "RS256", "ES256"] {
            if kid != alg && !kid.starts_with("unnamed") {
                let forged = json!({"kid": kid, "claims": claims(ISSUER), "header": {"alg": alg}});
                let forged = foreign.sign(forged);
                assert_eq!(
                    refusal(&gateway, &forged).await,
                    "ALGORITHM",
                    "{kid} as {alg}"
                );
            }
        }
    }
    assert_eq!(foreign.fetches(), 1, "known keys cause no fetch");
}

#[tokio::test]
async fn a_rotated_key_works_from_its_first_call_on_and_all_who_come_meanwhile_wait_for_it() {
    let site = Site::new();
    let foreign = ForeignIssuer::start(0);
    foreign.add("k1", "ES256");
    let (_backend, gateway, _told) = gateway(&site, fetched(&foreign, "")).await;
    let old = foreign.token(ISSUER, "k1");
    assert_eq!(code_with(&gateway, PATH, &old).await, 0);

    foreign.add("k2", "RS256");
    let new = foreign.token(ISSUER, "k2");
    let at_once = (0..20).map(|_| code_with(&gateway, PATH, &new));
    let codes = futures_util::future::join_all(at_once).await;
    assert_eq!(
        codes, [0; 20],
        "all that come while the key is fetched wait for it"
    );
    assert_eq!(foreign.fetches(), 2);
    assert_eq!(
        code_with(&gateway, PATH, &old).await,
        0,
        "the old one is still published"
    );

    // The cooldown of 10 s is not over, so this one is not looked for.
    foreign.add("k3", "EdDSA");
    assert_eq!(
        refusal(&gateway, &foreign.token(ISSUER, "k3")).await,
        "UNKNOWN_KEY"
    );
    assert_eq!(foreign.fetches(), 2);
}

#[tokio::test]
async fn a_withdrawn_key_is_refused_after_the_next_refresh_though_its_token_is_remembered() {
    let site = Site::new();
    let foreign = ForeignIssuer::start(0);
    foreign.add("k1", "ES256");
    foreign.add("k2", "ES256");
    let auth = fetched(&foreign, "jwks_refresh = \"1s\"");
    let (_backend, gateway, _told) = gateway(&site, auth).await;
    let (withdrawn, kept) = (foreign.token(ISSUER, "k1"), foreign.token(ISSUER, "k2"));
    for token in [&withdrawn, &kept] {
        assert_eq!(code_with(&gateway, PATH, token).await, 0);
    }
    foreign.withdraw("k1");
    // One may be under way already; the one after it has seen the change.
    wait_for(|| foreign.fetches(), foreign.fetches() + 2);
    assert_eq!(refusal(&gateway, &withdrawn).await, "UNKNOWN_KEY");
    assert_eq!(code_with(&gateway, PATH, &kept).await, 0);

    // An issuer that can't answer changes nothing.
    for mode in ["fails", "redirects", "stalls"] {
        foreign.mode(mode);
        wait_for(|| foreign.fetches(), foreign.fetches() + 2);
        assert_eq!(code_with(&gateway, PATH, &kept).await, 0, "{mode}");
    }
    let (code, ready) = admin(&gateway, "/readyz");
    assert_eq!(code, "200");
    assert!(ready.contains("the last fetch failed"), "{ready}");
}

fn wait_for(mut look: impl FnMut() -> u64, wanted: u64) {
    let began = Instant::now();
    // What is waited for is another process's; each look asks it.
    while look() < wanted {
        assert!(began.elapsed() < DEADLINE, "never {wanted}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn made_up_key_names_cause_one_fetch_per_cooldown_and_delay_nobody() {
    let site = Site::new();
    let foreign = ForeignIssuer::start(0);
    foreign.add("k1", "ES256");
    let auth = fetched(&foreign, "jwks_cooldown = \"1h\"");
    let (_backend, gateway, _told) = gateway(&site, auth).await;
    let good = foreign.token(ISSUER, "k1");
    assert_eq!(code_with(&gateway, PATH, &good).await, 0);
    let before = foreign.fetches();
    // The one fetch hangs: who comes meanwhile waits for it, and who is known does not.
    foreign.mode("stalls");
    let made_up = |i: usize| {
        let kid = format!("made-up-{i}");
        foreign.sign(json!({"kid": kid, "as": "k1", "claims": claims(ISSUER)}))
    };
    let tokens: Vec<_> = (0..50).map(made_up).collect();
    let refused = futures_util::future::join_all(tokens.iter().map(|one| refusal(&gateway, one)));
    let known = async {
        let began = Instant::now();
        assert_eq!(code_with(&gateway, PATH, &good).await, 0);
        began.elapsed()
    };
    let (refused, took) = tokio::join!(refused, known);
    assert!(
        refused.iter().all(|reason| reason == "UNKNOWN_KEY"),
        "{refused:?}"
    );
    assert!(took < Duration::from_secs(2), "a known key waited {took:?}");
    for token in &tokens {
        assert_eq!(refusal(&gateway, token).await, "UNKNOWN_KEY");
    }
    assert_eq!(foreign.fetches(), before + 1);
}

#[tokio::test]
async fn a_gateway_starts_while_an_issuer_is_away_and_takes_its_tokens_once_it_is_back() {
    let site = Site::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("jwks_url = \"http://localhost:{port}/jwks?key=hunter2\"");
    let auth = issuer(ISSUER, &url)
        + "[[auth.keys]]\nalgorithm = \"HS256\"\n\
        secret_file = \"certs/jwt.secret\"\n";
    let (_backend, gateway, _told) = gateway(&site, auth).await;
    assert_eq!(
        code_with(&gateway, PATH, &site.token(&["tester"])).await,
        0,
        "not its affair"
    );
    let (code, ready) = admin(&gateway, "/readyz");
    assert_eq!(code, "200", "one issuer can be used");
    assert!(ready.contains("issuer intellirouter: 1 keys\n"), "{ready}");
    assert!(
        ready.contains("issuer https://issuer.example: 0 keys, never fetched; "),
        "{ready}"
    );
    assert!(!ready.contains("hunter2"), "{ready}");

    let foreign = ForeignIssuer::start(port);
    foreign.add("k1", "ES512");
    let token = foreign.token(ISSUER, "k1");
    let began = Instant::now();
    while code_with(&gateway, PATH, &token).await != 0 {
        assert!(began.elapsed() < DEADLINE, "it is back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, metrics) = admin(&gateway, "/metrics");
    for line in [
        "intellirouter_jwks_keys{issuer=\"https://issuer.example\"} 1\n",
        "intellirouter_jwks_fetches_total{issuer=\"https://issuer.example\",result=\"ok\"} 1\n",
        "intellirouter_jwks_age_seconds{issuer=\"https://issuer.example\"} ",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    gateway.interrupt();
    let mut process = gateway.process;
    assert!(process.wait().success());
    let log = [process.lines(), process.error_lines()].concat().join("\n");
    assert!(
        log.contains("could not be fetched") && !log.contains("hunter2"),
        "{log}"
    );
}

#[tokio::test]
async fn a_gateway_that_can_verify_nobodys_token_is_alive_but_not_ready() {
    let site = Site::new();
    let foreign = ForeignIssuer::start(0);
    foreign.add("k1", "ES256");
    foreign.mode("fails");
    let (_backend, gateway, _told) = gateway(&site, fetched(&foreign, "")).await;
    let token = foreign.token(ISSUER, "k1");
    assert_eq!(refusal(&gateway, &token).await, "KEYS_UNAVAILABLE");
    assert_eq!(admin(&gateway, "/livez").0, "200");
    let (code, ready) = admin(&gateway, "/readyz");
    assert_eq!(code, "503");
    assert!(
        ready.contains("the last fetch failed: answered 500"),
        "{ready}"
    );
}

#[tokio::test]
async fn two_issuers_are_kept_apart_up_to_the_backend() {
    let site = Site::new();
    let (one, two) = (ForeignIssuer::start(0), ForeignIssuer::start(0));
    // The same name for a key of each.
    one.add("k", "ES256");
    two.add("k", "ES256");
    site.write("two.jwks.json", &two.jwks().to_string());
    let auth = fetched(&one, "") + &issuer("two", "jwks_file = \"two.jwks.json\"");
    let (_backend, gateway, mut told) = gateway(&site, auth).await;
    for (foreign, name) in [(&one, ISSUER), (&two, "two")] {
        let token = foreign.token(name, "k");
        assert_eq!(code_with(&gateway, PATH, &token).await, 0, "{name}");
        let headers = told.recv().await.unwrap();
        let identity = headers["x-intellirouter-identity"].to_str().unwrap();
        let claims = identity.split('.').nth(1).unwrap();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(
            (&claims["sub"], &claims["origin"]),
            (&json!("alice"), &json!(name))
        );
    }
    assert_eq!(
        refusal(&gateway, &two.token(ISSUER, "k")).await,
        "SIGNATURE"
    );
    assert_eq!(refusal(&gateway, &one.token("two", "k")).await, "SIGNATURE");
    assert_eq!(refusal(&gateway, &one.token("three", "k")).await, "ISSUER");
}

#[tokio::test]
async fn roles_and_required_claims_may_stand_anywhere_in_a_token() {
    let site = Site::new();
    let foreign = ForeignIssuer::start(0);
    foreign.add("k", "PS384");
    let rules = "roles_claim = \"/realm_access/roles\"\n\
                 required_claims = { email_verified = true, \"/tenant/id\" = \"*\" }";
    let (_backend, gateway, _told) = gateway(&site, fetched(&foreign, rules)).await;
    let sign = |change: fn(&mut Value)| {
        let mut claims = claims(ISSUER);
        claims["roles"] = Value::Null;
        claims["realm_access"] = json!({"roles": ["tester"]});
        claims["email_verified"] = json!(true);
        claims["tenant"] = json!({"id": 7});
        change(&mut claims);
        foreign.sign(json!({"kid": "k", "claims": claims}))
    };
    assert_eq!(code_with(&gateway, PATH, &sign(|_| ())).await, 0);
    let spaced = sign(|claims| claims["realm_access"]["roles"] = json!("other tester"));
    assert_eq!(code_with(&gateway, PATH, &spaced).await, 0);
    let elsewhere = sign(|claims| {
        claims["roles"] = json!(["tester", "admin"]);
        claims["realm_access"] = Value::Null;
    });
    assert_eq!(
        code_with(&gateway, PATH, &elsewhere).await,
        7,
        "not where roles stand"
    );
    let wrong = sign(|claims| claims["realm_access"]["roles"] = json!({"tester": true}));
    assert_eq!(refusal(&gateway, &wrong).await, "ROLES");
    for change in [
        (|claims| claims["email_verified"] = json!("true")) as fn(&mut Value),
        |claims| claims["email_verified"] = Value::Null,
        |claims| claims["tenant"] = json!({}),
    ] {
        assert_eq!(refusal(&gateway, &sign(change)).await, "REQUIRED_CLAIM");
    }
}
