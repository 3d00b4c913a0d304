use std::time::UNIX_EPOCH;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;
use crate::security::test_keys::{
    PemPair, ed25519_pair, p256_pair, p384_pair, p521_pair, rsa_pair,
};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";
const NOW: u64 = 1_800_000_000;

fn settings() -> VerifierSettings {
    VerifierSettings {
        issuer: "issuer".to_owned(),
        audience: "audience".to_owned(),
        leeway: Duration::from_secs(30),
    }
}

fn verifier(keys: Vec<VerificationKey>) -> TokenVerifier {
    TokenVerifier::new(settings(), keys).unwrap()
}

fn secret_key(kid: Option<&str>, secret: &[u8]) -> VerificationKey {
    VerificationKey::hmac(kid.map(str::to_owned), Algorithm::Hs256, secret).unwrap()
}

fn public_key(algorithm: Algorithm, pem: &str) -> VerificationKey {
    VerificationKey::from_public_pem(None, algorithm, pem.as_bytes()).unwrap()
}

fn claims() -> Value {
    json!({
        "sub": "alice", "iss": "issuer", "aud": "audience", "exp": NOW + 60, "iat": NOW - 60,
        "roles": ["reader", "writer"],
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn hs256(secret: &[u8], message: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()))
}

fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = unsigned(header, claims);
    let signature = hs256(secret, &message);
    format!("{message}.{signature}")
}

fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256"}), claims, SECRET)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn verify(keys: Vec<VerificationKey>, token: &str) -> Result<Claims, TokenError> {
    verifier(keys).verify_at(token, at(NOW))
}

fn verify_claims(claims: &Value) -> Result<Claims, TokenError> {
    verify(vec![secret_key(None, SECRET)], &token(claims))
}

// A verifier with one key, and a token for it that an independent library made, per algorithm.
fn every_algorithm() -> Vec<(Algorithm, TokenVerifier, String)> {
    let (rsa, p256, p384, ed) = (rsa_pair(), p256_pair(), p384_pair(), ed25519_pair());
    let secret = [b'k'; 64];
    let pem = |algorithm, pair: &PemPair, private: fn(&[u8]) -> jsonwebtoken::errors::Result<_>| {
        (
            public_key(algorithm, &pair.public),
            private(pair.private.as_bytes()).unwrap(),
        )
    };
    let keys = |algorithm: Algorithm| match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => (
            VerificationKey::hmac(None, algorithm, &secret).unwrap(),
            EncodingKey::from_secret(&secret),
        ),
        Algorithm::Es256 => pem(algorithm, &p256, EncodingKey::from_ec_pem),
        Algorithm::Es384 => pem(algorithm, &p384, EncodingKey::from_ec_pem),
        Algorithm::EdDsa => pem(algorithm, &ed, EncodingKey::from_ed_pem),
        _ => pem(algorithm, &rsa, EncodingKey::from_rsa_pem),
    };
    Algorithm::ALL
        .into_iter()
        .map(|algorithm| {
            if algorithm == Algorithm::Es512 {
                return es512();
            }
            let (public, private) = keys(algorithm);
            let header = Header::new(algorithm.name().parse().unwrap());
            let token = jsonwebtoken::encode(&header, &claims(), &private).unwrap();
            (algorithm, verifier(vec![public]), token)
        })
        .collect()
}

