//! Over real TCP and real TLS, from a server that answers what a test tells it.

use std::convert::Infallible;

use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::security::jwks::double;

const SET: &str =
    r#"{"keys":[{"kty":"oct","kid":"a","k":"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE"}]}"#;

/// Serves one connection after another; tells the port.
async fn serve(tls: Option<TlsAcceptor>, answer: fn() -> Response<Full<Bytes>>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<_>| async move {
                let _: Request<hyper::body::Incoming> = request;
                Ok::<_, Infallible>(answer())
            });
            match &tls {
                Some(tls) => {
                    // A client that does not trust us hangs up.
                    if let Ok(stream) = tls.accept(tcp).await {
                        let io = TokioIo::new(stream);
                        let _ = http1::Builder::new().serve_connection(io, service).await;
                    }
                }
                None => {
                    let io = TokioIo::new(tcp);
                    let _ = http1::Builder::new().serve_connection(io, service).await;
                }
            }
        }
    });
    port
}

async fn plain(answer: fn() -> Response<Full<Bytes>>) -> Result<Fetched, String> {
    let port = serve(None, answer).await;
    fetch(format!("http://127.0.0.1:{port}/jwks?key=hunter2"), None).await
}

async fn fetch(url: String, ca: Option<String>) -> Result<Fetched, String> {
    let settings = JwksSettings {
        url: url.parse().unwrap(),
        ca: ca.map(|pem| ("ca.crt".into(), pem.into_bytes().into())),
        ..double::settings()
    };
    HttpFetch::new(&settings).unwrap().fetch().await
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body.into())).unwrap()
}

#[tokio::test]
async fn a_set_is_fetched_with_how_long_it_may_be_kept() {
    let fetched = plain(|| {
        let headers = [
            ("cache-control", "public"),
            ("cache-control", "no-transform, Max-Age=77"),
        ];
        answer(200, &headers, SET)
    });
    let fetched = fetched.await.unwrap();
    assert_eq!(fetched.set.keys.len(), 1);
    assert_eq!(fetched.max_age, Some(Duration::from_secs(77)));
}

#[tokio::test]
async fn whatever_is_no_good_answer_is_an_error_that_says_why_and_never_the_query() {
    let redirect = || answer(302, &[("location", "http://127.0.0.1:1/elsewhere")], SET);
    let failure = plain(redirect).await.err().unwrap();
    assert_eq!(failure, "answered 302: redirects are not followed");
    let failure = plain(|| answer(500, &[], SET)).await.err().unwrap();
    assert_eq!(failure, "answered 500");
    let failure = plain(|| answer(204, &[], "")).await.err().unwrap();
    assert_eq!(failure, "answered 204");
    let failure = plain(|| answer(200, &[], "<html>")).await.err().unwrap();
    assert!(failure.contains("JWK set"), "{failure}");
    let large = || answer(200, &[], vec![b' '; MAX_JWK_SET_BYTES + 1]);
    let failure = plain(large).await.err().unwrap();
    assert!(failure.contains("1 MiB"), "{failure}");

    let free = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("http://127.0.0.1:{port}/jwks?key=hunter2");
    let failure = fetch(url, None).await.err().unwrap();
    assert!(
        failure.contains("refused") && !failure.contains("hunter2"),
        "{failure}"
    );
}

#[tokio::test]
async fn over_https_the_server_must_be_vouched_for_by_the_ca_file() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let port = serve(Some(tls), || answer(200, &[], SET)).await;
    let url = format!("https://localhost:{port}/jwks");
    let fetched = fetch(url.clone(), Some(cert.pem())).await.unwrap();
    assert_eq!(fetched.set.keys.len(), 1);
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for ca in [None, Some(other.cert.pem())] {
        let failure = fetch(url.clone(), ca).await.err().unwrap();
        assert!(failure.contains("certificate"), "{failure}");
    }
}

#[tokio::test]
async fn a_ca_file_without_a_certificate_is_refused() {
    for pem in ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
        let settings = JwksSettings {
            ca: Some(("ca.crt".into(), pem.as_bytes().into())),
            ..double::settings()
        };
        let error = HttpFetch::new(&settings).err().unwrap().to_string();
        assert!(error.contains("ca.crt"), "{error}");
    }
}
