//! Who gets in, who may call what, and how a refusal looks in each dialect.

use intellirouter_tests::certs::Certs;
use intellirouter_tests::client::{Answer, Connection};
use intellirouter_tests::curl::request;
use intellirouter_tests::messages::Seen;
use intellirouter_tests::token::{SigningPair, now};
use intellirouter_tests::{Config, Gateway, Site, Token};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use prost::Message;
use serde_json::Value;

const EMPTY: &str = "/interop.testing.Interop/EmptyCall";
const INSPECT: &str = "/interop.testing.Interop/Inspect";
const EVENTS: &str = "/events?channel=intellirouter:chain_engine:*";

/// One unary call with an empty message.
async fn call(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    Connection::open(gateway.port, &gateway.ca).await.unary(path, headers, b"").await
}

async fn code_with(gateway: &Gateway, path: &str, token: &str) -> i32 {
    let bearer = format!("Bearer {token}");
    call(gateway, path, &[("authorization", &bearer)]).await.status().code
}

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
        ("an expired token", hs(&good.clone().with("exp", now() - 60))),
        ("a token without expiry", hs(&good.clone().with("exp", Value::Null))),
        ("a token of another issuer", hs(&good.clone().with("iss", "somebody"))),
        ("a token without issuer", hs(&good.clone().with("iss", Value::Null))),
        ("a token for another audience", hs(&good.clone().with("aud", "others"))),
        ("a token without audience", hs(&good.clone().with("aud", Value::Null))),
        ("alg none", good.unsigned("none")),
        ("alg None", good.unsigned("None")),
        ("alg HS256 with no signature", format!("{body}.")),
        ("another secret", good.hs256(b"another secret")),
        ("a blank secret", good.hs256(b"")),
        ("claims of another token", format!("{head}.{forged_claims}.{signature}")),
        ("a signature that is cut", signed[..signed.len() - 4].into()),
        ("the public key as HS256 secret", good.hs256(rsa.public.as_bytes())),
        ("a key pair that nobody knows", good.signed(&SigningPair::new(Algorithm::RS256))),
        ("an algorithm that is not configured", good.signed(&SigningPair::new(Algorithm::ES256))),
    ]
}

#[tokio::test]
async fn every_kind_of_bad_token_is_refused_in_each_dialect_before_the_service() {
    let site = Site::new();
    let service = site.interop();
    let rsa = SigningPair::new(Algorithm::RS256);
    site.write("rsa.pub", &rsa.public);
    let mut config = Config::interop(service.port).events("");
    config.auth.push_str("[[auth.keys]]\nalgorithm = \"RS256\"\npublic_key_file = \"rsa.pub\"\n");
    let gateway = site.gateway(&config);

    for (what, token) in refused_tokens(&site, &rsa) {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("x-call-id", "refused")];
        let status = call(&gateway, EMPTY, &headers).await.status();
        assert_eq!(status.code, 16, "{what}: {status:?}");
        let info = status.details.error_info.expect("details say why");
        assert!(!info.reason.is_empty() && !info.domain.is_empty(), "{what}: {info:?}");

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
    assert_eq!(call(&gateway, EMPTY, &[("authorization", "Basic YTpi")]).await.status().code, 16);
    let answer = request(&gateway, EVENTS, &[], None);
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

#[tokio::test]
async fn a_good_token_of_each_algorithm_is_accepted() {
    let site = Site::new();
    let service = site.interop();
    let mut config = Config::interop(service.port);
    let mut tokens = vec![("HS256", site.token(&["tester"]))];
    for (name, algorithm) in
        [("RS256", Algorithm::RS256), ("ES256", Algorithm::ES256), ("EdDSA", Algorithm::EdDSA)]
    {
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
        assert_eq!(code_with(&gateway, EMPTY, &token.hs256(secret.as_bytes())).await, 16);
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
    let token =
        Token::new("alice", &["tester"]).with("exp", expiry).hs256(site.secret().as_bytes());
    assert_eq!(code_with(&gateway, EMPTY, &token).await, 0);
    // The clock is the gateway's own, so all that a test can do is wait for it.
    while now() <= expiry {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(code_with(&gateway, EMPTY, &token).await, 16);
}

#[tokio::test]
async fn roles_decide_per_method() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let restricted = "/interop.testing.Interop/Restricted";
    for (roles, path, code) in [
        (&["tester"][..], EMPTY, 0),
        (&["tester"], restricted, 7),
        (&["keeper"], restricted, 0),
        (&["keeper"], EMPTY, 7),
        (&["tester", "keeper"], restricted, 0),
        (&["admin"], restricted, 0),
        (&["admin"], EMPTY, 0),
        (&[], EMPTY, 7),
        (&["Tester"], EMPTY, 7),
        (&["*"], EMPTY, 7),
    ] {
        let got = code_with(&gateway, path, &site.token(roles)).await;
        assert_eq!(got, code, "{roles:?} on {path}");
    }
}

#[tokio::test]
async fn a_refusal_for_lack_of_a_role_says_so_in_its_details() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let bearer = format!("Bearer {}", site.token(&["visitor"]));
    let headers = [("authorization", bearer.as_str()), ("x-call-id", "denied")];
    let status = call(&gateway, EMPTY, &headers).await.status();
    let info = status.details.error_info.unwrap();
    assert_eq!((status.code, info.reason.as_str()), (7, "ROLE_MISSING"));
    assert!(!service.saw("denied"));
}

#[tokio::test]
async fn a_method_with_no_rule_is_refused_to_everybody() {
    let site = Site::new();
    let service = site.interop();
    let config = Config::default()
        .upstream("interop", service.port)
        .add("[[routes]]\nmatch = \"/interop.testing.Interop/*\"\nupstream = \"interop\"\n");
    let gateway = site.gateway(&config);
    for role in ["tester", "admin"] {
        assert_eq!(code_with(&gateway, EMPTY, &site.token(&[role])).await, 7, "{role}");
    }
}

#[tokio::test]
async fn an_unknown_service_or_path_is_unimplemented_or_404() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let token = site.token(&["admin"]);
    for path in ["/nobody.Knows/This", "/interop.testing.Interop", "/", "//", "/a/b/c"] {
        assert_eq!(code_with(&gateway, path, &token).await, 12, "{path}");
    }
    let header = format!("authorization: Bearer {token}");
    let answer = request(&gateway, "/nothing/here", &["-H", &header], None);
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

#[tokio::test]
async fn a_method_that_the_service_does_not_know_is_unimplemented() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let path = "/interop.testing.Interop/NobodyHeardOfIt";
    assert_eq!(code_with(&gateway, path, &site.token(&["tester"])).await, 12);
}