// The other library does not know this one; the whole-process tests have its tokens from a third.
fn es512() -> (Algorithm, TokenVerifier, String) {
    let pair = p521_pair();
    let der = PrivatePkcs8KeyDer::from_pem_slice(pair.private.as_bytes()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_FIXED_SIGNING, der.secret_pkcs8_der());
    let message = unsigned(&json!({"alg": "ES512"}), &claims());
    let signature = key.unwrap().sign(&SystemRandom::new(), message.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(signature.unwrap());
    let public = public_key(Algorithm::Es512, &pair.public);
    let token = format!("{message}.{signature}");
    (Algorithm::Es512, verifier(vec![public]), token)
}

#[test]
fn for_each_algorithm_a_token_of_another_library_is_accepted_and_one_of_another_algorithm_is_not() {
    let all = every_algorithm();
    for (mine, verifier, _) in &all {
        for (theirs, _, token) in &all {
            let expected = if mine == theirs {
                None
            } else {
                Some(TokenError::Algorithm)
            };
            let result = verifier.verify_at(token, at(NOW));
            assert_eq!(result.err(), expected, "{mine} key, {theirs} token");
        }
    }
}

#[test]
fn for_each_algorithm_a_changed_signature_payload_or_header_is_refused() {
    for (algorithm, verifier, token) in every_algorithm() {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            panic!("{token}")
        };
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[7] ^= 1;
        let changed = URL_SAFE_NO_PAD.encode(&bytes);
        let raised = URL_SAFE_NO_PAD.encode(with("sub", json!("mallory")).to_string());
        let renamed = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm.name(), "x": 1}).to_string());
        for forged in [
            format!("{header}.{payload}.{changed}"),
            format!("{header}.{raised}.{signature}"),
            format!("{renamed}.{payload}.{signature}"),
            format!("{header}.{payload}."),
            format!(
                "{header}.{payload}.{}",
                URL_SAFE_NO_PAD.encode(vec![0; bytes.len()])
            ),
            format!(
                "{header}.{payload}.{}",
                URL_SAFE_NO_PAD.encode(&bytes[..bytes.len() - 1])
            ),
        ] {
            let result = verifier.verify_at(&forged, at(NOW));
            assert_eq!(result, Err(TokenError::Signature), "{algorithm}: {forged}");
        }
    }
}

// CVE-2022-21449: r = s = 0 must not verify anything; nor may the encoding that certificates use.
#[test]
fn for_each_algorithm_a_signature_of_zeros_or_in_der_is_refused() {
    for (algorithm, verifier, token) in every_algorithm() {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let size = URL_SAFE_NO_PAD.decode(signature).unwrap().len();
        let half = size / 2;
        let zero = vec![0; size];
        let mut one = zero.clone();
        one[half - 1] = 1;
        one[size - 1] = 1;
        let der = [&[0x30, 6, 2, 1, 1, 2, 1, 1][..], &vec![0; size]].concat();
        for forged in [zero, one, der, vec![0xff; size], vec![0; size + 1]] {
            let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(&forged));
            let result = verifier.verify_at(&forged, at(NOW));
            assert_eq!(result, Err(TokenError::Signature), "{algorithm}");
        }
    }
}

#[test]
fn an_accepted_token_gives_its_claims() {
    assert_eq!(
        verify_claims(&claims()),
        Ok(Claims {
            sub: "alice".to_owned(),
            iss: "issuer".to_owned(),
            aud: "audience".to_owned(),
            exp: NOW + 60,
            iat: NOW - 60,
            roles: vec!["reader".to_owned(), "writer".to_owned()],
        })
    );
}

#[test]
fn alg_none_is_refused_in_every_spelling_with_and_without_a_signature() {
    for name in ["none", "None", "NONE", "nOnE", " none", "none\0", ""] {
        let header = json!({"alg": name});
        let message = unsigned(&header, &claims());
        for signature in [String::new(), hs256(SECRET, &message)] {
            let result = verify(
                vec![secret_key(None, SECRET)],
                &format!("{message}.{signature}"),
            );
            assert_eq!(result, Err(TokenError::Algorithm), "{name:?}");
        }
    }
}

#[test]
fn a_public_key_cannot_be_used_as_an_hmac_secret() {
    for (algorithm, pair) in [
        (Algorithm::Rs256, rsa_pair()),
        (Algorithm::Es256, p256_pair()),
    ] {
        let forged = signed(&json!({"alg": "HS256"}), &claims(), pair.public.as_bytes());
        let alone = verify(vec![public_key(algorithm, &pair.public)], &forged);
        assert_eq!(alone, Err(TokenError::Algorithm), "{algorithm}");
        // Also when HS256 is accepted, with a secret of its own.
        let keys = vec![
            public_key(algorithm, &pair.public),
            secret_key(None, SECRET),
        ];
        assert_eq!(
            verify(keys, &forged),
            Err(TokenError::Signature),
            "{algorithm}"
        );
    }
}

