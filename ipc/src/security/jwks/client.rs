//! One GET for a JWK set: over HTTP/1.1 and TLS, a new connection each time, since minutes lie
//! between two.
//!
//! Redirects are not followed: keys come from where the config says. The caller bounds the time.

use std::error::Error;
use std::iter::successors;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Fetch, Fetched, JwksSettings};
use crate::error::{IpcError, IpcResult};
use crate::security::verifier::{Algorithm, JwkSet, KeyError, MAX_JWK_SET_BYTES};

const MAX_HEAD_BYTES: usize = 64 * 1024;

pub(super) struct HttpFetch {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    algorithms: Option<Vec<Algorithm>>,
}

impl HttpFetch {
    pub(super) fn new(settings: &JwksSettings) -> IpcResult<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Shared out among the addresses of a name, so that a dead one leaves time for the next.
        tcp.set_connect_timeout(Some(settings.timeout));
        let ca = settings.ca.as_ref();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(ca.map(|(path, pem)| (&**path, &**pem)))?)
            // Plain HTTP is for this machine only, which the URL's type sees to.
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .build(connector);
        let request = Request::get(settings.url.uri())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(
                USER_AGENT,
                concat!("intellirouter/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())
            .map_err(|error| IpcError::Internal(format!("a JWK set request: {error}")))?;
        Ok(Self {
            client,
            request,
            algorithms: settings.algorithms.clone(),
        })
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn fetch(&self) -> Result<Fetched, String> {
        let answer = self.client.request(self.request.clone()).await;
        let (head, body) = answer.map_err(|error| causes(&error))?.into_parts();
        if head.status.is_redirection() {
            let status = head.status.as_u16();
            return Err(format!("answered {status}: redirects are not followed"));
        }
        if head.status != StatusCode::OK {
            return Err(format!("answered {}", head.status.as_u16()));
        }
        let body = Limited::new(body, MAX_JWK_SET_BYTES).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => KeyError::KeySetTooLarge.to_string(),
            false => causes(&*error),
        })?;
        let set = JwkSet::parse(&body.to_bytes(), self.algorithms.as_deref());
        Ok(Fetched {
            set: set.map_err(|error| error.to_string())?,
            max_age: max_age(&head.headers),
        })
    }
}

/// `Cache-Control: max-age` (RFC 9111, 5.2.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|directive| {
            let (name, seconds) = directive.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("max-age")
                .then(|| seconds.trim().trim_matches('"').parse().ok())?
        })
        .map(Duration::from_secs)
}

fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = successors(Some(error), |&error| error.source());
    let texts: Vec<_> = chain.map(ToString::to_string).collect();
    texts.join(": ")
}

fn tls_config(ca: Option<(&Path, &[u8])>) -> IpcResult<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some((path, pem)) => add(&mut roots, pem)
            .map_err(|why| IpcError::Security(format!("the CA file {}: {why}", path.display())))?,
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| IpcError::Security(format!("TLS: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn add(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "a PEM block in it is damaged")?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("expected at least one PEM certificate".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
