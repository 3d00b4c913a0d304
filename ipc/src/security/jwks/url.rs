//! The URL of a JWK set.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;

/// `https://HOST[:PORT]/PATH[?QUERY]`, or `http://` where HOST is this machine itself.
///
/// Shown without its query, which may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl(Uri);

/// The text is no such URL. The text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwksUrl {
    /// Not a URL, or of another scheme.
    #[error("expected https://HOST/PATH")]
    NotHttps,
    /// Keys over a wire that anybody may change.
    #[error("http:// is for this machine only (localhost, 127.0.0.1, [::1]): expected https://")]
    PlainHttp,
    /// Credentials in the URL.
    #[error("expected no user info: a secret does not belong in a URL")]
    UserInfo,
}

impl JwksUrl {
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for JwksUrl {
    type Err = InvalidJwksUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| InvalidJwksUrl::NotHttps)?;
        let authority = uri.authority().ok_or(InvalidJwksUrl::NotHttps)?;
        if authority.as_str().contains('@') {
            return Err(InvalidJwksUrl::UserInfo);
        }
        match uri.scheme_str() {
            Some("https") => Ok(Self(uri)),
            Some("http") if is_this_machine(authority.host()) => Ok(Self(uri)),
            Some("http") => Err(InvalidJwksUrl::PlainHttp),
            _ => Err(InvalidJwksUrl::NotHttps),
        }
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}{}", self.0.path())
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine_only() {
        for (text, expected) in [
            ("https://issuer.example/jwks", Ok(())),
            ("https://issuer.example:8443/a/b?p=x", Ok(())),
            ("HTTPS://issuer.example/jwks", Ok(())),
            ("http://127.0.0.1:1/jwks", Ok(())),
            ("http://127.9.9.9/jwks", Ok(())),
            ("http://[::1]:1/jwks", Ok(())),
            ("http://LocalHost/jwks", Ok(())),
            ("http://issuer.example/jwks", Err(InvalidJwksUrl::PlainHttp)),
            (
                "http://localhost.example/jwks",
                Err(InvalidJwksUrl::PlainHttp),
            ),
            ("http://10.0.0.1/jwks", Err(InvalidJwksUrl::PlainHttp)),
            (
                "https://user:word@issuer.example/",
                Err(InvalidJwksUrl::UserInfo),
            ),
            (
                "http://localhost@issuer.example/",
                Err(InvalidJwksUrl::UserInfo),
            ),
            ("ftp://issuer.example/jwks", Err(InvalidJwksUrl::NotHttps)),
            ("issuer.example/jwks", Err(InvalidJwksUrl::NotHttps)),
            ("/jwks", Err(InvalidJwksUrl::NotHttps)),
            ("", Err(InvalidJwksUrl::NotHttps)),
        ] {
            assert_eq!(text.parse::<JwksUrl>().map(|_| ()), expected, "{text}");
        }
    }

    #[test]
    fn the_query_is_never_shown() {
        let url: JwksUrl = "https://issuer.example:1/jwks?key=hunter2".parse().unwrap();
        for shown in [url.to_string(), format!("{url:?}")] {
            assert_eq!(shown, "https://issuer.example:1/jwks");
        }
    }
}
