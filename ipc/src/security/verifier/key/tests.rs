use super::*;
use crate::security::test_keys::{ed25519_pair, p256_pair, p384_pair, p521_pair, rsa_pair};

// 1024 bits: too short to be made by the libraries in use.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC0/tshYvaM9jVOD5ZswCt4JuXR
93lRq9Ip2UdF60rwrbmej7Wmwjvs8zeAaq+aR48Q05XevkGNzrk3t3BFBXop9fTK
sOxoEseZQLxUo1d8N8h0t7c3KfV74Ih2VBoB7ADjoXY2vbbb4ATdet1R8xMBf1OX
1/QND/eBBkjTP7Jb7QIDAQAB
-----END PUBLIC KEY-----
";

// An EC key, but on a curve that no algorithm here uses.
const SECP256K1: &str = "-----BEGIN PUBLIC KEY-----
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEAnGxokk/2EIiFIFF8ATyhimEvfoqOYXh
6aU65us96xTW2ii8lV/J7M4NH4US4HsXgVajTg/wZeAWDaLiDUafFg==
-----END PUBLIC KEY-----
";

fn load(algorithm: Algorithm, pem: &str) -> Result<VerificationKey, KeyError> {
    VerificationKey::from_public_pem(None, algorithm, pem.as_bytes())
}

#[test]
fn each_algorithm_takes_only_its_own_sort_of_key() {
    let pairs = [
        ("RSA", rsa_pair().public),
        ("P-256", p256_pair().public),
        ("P-384", p384_pair().public),
        ("P-521", p521_pair().public),
        ("Ed25519", ed25519_pair().public),
        ("none", RSA_1024.to_owned()),
        ("none", SECP256K1.to_owned()),
    ];
    for algorithm in Algorithm::ALL.into_iter().filter(|one| !one.is_hmac()) {
        for (sort, pem) in &pairs {
            let fits = algorithm.expected_public_key().contains(sort);
            match load(algorithm, pem) {
                Ok(_) => assert!(fits, "{algorithm} took {sort}"),
                Err(error) => {
                    assert!(!fits, "{algorithm} refused {sort}");
                    assert_eq!(error, KeyError::WrongPublicKey(algorithm));
                    assert!(error.to_string().contains(algorithm.expected_public_key()));
                }
            }
        }
    }
}

#[test]
fn what_is_not_one_public_key_is_refused_and_named() {
    let pair = p256_pair();
    let twice = pair.public.repeat(2);
    let cert = rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .unwrap()
        .cert
        .pem();
    let pkcs1 = "-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n";
    let cut = pair.public.replace("-----END PUBLIC KEY-----", "");
    for (pem, found) in [
        ("", "no such block"),
        ("rubbish", "no such block"),
        (pkcs1, "no such block"),
        (&*pair.private, "private key"),
        (&cert, "certificate"),
        (&twice, "more than one"),
        (&cut, "damaged"),
    ] {
        let error = load(Algorithm::Es256, pem).unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
        assert!(error.contains("P-256 public key"), "{error}");
        assert!(!error.contains("MIG"), "{error}");
    }
}

#[test]
fn a_secret_as_long_as_the_hash_is_taken_and_a_shorter_or_blank_one_is_not() {
    for (algorithm, needed) in [
        (Algorithm::Hs256, 32),
        (Algorithm::Hs384, 48),
        (Algorithm::Hs512, 64),
    ] {
        let load = |secret: &[u8]| VerificationKey::hmac(None, algorithm, secret).map(|_| ());
        assert_eq!(load(&vec![b'k'; needed]), Ok(()));
        let found = needed - 1;
        assert_eq!(
            load(&vec![b'k'; found]),
            Err(KeyError::ShortSecret {
                algorithm,
                found,
                needed
            })
        );
        for blank in [vec![], vec![b' '; 99], vec![0; 99], b"\r\n\t ".repeat(20)] {
            assert_eq!(load(&blank), Err(KeyError::BlankSecret(algorithm)));
        }
    }
}

#[test]
fn secrets_and_public_keys_are_not_taken_for_each_other() {
    let pem = p256_pair().public;
    for algorithm in Algorithm::ALL {
        let (error, expected) = if algorithm.is_hmac() {
            (
                load(algorithm, &pem).err(),
                KeyError::NotAPublicKeyAlgorithm(algorithm),
            )
        } else {
            let secret = VerificationKey::hmac(None, algorithm, pem.as_bytes());
            (secret.err(), KeyError::NotASecretAlgorithm(algorithm))
        };
        assert_eq!(error, Some(expected));
    }
}

#[test]
fn an_empty_kid_is_refused() {
    let key = VerificationKey::hmac(Some(String::new()), Algorithm::Hs256, &[b'k'; 32]);
    assert_eq!(key.err(), Some(KeyError::EmptyKid));
}

#[test]
fn a_key_never_shows_in_debug_output() {
    let secret = b"0123456789abcdef0123456789abcdef";
    let key = VerificationKey::hmac(Some("a".into()), Algorithm::Hs256, secret).unwrap();
    assert_eq!(
        format!("{key:?}"),
        r#"VerificationKey { kid: Some("a"), algorithm: Hs256, .. }"#
    );
}

#[test]
fn keys_are_told_apart_by_algorithm_and_material() {
    let key =
        |algorithm, secret: &[u8]| VerificationKey::hmac(None, algorithm, secret).unwrap().id();
    let (a, b) = ([b'a'; 64], [b'b'; 64]);
    let ids = [
        key(Algorithm::Hs256, &a),
        key(Algorithm::Hs512, &a),
        key(Algorithm::Hs256, &b),
        key(Algorithm::Hs256, &a[1..]),
    ];
    for (i, one) in ids.iter().enumerate() {
        assert!(!ids[..i].contains(one), "{i}");
    }
    assert!(ids[0] == key(Algorithm::Hs256, &a));
}

#[test]
fn a_key_stays_the_same_when_it_gets_a_name() {
    let secret = |kid: Option<&str>| {
        let kid = kid.map(str::to_owned);
        VerificationKey::hmac(kid, Algorithm::Hs256, &[b'k'; 32]).unwrap()
    };
    assert!(secret(None).id() == secret(Some("a")).id());
    let pair = p256_pair();
    let public = |kid: Option<&str>| {
        let kid = kid.map(str::to_owned);
        VerificationKey::from_public_pem(kid, Algorithm::Es256, pair.public.as_bytes()).unwrap()
    };
    assert!(public(None).id() == public(Some("a")).id());
    assert!(public(None).id() != load(Algorithm::Es256, &p256_pair().public).unwrap().id());
}
