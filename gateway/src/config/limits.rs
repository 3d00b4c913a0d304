//! `[limits]`: what one process takes on at most, and how often a caller may
//! call.
//!
//! Owns the shape and the checks of the section. What a rate does is
//! [`crate::limits`]'s concern. Bounds: 64 rates; each at most 1,000,000 calls
//! per second, with a bucket that fills within 7 days.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use intellirouter::RedisUrl;
use serde::Deserialize;

use super::validate::{REDIS_EXPECTED, Validate, check_pattern};
use super::{mask_url, parse_duration};

/// What one process takes on at most.
#[derive(Clone, Debug)]
pub(crate) struct LimitsConfig {
    /// Client connections; more are closed at once.
    pub(crate) connections: usize,
    /// Of them, those of one address (IPv6: of one /64).
    pub(crate) connections_per_address: usize,
    /// Calls and streams in progress, in all.
    pub(crate) open_calls: usize,
    /// Those of one subject.
    pub(crate) open_calls_per_subject: usize,
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
    /// How long the gateway goes on as before once it says that it is not
    /// ready, so that whoever sends it connections can hear it.
    pub(crate) drain_delay: Duration,
    /// How long calls may go on after that.
    pub(crate) drain_timeout: Duration,
    /// How often callers may call; a call needs room in each that covers it.
    pub(crate) rates: Vec<RateConfig>,
    /// Where rates of scope `global` are counted.
    pub(crate) store: Option<StoreConfig>,
}

impl LimitsConfig {
    /// What is no fault, and an operator should know.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        let store = self.store.as_ref()?;
        let global = self.rates.iter().any(|rate| rate.meter.global);
        (global && store.expected_gateways.is_none()).then_some(
            "limits.store.expected_gateways: not set; a gateway that starts while the store is \
             away lets in the whole of each global limit by itself",
        )
    }
}

/// One rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateConfig {
    pub(crate) name: String,
    pub(crate) meter: MeterConfig,
    /// Patterns of the calls that it covers; all when empty.
    pub(crate) routes: Vec<String>,
    /// Callers with one of these; all when empty.
    pub(crate) roles: Vec<String>,
}

/// What is counted, and how fast it may go: as long as this stays, so do the
/// buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeterConfig {
    /// What has a bucket of its own; one bucket for all when empty.
    pub(crate) per: Vec<Per>,
    /// Calls per period.
    pub(crate) rate: u32,
    pub(crate) period: Duration,
    /// Calls at once.
    pub(crate) burst: u32,
    /// Buckets in memory.
    pub(crate) keys: usize,
    /// Whether all gateways of the store count together.
    pub(crate) global: bool,
}

impl MeterConfig {
    /// What keeps buckets of this from being those of `next`; full ones take
    /// their place.
    pub(crate) fn starts_full_as(&self, next: &Self) -> Option<&'static str> {
        if self.per != next.per {
            Some("per")
        } else if self.global != next.global {
            Some("scope")
        } else {
            None
        }
    }
}

/// What a bucket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Per {
    Address,
    Subject,
    Role,
    Route,
}

impl Per {
    const ALL: [Self; 4] = [Self::Address, Self::Subject, Self::Role, Self::Route];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Subject => "subject",
            Self::Role => "role",
            Self::Route => "route",
        }
    }
}

/// The Redis that gateways count in together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreConfig {
    pub(crate) url: StoreUrl,
    /// For `rediss://`; the system's authorities without it.
    pub(crate) ca_file: Option<PathBuf>,
    /// How long a call may wait for it.
    pub(crate) timeout: Duration,
    /// How much of a rate is taken at once.
    pub(crate) lease: Duration,
    /// How many share a rate while the store is away, at least.
    pub(crate) expected_gateways: Option<u32>,
}

/// Where the URL stands. Shown without credentials.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    Given(String),
    Env(String),
}

