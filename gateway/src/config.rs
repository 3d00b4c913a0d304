//! The validated configuration: what the file means, with every value checked.
//!
//! Three stages: [`mod@file`] is the text's shape, [`Config`] is checked, and
//! [`crate::gateway::Gateway`] is alive. [`Config::load`] is the only way in;
//! it reports all faults at once and binds nothing. Secrets stand in files or
//! environment variables only, and [`Config`] keeps their place, not their
//! value. Relative paths are relative to the folder of the config file.

mod auth;
mod certificates;
mod events;
mod faults;
mod file;
mod limits;
mod revocation;
#[cfg(test)]
mod schema;
mod trace;
mod upstream;
mod validate;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::files::{self, Fingerprint};

pub(crate) use auth::{AuthConfig, IssuerConfig, JwksConfig, KeyConfig, KeySource};
pub(crate) use certificates::{CertificateConfig, CertificateName, ClientCertificatesConfig};
pub(crate) use events::{EventRule, EventsConfig, RulePattern, Segment};
pub use faults::{ConfigFaults, Fault};
pub(crate) use limits::{EVENT_PATHS, LimitsConfig, MeterConfig, Per, RateConfig, StoreConfig};
pub(crate) use revocation::{DEFAULT_MAX_ENTRIES, RevocationConfig, RevocationStore};
pub(crate) use trace::TraceConfig;
pub(crate) use upstream::{
    BreakerConfig, ConnectionsConfig, EjectionConfig, EndpointConfig, EndpointSource, HealthConfig,
    RetryConfig, UpstreamConfig, UpstreamTls,
};
pub(crate) use validate::parse_duration;

/// Everything that a gateway needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it comes from, and can be read again.
    pub(crate) source: Source,
    /// The state of that and of [`Config::files`] before they were read, so
    /// that a later change always shows.
    pub(crate) loaded: Fingerprint,
    pub(crate) listen: ListenConfig,
    pub(crate) workers: usize,
    pub(crate) admin: SocketAddr,
    pub(crate) log: LogConfig,
    pub(crate) trace: Option<TraceConfig>,
    pub(crate) limits: LimitsConfig,
    pub(crate) auth: AuthConfig,
    pub(crate) certificates: Vec<CertificateConfig>,
    pub(crate) revocation: RevocationConfig,
    pub(crate) identity: IdentityConfig,
    pub(crate) events: EventsConfig,
    pub(crate) cors: CorsConfig,
    pub(crate) descriptor_files: Vec<PathBuf>,
    pub(crate) upstreams: Vec<UpstreamConfig>,
    pub(crate) routes: Vec<RouteConfig>,
}

/// A text, its name in faults, and where its relative paths start.
type Written = (Arc<str>, Arc<str>, Arc<Path>);

/// Where a configuration comes from.
#[derive(Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Text {
        text: Arc<str>,
        name: Arc<str>,
        base: Arc<Path>,
    },
}

impl fmt::Debug for Source {
    /// Without the text, which may hold what is not to be shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Text { name, .. } => f.write_str(name),
        }
    }
}

impl Source {
    /// Checks the text and what the files hold that it names; `running` is the
    /// configuration that is in use.
    pub(crate) fn load(&self, running: Option<&Config>) -> Result<Config, ConfigFaults> {
        let written = self.read()?;
        let config = self.checked(&written)?;
        let (text, name, _) = written;
        let mut source = faults::Source::parse(&text);
        for (key, message) in crate::gateway::file_faults(&config, running) {
            source.fault(&key, message);
        }
        source.finish(&name)?;
        Ok(config)
    }

    /// Checks the text alone.
    pub(crate) fn parse(&self) -> Result<Config, ConfigFaults> {
        self.checked(&self.read()?)
    }

    fn checked(&self, (text, name, base): &Written) -> Result<Config, ConfigFaults> {
        let mut source = faults::Source::parse(text);
        let file: file::FileConfig = source.read();
        let mut config = validate::Validate {
            source: &mut source,
            base,
        }
        .config(self.clone(), file);
        source.finish(name)?;
        config.loaded = Fingerprint::take(text, config.files());
        Ok(config)
    }

    /// The state of what is there now, as [`Config::loaded`] has it, and of
    /// the files that are read at a reload only. Blocks.
    pub(crate) fn look(&self, running: &Config) -> Fingerprint {
        let Ok(written) = self.read() else {
            return Fingerprint::take("", running.files());
        };
        match self.checked(&written) {
            Ok(on_disk) => {
                let endpoints = on_disk.upstreams.iter().filter_map(|upstream| {
                    let path = upstream.endpoints_file()?;
                    (!running.follows(upstream)).then_some(path)
                });
                let more: Vec<_> = on_disk
                    .unfollowed(running)
                    .into_iter()
                    .chain(endpoints)
                    .collect();
                if more.is_empty() {
                    return on_disk.loaded;
                }
                let files = on_disk.files();
                Fingerprint::take(&written.0, files.iter().chain(more))
            }
            Err(_) => Fingerprint::take(&written.0, running.files()),
        }
    }

