//! The configuration as it is written: TOML, unknown keys refused.
//!
//! Everything is optional here; what must be there, and what values mean, is
//! the next stage's concern ([`super::Config`]).

use serde::Deserialize;

use super::auth::FileAuth;
use super::certificates::FileCertificate;
use super::events::FileEvents;
use super::limits::FileLimits;
use super::revocation::FileRevocation;
use super::trace::FileTrace;
use super::upstream::FileUpstream;

/// The configuration of an IntelliRouter gateway.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileConfig {
    /// The address that clients reach.
    pub(crate) listen: FileListen,
    /// The threads of the data plane.
    pub(crate) workers: FileWorkers,
    /// The address that operators reach.
    pub(crate) admin: FileAdmin,
    /// What is logged.
    pub(crate) log: FileLog,
    /// Spans of calls, to an OpenTelemetry collector; absent: none.
    pub(crate) trace: Option<FileTrace>,
    /// What one process takes on at most.
    pub(crate) limits: FileLimits,
    /// Whose tokens are taken.
    pub(crate) auth: FileAuth,
    /// Who callers are that prove themselves by a certificate; the first that matches.
    pub(crate) certificates: Vec<FileCertificate>,
    /// What is refused although it is valid.
    pub(crate) revocation: FileRevocation,
    /// How backends learn who calls.
    pub(crate) identity: FileIdentity,
    /// The event log, and who may read and publish.
    pub(crate) events: FileEvents,
    /// Pages of other origins.
    pub(crate) cors: FileCors,
    /// What is known of the services behind the gateway.
    pub(crate) descriptors: FileDescriptors,
    /// The services behind the gateway.
    pub(crate) upstreams: Vec<FileUpstream>,
    /// Which calls go where, and who may make them; what no route names is refused.
    pub(crate) routes: Vec<FileRoute>,
}

/// `[listen]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileListen {
    /// `ADDRESS:PORT` for HTTP/2 and HTTP/1.1; default `0.0.0.0:8443`.
    pub(crate) address: Option<String>,
    /// The certificate chain, PEM. Required.
    pub(crate) cert_file: Option<String>,
    /// Its private key, PEM. Required.
    pub(crate) key_file: Option<String>,
    /// Asks clients for a certificate that leads to this authority.
    pub(crate) client_ca_file: Option<String>,
    /// `optional`, or `required`: a client without one is refused; default `optional`.
    pub(crate) client_certificates: Option<String>,
}

/// `[workers]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileWorkers {
    /// Threads, 1 to 256; default: one per core.
    pub(crate) count: Option<u64>,
}

/// `[admin]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileAdmin {
    /// `ADDRESS:PORT` for plain HTTP without access rules; default `127.0.0.1:9901`.
    pub(crate) address: Option<String>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileLog {
    /// A filter such as `info` or `info,h2=warn`; default `info`.
    pub(crate) level: Option<String>,
    /// `text` or `json`; default `text`.
    pub(crate) format: Option<String>,
    /// One line per call; default true.
    pub(crate) access: Option<bool>,
}

/// `[identity]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileIdentity {
    /// The EC P-256 key that signs identity tokens, PKCS#8 PEM. Required.
    pub(crate) key_file: Option<String>,
    /// `iss` of identity tokens; default `intellirouter-gateway`.
    pub(crate) issuer: Option<String>,
    /// 5s to 60s; default `60s`.
    pub(crate) lifetime: Option<String>,
}

/// `[cors]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileCors {
    /// Exact origins, such as `https://app.example`.
    pub(crate) origins: Vec<String>,
    /// Response headers that pages may read, beside `grpc-*` ones.
    pub(crate) expose_headers: Vec<String>,
    /// How long browsers remember a preflight, 0s to 24h; default `2h`.
    pub(crate) max_age: Option<String>,
}

/// `[descriptors]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileDescriptors {
    /// `FileDescriptorSet`s with their imports: roles, timeouts and names from method
    /// options.
    pub(crate) files: Vec<String>,
}

/// One route.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileRoute {
    /// `/package.Service/Method`, `/package.Service/*` or `/package.*`; the most
    /// specific wins. Required.
    #[serde(rename = "match")]
    pub(crate) pattern: Option<String>,
    /// The name of an upstream, or `gateway` for the gateway's own services. Required.
    pub(crate) upstream: Option<String>,
    /// Any of these roles; `*` for any valid token; default: as the descriptors say.
    pub(crate) roles: Option<Vec<String>>,
    /// Callers need each of these roles, beside one of `roles` where that is given.
    pub(crate) all_roles: Vec<String>,
    /// Whether calls need no token; default false.
    pub(crate) public: bool,
    /// The longest that a call may take, up to 24h; the caller's own holds when it is
    /// smaller.
    pub(crate) timeout: Option<String>,
    /// Whether the caller's token goes to the backend too; default false.
    pub(crate) forward_authorization: bool,
    /// Whether a call may be made twice, so that it may be tried again; default: as the
    /// descriptors say (`idempotency_level`).
    pub(crate) idempotent: Option<bool>,
}
