//! Who gets in: every kind of token, good and bad, in each dialect.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::client::{call, code_with};
use intellirouter_tests::curl::request;
use intellirouter_tests::token::{SigningPair, now};
use intellirouter_tests::{Config, Site, Token};
use jsonwebtoken::Algorithm;
use serde_json::Value;

const EMPTY: &str = "/interop.testing.Interop/EmptyCall";
const EVENTS: &str = "/events?channel=intellirouter:chain_engine:*";

/// Every kind of token that must not get in, with its name.
fn refused_tokens(site: &Site, rsa: &SigningPair) -> Vec<(&'static str, String)> {
    let secret = site.secret();
    let good = Token::new("mallory", &["tester"]);
    let signed = good.hs256(secret.as_bytes());
    let (body, signature) = signed.rsplit_once('.').unwrap();
    let other = Token::new("mallory", &["admin"]).hs256(b"x");
    let forged_claims = other.split('.').nth(1).unwrap();
    let head = signed.split('.').next().unwrap();
    let hs = |token: &Token| token.hs256(secret.as_bytes());
    vec![
        ("an empty token", String::new()),
        ("a token that is none", "not-a-token".into()),
        (
            "an expired token",
            hs(&good.clone().with("exp", now() - 60)),
        ),
        (
            "a token without expiry",
            hs(&good.clone().with("exp", Value::Null)),
        ),
        (
            "a token of another issuer",
            hs(&good.clone().with("iss", "somebody")),
        ),
        (
            "a token without issuer",
            hs(&good.clone().with("iss", Value::Null)),
        ),
        (
            "a token for another audience",
            hs(&good.clone().with("aud", "others")),
        ),
        (
            "a token without audience",
            hs(&good.clone().with("aud", Value::Null)),
        ),
        ("alg none", good.unsigned("none")),
        ("alg None", good.unsigned("None")),
        ("alg HS256 with no signature", format!("{body}.")),
        ("another secret", good.hs256(b"another secret")),
        ("a blank secret", good.hs256(b"")),
        (
            "claims of another token",
            format!("{head}.{forged_claims}.{signature}"),
        ),
        ("a signature that is cut", signed[..signed.len() - 4].into()),
        (
            "the public key as HS256 secret",
            good.hs256(rsa.public.as_bytes()),
        ),
        (
            "a key pair that nobody knows",
            good.signed(&SigningPair::new(Algorithm::RS256)),
        ),
        (
            "an algorithm that is not configured",
            good.signed(&SigningPair::new(Algorithm::ES256)),
        ),
    ]
}

#[tokio::test]
async fn every_kind_of_bad_token_is_refused_in_each_dialect_before_the_service() {
    let site = Site::new();
    let service = site.interop();
    let rsa = SigningPair::new(Algorithm::RS256);
    site.write("rsa.pub", &rsa.public);
    let mut config = Config::interop(service.port).events("");
    config
        .auth
        .push_str("[[auth.keys]]\nalgorithm = \"RS256\"\npublic_key_file = \"rsa.pub\"\n");
    let gateway = site.gateway(&config);

    for (what, token) in refused_tokens(&site, &rsa) {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("x-call-id", "refused")];
        let status = call(&gateway, EMPTY, &headers).await.status();
        assert_eq!(status.code, 16, "{what}: {status:?}");
        let info = status.details.error_info.expect("details say why");
        assert!(
            !info.reason.is_empty() && !info.domain.is_empty(),
            "{what}: {info:?}"
        );

        let header = format!("authorization: {bearer}");
        let answer = request(&gateway, EVENTS, &["-H", &header], None);
        assert_eq!(answer.status, 401, "{what}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer"), "{what}: {challenge}");
    }
    assert!(!service.saw("refused"));
}

#[tokio::test]
async fn a_call_without_a_token_is_unauthenticated() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port).events(""));
    assert_eq!(call(&gateway, EMPTY, &[]).await.status().code, 16);
    assert_eq!(
        call(&gateway, EMPTY, &[("authorization", "Basic YTpi")])
            .await
            .status()
            .code,
        16
    );
    let answer = request(&gateway, EVENTS, &[], None);
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, Some("Bearer"))
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
}

