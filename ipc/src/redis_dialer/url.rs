//! What a URL of a Redis says, read strictly.

use percent_encoding::percent_decode_str;
use redis::{IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use crate::events::shown;

const EXPECTED: &str = "expected redis://[user:password@]host[:port][/db], or \
     redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db]; with rediss for TLS";

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// The most Sentinels that one URL may name.
const MAX_SENTINELS: usize = 16;

/// A URL that names a Redis: by its address, or by the Sentinels that know where it is.
///
/// `redis://` and `rediss://`, the latter over TLS; `redis+sentinel://` and `rediss+sentinel://`. User
/// and password are those of the Redis, and of a Sentinel that asks for some. Shows neither.
#[derive(Clone)]
pub struct RedisUrl {
    pub(super) place: Place,
    pub(super) tls: bool,
    /// Credentials, database and protocol.
    pub(super) login: RedisConnectionInfo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    At(Address),
    Sentinels {
        service: String,
        sentinels: Vec<Address>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RedisUrl").field(&self.address()).finish()
    }
}

impl RedisUrl {
    /// Reads a URL. Fails with what was expected, and never with a part that may be secret.
    pub fn parse(url: &str) -> Result<Self, String> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let parsed = match scheme {
            "redis" | "rediss" => Self::direct(url),
            "redis+sentinel" | "rediss+sentinel" => Self::sentinels(url),
            "" => Err("the URL does not parse".to_owned()),
            other => Err(format!("scheme {}", shown(other))),
        };
        parsed.map_err(|why| format!("{why}; {EXPECTED}"))
    }

    /// Whether it asks for TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Where it leads to, to be shown.
    pub(super) fn address(&self) -> String {
        match &self.place {
            Place::At(address) => address.to_string(),
            Place::Sentinels { service, sentinels } => {
                let sentinels: Vec<_> = sentinels.iter().map(ToString::to_string).collect();
                format!("{service} of {}", sentinels.join(","))
            }
        }
    }

    fn direct(url: &str) -> Result<Self, String> {
        // The crate's own message is not used where it could quote the URL.
        let parsed = redis::parse_redis_url(url).ok_or("the URL does not parse")?;
        if parsed.fragment().is_some() {
            return Err("the URL has a part after #, and certificates are always checked".into());
        }
        let host = parsed.host_str().filter(|host| !host.is_empty());
        let address = Address {
            host: host.ok_or("the URL has no hostname")?.to_owned(),
            port: parsed.port().unwrap_or(REDIS_PORT),
        };
        let tls = parsed.scheme() == "rediss";
        let info = parsed.into_connection_info();
        let info = info.map_err(|error| error.to_string())?;
        Ok(Self {
            place: Place::At(unbracketed(address)),
            tls,
            login: with_resp3(info.redis_settings().clone()),
        })
    }

    fn sentinels(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        if rest.contains(['?', '#']) {
            return Err("the URL has a part after ? or #".into());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let sentinels: Result<Vec<_>, String> = hosts.split(',').map(address).collect();
        let sentinels = sentinels?;
        if sentinels.len() > MAX_SENTINELS {
            return Err(format!("the URL has more than {MAX_SENTINELS} Sentinels"));
        }
        let (service, db) = path.split_once('/').unwrap_or((path, "0"));
        let service = decoded(service).filter(|service| !service.is_empty());
        let service = service.ok_or("the URL names no service")?;
        let db: u32 = db.parse().map_err(|_| "the database is no number")?;
        let login = RedisConnectionInfo::default().set_db(db.into());
        Ok(Self {
            place: Place::Sentinels { service, sentinels },
            tls: scheme.starts_with("rediss"),
            login: with_resp3(login_of(login, user)?),
        })
    }
}

/// RESP3, so that messages, and the end of a connection, come as pushes on a connection that also
/// answers commands.
fn with_resp3(login: RedisConnectionInfo) -> RedisConnectionInfo {
    login.set_protocol(ProtocolVersion::RESP3)
}

fn login_of(login: RedisConnectionInfo, user: Option<&str>) -> Result<RedisConnectionInfo, String> {
    let Some(user) = user else { return Ok(login) };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let unread = "user or password are not percent-encoded text";
    let (name, password) = decoded(name).zip(decoded(password)).ok_or(unread)?;
    let login = match name.is_empty() {
        true => login,
        false => login.set_username(name),
    };
    Ok(match password.is_empty() {
        true => login,
        false => login.set_password(password),
    })
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// `host` or `host:port`; an IPv6 address stands in brackets.
fn address(text: &str) -> Result<Address, String> {
    let refused = || "a Sentinel is not host or host:port".to_owned();
    let colon = text.rfind(':').filter(|at| !text[*at..].contains(']'));
    let (host, port) = match colon {
        Some(at) => (&text[..at], text[at + 1..].parse().map_err(|_| refused())?),
        None => (text, SENTINEL_PORT),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let spelled = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || bracketed;
    if host.is_empty() || !host.chars().all(spelled) {
        return Err(refused());
    }
    let host = host.to_owned();
    Ok(unbracketed(Address { host, port }))
}

fn unbracketed(address: Address) -> Address {
    let inner = address.host.strip_prefix('[');
    match inner.and_then(|host| host.strip_suffix(']')) {
        Some(host) => Address {
            host: host.to_owned(),
            ..address
        },
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        RedisUrl::parse(url).unwrap().place
    }

    fn at(host: &str, port: u16) -> Address {
        let host = host.to_owned();
        Address { host, port }
    }

    #[test]
    fn a_redis_is_named_by_its_address() {
        for (url, expected) in [
            ("redis://a", at("a", 6379)),
            ("rediss://a:1/2", at("a", 1)),
            ("redis://u:p@127.0.0.1:7", at("127.0.0.1", 7)),
            ("redis://[::1]:7", at("::1", 7)),
        ] {
            assert_eq!(place(url), Place::At(expected), "{url}");
        }
        assert!(RedisUrl::parse("rediss://a").unwrap().is_tls());
        assert!(!RedisUrl::parse("redis://a").unwrap().is_tls());
    }

    #[test]
    fn a_redis_is_named_by_its_sentinels_and_its_service() {
        for (url, service, sentinels) in [
            ("redis+sentinel://a/s", "s", vec![at("a", 26_379)]),
            (
                "rediss+sentinel://u:p@a:1,b,[::1]:3/my%20master/4",
                "my master",
                vec![at("a", 1), at("b", 26_379), at("::1", 3)],
            ),
        ] {
            let service = service.to_owned();
            assert_eq!(place(url), Place::Sentinels { service, sentinels }, "{url}");
        }
        let url = RedisUrl::parse("rediss+sentinel://u:p%40@a/s/4").unwrap();
        assert!(url.is_tls());
        assert_eq!(url.login.db(), 4);
        assert_eq!(url.login.username(), Some("u"));
        assert_eq!(url.login.password(), Some("p@"));
    }

    #[test]
    fn a_url_that_can_not_work_is_refused_without_its_credentials() {
        for (url, expected) in [
            ("", "does not parse"),
            ("redis", "does not parse"),
            ("redis://user:s3cret@", "does not parse"),
            ("redis://user:s3cret@host:port", "does not parse"),
            ("redis://user:s3cret@host/s3cret", "database"),
            ("valkey://user:s3cret@host", "scheme"),
            ("http://user:s3cret@host", "scheme"),
            ("rediss://user:s3cret@host#insecure", "after #"),
            ("redis+sentinel://user:s3cret@host", "no service"),
            ("redis+sentinel://user:s3cret@host/", "no service"),
            ("redis+sentinel://user:s3cret@host/s/x", "no number"),
            (
                "redis+sentinel://user:s3cret@host:port/s",
                "Sentinel is not",
            ),
            ("redis+sentinel://user:s3cret@/s", "Sentinel is not"),
            ("redis+sentinel://user:s3cret@a,/s", "Sentinel is not"),
            ("redis+sentinel://user:s3cret@a/s?x=1", "after ?"),
            ("redis+sentinel://user:s3cret%ff@a/s", "percent-encoded"),
        ] {
            let error = RedisUrl::parse(url).unwrap_err();
            assert!(error.contains(expected), "{url} gave: {error}");
            assert!(error.contains("expected redis://"), "{url} gave: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_number_of_sentinels_that_can_not_be_meant_is_refused() {
        let many = vec!["a"; MAX_SENTINELS + 1].join(",");
        assert!(RedisUrl::parse(&format!("redis+sentinel://{many}/s")).is_err());
    }

    #[test]
    fn the_address_is_shown_without_credentials() {
        for (url, shown) in [
            ("redis://user:s3cret@redis.local:6380/2", "redis.local:6380"),
            (
                "redis+sentinel://user:s3cret@a,b:2/main",
                "main of a:26379,b:2",
            ),
        ] {
            let url = RedisUrl::parse(url).unwrap();
            assert_eq!(format!("{url:?}"), format!("RedisUrl({shown:?})"));
        }
    }
}
