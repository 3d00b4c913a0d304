//! `[auth]`: whose tokens are accepted.
//!
//! Each of `[[auth.issuers]]` is an issuer with its keys. `[auth]` itself with `[[auth.keys]]` is the
//! short form for one more of them, and the only one that has defaults for issuer and audience.

mod claims;
mod keys;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use intellirouter::security::{
    Algorithm, ClaimPath, Expected, JwksUrl, MAX_AUDIENCES, MAX_ISSUERS,
};
use serde::Deserialize;

use super::validate::Validate;
use crate::layers::authenticate::CERTIFICATE_ISSUER;
use crate::revocation::CERTIFICATE_ALIAS;

/// `[auth]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileAuth {
    /// `iss` of every token of the short form; default `intellirouter`.
    pub(crate) issuer: Option<String>,
    /// `aud` of every token of the short form, or one of its members; default `intellirouter-services`.
    pub(crate) audience: Option<String>,
    /// For clocks that differ, 0s to 300s; default `0s`.
    pub(crate) leeway: Option<String>,
    /// The keys of the short form.
    pub(crate) keys: Vec<FileKey>,
    /// More issuers, beside the short form or without it; at most 32.
    pub(crate) issuers: Vec<FileIssuer>,
}

/// `[[auth.issuers]]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileIssuer {
    /// `iss` of its tokens. Required.
    pub(crate) issuer: Option<String>,
    /// What `aud` must be or contain: a text, or a list of at most 32. Required.
    pub(crate) audience: Option<FileAudience>,
    /// What keys may be used for; default: what each key is for.
    pub(crate) algorithms: Option<Vec<String>>,
    /// For clocks that differ, 0s to 300s; default `0s`.
    pub(crate) leeway: Option<String>,
    /// Where the roles stand: a name, or a JSON pointer such as `/realm_access/roles`; default `roles`.
    pub(crate) roles_claim: Option<String>,
    /// The roles that it may give, at most 256; others in its tokens count as not there. Default: every
    /// role, `admin` among them.
    pub(crate) allowed_roles: Option<Vec<String>>,
    /// Claims by name or JSON pointer, with the value that each must have; `*` for any.
    pub(crate) required_claims: BTreeMap<String, FileExpected>,
    /// Its keys that are given by file or variable.
    pub(crate) keys: Vec<FileKey>,
    /// A JWK set in a file.
    pub(crate) jwks_file: Option<String>,
    /// A JWK set that is fetched; https, or http on this machine.
    pub(crate) jwks_url: Option<String>,
    /// The authorities for `jwks_url`; default: those of the system.
    pub(crate) jwks_ca_file: Option<String>,
    /// How often the set is fetched, 1s to 24h; default `5m`.
    pub(crate) jwks_refresh: Option<String>,
    /// How often at most an unknown key id has it fetched at once, 1s to 1h; default `10s`.
    pub(crate) jwks_cooldown: Option<String>,
    /// What a fetch may take, 1s to 10s; default `2s`.
    pub(crate) jwks_timeout: Option<String>,
    /// How long keys hold that can not be fetched, up to 720h; default `24h`.
    pub(crate) jwks_stale: Option<String>,
}

/// One key; exactly one of `secret_file`, `secret_env` and `public_key_file` says where it is.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileKey {
    /// HS, RS or PS with 256, 384 or 512; ES256, ES384, ES512; EdDSA. Required.
    pub(crate) algorithm: Option<String>,
    /// The name that tokens give their key.
    pub(crate) kid: Option<String>,
    /// A file with the secret of an HS key.
    pub(crate) secret_file: Option<String>,
    /// An environment variable with the secret of an HS key.
    pub(crate) secret_env: Option<String>,
    /// The public key, PEM.
    pub(crate) public_key_file: Option<String>,
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub(crate) enum FileAudience {
    One(String),
    Many(Vec<String>),
}

/// What a claim must be.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a string, true or false, or a number")]
pub(crate) enum FileExpected {
    Text(String),
    Flag(bool),
    // Before the float, which would take every integer and lose digits.
    Integer(i64),
    Number(f64),
}

