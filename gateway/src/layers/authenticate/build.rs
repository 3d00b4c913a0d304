//! From the checked configuration to a step that verifies tokens: reads keys, starts fetching.
//!
//! Each file is read once, and what was read is both used and compared with the generation before:
//! where nothing has changed, that one is used again with all it remembers. Keys that are fetched are
//! taken over whenever issuer, URL and algorithms are the same, whatever else has changed: with equal
//! settings the source itself goes on, otherwise a new one begins with what the old one knows. Files
//! have at most 1 MiB.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use intellirouter::IpcError;
use intellirouter::security::{
    ClaimPath, IdentitySigner, Issuer, IssuerKeys, Issuers, JwkSet, JwksSettings, JwksSource,
    TokenRules, VerificationKey,
};

use super::{Authenticate, Signing};
use crate::calls::OpenCalls;
use crate::config::{
    AuthConfig, Config, IdentityConfig, IssuerConfig, JwksConfig, KeyConfig, KeySource,
};
use crate::files;
use crate::gateway::StartError;

const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// All that an [`Authenticate`] is made of, to tell whether a new one would be the same. Of secrets
/// it has hashes only.
#[derive(PartialEq)]
pub(super) struct Blueprint {
    auth: AuthConfig,
    identity: IdentityConfig,
    audiences: Vec<String>,
    /// What channel rules name.
    pub(super) claims: Vec<ClaimPath>,
    contents: Vec<[u8; 32]>,
}

/// A fault of a file or variable, with the key that names it.
type Fault = (String, String);

/// What the files hold.
struct Parts {
    issuers: Vec<IssuerParts>,
    signer: IdentitySigner,
    contents: Vec<[u8; 32]>,
}

struct IssuerParts {
    named: Vec<VerificationKey>,
    set: Vec<VerificationKey>,
    fetched: Option<JwksSettings>,
}

impl Authenticate {
    /// `previous` is the step that is in use, if there is one. Must run on a runtime that goes on:
    /// keys are fetched there.
    pub(crate) fn build(
        config: &Config,
        previous: Option<&Arc<Self>>,
        open: &Arc<OpenCalls>,
    ) -> Result<Arc<Self>, StartError> {
        let parts = Parts::read(config).map_err(first)?;
        let blueprint = Blueprint {
            auth: config.auth.clone(),
            identity: config.identity.clone(),
            audiences: config
                .upstreams
                .iter()
                .map(|one| one.name.clone())
                .collect(),
            claims: config.events.claims(),
            contents: parts.contents,
        };
        if let Some(previous) = previous
            && previous.blueprint == blueprint
        {
            return Ok(previous.clone());
        }
        let issuers = config.auth.issuers.iter().zip(parts.issuers);
        let issuers = issuers
            .map(|(config, parts)| issuer(config, parts, previous))
            .collect::<Result<_, _>>()?;
        let issuers =
            Issuers::new(issuers).map_err(|error| StartError::setting("auth.issuers", error))?;
        let signing = Signing {
            signer: parts.signer,
            lifetime: config.identity.lifetime,
            audiences: blueprint.audiences.clone(),
        };
        Ok(Arc::new(Self::new(
            issuers,
            signing,
            blueprint,
            open.clone(),
        )))
    }

    /// What is wrong inside the files that the configuration names.
    pub(crate) fn faults(config: &Config) -> Vec<Fault> {
        Parts::read(config).err().unwrap_or_default()
    }

    /// Where the same keys are fetched from now.
    fn source(&self, settings: &JwksSettings) -> Option<&Arc<JwksSource>> {
        let mut sources = self.issuers.iter().filter_map(|issuer| issuer.fetched());
        sources.find(|source| settings.are_for_the_keys_of(source.settings()))
    }
}

fn first(faults: Vec<Fault>) -> StartError {
    let fault = faults.into_iter().next();
    let (key, message) = fault.unwrap_or_else(|| ("auth".into(), "unusable".into()));
    StartError::setting(key, message)
}

fn issuer(
    config: &IssuerConfig,
    parts: IssuerParts,
    previous: Option<&Arc<Authenticate>>,
) -> Result<Issuer, StartError> {
    let start = |settings: JwksSettings| {
        let started = match previous.and_then(|previous| previous.source(&settings)) {
            Some(source) if *source.settings() == settings => return Ok(source.clone()),
            Some(source) => source.restart(settings),
            None => JwksSource::start(settings),
        };
        started
            .map(Arc::new)
            .map_err(|error| StartError::setting(format!("{}.jwks_ca_file", config.at), error))
    };
    let rules = TokenRules {
        issuer: config.issuer.clone(),
        audiences: config.audiences.clone(),
        leeway: config.leeway,
        roles_claim: config.roles_claim.clone(),
        allowed_roles: config.allowed_roles.clone(),
        required_claims: config.required_claims.clone(),
    };
    let keys = IssuerKeys {
        named: parts.named,
        set: parts.set,
        fetched: parts.fetched.map(start).transpose()?,
    };
    Issuer::new(rules, keys)
        .map_err(|error| StartError::setting(format!("{}.keys", config.at), error))
}

