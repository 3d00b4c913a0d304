use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::security::jwks::double::{Answer, Double, secret};
use crate::security::verifier::{Algorithm, ClaimPath, Expected, VerifierSettings};

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn rules(issuer: &str) -> TokenRules {
    TokenRules::from(VerifierSettings {
        issuer: issuer.to_owned(),
        audience: "us".to_owned(),
        leeway: Duration::from_secs(5),
    })
}

/// An issuer whose one key has the kid and the secret of `kid`.
fn fixed(issuer: &str, kid: &str) -> Issuer {
    with_rules(rules(issuer), kid)
}

fn with_rules(rules: TokenRules, kid: &str) -> Issuer {
    let key = VerificationKey::hmac(Some(kid.to_owned()), Algorithm::Hs256, &secret(kid));
    let keys = IssuerKeys {
        named: vec![key.unwrap()],
        ..IssuerKeys::default()
    };
    Issuer::new(rules, keys).unwrap()
}

fn fetched(double: &Double) -> Issuer {
    let keys = IssuerKeys {
        fetched: Some(Arc::new(double.source())),
        ..IssuerKeys::default()
    };
    Issuer::new(rules("fetched"), keys).unwrap()
}

fn claims(issuer: &str) -> Value {
    json!({"iss": issuer, "sub": "alice", "aud": "us", "exp": NOW + 60})
}

