//! `[[upstreams]]`: where backends are, and how calls to them are made to
//! succeed while some of them fail.
//!
//! Owns the shape and the checks of the section. What the settings do is
//! [`crate::upstream`]'s concern.

use std::path::{Path, PathBuf};
use std::time::Duration;

use intellirouter::error::code_name;
use intellirouter::resilience::BreakerSettings;
use serde::Deserialize;
use tonic::Code;

use super::validate::{OWN_SERVICES, Validate};

/// One service behind the gateway.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileUpstream {
    /// What routes call it; also the `aud` of identity tokens for it. Required.
    pub(crate) name: Option<String>,
    /// `https://HOST:PORT` or `http://HOST:PORT`. One of `endpoints`, `dns` and
    /// `endpoints_file` is required.
    pub(crate) endpoints: Vec<String>,
    /// As one of `endpoints`: each address of the host is an endpoint.
    pub(crate) dns: Option<String>,
    /// How often the host of `dns` is looked up, 1s to 1h; default `10s`.
    pub(crate) dns_refresh: Option<String>,
    /// A file with one URL a line, as in `endpoints`; `#` begins a comment. Followed.
    pub(crate) endpoints_file: Option<String>,
    /// Authorities of the backends' certificates, PEM; required for `https://`, and like the three
    /// below a fault without.
    pub(crate) ca_file: Option<String>,
    /// The gateway's client certificate, PEM; together with `key_file`.
    pub(crate) cert_file: Option<String>,
    /// Its private key, PEM.
    pub(crate) key_file: Option<String>,
    /// The name in the backends' certificates; default: the host.
    pub(crate) server_name: Option<String>,
    /// 100ms to 60s; default `3s`.
    pub(crate) connect_timeout: Option<String>,
    /// How long a connection may have no call before it is closed, 1s to 24h; default `5m`.
    pub(crate) idle_timeout: Option<String>,
    /// How old a connection gets before its calls go to a new one, less up to a tenth by chance;
    /// 1s to 24h, default `1h`.
    pub(crate) max_connection_age: Option<String>,
    /// How long a connection with calls may bring nothing before it is asked by a PING, 1s to 10m;
    /// default `10s`.
    pub(crate) keepalive: Option<String>,
    /// How long the answer may take before the connection is given up, 100ms to 60s; default `5s`.
    pub(crate) keepalive_timeout: Option<String>,
    /// Asks each endpoint again and again whether it serves; default: none is asked.
    pub(crate) health: Option<FileHealth>,
    /// When an endpoint gets no calls for a while.
    pub(crate) breaker: FileBreaker,
    /// When an endpoint that fails more than the others is left out.
    pub(crate) ejection: FileEjection,
    /// What is tried again, and how often.
    pub(crate) retries: FileRetries,
}

/// `[upstreams.health]`: `grpc.health.v1.Health/Check`.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileHealth {
    /// The service that is asked for; default: the server as a whole.
    pub(crate) service: String,
    /// How often, 100ms to 10m, and up to a tenth sooner by chance; default `5s`.
    pub(crate) interval: Option<String>,
    /// How long an answer may take, 10ms to 60s; default `1s`.
    pub(crate) timeout: Option<String>,
    /// After so many failed checks in a row an endpoint gets no calls, 1 to 100; default 2.
    pub(crate) unhealthy_after: Option<u64>,
    /// After so many good ones it gets them again, 1 to 100; default 1.
    pub(crate) healthy_after: Option<u64>,
}

/// `[upstreams.breaker]`: one for each endpoint.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileBreaker {
    /// Opens after so many failures in a row, at least 1; default 5.
    pub(crate) consecutive_failures: Option<u32>,
    /// Opens when more than this share of the calls in `window` failed, above 0 to 1; default 0.5.
    pub(crate) failure_ratio: Option<f64>,
    /// How many calls `window` must hold for that; default 20.
    pub(crate) min_calls: Option<u32>,
    /// How far back that looks, 100ms to 24h; default `10s`.
    pub(crate) window: Option<String>,
    /// How long it stays open at first; doubles with each failed probe, less up to half by chance;
    /// default `1s`.
    pub(crate) open_min: Option<String>,
    /// The longest time that it stays open; default `30s`.
    pub(crate) open_max: Option<String>,
    /// How many probes may be under way at once, 1 to 100; as many must succeed; default 1.
    pub(crate) probes: Option<u32>,
    /// Which statuses that a backend sends count as its failure; default `["UNAVAILABLE"]`. A
    /// connection that fails or breaks always counts, and so does an answer that does not come in
    /// a time that the caller did not choose.
    pub(crate) failure_codes: Option<Vec<String>>,
}