#[tokio::test]
async fn a_good_token_of_each_algorithm_is_accepted() {
    let site = Site::new();
    let service = site.interop();
    let mut config = Config::interop(service.port);
    let mut tokens = vec![("HS256", site.token(&["tester"]))];
    for (name, algorithm) in [
        ("RS256", Algorithm::RS256),
        ("ES256", Algorithm::ES256),
        ("EdDSA", Algorithm::EdDSA),
    ] {
        let pair = SigningPair::new(algorithm);
        site.write(&format!("{name}.pub"), &pair.public);
        config.auth.push_str(&format!(
            "[[auth.keys]]\nalgorithm = \"{name}\"\npublic_key_file = \"{name}.pub\"\n",
        ));
        tokens.push((name, Token::new("alice", &["tester"]).signed(&pair)));
    }
    let gateway = site.gateway(&config);
    for (name, token) in tokens {
        assert_eq!(code_with(&gateway, EMPTY, &token).await, 0, "{name}");
    }
}

#[tokio::test]
async fn a_public_key_never_serves_as_an_hs256_secret_where_only_pairs_are_configured() {
    let site = Site::new();
    let service = site.interop();
    let pair = SigningPair::new(Algorithm::RS256);
    site.write("rsa.pub", &pair.public);
    let mut config = Config::interop(service.port);
    config.auth = "[[auth.keys]]\nalgorithm = \"RS256\"\npublic_key_file = \"rsa.pub\"\n".into();
    let gateway = site.gateway(&config);
    let token = Token::new("mallory", &["tester"]);
    for secret in [pair.public.as_str(), pair.public.trim_end()] {
        assert_eq!(
            code_with(&gateway, EMPTY, &token.hs256(secret.as_bytes())).await,
            16
        );
    }
    assert_eq!(code_with(&gateway, EMPTY, &token.signed(&pair)).await, 0);
}

#[tokio::test]
async fn an_audience_list_that_names_us_is_accepted() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let token = Token::new("alice", &["tester"])
        .with("aud", vec!["others", "intellirouter-services"])
        .hs256(site.secret().as_bytes());
    assert_eq!(code_with(&gateway, EMPTY, &token).await, 0);
}

#[tokio::test]
async fn a_token_that_was_accepted_is_refused_once_it_has_expired() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let expiry = now() + 2;
    let token = Token::new("alice", &["tester"])
        .with("exp", expiry)
        .hs256(site.secret().as_bytes());
    assert_eq!(code_with(&gateway, EMPTY, &token).await, 0);
    // The clock is the gateway's own, so all that a test can do is wait for it.
    while now() <= expiry {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(code_with(&gateway, EMPTY, &token).await, 16);
}

#[tokio::test]
async fn no_token_or_secret_is_written_to_the_log() {
    let site = Site::new();
    let service = site.interop();
    let config = Config::interop(service.port)
        .events("")
        .with_text("[log]\nlevel = \"trace\"\n");
    let gateway = site.gateway(&config);
    let good = site.token(&["tester"]);
    let bad = Token::new("mallory", &["tester"]).hs256(b"wrong");
    for token in [&good, &bad] {
        code_with(&gateway, EMPTY, token).await;
        let header = format!("authorization: Bearer {token}");
        request(&gateway, "/events?channel=bad", &["-H", &header], None);
        request(
            &gateway,
            &format!("{EVENTS}&token={token}"),
            &["-H", &header],
            None,
        );
    }
    // The last line of the access log tells that all the others are there.
    gateway.interrupt();
    let mut process = gateway.process;
    assert!(process.wait().success());
    let log = [process.lines(), process.error_lines()].concat().join("\n");
    assert!(log.contains("EmptyCall"), "the calls are not in the log");
    for secret in [good, bad, site.secret()] {
        let signature = secret.rsplit('.').next().unwrap();
        let line = log.lines().find(|line| line.contains(signature));
        assert_eq!(line, None, "a secret is in the log");
    }
}
