//! With real tokens, real keys and a clock that the tests turn.

use intellirouter::security::IdentityVerifier;
use tonic::Code;

use super::*;
use crate::test_util::{authenticate, bearer, files, token_for};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn authorization(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(AUTHORIZATION, HeaderValue::try_from(*value).unwrap());
    }
    headers
}

#[test]
fn a_remembered_token_is_refused_from_its_end_on() {
    let step = authenticate(&[]);
    let headers = bearer(&token_for("alice", &["user"], 100));
    let now = SystemTime::now();
    assert_eq!(step.check(&headers, now).unwrap().subject(), "alice");
    assert_eq!(
        step.check(&headers, now + secs(98)).unwrap().roles(),
        ["user"]
    );
    let reply = step.check(&headers, now + secs(101)).unwrap_err();
    assert_eq!(
        (reply.code, &*reply.message),
        (Code::Unauthenticated, "the token has expired")
    );
}

#[test]
fn a_known_token_is_looked_up_and_not_verified_again() {
    let step = authenticate(&[]);
    let headers = bearer(&token_for("alice", &["user"], 100));
    let now = SystemTime::now();
    let first = step.check(&headers, now).unwrap();
    assert!(Arc::ptr_eq(&first, &step.check(&headers, now).unwrap()));
}

#[test]
fn the_scheme_may_have_any_case() {
    let (step, token) = (authenticate(&[]), token_for("alice", &[], 100));
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let headers = authorization(&[&format!("{scheme} {token}")]);
        assert!(step.check(&headers, SystemTime::now()).is_ok(), "{scheme}");
    }
}

#[test]
fn two_authorization_headers_are_refused_though_both_are_good() {
    let value = format!("Bearer {}", token_for("alice", &[], 100));
    let headers = authorization(&[&value, &value]);
    let reply = authenticate(&[])
        .check(&headers, SystemTime::now())
        .unwrap_err();
    assert_eq!(
        (reply.code, reply.label),
        (Code::Unauthenticated, "bad_token")
    );
}

#[test]
fn a_header_that_is_no_bearer_token_is_refused_and_not_repeated() {
    let token = token_for("alice", &[], 100);
    for value in [
        "Basic aHVudGVy",
        "Bearer",
        "Bearer ",
        "Bearer hunter2",
        &token,
        &format!("Bearer{token}"),
    ] {
        let reply = authenticate(&[])
            .check(&authorization(&[value]), SystemTime::now())
            .unwrap_err();
        assert_eq!(reply.code, Code::Unauthenticated, "{value}");
        assert!(!reply.message.contains("hunter") && !reply.message.contains(&token));
    }
    let reply = authenticate(&[])
        .check(&HeaderMap::new(), SystemTime::now())
        .unwrap_err();
    assert_eq!(reply.label, "no_token");
}

#[test]
fn a_backend_can_verify_who_calls() {
    let step = authenticate(&["memory", "rag"]);
    let now = SystemTime::now();
    let caller = step
        .check(&bearer(&token_for("alice", &["user", "ops"], 100)), now)
        .unwrap();
    let header = step.identity_header(&caller, 1, now).unwrap();
    let pem = std::fs::read(&files().identity_public).unwrap();
    let verifier = |audience| {
        IdentityVerifier::from_public_pem(&pem, "intellirouter-gateway", audience).unwrap()
    };
    let claims = verifier("rag").verify(header.to_str().unwrap()).unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.roles),
        ("alice", vec!["user".to_owned(), "ops".into()])
    );
    assert!(claims.exp - claims.iat <= 60);
    assert!(
        verifier("memory").verify(header.to_str().unwrap()).is_err(),
        "made for another backend"
    );
}

#[test]
fn an_identity_is_signed_once_per_caller_and_upstream_and_anew_in_its_last_third() {
    let step = authenticate(&["memory", "rag"]);
    let now = SystemTime::now();
    let caller = |seconds| {
        step.check(&bearer(&token_for("alice", &["user"], seconds)), now)
            .unwrap()
    };
    let (one, other_token) = (caller(100), caller(200));
    // ES256 signatures differ each time, so equal headers are the same one.
    let first = step.identity_header(&one, 0, now).unwrap();
    assert_eq!(
        step.identity_header(&other_token, 0, now + secs(39))
            .unwrap(),
        first
    );
    assert_ne!(step.identity_header(&one, 1, now).unwrap(), first);
    let renewed = step.identity_header(&one, 0, now + secs(41)).unwrap();
    assert_ne!(renewed, first);
    assert_eq!(
        step.identity_header(&one, 0, now + secs(80)).unwrap(),
        renewed
    );
}

#[test]
fn callers_that_differ_in_roles_never_share_an_identity() {
    let step = authenticate(&["memory"]);
    let now = SystemTime::now();
    let header = |roles: &[&str]| {
        let caller = step
            .check(&bearer(&token_for("alice", roles, 100)), now)
            .unwrap();
        step.identity_header(&caller, 0, now).unwrap()
    };
    assert_ne!(header(&["user"]), header(&["user", "ops"]));
}

#[test]
fn an_upstream_that_does_not_exist_gets_no_identity() {
    let step = authenticate(&[]);
    let now = SystemTime::now();
    let caller = step
        .check(&bearer(&token_for("alice", &[], 100)), now)
        .unwrap();
    assert_eq!(
        step.identity_header(&caller, 0, now).unwrap_err().code,
        Code::Internal
    );
}
