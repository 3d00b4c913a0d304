//! Where a client connects to, and how: TCP, then TLS unless told otherwise.

use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, Scheme};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

use crate::error::{IpcError, IpcResult};
use crate::security::TlsReload;

/// A parsed `http(s)://host[:port]`.
pub(super) struct Target {
    authority: Authority,
    https: bool,
}

impl Target {
    pub(super) fn parse(url: &str) -> IpcResult<Self> {
        let refuse = || {
            let url = shown(url);
            IpcError::InvalidArgument(format!(
                "URL {url}: expected https://host:port and no user, path or query"
            ))
        };
        let uri: Uri = url.parse().map_err(|_| refuse())?;
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(refuse()),
        };
        // A path would be put before every method name, user info would be sent in clear: neither
        // can be meant.
        let plain = uri.authority().filter(|name| is_host_and_port(name));
        match plain {
            Some(authority) if matches!(uri.path(), "" | "/") && uri.query().is_none() => {
                Ok(Self {
                    authority: authority.clone(),
                    https,
                })
            }
            _ => Err(refuse()),
        }
    }

    pub(super) fn is_https(&self) -> bool {
        self.https
    }

    /// What tonic is told: `http`, because with `https` it would look for its own TLS settings.
    pub(super) fn endpoint_uri(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// What stands in the requests.
    pub(super) fn origin(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if self.https {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        // Can't fail with all three parts set; the bare URI would only lose the scheme.
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// What of a URL may stand in an error: scheme, host and port. Beside them stand passwords.
pub(crate) fn shown(url: &str) -> String {
    const HIDDEN: &str = "(not shown)";
    // Where a URL with user info is malformed, a part of a password may look like a host.
    if url.contains('@') {
        return HIDDEN.to_owned();
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return HIDDEN.to_owned();
    };
    let Some(host) = uri.host() else {
        return HIDDEN.to_owned();
    };
    let scheme = uri.scheme_str().map(|scheme| format!("{scheme}://"));
    let port = uri.port_u16().map(|port| format!(":{port}"));
    scheme.unwrap_or_default() + host + &port.unwrap_or_default()
}

fn is_host_and_port(authority: &Authority) -> bool {
    match authority.as_str().strip_prefix(authority.host()) {
        // A port that is no number up to 65535 is kept by the parser, but not given out.
        Some(rest) => rest.is_empty() || authority.port_u16().is_some(),
        None => false,
    }
}

/// Makes the connection; also again, when tonic reconnects.
#[derive(Clone)]
pub(super) struct Connector {
    address: Arc<str>,
    tls: Option<(Arc<TlsReload<ClientConfig>>, ServerName<'static>)>,
}

impl Connector {
    pub(super) fn tls(
        target: &Target,
        name: ServerName<'static>,
        files: TlsReload<ClientConfig>,
    ) -> Self {
        Self {
            address: address(target, 443),
            tls: Some((Arc::new(files), name)),
        }
    }

    pub(super) fn plaintext(target: &Target) -> Self {
        Self {
            address: address(target, 80),
            tls: None,
        }
    }

    pub(super) fn into_service(
        self,
    ) -> impl Service<Uri, Response = TokioIo<Io>, Error = std::io::Error, Future: Send> + Send + 'static
    {
        tower::service_fn(move |_: Uri| {
            let connector = self.clone();
            async move { connector.connect().await.map(TokioIo::new) }
        })
    }

    async fn connect(self) -> std::io::Result<Io> {
        let stream = TcpStream::connect(&*self.address).await?;
        stream.set_nodelay(true)?;
        let Some((tls, name)) = self.tls else {
            return Ok(Io::Left(stream));
        };
        // What is wrong has been logged; the last good files are used.
        let _ = tls.refresh().await;
        let stream = TlsConnector::from(tls.current())
            .connect(name, stream)
            .await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(std::io::Error::other(
                "the server does not offer HTTP/2 in ALPN",
            ));
        }
        Ok(Io::Right(Box::new(stream)))
    }
}

type Io = tokio_util::either::Either<TcpStream, Box<tokio_rustls::client::TlsStream<TcpStream>>>;

fn address(target: &Target, default_port: u16) -> Arc<str> {
    let port = target.authority.port_u16().unwrap_or(default_port);
    format!("{}:{port}", target.authority.host()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_port_gets_the_one_of_tls_or_of_plaintext() {
        let target = Target::parse("https://localhost").unwrap();
        assert_eq!(&*address(&target, 443), "localhost:443");
        assert_eq!(target.origin(), "https://localhost/");
        assert_eq!(target.endpoint_uri(), "http://localhost");
    }

    #[test]
    fn an_ipv6_address_and_port_are_kept() {
        let target = Target::parse("http://[::1]:50051/").unwrap();
        assert_eq!(&*address(&target, 80), "[::1]:50051");
        assert!(!target.is_https());
    }

    #[test]
    fn of_a_url_only_scheme_host_and_port_are_shown() {
        for (url, expected) in [
            (
                "https://localhost:1/path?key=secret#secret",
                "https://localhost:1",
            ),
            ("ftp://localhost", "ftp://localhost"),
            ("[::1]:5", "[::1]:5"),
            ("http://bob:secret@localhost", "(not shown)"),
            ("http://bob:12/secret@localhost", "(not shown)"),
            ("no secret", "(not shown)"),
            ("/secret", "(not shown)"),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_by_name() {
        for url in [
            "",
            "localhost:50051",
            "/path",
            "ftp://localhost",
            "https://",
            "https://localhost/path",
            "https://localhost/?a=b",
            "https://user:pw@localhost",
            "https://localhost:99999999",
            "https://localhost:",
        ] {
            let error = Target::parse(url)
                .err()
                .unwrap_or_else(|| panic!("{url:?} was taken"));
            assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
            assert!(error.to_string().contains("https://host:port"), "{error}");
        }
    }
}
