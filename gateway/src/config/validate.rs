//! From the text's shape to checked values. Every fault is reported and a
//! harmless stand-in goes on, so that the next fault is found too; a config
//! with a fault never leaves this module.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::faults::Source;
use super::file::{FileConfig, FileRoute};
use super::{
    Config, CorsConfig, IdentityConfig, ListenConfig, LogConfig, RouteConfig, UpstreamConfig,
};
use crate::layers::authenticate::CERTIFICATE_ISSUER;
use crate::routes::is_name;

/// What the URL of a Redis must be.
pub(super) const REDIS_EXPECTED: &str = "\"redis://HOST:PORT\" or \
     \"redis+sentinel://HOST:PORT,HOST:PORT/SERVICE\", with rediss for TLS";

/// What a `[[routes]]` entry names as upstream for the gateway's own services.
pub(super) const OWN_SERVICES: &str = "gateway";

pub(super) struct Validate<'s, 'a> {
    pub(super) source: &'s mut Source<'a>,
    pub(super) base: &'s Path,
}

impl Validate<'_, '_> {
    pub(super) fn config(&mut self, source: super::Source, file: FileConfig) -> Config {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let upstreams: Vec<_> = file
            .upstreams
            .into_iter()
            .enumerate()
            .map(|(i, u)| self.upstream(i, u))
            .collect();
        self.unique_names(&upstreams);
        let asks_clients = file.listen.client_ca_file.is_some();
        let auth = self.auth(file.auth);
        let certificates = self.certificates(file.certificates, asks_clients);
        let issuers = auth.issuers.iter().map(|one| one.issuer.as_str());
        let by_certificate = (!certificates.is_empty()).then_some(CERTIFICATE_ISSUER);
        let issuers: Vec<&str> = issuers.chain(by_certificate).collect();
        let events = self.events(file.events, &issuers);
        Config {
            source,
            loaded: Default::default(),
            listen: ListenConfig {
                address: self.address("listen.address", file.listen.address, "0.0.0.0:8443"),
                cert_file: self.file("listen.cert_file", file.listen.cert_file),
                key_file: self.file("listen.key_file", file.listen.key_file),
                clients: self.client_certificates(
                    file.listen.client_ca_file,
                    file.listen.client_certificates,
                ),
            },
            workers: self.number("workers.count", file.workers.count, cores, 1, 256),
            admin: self.address("admin.address", file.admin.address, "127.0.0.1:9901"),
            log: self.log(file.log.level, file.log.format, file.log.access),
            trace: self.trace(file.trace),
            limits: self.limits(file.limits),
            auth,
            certificates,
            revocation: self.revocation(file.revocation),
            identity: IdentityConfig {
                key_file: self.file("identity.key_file", file.identity.key_file),
                issuer: file
                    .identity
                    .issuer
                    .unwrap_or_else(|| "intellirouter-gateway".into()),
                lifetime: self.duration("identity.lifetime", file.identity.lifetime, (60, 5, 60)),
            },
            events,
            cors: CorsConfig {
                origins: self.origins(file.cors.origins),
                expose_headers: self.header_names(file.cors.expose_headers),
                max_age: self.duration("cors.max_age", file.cors.max_age, (7200, 0, 86_400)),
            },
            descriptor_files: file
                .descriptors
                .files
                .into_iter()
                .enumerate()
                .map(|(i, path)| self.file(&format!("descriptors.files[{i}]"), Some(path)))
                .collect(),
            routes: self.routes(file.routes, &upstreams),
            upstreams,
        }
    }