/// `[upstreams.ejection]`: leaves out an endpoint that fails more often than the others.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileEjection {
    /// The share of endpoints that may be left out at once, 0 to 1, rounded down; 0 turns it off;
    /// default 0.5.
    pub(crate) max_share: Option<f64>,
    /// By how much the share of its calls that failed must exceed that of the others, above 0 and
    /// below 1; default 0.2.
    pub(crate) margin: Option<f64>,
    /// How many calls it must have had in the breaker's window, at least 1; default 20.
    pub(crate) min_calls: Option<u32>,
    /// For how long at first; doubles each time, up to 5 minutes; 1s to 5m, default `10s`.
    pub(crate) duration: Option<String>,
}

/// `[upstreams.retries]`
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileRetries {
    /// How often a call is tried at most, the first try included, 1 to 10; default 3.
    pub(crate) max_tries: Option<u64>,
    /// How many retries a call pays for, 0 to 1; default 0.2: one retry for five calls.
    pub(crate) budget_ratio: Option<f64>,
    /// Retries per second that are free, 0 to 1000; default 10.
    pub(crate) budget_per_second: Option<u64>,
    /// The wait before the first retry; doubles, less up to half by chance; 1ms to 60s, default
    /// `25ms`.
    pub(crate) backoff_min: Option<String>,
    /// The longest wait that doubling leads to, 1ms to 60s; default `1s`.
    pub(crate) backoff_max: Option<String>,
    /// How long a try may take to answer where another may follow, 10ms to 24h, and never more than
    /// 3/10 of the time that the call has; default `10s`.
    pub(crate) try_timeout: Option<String>,
    /// The most of a request that is kept for another try, headers included, in bytes, 0 to 4 MiB;
    /// default 65536. A call that sends more is tried once.
    pub(crate) replay_bytes: Option<u64>,
    /// The same for all calls to this upstream together, up to 1 GiB and at least twice as much;
    /// default 67108864. Half of it is for callers with few calls in progress.
    pub(crate) replay_bytes_in_all: Option<u64>,
    /// Which statuses that a backend sends are tried again where the call may be repeated; default
    /// `["UNAVAILABLE"]`.
    pub(crate) codes: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UpstreamConfig {
    pub(crate) name: String,
    pub(crate) source: EndpointSource,
    pub(crate) connect_timeout: Duration,
    /// `None` only where every endpoint is plain `http://`.
    pub(crate) tls: Option<UpstreamTls>,
    pub(crate) connections: ConnectionsConfig,
    pub(crate) health: Option<HealthConfig>,
    pub(crate) breaker: BreakerConfig,
    pub(crate) ejection: EjectionConfig,
    pub(crate) retries: RetryConfig,
}

/// Where it is said which endpoints there are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EndpointSource {
    List(Vec<EndpointConfig>),
    /// Each address of the host is an endpoint.
    Dns {
        host: EndpointConfig,
        refresh: Duration,
    },
    /// One URL a line.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointConfig {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UpstreamTls {
    pub(crate) ca_file: PathBuf,
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) server_name: Option<String>,
}