impl StoreUrl {
    /// The URL itself, with its credentials.
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Self::Given(url) => Ok(url.clone()),
            Self::Env(name) => std::env::var(name).map_err(|_| format!("{name} is not set")),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(url) => write!(f, "{:?}", mask_url(url)),
            Self::Env(name) => write!(f, "the environment variable {name}"),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileLimits {
    /// Client connections, 1 to 1000000; more are closed at once; default 10000.
    pub(crate) connections: Option<u64>,
    /// Of them, those of one address (IPv6: of one /64), 1 to 1000000; default 1000.
    pub(crate) connections_per_address: Option<u64>,
    /// Calls and streams in progress, 1 to 10000000; more are refused; default 20000.
    pub(crate) open_calls: Option<u64>,
    /// Calls and streams in progress of one subject, 1 to 10000000; default 2000.
    pub(crate) open_calls_per_subject: Option<u64>,
    /// Streams of one HTTP/2 connection, 1 to 100000; default 200.
    pub(crate) streams_per_connection: Option<u64>,
    /// Header bytes of one request, 1024 to 1048576; default 32768.
    pub(crate) header_bytes: Option<u64>,
    /// For the TLS handshake, the HTTP/2 preface and HTTP/1.1 headers, 1s to 120s; default `10s`.
    pub(crate) handshake_timeout: Option<String>,
    /// How long an HTTP/2 connection may have no call, 1s to 24h; default `5m`.
    pub(crate) idle_timeout: Option<String>,
    /// How long a connection may take no byte that waits for it, 1s to 600s; default `30s`.
    pub(crate) stall_timeout: Option<String>,
    /// How long connections are still taken after the signal to stop, 0s to 10m; default `0s`.
    pub(crate) drain_delay: Option<String>,
    /// How long calls may go on after that, 0s to 1h; default `20s`.
    pub(crate) drain_timeout: Option<String>,
    /// How often callers may call; at most 64.
    pub(crate) rates: Vec<FileRate>,
    /// Where rates of scope `global` are counted.
    pub(crate) store: Option<FileStore>,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileRate {
    /// 1 to 64 of a-z, 0-9, _ and -; stands in refusals and metrics. Required.
    pub(crate) name: Option<String>,
    /// What has a bucket of its own: any of `address`, `subject`, `role` and `route`; none: all calls in one.
    pub(crate) per: Option<Vec<String>>,
    /// Calls per period. Required.
    pub(crate) rate: Option<u64>,
    /// 1ms to 24h; default `1s`.
    pub(crate) period: Option<String>,
    /// Calls at once; default: `rate`.
    pub(crate) burst: Option<u64>,
    /// The calls that it covers, as `match` of a route, and `/events`; default: all.
    pub(crate) routes: Vec<String>,
    /// Only callers with one of these; default: all.
    pub(crate) roles: Vec<String>,
    /// `local`, or `global` with all gateways of the store; default `local`.
    pub(crate) scope: Option<String>,
    /// Buckets in memory, 1024 to 4194304; default 65536.
    pub(crate) keys: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileStore {
    /// `redis://HOST:PORT` or `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`, with `rediss` for TLS.
    pub(crate) url: Option<String>,
    /// An environment variable with the URL, instead of `url`.
    pub(crate) url_env: Option<String>,
    /// For `rediss://`; default: the authorities of the system.
    pub(crate) ca_file: Option<String>,
    /// How long a call may wait for it, 1ms to 100ms; default `3ms`.
    pub(crate) timeout: Option<String>,
    /// How much of a rate a gateway takes at once, 20ms to 500ms; default `100ms`.
    pub(crate) lease: Option<String>,
    /// While the store is away each uses its share, 1 of so many; default 1.
    pub(crate) expected_gateways: Option<u64>,
}

/// Each call looks at each rate that covers it.
const MAX_RATES: usize = 64;
/// Calls per second: faster ones could not be told apart in nanoseconds.
const MAX_PER_SECOND: f64 = 1e6;
/// How long a bucket may take to fill: times stay far from what 64 bits hold.
const MAX_FILL: Duration = Duration::from_secs(7 * 86_400);
const HOUR: Duration = Duration::from_secs(3600);

/// The HTTP paths of events, as a pattern.
pub(crate) const EVENT_PATHS: &str = "/events";

impl Validate<'_, '_> {
    pub(super) fn limits(&mut self, file: FileLimits) -> LimitsConfig {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let rates = self.rates(file.rates);
        let store = file.store.and_then(|store| self.limit_store(store));
        for (i, rate) in rates.iter().enumerate() {
            if rate.meter.global && store.is_none() {
                self.source.fault(
                    &format!("limits.rates[{i}].scope"),
                    "\"global\" needs [limits.store]",
                );
            }
        }
        LimitsConfig {
            connections: self.number("limits.connections", file.connections, 10_000, 1, 1_000_000),
            connections_per_address: self.number(
                "limits.connections_per_address",
                file.connections_per_address,
                1000,
                1,
                1_000_000,
            ),
            open_calls: self.number("limits.open_calls", file.open_calls, 20_000, 1, 10_000_000),
            open_calls_per_subject: self.number(
                "limits.open_calls_per_subject",
                file.open_calls_per_subject,
                2_000,
                1,
                10_000_000,
            ),
            streams_per_connection: small(self.number(
                "limits.streams_per_connection",
                file.streams_per_connection,
                200,
                1,
                100_000,
            )),
            header_bytes: small(self.number(
                "limits.header_bytes",
                file.header_bytes,
                32 * 1024,
                1024,
                1024 * 1024,
            )),
            handshake_timeout: self.duration(
                "limits.handshake_timeout",
                file.handshake_timeout,
                (10, 1, 120),
            ),
            idle_timeout: self.duration("limits.idle_timeout", file.idle_timeout, (300, 1, 86_400)),
            stall_timeout: self.duration("limits.stall_timeout", file.stall_timeout, (30, 1, 600)),
            drain_delay: self.duration("limits.drain_delay", file.drain_delay, (0, 0, 600)),
            drain_timeout: self.duration("limits.drain_timeout", file.drain_timeout, (20, 0, 3600)),
            rates,
            store,
        }
    }

    fn rates(&mut self, files: Vec<FileRate>) -> Vec<RateConfig> {
        if files.len() > MAX_RATES {
            let found = files.len();
            self.source.fault(
                "limits.rates",
                format!("expected at most {MAX_RATES}, found {found}"),
            );
        }
        let mut names = HashSet::new();
        let mut rates = Vec::with_capacity(files.len());
        for (i, file) in files.into_iter().enumerate() {
            let at = format!("limits.rates[{i}]");
            let name = self.rate_name(&at, file.name.as_deref());
            if !name.is_empty() && !names.insert(name.clone()) {
                let message = format!("\"{name}\" is taken by a rate above");
                self.source.fault(&format!("{at}.name"), message);
            }
            rates.push(self.rate(&at, name, file));
        }
        rates
    }

    fn rate_name(&mut self, at: &str, name: Option<&str>) -> String {
        let name = name.unwrap_or_default();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            let expected = "name: expected 1 to 64 of a-z, 0-9, _ and -";
            self.source.fault(at, expected);
        }
        name.to_owned()
    }

    fn rate(&mut self, at: &str, name: String, file: FileRate) -> RateConfig {
        let per = self.per(at, file.per);
        let rate = self.calls(at, "rate", file.rate);
        if file.rate.is_none() {
            self.source
                .fault(at, "rate: missing; expected calls per period");
        }
        let day = 24 * HOUR;
        let second = Duration::from_secs(1);
        let period = self.span(
            &format!("{at}.period"),
            file.period,
            (second, Duration::from_millis(1), day),
        );
        let burst = self.calls(at, "burst", file.burst.or(file.rate));
        if f64::from(rate) / period.as_secs_f64() > MAX_PER_SECOND {
            self.source.fault(
                &format!("{at}.rate"),
                "expected at most 1,000,000 per second",
            );
        }
        if period.as_secs_f64() / f64::from(rate) * f64::from(burst) > MAX_FILL.as_secs_f64() {
            let expected = "expected a bucket that fills within 7 days";
            self.source.fault(&format!("{at}.burst"), expected);
        }
        for (i, pattern) in file.routes.iter().enumerate() {
            if pattern != EVENT_PATHS
                && let Err(expected) = check_pattern(pattern)
            {
                let message = format!("{expected}, or \"{EVENT_PATHS}\"");
                self.source.fault(&format!("{at}.routes[{i}]"), message);
            }
        }
        let global = match file.scope.as_deref() {
            None | Some("local") => false,
            Some("global") => true,
            Some(other) => {
                let message = format!("expected \"local\" or \"global\", found \"{other}\"");
                self.source.fault(&format!("{at}.scope"), message);
                false
            }
        };
        let keys = self.number(&format!("{at}.keys"), file.keys, 65_536, 1024, 4 << 20);
        RateConfig {
            name,
            meter: MeterConfig {
                per,
                rate,
                period,
                burst,
                keys,
                global,
            },
            routes: file.routes,
            roles: file.roles,
        }
    }

    fn calls(&mut self, at: &str, key: &str, given: Option<u64>) -> u32 {
        let n = self.number(&format!("{at}.{key}"), given, 1, 1, 1_000_000_000);
        u32::try_from(n).unwrap_or(u32::MAX)
    }

    fn per(&mut self, at: &str, names: Option<Vec<String>>) -> Vec<Per> {
        let expected = "expected any of \"address\", \"subject\", \"role\", \"route\", each once; \
                        [] is one bucket for all";
        let Some(names) = names else {
            self.source.fault(at, format!("per: missing; {expected}"));
            return Vec::new();
        };
        let mut per = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            match Per::ALL.into_iter().find(|kind| kind.name() == name) {
                Some(kind) if !per.contains(&kind) => per.push(kind),
                _ => self.source.fault(&format!("{at}.per[{i}]"), expected),
            }
        }
        per
    }

    fn limit_store(&mut self, file: FileStore) -> Option<StoreConfig> {
        let at = "limits.store";
        let url = match (file.url, file.url_env) {
            (Some(url), None) => Some(StoreUrl::Given(url)),
            (None, Some(name)) => Some(StoreUrl::Env(name)),
            _ => {
                self.source
                    .fault(at, "expected exactly one of url, url_env");
                None
            }
        }?;
        match url.read() {
            Err(unset) => self.source.fault("limits.store.url_env", unset),
            Ok(text) => {
                if RedisUrl::parse(&text).is_err() {
                    let expected = format!("expected {REDIS_EXPECTED}");
                    self.source.fault("limits.store.url", expected);
                }
            }
        }
        let millis = Duration::from_millis;
        Some(StoreConfig {
            url,
            ca_file: file
                .ca_file
                .map(|path| self.file("limits.store.ca_file", Some(path))),
            timeout: self.span(
                "limits.store.timeout",
                file.timeout,
                (millis(3), millis(1), millis(100)),
            ),
            lease: self.span(
                "limits.store.lease",
                file.lease,
                (millis(100), millis(20), millis(500)),
            ),
            expected_gateways: file.expected_gateways.map(|n| {
                let n = self.number("limits.store.expected_gateways", Some(n), 1, 1, 1000);
                u32::try_from(n).unwrap_or(1)
            }),
        })
    }

    /// `bounds` are default, least and most.
    fn span(
        &mut self,
        at: &str,
        given: Option<String>,
        bounds: (Duration, Duration, Duration),
    ) -> Duration {
        let (default, min, max) = bounds;
        let Some(text) = given else { return default };
        let found = parse_duration(&text).filter(|d| (min..=max).contains(d));
        found.unwrap_or_else(|| {
            let message = format!("expected {min:?} to {max:?}, found \"{text}\"");
            self.source.fault(at, message);
            default
        })
    }
}