impl Parts {
    fn read(config: &Config) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::default();
        let issuers = config.auth.issuers.iter().map(|one| reader.issuer(one));
        let issuers = issuers.collect();
        let signer = reader.signer(&config.identity);
        match signer {
            Some(signer) if reader.faults.is_empty() => Ok(Self {
                issuers,
                signer,
                contents: reader.contents,
            }),
            _ => Err(reader.faults),
        }
    }
}

/// Reads files and variables, keeps a hash of each and notes every fault.
#[derive(Default)]
struct Reader {
    contents: Vec<[u8; 32]>,
    faults: Vec<Fault>,
}

impl Reader {
    fn issuer(&mut self, config: &IssuerConfig) -> IssuerParts {
        let at = &config.at;
        let mut named = Vec::with_capacity(config.keys.len());
        for (i, key) in config.keys.iter().enumerate() {
            let key = self.key(key);
            named.extend(self.noted(|| format!("{at}.keys[{i}]"), key));
        }
        let set = config
            .jwks_file
            .as_deref()
            .map_or(Ok(Vec::new()), |path| self.key_set(path, config));
        let set = self.noted(|| format!("{at}.jwks_file"), set);
        let fetched = config.jwks.as_ref().and_then(|jwks| {
            let settings = self.fetched(jwks, config);
            self.noted(|| format!("{at}.jwks_ca_file"), settings)
        });
        IssuerParts {
            named,
            set: set.unwrap_or_default(),
            fetched,
        }
    }

    fn key(&mut self, key: &KeyConfig) -> Result<VerificationKey, String> {
        let (algorithm, kid) = (key.algorithm, key.kid.clone());
        let key = match &key.source {
            KeySource::SecretFile(path) => {
                let secret = self.file(path)?;
                VerificationKey::hmac(kid, algorithm, without_line_end(&secret))
            }
            KeySource::SecretEnv(name) => {
                let secret = std::env::var(name).map_err(|_| format!("{name} is not set"))?;
                self.contents.push(hash(secret.as_bytes()));
                VerificationKey::hmac(kid, algorithm, secret.as_bytes())
            }
            KeySource::PublicKeyFile(path) => {
                VerificationKey::from_public_pem(kid, algorithm, &self.file(path)?)
            }
        };
        key.map_err(|error| error.to_string())
    }

    fn key_set(
        &mut self,
        path: &Path,
        config: &IssuerConfig,
    ) -> Result<Vec<VerificationKey>, String> {
        let json = self.file(path)?;
        let place = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let set =
            JwkSet::parse(&json, config.algorithms.as_deref()).map_err(|error| place(&error))?;
        if set.keys.is_empty() {
            let reasons: Vec<_> = set.skipped.iter().map(|key| key.reason.as_str()).collect();
            let reasons = reasons.join("; ");
            return Err(place(&format_args!("expected a usable key: {reasons}")));
        }
        for skipped in set.skipped {
            tracing::warn!(
                issuer = config.issuer,
                index = skipped.index,
                kid = ?skipped.kid,
                reason = ?skipped.reason,
                "a key of the issuer is not used"
            );
        }
        Ok(set.keys)
    }

    fn fetched(
        &mut self,
        jwks: &JwksConfig,
        config: &IssuerConfig,
    ) -> Result<JwksSettings, String> {
        let ca = match &jwks.ca_file {
            Some(path) => Some((path.clone(), self.file(path)?.into())),
            None => None,
        };
        Ok(JwksSettings {
            issuer: config.issuer.clone(),
            url: jwks.url.clone(),
            ca,
            algorithms: config.algorithms.clone(),
            refresh: jwks.refresh,
            cooldown: jwks.cooldown,
            timeout: jwks.timeout,
            stale: jwks.stale,
        })
    }

    fn signer(&mut self, identity: &IdentityConfig) -> Option<IdentitySigner> {
        let signer = self.file(&identity.key_file).and_then(|pem| {
            IdentitySigner::from_pkcs8_pem(&pem, &identity.issuer, identity.lifetime)
                .map_err(|error: IpcError| error.to_string())
        });
        self.noted(|| "identity.key_file".into(), signer)
    }

    fn noted<T>(&mut self, key: impl Fn() -> String, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.faults.push((key(), message)))
            .ok()
    }

    fn file(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let bytes = files::read_whole(path, MAX_FILE_BYTES)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        self.contents.push(hash(&bytes));
        Ok(bytes)
    }
}

/// An editor's line end is no part of a secret.
fn without_line_end(secret: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let kept = secret.iter().rposition(|byte| !is_end(byte));
    &secret[..kept.map_or(0, |last| last + 1)]
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
