//! Where a URL leads to: scheme, host and port, so that a key meant for one place goes to no other.

use std::fmt;

use http::Uri;

/// Scheme, host in lower case, and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Origin {
    /// Of an absolute `http` or `https` URL. What else it holds is the caller's concern, but for a
    /// user name or password, which are refused: URLs come back in answers.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let (scheme, default_port) = match uri.scheme_str()? {
            "http" => ("http", 80),
            "https" => ("https", 443),
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        let port = match authority.port_u16() {
            Some(port) => port,
            // A port that is no number would be taken for none at all.
            None if authority.as_str() == host => default_port,
            None => return None,
        };
        (!host.is_empty() && !authority.as_str().contains('@')).then(|| Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// Of a URL that has nothing but an origin.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        // The parser drops a fragment without a word.
        let bare = uri.path() == "/" && uri.query().is_none() && !text.contains('#');
        Self::of(&uri).filter(|_| bare)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_however_they_are_written() {
        let same = ["https://Host", "https://host/", "https://HOST:443"];
        for text in same {
            let origin = Origin::parse(text).unwrap();
            assert_eq!(origin.to_string(), "https://host:443", "{text}");
        }
        let others = [
            "http://host",
            "https://host:444",
            "https://host.",
            "http://[::1]:443",
        ];
        let first = Origin::parse(same[0]).unwrap();
        for text in others {
            assert_ne!(Origin::parse(text).unwrap(), first, "{text}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for text in [
            "host",
            "host:443",
            "/path",
            "ftp://host",
            "https://",
            "https://host/v1",
            "https://host?a=b",
            "https://host#f",
            "https://user:password@host",
            "https://host:port",
            "https://host:99999",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }
}
