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

fn guard(required: &[&str]) -> Guard {
    Guard::new(
        None,
        Some(jwt()),
        required.iter().map(|role| (*role).to_owned()).collect(),
    )
}

fn admit(guard: &Guard, list: &[(&'static str, &str)]) -> Result<String, Refusal> {
    let claims = guard.admit(&Access::anyone(), &headers(list), SystemTime::now())?;
    Ok(claims.map(|claims| claims.sub.clone()).unwrap_or_default())
}

struct Gateway {
    signer: IdentitySigner,
    guard: Guard,
}

fn gateway(jwt: Option<Arc<JwtAuthenticator>>) -> Gateway {
    let pair = p256_pair();
    let minute = Duration::from_secs(60);
    let signer = IdentitySigner::from_pkcs8_pem(pair.private.as_bytes(), "gw", minute).unwrap();
    let verifier =
        IdentityVerifier::from_public_pem(pair.public.as_bytes(), "gw", "memory").unwrap();
    Gateway {
        signer,
        guard: Guard::new(Some(Arc::new(verifier)), jwt, vec!["reader".into()]),
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
    let guard = guard(&["writer", "reader"]);
    for roles in [&["reader"][..], &["x", "writer"], &["admin"]] {
        let token = bearer_token(roles);
        assert_eq!(
            admit(&guard, &[("authorization", &token)]),
            Ok("caller".into())
        );
    }
    for roles in [&[][..], &["other"]] {
        let token = bearer_token(roles);
        assert_eq!(
            admit(&guard, &[("authorization", &token)]),
            Err(Refusal::Denied(Denied::RoleMissing))
        );
    }
}

#[test]
fn no_required_roles_admit_any_valid_caller_and_nobody_else() {
    let guard = guard(&[]);
    assert_eq!(
        admit(&guard, &[("authorization", &bearer_token(&[]))]),
        Ok("caller".into())
    );
    assert_eq!(admit(&guard, &[]), Err(Refusal::NoToken));
}

#[test]
fn the_scheme_is_bearer_in_any_case_and_nothing_else() {
    let guard = guard(&[]);
    let token = bearer_token(&[]);
    let bare = token.trim_start_matches("Bearer ");
    assert!(admit(&guard, &[("authorization", &format!("bEARER {bare}"))]).is_ok());
    for value in [bare, "Bearer", "Basic YTpi", &format!("Token {bare}"), ""] {
        assert_eq!(
            admit(&guard, &[("authorization", value)]),
            Err(Refusal::NoToken),
            "{value}"
        );
    }
}

#[test]
fn two_tokens_of_one_sort_are_refused() {
    let token = bearer_token(&["admin"]);
    let twice = [("authorization", &*token), ("authorization", &*token)];
    assert_eq!(admit(&guard(&[]), &twice), Err(Refusal::TwoTokens));
}

#[test]
fn a_caller_that_the_gateway_vouches_for_is_admitted_by_the_roles_given_there() {
    let gateway = gateway(None);
    let admit = |token: &str| admit(&gateway.guard, &[(IDENTITY_HEADER, token)]);
    assert_eq!(
        admit(&gateway.identity("alice", &["reader"])),
        Ok("alice".into())
    );
    assert_eq!(
        admit(&gateway.identity("alice", &["other"])),
        Err(Refusal::Denied(Denied::RoleMissing))
    );
}

#[test]
fn a_bearer_token_does_not_help_a_bad_identity() {
    let trusted = gateway(Some(jwt()));
    let token = bearer_token(&["admin"]);
    let forged = gateway(None).identity("alice", &["admin"]);
    assert_eq!(
        admit(
            &trusted.guard,
            &[(IDENTITY_HEADER, &forged), ("authorization", &token)]
        ),
        Err(Refusal::Token(TokenError::Signature))
    );
    assert_eq!(
        admit(&trusted.guard, &[("authorization", &token)]),
        Ok("caller".into())
    );
}

#[test]
fn an_identity_is_not_looked_at_where_no_gateway_is_trusted() {
    let identity = gateway(None).identity("alice", &["admin"]);
    assert_eq!(
        admit(&guard(&[]), &[(IDENTITY_HEADER, &identity)]),
        Err(Refusal::NoToken)
    );
    // Nor does it speak as a bearer token.
    let value = format!("Bearer {identity}");
    assert_eq!(
        admit(&guard(&[]), &[("authorization", &value)]),
        Err(Refusal::Token(TokenError::Algorithm))
    );
}

#[test]
fn a_remembered_token_is_refused_once_it_has_expired() {
    let guard = guard(&[]);
    let token = bearer_token(&[]);
    let headers = headers(&[("authorization", &token)]);
    let now = SystemTime::now();
    assert!(guard.admit(&Access::anyone(), &headers, now).is_ok());
    assert!(
        guard
            .admit(&Access::anyone(), &headers, now + Duration::from_secs(90))
            .is_ok()
    );
    assert_eq!(
        guard.admit(&Access::anyone(), &headers, now + Duration::from_secs(101)),
        Err(Refusal::Token(TokenError::Expired))
    );
}

#[test]
fn a_token_that_was_remembered_as_one_sort_is_not_known_as_the_other() {
    let gateway = gateway(Some(jwt()));
    let bearer = bearer_token(&["admin"]);
    let bare = bearer.trim_start_matches("Bearer ");
    assert!(admit(&gateway.guard, &[("authorization", &bearer)]).is_ok());
    assert!(matches!(
        admit(&gateway.guard, &[(IDENTITY_HEADER, bare)]),
        Err(Refusal::Token(_))
    ));
}

#[test]
fn the_rule_of_the_method_holds_beside_the_roles_that_all_need() {
    let guard = guard(&["member"]);
    let rule = Access::any_of(vec!["writer".to_owned()]);
    let verdict = |roles: &[&str]| {
        let token = bearer_token(roles);
        let headers = headers(&[("authorization", &token)]);
        guard.admit(&rule, &headers, SystemTime::now()).map(|_| ())
    };
    let missing = || Err(Refusal::Denied(Denied::RoleMissing));
    assert_eq!(verdict(&["member", "writer"]), Ok(()));
    assert_eq!(verdict(&["admin"]), Ok(()));
    assert_eq!(verdict(&["writer"]), missing());
    assert_eq!(verdict(&["member"]), missing());
}

#[test]
fn a_public_method_asks_for_no_token_and_a_method_without_a_rule_lets_nobody_in() {
    let now = SystemTime::now();
    let nobody = Guard::new(None, None, Vec::new());
    let token = bearer_token(&["admin"]);
    let admin = headers(&[("authorization", &token)]);
    for guard in [guard(&["reader"]), nobody] {
        let public = guard.admit(&Access::Public, &HeaderMap::new(), now);
        assert_eq!(public.map(|claims| claims.is_none()), Ok(true));
        assert_eq!(
            guard.admit(&Access::NoRule, &admin, now).map(|_| ()),
            Err(Refusal::Denied(Denied::NoRule))
        );
    }
}

#[test]
fn who_may_not_call_is_only_told_to_callers_with_a_token() {
    let verdict = guard(&[]).admit(&Access::NoRule, &HeaderMap::new(), SystemTime::now());
    assert_eq!(verdict.map(|_| ()), Err(Refusal::NoToken));
}
