//! Keys for the unit tests, made anew in each run.

use rcgen::{KeyPair, SignatureAlgorithm};

pub(super) struct PemPair {
    pub(super) private: String,
    pub(super) public: String,
}

fn pair(algorithm: &'static SignatureAlgorithm) -> PemPair {
    let key = KeyPair::generate_for(algorithm).unwrap();
    PemPair {
        private: key.serialize_pem(),
        public: key.public_key_pem(),
    }
}

pub(super) fn p256_pair() -> PemPair {
    pair(&rcgen::PKCS_ECDSA_P256_SHA256)
}

pub(super) fn p384_pair() -> PemPair {
    pair(&rcgen::PKCS_ECDSA_P384_SHA384)
}

pub(super) fn p521_pair() -> PemPair {
    pair(&rcgen::PKCS_ECDSA_P521_SHA512)
}

pub(super) fn ed25519_pair() -> PemPair {
    pair(&rcgen::PKCS_ED25519)
}

pub(super) fn rsa_pair() -> PemPair {
    pair(&rcgen::PKCS_RSA_SHA256)
}