/// How long connections are kept, and how it is found out that they are dead.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConnectionsConfig {
    pub(crate) idle_timeout: Duration,
    pub(crate) max_age: Duration,
    pub(crate) keepalive: Duration,
    pub(crate) keepalive_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HealthConfig {
    pub(crate) service: String,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) unhealthy_after: u32,
    pub(crate) healthy_after: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BreakerConfig {
    pub(crate) settings: BreakerSettings,
    pub(crate) failure_codes: Vec<Code>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EjectionConfig {
    pub(crate) max_share: f64,
    pub(crate) margin: f64,
    pub(crate) min_calls: u32,
    pub(crate) duration: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RetryConfig {
    pub(crate) max_tries: u32,
    pub(crate) budget_ratio: f64,
    pub(crate) budget_per_second: u32,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) try_timeout: Duration,
    pub(crate) replay_bytes: usize,
    pub(crate) replay_bytes_in_all: usize,
    pub(crate) codes: Vec<Code>,
}

impl UpstreamTls {
    /// Every file that is named here.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let client = self.client.iter().flat_map(|(cert, key)| [cert, key]);
        std::iter::once(&self.ca_file)
            .chain(client)
            .map(PathBuf::as_path)
    }
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Validate<'_, '_> {
    pub(super) fn upstream(&mut self, i: usize, mut file: FileUpstream) -> UpstreamConfig {
        let at = format!("upstreams[{i}]");
        let name = std::mem::take(&mut file.name).unwrap_or_default();
        if name.is_empty() || name == OWN_SERVICES {
            self.source.fault(
                &at,
                format!("name: expected a name other than \"{OWN_SERVICES}\""),
            );
        }
        let source = self.endpoint_source(&at, &mut file);
        let key = |name: &str| format!("{at}.{name}");
        UpstreamConfig {
            name,
            connect_timeout: self.time(
                &key("connect_timeout"),
                file.connect_timeout.take(),
                (3 * SECOND, 100 * MS, MINUTE),
            ),
            connections: ConnectionsConfig {
                idle_timeout: self.time(
                    &key("idle_timeout"),
                    file.idle_timeout.take(),
                    (5 * MINUTE, SECOND, DAY),
                ),
                max_age: self.time(
                    &key("max_connection_age"),
                    file.max_connection_age.take(),
                    (60 * MINUTE, SECOND, DAY),
                ),
                keepalive: self.time(
                    &key("keepalive"),
                    file.keepalive.take(),
                    (10 * SECOND, SECOND, 10 * MINUTE),
                ),
                keepalive_timeout: self.time(
                    &key("keepalive_timeout"),
                    file.keepalive_timeout.take(),
                    (5 * SECOND, 100 * MS, MINUTE),
                ),
            },
            health: file
                .health
                .take()
                .map(|health| self.health(&key("health"), health)),
            breaker: self.breaker(&key("breaker"), std::mem::take(&mut file.breaker)),
            ejection: self.ejection(&key("ejection"), std::mem::take(&mut file.ejection)),
            retries: self.retries(&key("retries"), std::mem::take(&mut file.retries)),
            tls: self.upstream_tls(&at, &source, file),
            source,
        }
    }

    fn endpoint_source(&mut self, at: &str, file: &mut FileUpstream) -> EndpointSource {
        let list = std::mem::take(&mut file.endpoints);
        if file.dns_refresh.is_some() && file.dns.is_none() {
            self.source
                .fault(&format!("{at}.dns_refresh"), "needs dns beside it");
        }
        match (list.is_empty(), file.dns.take(), file.endpoints_file.take()) {
            (false, None, None) => {
                let endpoints = list
                    .iter()
                    .enumerate()
                    .filter_map(|(j, url)| self.endpoint(&format!("{at}.endpoints[{j}]"), url));
                EndpointSource::List(endpoints.collect())
            }
            (true, Some(dns), None) => EndpointSource::Dns {
                host: self
                    .endpoint(&format!("{at}.dns"), &dns)
                    .unwrap_or_else(EndpointConfig::nowhere),
                refresh: self.time(
                    &format!("{at}.dns_refresh"),
                    file.dns_refresh.take(),
                    (10 * SECOND, SECOND, 60 * MINUTE),
                ),
            },
            (true, None, Some(path)) => {
                EndpointSource::File(self.file(&format!("{at}.endpoints_file"), Some(path)))
            }
            _ => {
                let message =
                    "expected one of endpoints (at least one URL), dns and endpoints_file";
                self.source.fault(at, message);
                EndpointSource::List(Vec::new())
            }
        }
    }

    fn upstream_tls(
        &mut self,
        at: &str,
        source: &EndpointSource,
        file: FileUpstream,
    ) -> Option<UpstreamTls> {
        let needed = match source {
            EndpointSource::List(list) => list.iter().any(|endpoint| endpoint.tls),
            EndpointSource::Dns { host, .. } => host.tls,
            // Which it is, its lines say.
            EndpointSource::File(_) => file.ca_file.is_some(),
        };
        if !needed {
            self.unused_tls(at, source, &file);
            return None;
        }
        let client = match (file.cert_file, file.key_file) {
            (Some(cert), Some(key)) => Some((
                self.file(&format!("{at}.cert_file"), Some(cert)),
                self.file(&format!("{at}.key_file"), Some(key)),
            )),
            (None, None) => None,
            _ => {
                self.source
                    .fault(at, "expected cert_file and key_file together, or neither");
                None
            }
        };
        Some(UpstreamTls {
            ca_file: self.file(&format!("{at}.ca_file"), file.ca_file),
            client,
            server_name: file.server_name,
        })
    }

    /// Whoever sets these believes that connections are secured by them.
    fn unused_tls(&mut self, at: &str, source: &EndpointSource, file: &FileUpstream) {
        let message = match source {
            // Their faults are told already.
            EndpointSource::List(list) if list.is_empty() => return,
            EndpointSource::Dns { host, .. } if host.host.is_empty() => return,
            EndpointSource::List(_) | EndpointSource::Dns { .. } => {
                "expected beside https:// endpoints only, and there is none"
            }
            EndpointSource::File(_) => "needs ca_file beside it",
        };
        for (key, is_set) in [
            ("ca_file", file.ca_file.is_some()),
            ("cert_file", file.cert_file.is_some()),
            ("key_file", file.key_file.is_some()),
            ("server_name", file.server_name.is_some()),
        ] {
            if is_set {
                self.source.fault(&format!("{at}.{key}"), message);
            }
        }
    }

    fn endpoint(&mut self, at: &str, text: &str) -> Option<EndpointConfig> {
        text.parse()
            .map_err(|message: String| self.source.fault(at, message))
            .ok()
    }

    fn health(&mut self, at: &str, file: FileHealth) -> HealthConfig {
        let key = |name: &str| format!("{at}.{name}");
        let interval = (5 * SECOND, 100 * MS, 10 * MINUTE);
        HealthConfig {
            interval: self.time(&key("interval"), file.interval, interval),
            timeout: self.time(&key("timeout"), file.timeout, (SECOND, 10 * MS, MINUTE)),
            unhealthy_after: self.count(&key("unhealthy_after"), file.unhealthy_after, (2, 1, 100)),
            healthy_after: self.count(&key("healthy_after"), file.healthy_after, (1, 1, 100)),
            service: file.service,
        }
    }

    fn breaker(&mut self, at: &str, file: FileBreaker) -> BreakerConfig {
        let key = |name: &str| format!("{at}.{name}");
        let default = BreakerSettings::default();
        let settings = BreakerSettings {
            consecutive_failures: file
                .consecutive_failures
                .unwrap_or(default.consecutive_failures),
            failure_ratio: file.failure_ratio.unwrap_or(default.failure_ratio),
            min_calls: file.min_calls.unwrap_or(default.min_calls),
            window: self.time(&key("window"), file.window, (default.window, 100 * MS, DAY)),
            open_min: self.time(&key("open_min"), file.open_min, (default.open_min, MS, DAY)),
            open_max: self.time(&key("open_max"), file.open_max, (default.open_max, MS, DAY)),
            probes: file.probes.unwrap_or(default.probes),
        };
        if let Err(error) = settings.validate() {
            self.source.fault(at, error.to_string());
        }
        BreakerConfig {
            settings,
            failure_codes: self.codes(&key("failure_codes"), file.failure_codes),
        }
    }

    fn ejection(&mut self, at: &str, file: FileEjection) -> EjectionConfig {
        let key = |name: &str| format!("{at}.{name}");
        let duration = (10 * SECOND, SECOND, 5 * MINUTE);
        let margin = file.margin.unwrap_or(0.2);
        // No share exceeds another by 1.
        if !(margin > 0.0 && margin < 1.0) {
            let expected = "expected above 0 and below 1";
            let message = format!("{expected}, found {margin}; max_share = 0 turns ejection off");
            self.source.fault(&key("margin"), message);
        }
        let min_calls = file.min_calls.map(u64::from);
        EjectionConfig {
            max_share: self.share(&key("max_share"), file.max_share, 0.5),
            margin,
            min_calls: self.count(&key("min_calls"), min_calls, (20, 1, u32::MAX)),
            duration: self.time(&key("duration"), file.duration, duration),
        }
    }

    fn retries(&mut self, at: &str, file: FileRetries) -> RetryConfig {
        let key = |name: &str| format!("{at}.{name}");
        let mut number =
            |name: &str, given, default, most| self.number(&key(name), given, default, 0, most);
        let replay_bytes = number("replay_bytes", file.replay_bytes, 64 << 10, 4 << 20);
        let in_all = file.replay_bytes_in_all;
        let replay_bytes_in_all = number("replay_bytes_in_all", in_all, 64 << 20, 1 << 30);
        // All callers get half of it, and that must do for one call.
        let least = 2 * replay_bytes;
        if replay_bytes_in_all < least {
            let expected = format!("expected at least twice replay_bytes, {least}");
            let message = format!("{expected}, found {replay_bytes_in_all}");
            self.source.fault(&key("replay_bytes_in_all"), message);
        }
        let config = RetryConfig {
            replay_bytes,
            replay_bytes_in_all,
            max_tries: self.count(&key("max_tries"), file.max_tries, (3, 1, 10)),
            budget_ratio: self.share(&key("budget_ratio"), file.budget_ratio, 0.2),
            budget_per_second: self.count(
                &key("budget_per_second"),
                file.budget_per_second,
                (10, 0, 1000),
            ),
            backoff_min: self.time(&key("backoff_min"), file.backoff_min, (25 * MS, MS, MINUTE)),
            backoff_max: self.time(&key("backoff_max"), file.backoff_max, (SECOND, MS, MINUTE)),
            try_timeout: self.time(
                &key("try_timeout"),
                file.try_timeout,
                (10 * SECOND, 10 * MS, DAY),
            ),
            codes: self.codes(&key("codes"), file.codes),
        };
        if config.backoff_min > config.backoff_max {
            self.source
                .fault(&key("backoff_min"), "expected at most backoff_max");
        }
        config
    }

    fn share(&mut self, at: &str, given: Option<f64>, default: f64) -> f64 {
        let share = given.unwrap_or(default);
        if !(0.0..=1.0).contains(&share) {
            self.source
                .fault(at, format!("expected 0 to 1, found {share}"));
        }
        share
    }

    /// `bounds` are default, least and most.
    fn count(&mut self, at: &str, given: Option<u64>, bounds: (u32, u32, u32)) -> u32 {
        let (default, min, max) = bounds;
        let number = self.number(at, given, default as usize, min as usize, max as usize);
        u32::try_from(number).unwrap_or(default)
    }

    fn codes(&mut self, at: &str, given: Option<Vec<String>>) -> Vec<Code> {
        let Some(names) = given else {
            return vec![Code::Unavailable];
        };
        let found: Vec<_> = names.iter().filter_map(|name| code(name)).collect();
        if found.len() < names.len() {
            let message = "expected names of gRPC codes other than OK, such as \"UNAVAILABLE\"";
            self.source.fault(at, message);
        }
        found
    }
}

impl UpstreamConfig {
    /// The file that names the endpoints, if one does.
    pub(crate) fn endpoints_file(&self) -> Option<&PathBuf> {
        match &self.source {
            EndpointSource::File(path) => Some(path),
            _ => None,
        }
    }
}

impl EndpointConfig {
    /// Stands for one that is faulty, in a configuration that is refused.
    fn nowhere() -> Self {
        Self {
            host: String::new(),
            port: 0,
            tls: false,
        }
    }
}

impl std::str::FromStr for EndpointConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected \"https://HOST:PORT\" or \"http://HOST:PORT\"";
        let url = url::Url::parse(text).map_err(|error| format!("{expected}: {error}"))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(format!("{expected}, found scheme \"{other}\"")),
        };
        let plain = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        match (url.host_str(), url.port_or_known_default()) {
            (Some(_), Some(0)) => Err(format!("{expected}, found port 0")),
            (Some(host), Some(port)) if plain => Ok(Self {
                host: host.trim_matches(['[', ']']).to_owned(),
                port,
                tls,
            }),
            _ => Err(format!("{expected} and nothing beside it")),
        }
    }
}

fn code(name: &str) -> Option<Code> {
    let mut codes = (1..=16).map(Code::from_i32);
    codes.find(|code| code_name(*code) == name)
}
