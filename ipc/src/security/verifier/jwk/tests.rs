use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;
use crate::security::test_keys::{
    PemPair, ed25519_pair, p256_pair, p384_pair, p521_pair, rsa_pair,
};

// RFC 7517, A.1: a key for encryption by its `use`, and one for signatures.
const RFC_RSA_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
const X: &str = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
const Y: &str = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";
// RFC 8037, A.2.
const ED_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn set(keys: Value) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn read(key: Value, allowed: Option<&[Algorithm]>) -> Result<Vec<Algorithm>, String> {
    let mut set = JwkSet::parse(&set(json!([key])), allowed).unwrap();
    match set.skipped.pop() {
        Some(skipped) => Err(skipped.reason),
        None => Ok(set.keys.iter().map(VerificationKey::algorithm).collect()),
    }
}

fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
    key[name] = value.into();
    key
}

fn rsa() -> Value {
    json!({"kty": "RSA", "n": RFC_RSA_N, "e": "AQAB"})
}

fn p256() -> Value {
    json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y})
}

#[test]
fn an_rsa_key_without_alg_serves_what_its_kind_allows_of_the_list() {
    use Algorithm::*;
    let all = vec![Rs256, Rs384, Rs512, Ps256, Ps384, Ps512];
    assert_eq!(read(rsa(), None), Ok(all));
    let list = [Ps256, Es256, Hs256, Rs256];
    assert_eq!(read(rsa(), Some(&list)), Ok(vec![Rs256, Ps256]));
    assert_eq!(read(with(rsa(), "alg", "PS384"), None), Ok(vec![Ps384]));
    assert_eq!(read(p256(), None), Ok(vec![Es256]));
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": ED_X});
    assert_eq!(read(ed, None), Ok(vec![EdDsa]));
}

#[test]
fn a_shared_secret_is_used_only_where_the_list_names_its_algorithm() {
    use Algorithm::*;
    let oct = |bytes: usize| json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(vec![b'k'; bytes])});
    assert!(read(oct(64), None).unwrap_err().contains("allowed"));
    assert!(read(oct(64), Some(&[Rs256])).is_err());
    assert_eq!(read(oct(64), Some(&[Hs256])), Ok(vec![Hs256]));
    // Long enough for one, too short for the other.
    assert_eq!(read(oct(40), Some(&[Hs256, Hs512])), Ok(vec![Hs256]));
    let short = read(oct(31), Some(&[Hs256])).unwrap_err();
    assert!(short.contains("31 bytes"), "{short}");
    let blank = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([b' '; 40])});
    assert!(read(blank, Some(&[Hs256])).unwrap_err().contains("blank"));
}

#[test]
fn what_cannot_be_used_is_skipped_with_a_reason_and_spoils_nothing() {
    let short_n = URL_SAFE_NO_PAD.encode([&[0xc1; 127][..], &[1]].concat());
    let zeros = URL_SAFE_NO_PAD.encode([0; 32]);
    let table = [
        (with(rsa(), "use", "enc"), "not for signatures"),
        (
            with(rsa(), "key_ops", json!(["encrypt"])),
            "not for verifying",
        ),
        (with(rsa(), "alg", "RSA-OAEP"), "RSA-OAEP"),
        (with(rsa(), "alg", "none"), "none"),
        (with(rsa(), "alg", "HS256"), "does not fit"),
        (with(p256(), "alg", "ES384"), "does not fit"),
        (with(rsa(), "n", short_n), "2048"),
        (with(rsa(), "e", "AQ"), "RSA"),
        (with(rsa(), "e", "AA"), "RSA"),
        (with(rsa(), "e", "Ag"), "RSA"),
        (with(rsa(), "n", "!"), "base64url"),
        (json!({"kty": "RSA", "e": "AQAB"}), "\"n\""),
        (with(rsa(), "d", "AQAB"), "private"),
        (with(p256(), "d", json!(null)), "private"),
        (with(p256(), "y", zeros.clone()), "P-256"),
        (with(p256(), "y", "AAAA"), "P-256"),
        (with(p256(), "crv", "P-384"), "P-384"),
        (with(p256(), "crv", "secp256k1"), "secp256k1"),
        (json!({"kty": "EC", "x": X, "y": Y}), "curve"),
        (json!({"kty": "OKP", "crv": "X25519", "x": ED_X}), "X25519"),
        (
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
            "Ed25519",
        ),
        (
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
            "AKP",
        ),
        (json!({"kty": 7}), "no JWK"),
        (json!({"n": 7}), "no JWK"),
        (json!([]), "no JWK"),
        (json!(null), "no JWK"),
        (with(rsa(), "kid", 7), "no JWK"),
        (with(rsa(), "kid", ""), "kid"),
    ];
    for (key, expected) in table {
        let reason = read(key.clone(), None).expect_err(&key.to_string());
        assert!(reason.contains(expected), "{key}: {reason}");
        assert!(!reason.contains(RFC_RSA_N), "{reason}");
        let both = JwkSet::parse(&set(json!([key, with(p256(), "kid", "good")])), None).unwrap();
        assert_eq!(both.keys.len(), 1, "{reason}");
        assert_eq!(both.keys[0].kid(), Some("good"));
        assert_eq!(both.skipped[0].index, 0);
    }
}