#[test]
fn a_key_that_the_token_brings_along_is_not_used() {
    let k = URL_SAFE_NO_PAD.encode(OTHER_SECRET);
    for header in [
        json!({"alg": "HS256", "jwk": {"kty": "oct", "k": k}}),
        json!({"alg": "HS256", "jku": "https://evil.example/keys"}),
        json!({"alg": "HS256", "x5u": "https://evil.example/cert"}),
        json!({"alg": "HS256", "x5c": ["AAAA"]}),
    ] {
        let forged = signed(&header, &claims(), OTHER_SECRET);
        let keys = || vec![secret_key(None, SECRET)];
        assert_eq!(
            verify(keys(), &forged),
            Err(TokenError::Signature),
            "{header}"
        );
        // The same header does no harm when the right key signed.
        assert!(
            verify(keys(), &signed(&header, &claims(), SECRET)).is_ok(),
            "{header}"
        );
    }
}

#[test]
fn a_token_that_demands_an_extension_is_refused() {
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null)] {
        let header = json!({"alg": "HS256", "crit": crit, "b64": false});
        let result = verify(
            vec![secret_key(None, SECRET)],
            &signed(&header, &claims(), SECRET),
        );
        assert_eq!(result, Err(TokenError::Critical), "{header}");
    }
}

#[test]
fn a_kid_chooses_the_key_when_keys_have_names() {
    let keys = || {
        vec![
            secret_key(Some("a"), SECRET),
            secret_key(Some("b"), OTHER_SECRET),
        ]
    };
    let sign = |kid: Value, secret| signed(&json!({"alg": "HS256", "kid": kid}), &claims(), secret);
    assert!(verify(keys(), &sign(json!("a"), SECRET)).is_ok());
    assert!(verify(keys(), &sign(json!("b"), OTHER_SECRET)).is_ok());
    assert_eq!(
        verify(keys(), &sign(json!("b"), SECRET)),
        Err(TokenError::Signature)
    );
    assert_eq!(
        verify(keys(), &sign(json!("c"), SECRET)),
        Err(TokenError::UnknownKey)
    );
    assert_eq!(
        verify(keys(), &sign(json!(7), SECRET)),
        Err(TokenError::Malformed)
    );
}

#[test]
fn a_kid_of_a_key_of_another_algorithm_is_refused_as_such() {
    let key = VerificationKey::hmac(Some("a".into()), Algorithm::Hs384, &[b'k'; 48]).unwrap();
    let forged = signed(&json!({"alg": "HS256", "kid": "a"}), &claims(), &[b'k'; 48]);
    let keys = vec![key, secret_key(Some("b"), SECRET)];
    assert_eq!(verify(keys, &forged), Err(TokenError::Algorithm));
}

#[test]
fn without_names_on_either_side_every_key_of_the_algorithm_is_tried() {
    let unnamed = || vec![secret_key(None, SECRET), secret_key(None, OTHER_SECRET)];
    let named = || {
        vec![
            secret_key(Some("a"), SECRET),
            secret_key(Some("b"), OTHER_SECRET),
        ]
    };
    let with_kid = signed(
        &json!({"alg": "HS256", "kid": "x"}),
        &claims(),
        OTHER_SECRET,
    );
    let without_kid = signed(&json!({"alg": "HS256"}), &claims(), OTHER_SECRET);
    assert!(verify(unnamed(), &with_kid).is_ok());
    assert!(verify(unnamed(), &without_kid).is_ok());
    assert!(verify(named(), &without_kid).is_ok());
}