#[test]
fn json_on_a_grpc_path_is_an_unsupported_media_type() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let token = format!("authorization: Bearer {}", site.token(&["tester"]));
    for version in ["--http2", "--http1.1"] {
        let args = [version, "-H", &token, "-H", "content-type: application/json"];
        let answer = request(&gateway, EMPTY, &args, Some(b"{}"));
        assert_eq!(answer.status, 415, "{version}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(answer.text().contains("application/grpc"), "{}", answer.text());
    }
}

#[test]
fn plain_grpc_over_http1_is_refused_with_a_reason() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let token = format!("authorization: Bearer {}", site.token(&["tester"]));
    let args = ["--http1.1", "-H", &token, "-H", "content-type: application/grpc"];
    let answer = request(&gateway, EMPTY, &args, Some(&[0; 5]));
    let said = answer.header("grpc-message").map(str::to_owned).unwrap_or_else(|| answer.text());
    assert!(said.contains("HTTP/2"), "{answer:?}");
}

async fn seen(gateway: &Gateway, headers: &[(&str, &str)]) -> Seen {
    let answer = call(gateway, INSPECT, headers).await;
    assert_eq!(answer.status().code, 0, "{:?}", answer.status());
    Seen::decode(&answer.body[5..]).unwrap()
}

#[tokio::test]
async fn the_service_gets_a_signed_identity_for_itself() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let bearer = format!("Bearer {}", site.token(&["tester", "reader"]));
    let seen = seen(&gateway, &[("authorization", &bearer)]).await;
    let [identity] = &seen.values("x-intellirouter-identity")[..] else {
        panic!("one identity is expected")
    };
    let claims = verified(&site.certs, identity);
    assert_eq!(claims["sub"], "alice");
    assert_eq!(claims["roles"], serde_json::json!(["tester", "reader"]));
    let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert!(lifetime > 0 && lifetime <= 60, "{lifetime} s");
    // It is a token of the gateway; the caller's own stays behind.
    assert!(seen.values("authorization").is_empty());
    assert_eq!(seen.peer_name, "gateway");
}

/// The claims of an identity token, verified as a service does.
fn verified(certs: &Certs, identity: &str) -> Value {
    let key = DecodingKey::from_ec_pem(certs.read("identity.pub").as_bytes()).unwrap();
    let mut expected = Validation::new(Algorithm::ES256);
    expected.set_audience(&["interop"]);
    expected.set_issuer(&["intellirouter-gateway"]);
    jsonwebtoken::decode::<Value>(identity, &key, &expected).unwrap().claims
}

#[tokio::test]
async fn an_identity_from_outside_never_reaches_the_service() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let bearer = format!("Bearer {}", site.token(&["tester"]));
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-intellirouter-identity", "forged"),
        ("x-intellirouter-identity", "forged again"),
    ];
    let values = seen(&gateway, &headers).await.values("x-intellirouter-identity");
    assert_eq!(values.len(), 1, "{values:?}");
    assert_eq!(verified(&site.certs, &values[0])["sub"], "alice");
}

#[tokio::test]
async fn a_public_method_needs_no_token_and_takes_no_identity() {
    let site = Site::new();
    let service = site.interop();
    let config = Config::interop(service.port).add(
        "[[routes]]\nmatch = \"/interop.testing.Interop/Inspect\"\nupstream = \"interop\"\npublic = true\n",
    );
    let gateway = site.gateway(&config);
    let seen = seen(&gateway, &[("x-intellirouter-identity", "forged")]).await;
    assert!(seen.values("x-intellirouter-identity").is_empty());
    assert_eq!(call(&gateway, EMPTY, &[]).await.status().code, 16);
}

#[tokio::test]
async fn health_is_served_without_a_token() {
    let site = Site::new();
    let gateway = site.gateway(&Config::default());
    assert_eq!(call(&gateway, "/grpc.health.v1.Health/Check", &[]).await.status().code, 0);
}

#[tokio::test]
async fn no_token_or_secret_is_written_to_the_log() {
    let site = Site::new();
    let service = site.interop();
    let config = Config::interop(service.port).events("").add("[log]\nlevel = \"trace\"\n");
    let gateway = site.gateway(&config);
    let good = site.token(&["tester"]);
    let bad = Token::new("mallory", &["tester"]).hs256(b"wrong");
    for token in [&good, &bad] {
        code_with(&gateway, EMPTY, token).await;
        let header = format!("authorization: Bearer {token}");
        request(&gateway, "/events?channel=bad", &["-H", &header], None);
        request(&gateway, &format!("{EVENTS}&token={token}"), &["-H", &header], None);
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