/// Whose tokens are accepted. Not empty, and no two of one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AuthConfig {
    pub(crate) issuers: Vec<IssuerConfig>,
}

/// An issuer: what its tokens must say, and where its keys are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IssuerConfig {
    /// Where it stands in the file: `auth` or `auth.issuers[0]`.
    pub(crate) at: String,
    pub(crate) issuer: String,
    /// A token must name one of them.
    pub(crate) audiences: Vec<String>,
    /// What its keys may be used for; `None`: what each key is for.
    pub(crate) algorithms: Option<Vec<Algorithm>>,
    pub(crate) leeway: Duration,
    pub(crate) roles_claim: ClaimPath,
    /// The roles that it may give; `None`: every role.
    pub(crate) allowed_roles: Option<Vec<String>>,
    pub(crate) required_claims: Vec<(ClaimPath, Expected)>,
    pub(crate) keys: Vec<KeyConfig>,
    pub(crate) jwks_file: Option<PathBuf>,
    pub(crate) jwks: Option<JwksConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyConfig {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: Option<String>,
    pub(crate) source: KeySource,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KeySource {
    SecretFile(PathBuf),
    SecretEnv(String),
    PublicKeyFile(PathBuf),
}

/// Keys that are fetched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JwksConfig {
    pub(crate) url: JwksUrl,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) refresh: Duration,
    pub(crate) cooldown: Duration,
    pub(crate) timeout: Duration,
    pub(crate) stale: Duration,
}

impl AuthConfig {
    /// Every file that is named here.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.issuers.iter().flat_map(|issuer| {
            let keys = issuer.keys.iter().filter_map(|key| match &key.source {
                KeySource::SecretFile(path) | KeySource::PublicKeyFile(path) => Some(path),
                KeySource::SecretEnv(_) => None,
            });
            let fetched = issuer.jwks.as_ref().and_then(|jwks| jwks.ca_file.as_ref());
            keys.chain(&issuer.jwks_file).chain(fetched)
        })
    }
}

impl Validate<'_, '_> {
    pub(super) fn auth(&mut self, file: FileAuth) -> AuthConfig {
        let is_short = !file.keys.is_empty()
            || file.issuer.is_some()
            || file.audience.is_some()
            || file.leeway.is_some()
            || file.issuers.is_empty();
        let mut issuers = Vec::with_capacity(file.issuers.len() + 1);
        if is_short {
            let short = FileIssuer {
                issuer: Some(file.issuer.unwrap_or_else(|| "intellirouter".into())),
                audience: Some(FileAudience::One(
                    file.audience
                        .unwrap_or_else(|| "intellirouter-services".into()),
                )),
                leeway: file.leeway,
                keys: file.keys,
                ..FileIssuer::default()
            };
            if short.keys.is_empty() {
                let message = "missing; without a key no token can be verified";
                self.source.fault("auth.keys", message);
            }
            issuers.push(self.issuer("auth", short));
        }
        for (i, issuer) in file.issuers.into_iter().enumerate() {
            let at = format!("auth.issuers[{i}]");
            if issuer.keys.is_empty() && issuer.jwks_file.is_none() && issuer.jwks_url.is_none() {
                let message = "expected keys, jwks_file or jwks_url; without a key no token can be \
                               verified";
                self.source.fault(&at, message);
            }
            issuers.push(self.issuer(&at, issuer));
        }
        self.unique_issuers(&issuers);
        AuthConfig { issuers }
    }

    fn unique_issuers(&mut self, issuers: &[IssuerConfig]) {
        if issuers.len() > MAX_ISSUERS {
            let message = format!("expected at most {MAX_ISSUERS}, found {}", issuers.len());
            self.source.fault("auth.issuers", message);
        }
        for (i, issuer) in issuers.iter().enumerate() {
            let same = issuers[..i].iter().find(|one| one.issuer == issuer.issuer);
            if let Some(same) = same.filter(|_| !issuer.issuer.is_empty()) {
                let message = format!("\"{}\" is {} already", issuer.issuer, same.at);
                self.source.fault(&format!("{}.issuer", issuer.at), message);
            }
        }
    }