    fn log(
        &mut self,
        level: Option<String>,
        format: Option<String>,
        access: Option<bool>,
    ) -> LogConfig {
        let level = level.unwrap_or_else(|| "info".into());
        if let Err(error) = intellirouter::logging::check_filter(&level) {
            self.source.fault(
                "log.level",
                format!("expected a filter such as \"info\": {error}"),
            );
        }
        let json = match format.as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => {
                let message = format!("expected \"text\" or \"json\", found \"{other}\"");
                self.source.fault("log.format", message);
                false
            }
        };
        LogConfig {
            level,
            json,
            access: access.unwrap_or(true),
        }
    }

    fn unique_names(&mut self, upstreams: &[UpstreamConfig]) {
        for (i, upstream) in upstreams.iter().enumerate() {
            if upstreams[..i]
                .iter()
                .any(|other| other.name == upstream.name)
            {
                let message = format!("\"{}\" is taken by an upstream above", upstream.name);
                self.source.fault(&format!("upstreams[{i}].name"), message);
            }
        }
    }

    fn routes(&mut self, files: Vec<FileRoute>, upstreams: &[UpstreamConfig]) -> Vec<RouteConfig> {
        let mut routes: Vec<RouteConfig> = Vec::with_capacity(files.len());
        for (i, file) in files.into_iter().enumerate() {
            let at = format!("routes[{i}]");
            let pattern = file.pattern.unwrap_or_default();
            if let Err(expected) = check_pattern(&pattern) {
                self.source.fault(&format!("{at}.match"), expected);
            } else if routes.iter().any(|route| route.pattern == pattern) {
                self.source
                    .fault(&format!("{at}.match"), "a route above has the same match");
            }
            let upstream = self.upstream_of(&at, file.upstream, upstreams);
            if file.public && (file.roles.is_some() || !file.all_roles.is_empty()) {
                self.source
                    .fault(&at, "expected either public = true or roles, not both");
            }
            if file.roles.as_ref().is_some_and(Vec::is_empty) {
                self.source.fault(
                    &format!("{at}.roles"),
                    "empty; name a role, or \"*\" for any caller with a valid token",
                );
            }
            let timeout = file
                .timeout
                .map(|text| self.duration(&format!("{at}.timeout"), Some(text), (0, 0, 86_400)));
            routes.push(RouteConfig {
                pattern,
                upstream,
                roles: file.roles,
                all_roles: file.all_roles,
                public: file.public,
                timeout,
                forward_authorization: file.forward_authorization,
                idempotent: file.idempotent,
            });
        }
        routes
    }

    fn upstream_of(
        &mut self,
        at: &str,
        name: Option<String>,
        upstreams: &[UpstreamConfig],
    ) -> Option<usize> {
        let Some(name) = name else {
            self.source.fault(at, "upstream: missing");
            return None;
        };
        let found = upstreams.iter().position(|upstream| upstream.name == name);
        if found.is_none() && name != OWN_SERVICES {
            let known: Vec<_> = upstreams
                .iter()
                .map(|upstream| upstream.name.as_str())
                .collect();
            let message = format!(
                "no upstream is named \"{name}\"; there are: {}",
                known.join(", ")
            );
            self.source.fault(&format!("{at}.upstream"), message);
        }
        found
    }

    fn origins(&mut self, origins: Vec<String>) -> Vec<String> {
        for (i, origin) in origins.iter().enumerate() {
            let plain = url::Url::parse(origin)
                .is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !plain {
                let message = "expected scheme and host alone, such as \"https://app.example\"";
                self.source.fault(&format!("cors.origins[{i}]"), message);
            }
        }
        origins
    }

    fn header_names(&mut self, names: Vec<String>) -> Vec<String> {
        for (i, name) in names.iter().enumerate() {
            if http::HeaderName::try_from(name.as_str()).is_err() {
                self.source.fault(
                    &format!("cors.expose_headers[{i}]"),
                    "expected a header name",
                );
            }
        }
        names
    }

    fn address(&mut self, at: &str, text: Option<String>, default: &str) -> SocketAddr {
        let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
        match text.as_deref().unwrap_or(default).parse() {
            Ok(address) => address,
            Err(_) => {
                self.source
                    .fault(at, "expected ADDRESS:PORT, such as \"127.0.0.1:8443\"");
                fallback
            }
        }
    }

    /// A path that must lead to a readable file.
    pub(super) fn file(&mut self, at: &str, path: Option<String>) -> PathBuf {
        let Some(path) = path else {
            self.source.fault(at, "missing");
            return PathBuf::new();
        };
        let path = self.base.join(path);
        if let Err(error) = crate::files::open(&path) {
            self.source
                .fault(at, format!("{}: {error}", path.display()));
        }
        path
    }

    pub(super) fn number(
        &mut self,
        at: &str,
        given: Option<u64>,
        default: usize,
        min: usize,
        max: usize,
    ) -> usize {
        let Some(given) = given else { return default };
        match usize::try_from(given) {
            Ok(n) if (min..=max).contains(&n) => n,
            _ => {
                self.source
                    .fault(at, format!("expected {min} to {max}, found {given}"));
                default
            }
        }
    }

    /// `bounds` are default, least and most, in seconds.
    pub(super) fn duration(
        &mut self,
        at: &str,
        given: Option<String>,
        (default, min, max): (u64, u64, u64),
    ) -> Duration {
        let bounds = [default, min, max].map(Duration::from_secs);
        self.time(at, given, bounds.into())
    }

    /// `bounds` are default, least and most.
    pub(super) fn time(
        &mut self,
        at: &str,
        given: Option<String>,
        (default, min, max): (Duration, Duration, Duration),
    ) -> Duration {
        let Some(text) = given else { return default };
        match parse_duration(&text) {
            Some(d) if (min..=max).contains(&d) => d,
            Some(_) => {
                let (min, max) = (in_seconds(min), in_seconds(max));
                self.source
                    .fault(at, format!("expected {min} to {max}, found \"{text}\""));
                default
            }
            None => {
                let message = format!("expected a number with ms, s, m or h, found \"{text}\"");
                self.source.fault(at, message);
                default
            }
        }
    }
}

/// `250ms`, `30s`, `5m` or `1h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    let millis = match &text[split..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

/// `/package.Service/Method`, `/package.Service/*` or `/package.*`.
pub(super) fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    let expected = "expected \"/package.Service/Method\", \"/package.Service/*\" or \"/package.*\"";
    let rest = pattern.strip_prefix('/').ok_or(expected)?;
    let dotted = |text: &str| text.split('.').all(is_name);
    let good = match rest.split_once('/') {
        Some((service, method)) => dotted(service) && (method == "*" || is_name(method)),
        None => rest.strip_suffix(".*").is_some_and(dotted),
    };
    if good { Ok(()) } else { Err(expected) }
}

fn in_seconds(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 1000 == 0 => format!("{}s", time.as_secs()),
        ms => format!("{ms}ms"),
    }
}
