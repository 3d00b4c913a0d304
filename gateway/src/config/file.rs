//! The configuration as it is written: TOML, unknown keys refused.
//!
//! Everything is optional here; what must be there, and what values mean, is
//! the next stage's concern ([`super::Config`]).

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileConfig {
    pub(crate) listen: FileListen,
    pub(crate) workers: FileWorkers,
    pub(crate) admin: FileAdmin,
    pub(crate) log: FileLog,
    pub(crate) limits: FileLimits,
    pub(crate) auth: FileAuth,
    pub(crate) identity: FileIdentity,
    pub(crate) events: FileEvents,
    pub(crate) cors: FileCors,
    pub(crate) descriptors: FileDescriptors,
    pub(crate) upstreams: Vec<FileUpstream>,
    pub(crate) routes: Vec<FileRoute>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileListen {
    pub(crate) address: Option<String>,
    pub(crate) cert_file: Option<String>,
    pub(crate) key_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileWorkers {
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileAdmin {
    pub(crate) address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileLog {
    pub(crate) level: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) access: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileLimits {
    pub(crate) connections: Option<u64>,
    pub(crate) open_calls: Option<u64>,
    pub(crate) streams_per_connection: Option<u64>,
    pub(crate) header_bytes: Option<u64>,
    pub(crate) handshake_timeout: Option<String>,
    pub(crate) idle_timeout: Option<String>,
    pub(crate) stall_timeout: Option<String>,
    pub(crate) drain_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileAuth {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) leeway: Option<String>,
    pub(crate) keys: Vec<FileKey>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileKey {
    pub(crate) algorithm: Option<String>,
    pub(crate) kid: Option<String>,
    pub(crate) secret_file: Option<String>,
    pub(crate) secret_env: Option<String>,
    pub(crate) public_key_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileIdentity {
    pub(crate) key_file: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) lifetime: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileEvents {
    pub(crate) store: Option<String>,
    pub(crate) ca_file: Option<String>,
    pub(crate) retain_bytes: Option<u64>,
    pub(crate) retain_age: Option<String>,
    pub(crate) payload_bytes: Option<u64>,
    pub(crate) publish_timeout: Option<String>,
    pub(crate) heartbeat: Option<String>,
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) rules: Vec<FileEventRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileEventRule {
    pub(crate) roles: Vec<String>,
    pub(crate) subscribe: Vec<String>,
    pub(crate) publish: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileCors {
    pub(crate) origins: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileDescriptors {
    pub(crate) files: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileUpstream {
    pub(crate) name: Option<String>,
    pub(crate) endpoints: Vec<String>,
    pub(crate) ca_file: Option<String>,
    pub(crate) cert_file: Option<String>,
    pub(crate) key_file: Option<String>,
    pub(crate) server_name: Option<String>,
    pub(crate) connect_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileRoute {
    #[serde(rename = "match")]
    pub(crate) pattern: Option<String>,
    pub(crate) upstream: Option<String>,
    pub(crate) roles: Option<Vec<String>>,
    pub(crate) public: bool,
    pub(crate) timeout: Option<String>,
    pub(crate) forward_authorization: bool,
}