fn signed(kid: &str, signing: &str, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!(
        "{}.{}",
        part(&json!({"alg": "HS256", "kid": kid})),
        part(claims)
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret(signing));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

fn token(kid: &str, issuer: &str) -> String {
    signed(kid, kid, &claims(issuer))
}

#[tokio::test]
async fn the_word_of_another_process_counts_where_key_and_rules_are_the_same() {
    let here = || Issuers::new(vec![fixed("a", "ka"), fixed("b", "kb")]).unwrap();
    let verified = here().verify_at(&token("ka", "a"), now()).unwrap();
    let (mark, exp) = (verified.proof.mark(), verified.claims.exp);
    let issuers = here();
    let proof = issuers.readmit("a", &mark, exp).await.unwrap();
    assert_eq!(issuers.standing(&proof, now()), Standing::Current);
    let later = now() + Duration::from_secs(65);
    assert_eq!(issuers.standing(&proof, later), Standing::Expired);
    assert_eq!(proof.mark(), mark);
    for (issuer, mark, error) in [
        ("b", mark.as_str(), TokenError::UnknownKey),
        ("c", mark.as_str(), TokenError::Issuer),
        ("a", "", TokenError::UnknownKey),
    ] {
        assert_eq!(issuers.readmit(issuer, mark, exp).await.err(), Some(error));
    }
    // Another key, and other rules: neither is taken at its word.
    let mut more = rules("a");
    more.audiences.push("others".into());
    for other in [fixed("a", "kb"), with_rules(more, "ka")] {
        let issuers = Issuers::new(vec![other]).unwrap();
        let refused = issuers.readmit("a", &mark, exp).await.err();
        assert_eq!(refused, Some(TokenError::UnknownKey));
    }
}

#[test]
fn a_claim_that_is_a_text_can_be_read_from_an_accepted_token_and_does_not_show() {
    let issuers = Issuers::new(vec![fixed("a", "ka")]).unwrap();
    let mut claims = claims("a");
    claims["org"] = json!({"id": "acme", "size": 7});
    let verified = issuers
        .verify_at(&signed("ka", "ka", &claims), now())
        .unwrap();
    let text = |path| verified.text(&ClaimPath::new(path));
    assert_eq!(text("/org/id"), Some("acme"));
    assert_eq!(
        (text("/org/size"), text("org"), text("gone")),
        (None, None, None)
    );
    assert!(!format!("{verified:?}").contains("acme"));
}

#[test]
fn a_token_is_judged_by_the_issuer_that_it_names_and_by_nobody_else() {
    let issuers = Issuers::new(vec![fixed("a", "ka"), fixed("b", "kb")]).unwrap();
    let verify = |token: &str| issuers.verify_at(token, now()).map(|v| v.claims.iss);
    assert_eq!(verify(&token("ka", "a")), Ok("a".to_owned()));
    assert_eq!(verify(&token("kb", "b")), Ok("b".to_owned()));
    // B's key, A's name; with B's kid, with A's kid, and without one.
    assert_eq!(verify(&token("kb", "a")), Err(TokenError::UnknownKey));
    assert_eq!(
        verify(&signed("ka", "kb", &claims("a"))),
        Err(TokenError::Signature)
    );
    for issuer in ["c", "A", "", "a "] {
        assert_eq!(
            verify(&token("ka", issuer)),
            Err(TokenError::Issuer),
            "{issuer:?}"
        );
    }
    for iss in [json!(null), json!(7), json!(["a"])] {
        let claims = json!({"iss": iss, "sub": "alice", "aud": "us", "exp": NOW + 60});
        assert_eq!(
            verify(&signed("ka", "ka", &claims)),
            Err(TokenError::Issuer)
        );
    }
}

#[test]
fn each_issuer_has_rules_of_its_own() {
    let strict = TokenRules {
        audiences: vec!["us".into(), "others".into()],
        leeway: Duration::ZERO,
        roles_claim: ClaimPath::new("/realm_access/roles"),
        required_claims: vec![
            (ClaimPath::new("email_verified"), Expected::Flag(true)),
            (ClaimPath::new("/realm/name"), Expected::Any),
        ],
        ..rules("strict")
    };
    let issuers = Issuers::new(vec![with_rules(strict, "ks"), fixed("lax", "kl")]).unwrap();
    let good = json!({
        "iss": "strict", "sub": "alice", "aud": ["others"], "exp": NOW + 1, "jti": "t1",
        "email_verified": true, "realm": {"name": 7},
        "realm_access": {"roles": ["user"]}, "roles": ["admin"],
    });
    let verified = issuers
        .verify_at(&signed("ks", "ks", &good), now())
        .unwrap();
    assert_eq!(verified.claims.roles, ["user"]);
    assert_eq!(verified.claims.aud, "others");
    assert_eq!(verified.token_id.as_deref(), Some("t1"));
    for (name, value, expected) in [
        ("email_verified", json!("true"), TokenError::RequiredClaim),
        ("email_verified", json!(null), TokenError::RequiredClaim),
        ("realm", json!({}), TokenError::RequiredClaim),
        ("aud", json!("them"), TokenError::Audience),
        ("exp", json!(NOW), TokenError::Expired),
        ("realm_access", json!({"roles": 7}), TokenError::Roles),
        ("jti", json!(7), TokenError::InvalidClaim),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        let result = issuers.verify_at(&signed("ks", "ks", &claims), now());
        assert_eq!(result.map(|_| ()), Err(expected), "{name}");
    }
    // None of it is asked of the other one's tokens.
    let mut lax = claims("lax");
    lax["exp"] = json!(NOW - 4);
    assert!(issuers.verify_at(&signed("kl", "kl", &lax), now()).is_ok());
}

#[test]
fn issuers_that_accept_nothing_or_that_nothing_tells_apart_are_refused() {
    let none = Issuer::new(rules("a"), IssuerKeys::default());
    assert_eq!(none.unwrap_err(), KeyError::NoKeys);
    let twice = Issuers::new(vec![fixed("a", "k"), fixed("a", "l")]);
    assert_eq!(twice.unwrap_err(), KeyError::DuplicateIssuer("a".into()));
    let many = (0..=MAX_ISSUERS)
        .map(|i| fixed(&i.to_string(), "k"))
        .collect();
    assert_eq!(
        Issuers::new(many).unwrap_err(),
        KeyError::TooManyIssuers(33)
    );
    assert_eq!(Issuers::new(Vec::new()).unwrap_err(), KeyError::NoKeys);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_new_key_is_accepted_after_one_fetch() {
    let double = Double::answers(Answer::Keys(vec!["k1"]));
    let issuers = Issuers::new(vec![fetched(&double)]).unwrap();
    let first = token("k1", "fetched");
    assert!(issuers.verify_with_new_keys(&first, now()).await.is_ok());

    double.now_answers(Answer::Keys(vec!["k1", "k2"]));
    let second = token("k2", "fetched");
    let known = issuers.verify_at(&second, now());
    assert_eq!(known.map(|_| ()), Err(TokenError::UnknownKey));
    assert!(issuers.verify_with_new_keys(&second, now()).await.is_ok());
    assert_eq!(double.asked(), 2);

    let made_up = token("k3", "fetched");
    let refused = issuers.verify_with_new_keys(&made_up, now()).await;
    assert_eq!(refused.map(|_| ()), Err(TokenError::UnknownKey));
    assert_eq!(double.asked(), 2, "within the cooldown");
    // A wrong signature of a known key is no reason to ask.
    let forged = signed("k1", "k2", &claims("fetched"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let refused = issuers.verify_with_new_keys(&forged, now()).await;
    assert_eq!(refused.map(|_| ()), Err(TokenError::Signature));
    assert_eq!(double.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_whose_keys_cannot_be_fetched_is_unavailable_and_the_others_are_not() {
    let double = Double::answers(Answer::Fails);
    let issuers = Issuers::new(vec![fetched(&double), fixed("b", "kb")]).unwrap();
    let away = issuers
        .verify_with_new_keys(&token("k1", "fetched"), now())
        .await;
    assert_eq!(away.map(|_| ()), Err(TokenError::KeysUnavailable));
    assert!(issuers.verify_at(&token("kb", "b"), now()).is_ok());
    let statuses = issuers.statuses();
    assert_eq!((statuses[0].keys, statuses[1].keys), (0, 1));
    assert_eq!(statuses[1].fetched, None);

    double.now_answers(Answer::Keys(vec!["k1"]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(issuers.verify_at(&token("k1", "fetched"), now()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_remembered_ends_with_its_key() {
    let double = Double::answers(Answer::Keys(vec!["k1", "k2"]));
    let issuers = Issuers::new(vec![fetched(&double)]).unwrap();
    let mut verified = Vec::new();
    for kid in ["k1", "k2"] {
        let token = token(kid, "fetched");
        verified.push(issuers.verify_with_new_keys(&token, now()).await.unwrap());
    }
    let holds = |verified: &Verified| issuers.standing(&verified.proof, now()) == Standing::Current;
    assert!(verified.iter().all(holds));

    double.now_answers(Answer::Keys(vec!["k2", "k3"]));
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_eq!(
        verified.iter().map(holds).collect::<Vec<_>>(),
        [false, true]
    );
    // The second look finds what the first has noted.
    assert_eq!(
        verified.iter().map(holds).collect::<Vec<_>>(),
        [false, true]
    );

    double.now_answers(Answer::Fails);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        verified.iter().map(holds).collect::<Vec<_>>(),
        [false, false],
        "too old"
    );
}

#[test]
fn a_remembered_token_ends_to_the_second_and_holds_under_a_new_issuer_with_its_key() {
    let issuers = Issuers::new(vec![fixed("a", "k")]).unwrap();
    let verified = issuers.verify_at(&token("k", "a"), now()).unwrap();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let standing = |issuers: &Issuers, seconds| issuers.standing(&verified.proof, at(seconds));
    assert_eq!(standing(&issuers, NOW + 64), Standing::Current);
    assert_eq!(standing(&issuers, NOW + 65), Standing::Expired);
    // What a changed configuration has made of the issuer.
    let changed = |issuer| Issuers::new(vec![issuer]).unwrap();
    for (issuer, expected) in [
        (fixed("a", "k"), Standing::Current),
        (fixed("a", "other"), Standing::KeyGone),
        (fixed("b", "k"), Standing::KeyGone),
    ] {
        assert_eq!(standing(&changed(issuer), NOW), expected);
    }
    assert_eq!(
        standing(&issuers, NOW),
        Standing::Current,
        "the old one is not misled by it"
    );
}

#[test]
fn a_remembered_token_must_be_verified_anew_once_the_rules_ask_more_or_grant_less() {
    let issuers = Issuers::new(vec![fixed("a", "k")]).unwrap();
    let verified = issuers.verify_at(&token("k", "a"), now()).unwrap();
    let more = TokenRules {
        audiences: vec!["others".into(), "us".into()],
        ..rules("a")
    };
    let other_audience = TokenRules {
        audiences: vec!["others".into()],
        ..rules("a")
    };
    let fewer_roles = TokenRules {
        allowed_roles: Some(vec!["user".into()]),
        ..rules("a")
    };
    for (rules, expected) in [
        (more, Standing::Current),
        (other_audience, Standing::RulesChanged),
        (fewer_roles, Standing::RulesChanged),
    ] {
        let changed = Issuers::new(vec![with_rules(rules, "k")]).unwrap();
        assert_eq!(changed.standing(&verified.proof, now()), expected);
    }
}

#[test]
fn an_issuer_gives_only_the_roles_that_it_is_trusted_with() {
    let mut said = claims("a");
    said["roles"] = json!(["admin", "user", "partner", "users"]);
    let token = signed("k", "k", &said);
    let roles = |allowed: Option<&[&str]>| {
        let rules = TokenRules {
            allowed_roles: allowed.map(|list| list.iter().map(|&one| one.to_owned()).collect()),
            ..rules("a")
        };
        let issuers = Issuers::new(vec![with_rules(rules, "k")]).unwrap();
        issuers.verify_at(&token, now()).unwrap().claims.roles
    };
    assert_eq!(roles(None), ["admin", "user", "partner", "users"]);
    assert_eq!(roles(Some(&["user", "partner", "x"])), ["user", "partner"]);
    assert_eq!(roles(Some(&[])), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_moves_into_a_fetched_set_holds_until_the_answer_and_after_it_if_it_is_there() {
    let unnamed = VerificationKey::hmac(None, Algorithm::Hs256, &secret("k1")).unwrap();
    let keys = IssuerKeys {
        named: vec![unnamed],
        ..IssuerKeys::default()
    };
    let before = Issuers::new(vec![Issuer::new(rules("fetched"), keys).unwrap()]).unwrap();
    let verified = before.verify_at(&token("k1", "fetched"), now()).unwrap();
    for (answer, expected) in [
        (Answer::Keys(vec!["k1"]), Standing::Current),
        (Answer::Keys(vec!["k2"]), Standing::KeyGone),
        (Answer::Fails, Standing::KeyGone),
        (Answer::Stalls, Standing::KeyGone),
    ] {
        let after = Issuers::new(vec![fetched(&Double::answers(answer))]).unwrap();
        let standing = || after.standing(&verified.proof, now());
        assert_eq!(standing(), Standing::Current, "nobody knows yet");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(standing(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_remembered_keeps_nobody_fetching() {
    let double = Double::answers(Answer::Keys(vec!["k1"]));
    let issuers = Issuers::new(vec![fetched(&double)]).unwrap();
    let token = token("k1", "fetched");
    let verified = issuers.verify_with_new_keys(&token, now()).await.unwrap();
    drop(issuers);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!double.is_in_use());
    drop(verified);
}
