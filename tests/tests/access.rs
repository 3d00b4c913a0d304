//! Who may call what, how a refusal looks in each dialect, and what a service
//! learns of its caller.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::certs::Certs;
use intellirouter_tests::client::{call, code_with};
use intellirouter_tests::curl::request;
use intellirouter_tests::messages::Seen;
use intellirouter_tests::{Config, Gateway, Site};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use prost::Message;
use serde_json::Value;

const EMPTY: &str = "/interop.testing.Interop/EmptyCall";
const INSPECT: &str = "/interop.testing.Interop/Inspect";

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
        .with_text("[[routes]]\nmatch = \"/interop.testing.Interop/*\"\nupstream = \"interop\"\n");
    let gateway = site.gateway(&config);
    for role in ["tester", "admin"] {
        assert_eq!(
            code_with(&gateway, EMPTY, &site.token(&[role])).await,
            7,
            "{role}"
        );
    }
}

#[tokio::test]
async fn an_unknown_service_or_path_is_unimplemented_or_404() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let token = site.token(&["admin"]);
    for path in [
        "/nobody.Knows/This",
        "/interop.testing.Interop",
        "/",
        "//",
        "/a/b/c",
    ] {
        assert_eq!(code_with(&gateway, path, &token).await, 12, "{path}");
    }
    let header = format!("authorization: Bearer {token}");
    let answer = request(&gateway, "/nothing/here", &["-H", &header], None);
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
}

#[tokio::test]
async fn a_method_that_the_service_does_not_know_is_unimplemented() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let path = "/interop.testing.Interop/NobodyHeardOfIt";
    assert_eq!(
        code_with(&gateway, path, &site.token(&["tester"])).await,
        12
    );
}

#[test]
fn json_on_a_grpc_path_is_an_unsupported_media_type() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let token = format!("authorization: Bearer {}", site.token(&["tester"]));
    for version in ["--http2", "--http1.1"] {
        let args = [
            version,
            "-H",
            &token,
            "-H",
            "content-type: application/json",
        ];
        let answer = request(&gateway, EMPTY, &args, Some(b"{}"));
        assert_eq!(answer.status, 415, "{version}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert!(
            answer.text().contains("application/grpc"),
            "{}",
            answer.text()
        );
    }
}

#[test]
fn plain_grpc_over_http1_is_refused_with_a_reason() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let token = format!("authorization: Bearer {}", site.token(&["tester"]));
    let args = [
        "--http1.1",
        "-H",
        &token,
        "-H",
        "content-type: application/grpc",
    ];
    let answer = request(&gateway, EMPTY, &args, Some(&[0; 5]));
    let said = answer
        .header("grpc-message")
        .map(str::to_owned)
        .unwrap_or_else(|| answer.text());
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
    jsonwebtoken::decode::<Value>(identity, &key, &expected)
        .unwrap()
        .claims
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
    let values = seen(&gateway, &headers)
        .await
        .values("x-intellirouter-identity");
    assert_eq!(values.len(), 1, "{values:?}");
    assert_eq!(verified(&site.certs, &values[0])["sub"], "alice");
}

#[tokio::test]
async fn a_public_method_needs_no_token_and_takes_no_identity() {
    let site = Site::new();
    let service = site.interop();
    let config = Config::interop(service.port).with_text(
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
    assert_eq!(
        call(&gateway, "/grpc.health.v1.Health/Check", &[])
            .await
            .status()
            .code,
        0
    );
}