#[test]
fn a_token_over_8_kib_is_refused_before_it_is_parsed() {
    let filler = |n: usize| with("filler", json!("x".repeat(n)));
    let fits = token(&filler(5800));
    assert!(fits.len() <= MAX_TOKEN_BYTES);
    assert!(verify(vec![secret_key(None, SECRET)], &fits).is_ok());

    let signed_but_long = token(&filler(6100));
    assert!(signed_but_long.len() > MAX_TOKEN_BYTES);
    for long in [signed_but_long, "x".repeat(MAX_TOKEN_BYTES + 1)] {
        assert_eq!(
            verify(vec![secret_key(None, SECRET)], &long),
            Err(TokenError::TooLarge)
        );
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let good = token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!("{good}")
    };
    let sign = |message: &str| format!("{message}.{}", hs256(SECRET, message));
    let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for bad in [
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}="),
        sign(&format!("{}.{payload}", b64("[]"))),
        sign(&format!("{}.{payload}", b64("{}"))),
        sign(&format!("{}.{payload}", b64(r#"{"alg":7}"#))),
        // A second member that one parser would take and another would not.
        sign(&format!(
            "{}.{payload}",
            b64(r#"{"alg":"none","alg":"HS256"}"#)
        )),
        sign(&format!(
            "{}.{payload}",
            b64(r#"{"alg":"HS256","x":1,"x":1}"#)
        )),
        sign(&format!("{}.{payload}", b64(r#"["HS256",null,false]"#))),
        sign(&format!("{header}.{}", b64("not json"))),
        sign(&format!("{header}.{}", b64("[]"))),
        sign(&format!("{header}.{}", b64(r#"{"sub":"a","sub":"b"}"#))),
        sign(&format!(
            "{header}.{}",
            b64(&claims()
                .to_string()
                .replacen('{', r#"{"roles":["admin"],"#, 1))
        )),
        sign(&format!("{header}.{payload}.{payload}")),
        // Five parts: encrypted, not signed (RFC 7516).
        format!("{header}.{payload}.{payload}.{payload}.{signature}"),
        // The JSON serializations (RFC 7515, 7.2).
        json!({"payload": payload, "protected": header, "signature": signature}).to_string(),
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]})
            .to_string(),
        // Other alphabets than base64url without padding.
        format!("{header}.{payload}.{signature}=="),
        format!(
            "{header}.{payload}.{}",
            signature.replacen(|_| true, "+", 1)
        ),
        format!("{header}.{payload}. {signature}"),
        format!(".{payload}.{signature}"),
        sign(&format!("{header}.")),
        format!(".{payload}."),
    ] {
        let result = verify(vec![secret_key(None, SECRET)], &bad);
        assert_eq!(result, Err(TokenError::Malformed), "{bad:?}");
    }
}

#[test]
fn a_token_has_one_spelling_only() {
    let good = token(&claims());
    // The last character of a 32-byte signature carries two bits that mean nothing.
    let (rest, last) = good.split_at(good.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let accepted: Vec<char> = alphabet
        .chars()
        .filter(|c| verify(vec![secret_key(None, SECRET)], &format!("{rest}{c}")).is_ok())
        .collect();
    assert_eq!(accepted, last.chars().collect::<Vec<_>>());
}

#[test]
fn exp_iss_aud_and_sub_must_be_there() {
    for name in ["exp", "iss", "aud", "sub"] {
        assert_eq!(
            verify_claims(&without(name)),
            Err(TokenError::MissingClaim),
            "{name}"
        );
        assert_eq!(
            verify_claims(&with(name, json!(null))),
            Err(TokenError::MissingClaim),
            "{name}"
        );
    }
    assert_eq!(
        verify_claims(&with("sub", json!(""))),
        Err(TokenError::MissingClaim)
    );
}

#[test]
fn a_claim_of_the_wrong_type_is_refused() {
    for (name, value) in [
        ("sub", json!(7)),
        ("sub", json!(["alice"])),
        ("iss", json!(["issuer"])),
        ("aud", json!(7)),
        ("aud", json!(["audience", 7])),
        ("exp", json!("1800000060")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!("soon")),
        ("nbf", json!(-1)),
        ("iat", json!("now")),
    ] {
        let result = verify_claims(&with(name, value.clone()));
        assert_eq!(result, Err(TokenError::InvalidClaim), "{name}: {value}");
    }
}

#[test]
fn roles_are_a_list_or_one_text_with_spaces() {
    for (roles, expected) in [
        (json!(["reader", "writer"]), vec!["reader", "writer"]),
        (json!("reader writer"), vec!["reader", "writer"]),
        (json!(" reader  writer "), vec!["reader", "writer"]),
        (json!("admin"), vec!["admin"]),
        (json!(""), vec![]),
        (json!([]), vec![]),
        (json!(null), vec![]),
    ] {
        let claims = verify_claims(&with("roles", roles.clone())).unwrap();
        assert_eq!(claims.roles, expected, "{roles}");
    }
}

#[test]
fn roles_of_another_type_are_refused_and_not_taken_for_none() {
    for roles in [
        json!(7),
        json!(true),
        json!({"admin": true}),
        json!(["reader", 7]),
        json!([["reader"]]),
    ] {
        let result = verify_claims(&with("roles", roles.clone()));
        assert_eq!(result, Err(TokenError::Roles), "{roles}");
    }
}

#[test]
fn roles_are_bounded_in_number_and_length() {
    let roles = |number: usize, bytes: usize| json!(vec!["r".repeat(bytes); number]);
    for (number, bytes, taken) in [
        (MAX_ROLES, 1, true),
        (MAX_ROLES + 1, 1, false),
        (1, MAX_ROLE_BYTES, true),
        (1, MAX_ROLE_BYTES + 1, false),
    ] {
        let result = verify_claims(&with("roles", roles(number, bytes)));
        let expected = if taken { None } else { Some(TokenError::Roles) };
        assert_eq!(result.err(), expected, "{number} of {bytes} bytes");
    }
}

#[test]
fn missing_roles_are_no_roles_and_a_missing_iat_is_zero() {
    assert_eq!(verify_claims(&without("roles")).unwrap().roles, [""; 0]);
    assert_eq!(verify_claims(&without("iat")).unwrap().iat, 0);
}

#[test]
fn the_issuer_must_be_the_same_letter_for_letter() {
    for issuer in ["other", "Issuer", "issuer/", ""] {
        assert_eq!(
            verify_claims(&with("iss", json!(issuer))),
            Err(TokenError::Issuer),
            "{issuer}"
        );
    }
}

#[test]
fn the_audience_may_be_one_of_several() {
    for aud in [
        json!("audience"),
        json!(["audience"]),
        json!(["other", "audience"]),
    ] {
        assert_eq!(verify_claims(&with("aud", aud)).unwrap().aud, "audience");
    }
    for aud in [
        json!("other"),
        json!(""),
        json!([]),
        json!(["other"]),
        json!("audience "),
    ] {
        assert_eq!(
            verify_claims(&with("aud", aud.clone())),
            Err(TokenError::Audience),
            "{aud}"
        );
    }
}

#[test]
fn a_token_ends_at_exp_plus_leeway_to_the_second() {
    let verifier = verifier(vec![secret_key(None, SECRET)]);
    let token = token(&claims());
    let end = NOW + 60 + 30;
    let claims = verifier.verify_at(&token, at(end - 1)).unwrap();
    assert_eq!(
        verifier.verify_at(&token, at(end)),
        Err(TokenError::Expired)
    );
    // What remembers claims counts in the same way.
    assert!(verifier.is_current(claims.exp, at(end - 1)));
    assert!(!verifier.is_current(claims.exp, at(end)));
}

#[test]
fn a_token_begins_at_nbf_minus_leeway() {
    assert!(verify_claims(&with("nbf", json!(NOW + 30))).is_ok());
    assert_eq!(
        verify_claims(&with("nbf", json!(NOW + 31))),
        Err(TokenError::NotYetValid)
    );
}

#[test]
fn a_fraction_of_a_second_never_makes_a_token_last_longer() {
    assert_eq!(
        verify_claims(&with("exp", json!(NOW as f64 + 60.9)))
            .unwrap()
            .exp,
        NOW + 60
    );
    assert!(verify_claims(&with("nbf", json!(NOW as f64 + 29.5))).is_ok());
    assert_eq!(
        verify_claims(&with("nbf", json!(NOW as f64 + 30.5))),
        Err(TokenError::NotYetValid)
    );
}

#[test]
fn an_exp_for_ever_is_taken_as_a_time_that_can_be_counted_with() {
    for exp in [u64::MAX, i64::MAX as u64] {
        let exp = verify_claims(&with("exp", json!(exp))).unwrap().exp;
        assert!(
            UNIX_EPOCH
                .checked_add(Duration::from_secs(exp) + MAX_LEEWAY)
                .is_some()
        );
    }
}

#[test]
fn the_claims_of_a_forged_token_do_not_choose_the_answer() {
    let forged = signed(&json!({"alg": "HS256"}), &without("exp"), OTHER_SECRET);
    assert_eq!(
        verify(vec![secret_key(None, SECRET)], &forged),
        Err(TokenError::Signature)
    );
}

#[test]
fn settings_that_accept_nothing_or_too_much_are_refused() {
    let key = || vec![secret_key(None, SECRET)];
    let many = (0..=MAX_KEYS).map(|_| secret_key(None, SECRET)).collect();
    let twice = vec![
        secret_key(Some("a"), SECRET),
        secret_key(Some("a"), OTHER_SECRET),
    ];
    let leeway = MAX_LEEWAY + Duration::from_secs(1);
    let table = [
        (
            VerifierSettings {
                issuer: String::new(),
                ..settings()
            },
            key(),
            KeyError::EmptyIssuer,
        ),
        (
            VerifierSettings {
                audience: String::new(),
                ..settings()
            },
            key(),
            KeyError::EmptyAudience,
        ),
        (
            VerifierSettings {
                leeway,
                ..settings()
            },
            key(),
            KeyError::Leeway(leeway),
        ),
        (settings(), vec![], KeyError::NoKeys),
        (settings(), many, KeyError::TooManyKeys(33)),
        (
            settings(),
            twice,
            KeyError::DuplicateKid("a".into(), Algorithm::Hs256),
        ),
    ];
    for (settings, keys, expected) in table {
        assert_eq!(TokenVerifier::new(settings, keys).unwrap_err(), expected);
    }
}

#[test]
fn one_kid_may_name_keys_of_several_algorithms() {
    let other = VerificationKey::hmac(Some("a".into()), Algorithm::Hs512, &[b'k'; 64]).unwrap();
    let verifier = verifier(vec![other, secret_key(Some("a"), SECRET)]);
    let token = signed(&json!({"alg": "HS256", "kid": "a"}), &claims(), SECRET);
    assert!(verifier.verify_at(&token, at(NOW)).is_ok());
}

#[test]
fn a_role_is_had_by_name_or_through_admin() {
    let claims = |roles: Value| verify_claims(&with("roles", roles)).unwrap();
    assert!(claims(json!(["reader"])).has_any_role(&["writer", "reader"]));
    assert!(claims(json!(["admin"])).has_any_role(&["writer"]));
    assert!(!claims(json!(["reader"])).has_any_role(&["writer"]));
    assert!(!claims(json!(["Admin", "administrator"])).has_any_role(&["writer"]));
    assert!(!claims(json!([])).has_any_role(&["reader"]));
}

proptest! {
    #[test]
    fn nothing_that_a_caller_sends_makes_it_panic_or_is_accepted(token in "\\PC{0,300}") {
        prop_assert!(verify(vec![secret_key(None, SECRET)], &token).is_err());
    }

    #[test]
    fn no_json_in_the_three_parts_makes_it_panic(
        header in "[{}\\[\\]a-z\":,0-9.]{0,60}",
        payload in "[{}\\[\\]a-z\":,0-9.]{0,60}",
    ) {
        let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", b64(&header), b64(&payload));
        let token = format!("{message}.{}", hs256(SECRET, &message));
        prop_assert!(verify(vec![secret_key(None, SECRET)], &token).is_err());
    }

    #[test]
    fn a_signed_token_is_accepted_exactly_while_it_lasts(exp in 0..2 * NOW, now in 0..2 * NOW) {
        let token = token(&with("exp", json!(exp)));
        let result = verifier(vec![secret_key(None, SECRET)]).verify_at(&token, at(now));
        prop_assert_eq!(result.is_ok(), now < exp + 30);
    }
}