#[test]
fn a_member_that_stands_twice_in_a_key_is_refused() {
    let text = p256().to_string().replacen('{', r#"{"kty":"oct","#, 1);
    let text = format!(r#"{{"keys":[{text}]}}"#);
    let set = JwkSet::parse(text.as_bytes(), None).unwrap();
    assert_eq!((set.keys.len(), set.skipped.len()), (0, 1));
}

#[test]
fn leading_zeros_of_an_rsa_key_change_nothing() {
    let n = URL_SAFE_NO_PAD.decode(RFC_RSA_N).unwrap();
    let n = URL_SAFE_NO_PAD.encode([&[0][..], &n].concat());
    let read = |key| JwkSet::parse(&set(json!([key])), None).unwrap().keys;
    let (plain, padded) = (read(rsa()), read(with(rsa(), "n", n)));
    assert_eq!(padded.len(), plain.len());
    assert!(
        plain
            .iter()
            .zip(&padded)
            .all(|(one, other)| one.id() == other.id())
    );
}

#[test]
fn a_set_has_at_most_64_keys_and_1_mib() {
    let keys = |n: usize| set(json!(vec![p256(); n]));
    let full = JwkSet::parse(&keys(MAX_JWK_SET_KEYS), None).unwrap();
    assert_eq!(full.keys.len(), MAX_JWK_SET_KEYS);
    let more = JwkSet::parse(&keys(MAX_JWK_SET_KEYS + 1), None);
    assert_eq!(more.unwrap_err(), KeyError::KeySetTooLong(65));

    let padded = |bytes: usize| {
        let mut json = keys(1);
        json.resize(bytes, b' ');
        json
    };
    assert!(JwkSet::parse(&padded(MAX_JWK_SET_BYTES), None).is_ok());
    let larger = JwkSet::parse(&padded(MAX_JWK_SET_BYTES + 1), None);
    assert_eq!(larger.unwrap_err(), KeyError::KeySetTooLarge);
}

#[test]
fn what_is_no_key_set_is_refused() {
    for json in [
        "",
        "[]",
        "{}",
        "null",
        "{\"keys\":{}}",
        "{\"keys\":null}",
        "<html>",
        "{\"keys\":[",
        "{\"keys\":[],\"keys\":[]}",
    ] {
        let error = JwkSet::parse(json.as_bytes(), None).unwrap_err();
        assert_eq!(error, KeyError::NotAKeySet, "{json}");
    }
    let empty = JwkSet::parse(b"{\"keys\":[],\"more\":1}", None).unwrap();
    assert!(empty.keys.is_empty() && empty.skipped.is_empty());
}

#[test]
fn a_key_is_the_same_in_a_pem_file_and_in_a_key_set() {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = |crv: &str, der: &[u8], size: usize| {
        let point = &der[der.len() - 2 * size..];
        let (x, y) = point.split_at(size);
        json!({"kty": "EC", "crv": crv, "x": text(x), "y": text(y)})
    };
    type ToJwk<'a> = &'a dyn Fn(&[u8]) -> Value;
    let cases: [(Algorithm, PemPair, ToJwk<'_>); 5] = [
        (Algorithm::Es256, p256_pair(), &|der| {
            point("P-256", der, 32)
        }),
        (Algorithm::Es384, p384_pair(), &|der| {
            point("P-384", der, 48)
        }),
        (Algorithm::Es512, p521_pair(), &|der| {
            point("P-521", der, 66)
        }),
        (
            Algorithm::EdDsa,
            ed25519_pair(),
            &|der| json!({"kty": "OKP", "crv": "Ed25519", "x": text(&der[der.len() - 32..])}),
        ),
        // A modulus of 2048 bits, and the five bytes of the exponent 65537.
        (Algorithm::Rs256, rsa_pair(), &|der| {
            let n = &der[der.len() - 5 - 256..der.len() - 5];
            json!({"kty": "RSA", "n": text(n), "e": "AQAB"})
        }),
    ];
    for (algorithm, pair, to_jwk) in cases {
        let pem = pair.public.as_bytes();
        let from_pem = VerificationKey::from_public_pem(None, algorithm, pem).unwrap();
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).unwrap();
        let jwk = with(to_jwk(der.as_ref()), "kid", "a");
        let from_set = JwkSet::parse(&set(json!([jwk])), Some(&[algorithm])).unwrap();
        assert!(from_set.keys[0].id() == from_pem.id(), "{algorithm}");
    }
}
