//! The Wycheproof vectors of each algorithm, on keys that were loaded as an issuer's are: from PEM
//! and, where the vectors have one, from a JWK.

use serde_json::{Value, json};
use wycheproof::{ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

use crate::security::verifier::{Algorithm, JwkSet, VerificationKey};

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

fn groups(json: &str) -> Vec<Value> {
    let mut set: Value = serde_json::from_str(json).unwrap();
    serde_json::from_value(set["testGroups"].take()).unwrap()
}

fn tests(group: &Value) -> &[Value] {
    group["tests"].as_array().unwrap()
}

fn from_jwk(algorithm: Algorithm, jwk: &Value) -> VerificationKey {
    let mut jwk = jwk.clone();
    jwk["alg"] = algorithm.name().into();
    let set = json!({"keys": [jwk]}).to_string();
    let mut set = JwkSet::parse(set.as_bytes(), None).unwrap();
    assert_eq!(set.skipped, []);
    set.keys.pop().unwrap()
}

/// Every vector of a set; tells how many there were, and how many keys were JWKs.
fn run(algorithm: Algorithm, json: &str) -> (usize, usize) {
    let (mut run, mut jwks) = (0, 0);
    for group in groups(json) {
        let pem = text(&group, "publicKeyPem").as_bytes();
        let mut keys = vec![VerificationKey::from_public_pem(None, algorithm, pem).unwrap()];
        for name in ["publicKeyJwk", "keyJwk"] {
            if group[name].is_object() {
                keys.push(from_jwk(algorithm, &group[name]));
                jwks += 1;
            }
        }
        for test in tests(&group) {
            let (message, signature) = (hex(text(test, "msg")), hex(text(test, "sig")));
            let expected = match text(test, "result") {
                "valid" => true,
                "invalid" => false,
                _ => continue,
            };
            for key in &keys {
                let verified = key.verifies(&message, &signature);
                assert_eq!(verified, expected, "{algorithm}: {test}");
            }
            run += 1;
        }
    }
    (run, jwks)
}

#[test]
fn every_wycheproof_vector_of_the_public_key_algorithms_is_judged_right() {
    use rsa_pkcs1_verify::TestName as Pkcs1;
    use rsa_pss_verify::TestName as Pss;
    for (algorithm, json) in [
        (
            Algorithm::Es256,
            ecdsa::TestName::EcdsaSecp256r1Sha256P1363.json_data(),
        ),
        (
            Algorithm::Es384,
            ecdsa::TestName::EcdsaSecp384r1Sha384P1363.json_data(),
        ),
        (
            Algorithm::Es512,
            ecdsa::TestName::EcdsaSecp521r1Sha512P1363.json_data(),
        ),
        (Algorithm::EdDsa, eddsa::TestName::Ed25519.json_data()),
        (Algorithm::Rs256, Pkcs1::Rsa2048Sha256.json_data()),
        (Algorithm::Rs384, Pkcs1::Rsa3072Sha384.json_data()),
        (Algorithm::Rs512, Pkcs1::Rsa4096Sha512.json_data()),
        (
            Algorithm::Ps256,
            Pss::RsaPss2048Sha256Mgf1SaltLen32.json_data(),
        ),
        (
            Algorithm::Ps384,
            Pss::RsaPss2048Sha384Mgf1SaltLen48.json_data(),
        ),
        (
            Algorithm::Ps512,
            Pss::RsaPss4096Sha512Mgf1SaltLen64.json_data(),
        ),
    ] {
        let (run, jwks) = run(algorithm, json);
        assert!(
            run >= 50 && jwks > 0,
            "{algorithm}: {run} vectors, {jwks} JWKs"
        );
    }
}

#[test]
fn every_wycheproof_vector_of_hmac_is_judged_right_and_a_cut_tag_is_refused() {
    for (algorithm, bits, name) in [
        (Algorithm::Hs256, 256, mac::TestName::HmacSha256),
        (Algorithm::Hs384, 384, mac::TestName::HmacSha384),
        (Algorithm::Hs512, 512, mac::TestName::HmacSha512),
    ] {
        let mut run = 0;
        for group in groups(name.json_data()) {
            let whole = group["tagSize"] == bits;
            for test in tests(&group) {
                // Secrets that are too short are refused when they are loaded.
                let secret = hex(text(test, "key"));
                let Ok(key) = VerificationKey::hmac(None, algorithm, &secret) else {
                    assert!(secret.len() * 8 < bits || secret.iter().all(|byte| *byte == 0));
                    continue;
                };
                let verified = key.verifies(&hex(text(test, "msg")), &hex(text(test, "tag")));
                let expected = whole && text(test, "result") == "valid";
                assert_eq!(verified, expected, "{algorithm}: {test}");
                run += 1;
            }
        }
        assert!(run >= 50, "{algorithm}: {run} vectors");
    }
}
