use std::time::Duration;

use http::HeaderValue;

use super::*;
use crate::security::test_keys::p256_pair;
use crate::security::{IdentitySigner, JwtConfig};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn jwt() -> Arc<JwtAuthenticator> {
    Arc::new(JwtAuthenticator::new(JwtConfig {
        secret: SECRET.to_owned(),
        issuer: "intellirouter".to_owned(),
        audience: "intellirouter-services".to_owned(),
        expiration_seconds: 100,
    }))
}

fn bearer_token(roles: &[&str]) -> String {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    format!("Bearer {}", jwt().generate_token("caller", roles).unwrap())
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    // Appends, where `insert` would replace.
    list.iter()
        .map(pair)
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

fn policy(required: &[&str]) -> Policy {
    Policy::new(
        None,
        Some(jwt()),
        required.iter().map(|role| (*role).to_owned()).collect(),
    )
}

fn admit(policy: &Policy, list: &[(&'static str, &str)]) -> Result<String, Refusal> {
    let claims = policy.admit(&headers(list), SystemTime::now())?;
    Ok(claims.map(|claims| claims.sub.clone()).unwrap_or_default())
}

struct Gateway {
    signer: IdentitySigner,
    policy: Policy,
}

fn gateway(jwt: Option<Arc<JwtAuthenticator>>) -> Gateway {
    let pair = p256_pair();
    let minute = Duration::from_secs(60);
    let signer = IdentitySigner::from_pkcs8_pem(pair.private.as_bytes(), "gw", minute).unwrap();
    let verifier =
        IdentityVerifier::from_public_pem(pair.public.as_bytes(), "gw", "memory").unwrap();
    Gateway {
        signer,
        policy: Policy::new(Some(Arc::new(verifier)), jwt, vec!["reader".into()]),
    }
}

impl Gateway {
    fn identity(&self, subject: &str, roles: &[&str]) -> String {
        let roles: Vec<_> = roles.iter().map(|role| (*role).to_owned()).collect();
        self.signer
            .sign(subject, &roles, "memory", SystemTime::now())
            .unwrap()
    }
}

#[test]
fn a_bearer_token_with_a_required_role_or_admin_is_admitted() {
    let policy = policy(&["writer", "reader"]);
    for roles in [&["reader"][..], &["x", "writer"], &["admin"]] {
        let token = bearer_token(roles);
        assert_eq!(
            admit(&policy, &[("authorization", &token)]),
            Ok("caller".into())
        );
    }
    for roles in [&[][..], &["other"]] {
        let token = bearer_token(roles);
        assert_eq!(
            admit(&policy, &[("authorization", &token)]),
            Err(Refusal::Role)
        );
    }
}

#[test]
fn no_required_roles_admit_any_valid_caller_and_nobody_else() {
    let policy = policy(&[]);
    assert_eq!(
        admit(&policy, &[("authorization", &bearer_token(&[]))]),
        Ok("caller".into())
    );
    assert_eq!(admit(&policy, &[]), Err(Refusal::NoToken));
}

#[test]
fn the_scheme_is_bearer_in_any_case_and_nothing_else() {
    let policy = policy(&[]);
    let token = bearer_token(&[]);
    let bare = token.trim_start_matches("Bearer ");
    assert!(admit(&policy, &[("authorization", &format!("bEARER {bare}"))]).is_ok());
    for value in [bare, "Bearer", "Basic YTpi", &format!("Token {bare}"), ""] {
        assert_eq!(
            admit(&policy, &[("authorization", value)]),
            Err(Refusal::NoToken),
            "{value}"
        );
    }
}

#[test]
fn two_tokens_of_one_sort_are_refused() {
    let token = bearer_token(&["admin"]);
    let twice = [("authorization", &*token), ("authorization", &*token)];
    assert_eq!(admit(&policy(&[]), &twice), Err(Refusal::TwoTokens));
}

#[test]
fn a_caller_that_the_gateway_vouches_for_is_admitted_by_the_roles_given_there() {
    let gateway = gateway(None);
    let admit = |token: &str| admit(&gateway.policy, &[(IDENTITY_HEADER, token)]);
    assert_eq!(
        admit(&gateway.identity("alice", &["reader"])),
        Ok("alice".into())
    );
    assert_eq!(
        admit(&gateway.identity("alice", &["other"])),
        Err(Refusal::Role)
    );
}

#[test]
fn a_bearer_token_does_not_help_a_bad_identity() {
    let trusted = gateway(Some(jwt()));
    let token = bearer_token(&["admin"]);
    let forged = gateway(None).identity("alice", &["admin"]);
    assert_eq!(
        admit(
            &trusted.policy,
            &[(IDENTITY_HEADER, &forged), ("authorization", &token)]
        ),
        Err(Refusal::Token(TokenError::Signature))
    );
    assert_eq!(
        admit(&trusted.policy, &[("authorization", &token)]),
        Ok("caller".into())
    );
}

#[test]
fn an_identity_is_not_looked_at_where_no_gateway_is_trusted() {
    let identity = gateway(None).identity("alice", &["admin"]);
    assert_eq!(
        admit(&policy(&[]), &[(IDENTITY_HEADER, &identity)]),
        Err(Refusal::NoToken)
    );
    // Nor does it speak as a bearer token.
    let value = format!("Bearer {identity}");
    assert_eq!(
        admit(&policy(&[]), &[("authorization", &value)]),
        Err(Refusal::Token(TokenError::Algorithm))
    );
}

#[test]
fn a_remembered_token_is_refused_once_it_has_expired() {
    let policy = policy(&[]);
    let token = bearer_token(&[]);
    let headers = headers(&[("authorization", &token)]);
    let now = SystemTime::now();
    assert!(policy.admit(&headers, now).is_ok());
    assert!(
        policy
            .admit(&headers, now + Duration::from_secs(90))
            .is_ok()
    );
    assert_eq!(
        policy.admit(&headers, now + Duration::from_secs(101)),
        Err(Refusal::Token(TokenError::Expired))
    );
}

#[test]
fn a_token_that_was_remembered_as_one_sort_is_not_known_as_the_other() {
    let gateway = gateway(Some(jwt()));
    let bearer = bearer_token(&["admin"]);
    let bare = bearer.trim_start_matches("Bearer ");
    assert!(admit(&gateway.policy, &[("authorization", &bearer)]).is_ok());
    assert!(matches!(
        admit(&gateway.policy, &[(IDENTITY_HEADER, bare)]),
        Err(Refusal::Token(_))
    ));
}

#[test]
fn every_refusal_has_a_code_and_a_machine_readable_reason() {
    for (refusal, code, reason) in [
        (Refusal::NoToken, Code::Unauthenticated, "NO_TOKEN"),
        (Refusal::TwoTokens, Code::Unauthenticated, "TWO_TOKENS"),
        (
            Refusal::Token(TokenError::Expired),
            Code::Unauthenticated,
            "EXPIRED",
        ),
        (Refusal::Role, Code::PermissionDenied, "ROLE"),
        (Refusal::Unusable, Code::Internal, "UNUSABLE"),
    ] {
        let status = refusal.into_status();
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (status.code(), &*info.reason, &*info.domain),
            (code, reason, ERROR_DOMAIN)
        );
        assert!(!status.message().is_empty());
    }
}