    /// The text, its name in faults, and where relative paths start.
    fn read(&self) -> Result<Written, ConfigFaults> {
        let path = match self {
            Self::File(path) => path,
            Self::Text { text, name, base } => {
                return Ok((text.clone(), name.clone(), base.clone()));
            }
        };
        let name = path.display().to_string();
        let base = path.parent().unwrap_or(Path::new("")).into();
        match files::open(path).and_then(std::io::read_to_string) {
            Ok(text) => Ok((text.into(), name.into(), base)),
            Err(error) => Err(ConfigFaults {
                file: name,
                faults: vec![Fault {
                    line: 1,
                    key: String::new(),
                    message: format!("cannot be read: {error}"),
                }],
            }),
        }
    }
}

/// The address that clients reach.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenConfig {
    pub(crate) address: SocketAddr,
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    /// Whether clients are asked for a certificate.
    pub(crate) clients: Option<ClientCertificatesConfig>,
}

#[derive(Clone, Debug)]
pub(crate) struct LogConfig {
    /// A tracing filter, such as `info` or `intellirouter_gateway=debug`.
    pub(crate) level: String,
    pub(crate) json: bool,
    /// One line per call.
    pub(crate) access: bool,
}

/// How the gateway tells backends who calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IdentityConfig {
    pub(crate) key_file: PathBuf,
    pub(crate) issuer: String,
    pub(crate) lifetime: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct CorsConfig {
    /// Exact origins, such as `https://app.example`.
    pub(crate) origins: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct RouteConfig {
    pub(crate) pattern: String,
    /// An index into the upstreams; `None` for the gateway's own services.
    pub(crate) upstream: Option<usize>,
    /// One of these is needed.
    pub(crate) roles: Option<Vec<String>>,
    /// Each of these is needed.
    pub(crate) all_roles: Vec<String>,
    pub(crate) public: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) forward_authorization: bool,
    /// Whether a call may be made twice; `None`: as the descriptors say.
    pub(crate) idempotent: Option<bool>,
}

impl ListenConfig {
    /// Every file that is named here.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let clients = self.clients.iter().map(|clients| &clients.ca_file);
        [&self.cert_file, &self.key_file].into_iter().chain(clients)
    }
}

impl Config {
    /// Every file that is named here and is read when the configuration is.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.identity.key_file.clone()];
        files.extend(self.listen.files().cloned());
        files.extend(self.auth.files().cloned());
        let tls = self
            .upstreams
            .iter()
            .filter_map(|upstream| upstream.tls.as_ref());
        files.extend(tls.flat_map(|tls| tls.files().map(Path::to_owned)));
        files.extend(self.descriptor_files.iter().cloned());
        let authorities = [
            self.revocation.store.as_ref().map(|store| &store.ca_file),
            self.limits.store.as_ref().map(|store| &store.ca_file),
            self.trace.as_ref().map(|trace| &trace.ca_file),
            Some(&self.events.ca_file),
        ];
        files.extend(authorities.into_iter().flatten().flatten().cloned());
        files
    }

    /// The revocation file, unless `running` follows it already: then it is
    /// judged where it is followed, and must not hold up other changes.
    pub(crate) fn unfollowed(&self, running: &Self) -> Option<&PathBuf> {
        let followed = running.revocation == self.revocation;
        self.revocation.file.as_ref().filter(|_| !followed)
    }

    /// Whether `self`, which runs, follows the endpoints of this upstream: then
    /// they are judged where they are followed, and must not hold up other changes.
    pub(crate) fn follows(&self, upstream: &UpstreamConfig) -> bool {
        let mut running = self.upstreams.iter();
        running.any(|one| one.name == upstream.name && one.source == upstream.source)
    }

    /// What of `self` a running gateway that was started with `old` can't take.
    pub(crate) fn needs_restart(&self, old: &Self) -> Vec<&'static str> {
        let mut fixed_events = self.events.clone();
        let old_events = &old.events;
        fixed_events.rules.clone_from(&old_events.rules);
        fixed_events.heartbeat = old_events.heartbeat;
        fixed_events.lag_bytes = old_events.lag_bytes;
        fixed_events.filters_per_subject = old_events.filters_per_subject;
        let changes = [
            ("listen.address", self.listen.address != old.listen.address),
            ("admin.address", self.admin != old.admin),
            ("workers.count", self.workers != old.workers),
            ("log.format", self.log.json != old.log.json),
            ("trace", self.trace != old.trace),
            ("events", fixed_events != *old_events),
        ];
        let changed = changes.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(key, _)| key).collect()
    }

    /// Reads and checks a file, and what the files hold that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigFaults> {
        Source::File(path.to_owned()).load(None)
    }

    /// Checks `text`; `name` stands in the faults, `base` is where relative
    /// paths start.
    pub fn parse(text: &str, name: &str, base: &Path) -> Result<Self, ConfigFaults> {
        Source::Text {
            text: text.into(),
            name: name.into(),
            base: base.into(),
        }
        .parse()
    }

    /// The files of the certificates that the gateway shows to others.
    pub(crate) fn certificates(&self) -> Vec<PathBuf> {
        let clients = self.upstreams.iter().filter_map(|upstream| {
            let (cert, _) = upstream.tls.as_ref()?.client.as_ref()?;
            Some(cert.clone())
        });
        let mut files: Vec<_> = clients.chain([self.listen.cert_file.clone()]).collect();
        files.sort_unstable();
        files.dedup();
        files
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

#[cfg(test)]
mod tests;