    fn issuer(&mut self, at: &str, file: FileIssuer) -> IssuerConfig {
        let issuer = file.issuer.clone().unwrap_or_default();
        if ["", CERTIFICATE_ISSUER, CERTIFICATE_ALIAS].contains(&issuer.as_str()) {
            let message = format!(
                "expected the `iss` of its tokens, which is not empty and not \
                 \"{CERTIFICATE_ISSUER}\" or \"{CERTIFICATE_ALIAS}\""
            );
            self.source.fault(&format!("{at}.issuer"), message);
        }
        let algorithms = file
            .algorithms
            .as_ref()
            .map(|names| self.algorithms(&format!("{at}.algorithms"), names))
            // Empty is a fault already, and no reason to complain of every key.
            .filter(|list| !list.is_empty());
        let keys = self.keys(&format!("{at}.keys"), file.keys.as_slice(), &algorithms);
        IssuerConfig {
            at: at.to_owned(),
            issuer,
            audiences: self.audiences(&format!("{at}.audience"), &file.audience),
            leeway: self.duration(&format!("{at}.leeway"), file.leeway.clone(), (0, 0, 300)),
            roles_claim: self.roles_claim(&format!("{at}.roles_claim"), &file.roles_claim),
            allowed_roles: self.allowed_roles(&format!("{at}.allowed_roles"), &file.allowed_roles),
            required_claims: self.required_claims(at, &file.required_claims),
            jwks_file: file
                .jwks_file
                .clone()
                .map(|path| self.file(&format!("{at}.jwks_file"), Some(path))),
            jwks: self.jwks(at, file),
            algorithms,
            keys,
        }
    }

    fn audiences(&mut self, at: &str, file: &Option<FileAudience>) -> Vec<String> {
        let audiences = match file {
            None => Vec::new(),
            Some(FileAudience::One(one)) => vec![one.clone()],
            Some(FileAudience::Many(many)) => many.clone(),
        };
        let most = 1..=MAX_AUDIENCES;
        if !most.contains(&audiences.len()) || audiences.iter().any(String::is_empty) {
            let message =
                format!("expected the `aud` of its tokens, or a list of 1 to {MAX_AUDIENCES}");
            self.source.fault(at, message);
        }
        audiences
    }

    fn jwks(&mut self, at: &str, file: FileIssuer) -> Option<JwksConfig> {
        let Some(url) = file.jwks_url else {
            for (name, given) in [
                ("jwks_ca_file", file.jwks_ca_file),
                ("jwks_refresh", file.jwks_refresh),
                ("jwks_cooldown", file.jwks_cooldown),
                ("jwks_timeout", file.jwks_timeout),
                ("jwks_stale", file.jwks_stale),
            ] {
                if given.is_some() {
                    let message = "has no meaning without jwks_url";
                    self.source.fault(&format!("{at}.{name}"), message);
                }
            }
            return None;
        };
        let url = match url.parse() {
            Ok(url) => Some(url),
            Err(error) => {
                let error: intellirouter::security::InvalidJwksUrl = error;
                self.source
                    .fault(&format!("{at}.jwks_url"), error.to_string());
                None
            }
        };
        let key = |name: &str| format!("{at}.{name}");
        let ca_file = file
            .jwks_ca_file
            .map(|path| self.file(&key("jwks_ca_file"), Some(path)));
        let refresh = self.duration(&key("jwks_refresh"), file.jwks_refresh, (300, 1, 86_400));
        let stale = self.duration(&key("jwks_stale"), file.jwks_stale, (86_400, 1, 2_592_000));
        if stale < refresh {
            let message = "expected at least jwks_refresh: the keys would be gone before they are \
                           fetched again";
            self.source.fault(&key("jwks_stale"), message);
        }
        Some(JwksConfig {
            url: url?,
            ca_file,
            refresh,
            cooldown: self.duration(&key("jwks_cooldown"), file.jwks_cooldown, (10, 1, 3600)),
            timeout: self.duration(&key("jwks_timeout"), file.jwks_timeout, (2, 1, 10)),
            stale,
        })
    }
}

#[cfg(test)]
mod tests;
