//! Who calls, and over what: tokens, TLS, and the secure client and server built from them.
//!
//! The gateway uses the same parts as a service author, so that a token or a certificate is judged
//! by the same code on both sides. Owns verification and signing of tokens, the TLS settings and
//! their reload, the rules that stand beside the methods, and the check in front of them. It does not
//! own where certificates and secrets come from (they are given; only JWK sets are fetched), nor what the gateway's
//! config rules beyond the methods' options.
//!
//! Everything fails closed: what cannot be checked is refused.

mod client;
mod identity;
mod issuers;
mod jwks;
mod jwt;
pub mod policy;
mod reload;
mod roles;
mod server;
mod tls;
mod verifier;

pub(crate) use client::shown as shown_url;
pub use client::{FromSecureChannel, SecureChannel, SecureGrpcClientBuilder};
pub use identity::{IDENTITY_HEADER, IdentitySigner, IdentityVerifier, MAX_IDENTITY_LIFETIME};
pub use issuers::{
    Issuer, IssuerKeys, IssuerStatus, Issuers, MAX_ISSUERS, Standing, TokenProof, Verified,
};
pub use jwks::{InvalidJwksUrl, JwksSettings, JwksSource, JwksStatus, JwksUrl};
pub use jwt::{JwtAuthenticator, JwtConfig};
pub use reload::TlsReload;
pub use roles::{ADMIN_ROLE, RoleConfig};
pub use server::{
    BoundServer, GrpcService, HealthReporter, PeerInfo, SecureGrpcServerBuilder, SecureRouter,
    ServerMetrics, parse_grpc_timeout,
};
pub use tls::{ClientCertificates, ClientVerifier, TlsConfig, client_config, server_config};
pub use verifier::{
    Algorithm, ClaimPath, Claims, Expected, JwkSet, KeyError, MAX_AUDIENCES, MAX_JWK_SET_BYTES,
    MAX_JWK_SET_KEYS, MAX_KEYS, MAX_LEEWAY, MAX_REQUIRED_CLAIMS, MAX_ROLE_BYTES, MAX_ROLES,
    MAX_TOKEN_BYTES, SkippedKey, TokenError, TokenRules, TokenVerifier, UnknownAlgorithm,
    VerificationKey, VerifierSettings,
};

#[cfg(test)]
mod test_keys;
