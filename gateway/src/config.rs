//! The validated configuration: what the file means, with every value checked.
//!
//! Three stages: [`file`] is the text's shape, [`Config`] is checked, and
//! [`crate::gateway::Gateway`] is alive. [`Config::load`] is the only way in;
//! it reports all faults at once and binds nothing. Secrets stand in files or
//! environment variables only, and [`Config`] keeps their place, not their
//! value. Relative paths are relative to the folder of the config file.

mod faults;
mod file;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use intellirouter::events::ChannelPattern;

pub use faults::{ConfigFaults, Fault};
pub(crate) use validate::parse_duration;

/// Everything that a gateway needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) listen: ListenConfig,
    pub(crate) workers: usize,
    pub(crate) admin: SocketAddr,
    pub(crate) log: LogConfig,
    pub(crate) limits: LimitsConfig,
    pub(crate) auth: AuthConfig,
    pub(crate) identity: IdentityConfig,
    pub(crate) events: EventsConfig,
    pub(crate) cors: CorsConfig,
    pub(crate) descriptor_files: Vec<PathBuf>,
    pub(crate) upstreams: Vec<UpstreamConfig>,
    pub(crate) routes: Vec<RouteConfig>,
}

/// The address that clients reach.
#[derive(Clone, Debug)]
pub(crate) struct ListenConfig {
    pub(crate) address: SocketAddr,
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

#[derive(Clone, Debug)]
pub(crate) struct LogConfig {
    /// A tracing filter, such as `info` or `intellirouter_gateway=debug`.
    pub(crate) level: String,
    pub(crate) json: bool,
    /// One line per call.
    pub(crate) access: bool,
}

/// What one process takes on at most.
#[derive(Clone, Debug)]
pub(crate) struct LimitsConfig {
    /// Client connections; more are closed at once.
    pub(crate) connections: usize,
    /// Calls and streams in progress, in all.
    pub(crate) open_calls: usize,
    /// Streams of one HTTP/2 connection.
    pub(crate) streams_per_connection: u32,
    /// The header list of a request, in bytes.
    pub(crate) header_bytes: u32,
    /// TLS handshake, and the headers of an HTTP/1.1 request.
    pub(crate) handshake_timeout: Duration,
    /// How long a connection may have no call.
    pub(crate) idle_timeout: Duration,
    /// How long a connection may take no byte that waits for it.
    pub(crate) stall_timeout: Duration,
    /// How long calls may go on after the signal to stop.
    pub(crate) drain_timeout: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct AuthConfig {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) leeway: Duration,
    pub(crate) keys: Vec<KeyConfig>,
}

#[derive(Clone, Debug)]
pub(crate) struct KeyConfig {
    pub(crate) algorithm: String,
    pub(crate) kid: Option<String>,
    pub(crate) source: KeySource,
}

#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    SecretFile(PathBuf),
    SecretEnv(String),
    PublicKeyFile(PathBuf),
}

/// How the gateway tells backends who calls.
#[derive(Clone, Debug)]
pub(crate) struct IdentityConfig {
    pub(crate) key_file: PathBuf,
    pub(crate) issuer: String,
    pub(crate) lifetime: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct EventsConfig {
    /// `memory:`, `redis://…` or `rediss://…`; may hold a password.
    pub(crate) store: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) retain_bytes: usize,
    pub(crate) retain_age: Duration,
    pub(crate) payload_bytes: usize,
    pub(crate) publish_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) lag_bytes: u64,
    pub(crate) rules: Vec<EventRule>,
}

/// What holders of any of `roles` may read and publish.
#[derive(Clone, Debug)]
pub(crate) struct EventRule {
    pub(crate) roles: Vec<String>,
    pub(crate) subscribe: Vec<ChannelPattern>,
    pub(crate) publish: Vec<ChannelPattern>,
}

#[derive(Clone, Debug)]
pub(crate) struct CorsConfig {
    /// Exact origins, such as `https://app.example`.
    pub(crate) origins: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct UpstreamConfig {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<EndpointConfig>,
    pub(crate) connect_timeout: Duration,
    /// `None` only where every endpoint is plain `http://`.
    pub(crate) tls: Option<UpstreamTls>,
}

#[derive(Clone, Debug)]
pub(crate) struct EndpointConfig {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct UpstreamTls {
    pub(crate) ca_file: PathBuf,
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) server_name: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct RouteConfig {
    pub(crate) pattern: String,
    /// An index into the upstreams; `None` for the gateway's own services.
    pub(crate) upstream: Option<usize>,
    pub(crate) roles: Option<Vec<String>>,
    pub(crate) public: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) forward_authorization: bool,
}

impl Config {
    /// Reads and checks a file, and what the files hold that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigFaults> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigFaults {
            file: name.clone(),
            faults: vec![Fault {
                line: 1,
                key: String::new(),
                message: format!("cannot be read: {error}"),
            }],
        })?;
        let config = Self::parse(&text, &name, path.parent().unwrap_or(Path::new("")))?;
        let mut source = faults::Source::parse(&text);
        for (key, message) in crate::gateway::file_faults(&config) {
            source.fault(&key, message);
        }
        source.finish(&name)?;
        Ok(config)
    }

    /// Checks `text`; `name` stands in the faults, `base` is where relative
    /// paths start.
    pub fn parse(text: &str, name: &str, base: &Path) -> Result<Self, ConfigFaults> {
        let mut source = faults::Source::parse(text);
        let file: file::FileConfig = source.read();
        let config = validate::Validate {
            source: &mut source,
            base,
        }
        .config(file);
        source.finish(name)?;
        Ok(config)
    }

    /// The configuration as the admin page shows it. Secrets are not in it;
    /// the user info of the event store's URL is masked.
    pub(crate) fn masked(&self) -> String {
        let mut shown = self.clone();
        shown.events.store = mask_url(&shown.events.store);
        format!("{shown:#?}\n")
    }
}

/// A URL without its user info and query.
pub(crate) fn mask_url(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) => {
            if !url.username().is_empty() || url.password().is_some() {
                let _ = url.set_username("***");
                let _ = url.set_password(None);
            }
            url.set_query(None);
            url.to_string()
        }
        Err(_) => "***".to_owned(),
    }
}
