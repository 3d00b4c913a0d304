//! Certificates that change while the server and the client run. Time is paused where the files'
//! turn must come: it goes on by itself once nothing else is to be done, looks included.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use intellirouter::generated::intellirouter::rag_manager::v1 as rag;
use intellirouter::security::{SecureGrpcClientBuilder, SecureGrpcServerBuilder, TlsConfig};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::*;

fn builder(tls: TlsConfig) -> SecureGrpcServerBuilder {
    SecureGrpcServerBuilder::new()
        .with_tls(tls)
        .allow_unauthenticated()
}

/// Long enough for two looks at the files, which must agree.
async fn files_are_looked_at() {
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(25)).await;
    tokio::time::resume();
}

fn certificate(path: &std::path::Path) -> Vec<u8> {
    rustls_pki_types::CertificateDer::from_pem_file(path)
        .unwrap()
        .to_vec()
}

/// The certificate that a server shows, if it takes the client's.
async fn shown(address: SocketAddr, client: &TlsConfig) -> Option<Vec<u8>> {
    let config = client.load_client_config("localhost").unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let shown = stream.get_ref().1.peer_certificates()?[0].to_vec();
    // The server's settings come only after it has accepted the client's certificate.
    stream.read_u8().await.ok()?;
    Some(shown)
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let pki = Pki::new();
    let server = Running::start(&builder(pki.tls("server"))).await;
    let mut old: Client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .build(format!("https://{}", server.address))
        .await
        .unwrap();
    let first = certificate(&pki.path("server.crt"));
    assert_eq!(
        shown(server.address, &pki.tls("client")).await,
        Some(first.clone())
    );

    pki.renew("server");
    files_are_looked_at().await;

    let second = certificate(&pki.path("server.crt"));
    assert_ne!(first, second);
    assert_eq!(
        shown(server.address, &pki.tls("client")).await,
        Some(second)
    );
    assert!(
        old.augment_persona_request(rag::AugmentPersonaRequestRequest::default())
            .await
            .is_ok()
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_set_leaves_the_last_good_one_in_use_until_it_is_put_right() {
    let pki = Pki::new();
    let server = Running::start(&builder(pki.tls("server"))).await;
    let first = certificate(&pki.path("server.crt"));
    let key = fs::read(pki.path("server.key")).unwrap();

    pki.renew("server");
    let new_key = fs::read(pki.path("server.key")).unwrap();
    for bad in [&key[..], &new_key[..new_key.len() / 2], b""] {
        fs::write(pki.path("server.key"), bad).unwrap();
        files_are_looked_at().await;
        assert_eq!(
            shown(server.address, &pki.tls("client")).await,
            Some(first.clone())
        );
    }

    fs::write(pki.path("server.key"), new_key).unwrap();
    files_are_looked_at().await;
    assert_eq!(
        shown(server.address, &pki.tls("client")).await,
        Some(certificate(&pki.path("server.crt")))
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_ca_decides_about_new_connections() {
    let (old, new) = (Pki::new(), Pki::new());
    let mut tls = old.tls("server");
    tls.ca_cert_path = old.path("clients.crt");
    fs::copy(old.path("ca.crt"), &tls.ca_cert_path).unwrap();
    let server = Running::start(&builder(tls)).await;
    // Trusts the server's CA, which stays.
    let mut newcomer = new.tls("client");
    newcomer.ca_cert_path = old.path("ca.crt");
    assert!(shown(server.address, &old.tls("client")).await.is_some());
    assert!(shown(server.address, &newcomer).await.is_none());

    fs::copy(new.path("ca.crt"), old.path("clients.crt")).unwrap();
    files_are_looked_at().await;

    assert!(shown(server.address, &old.tls("client")).await.is_none());
    assert!(shown(server.address, &newcomer).await.is_some());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_connects_again_with_its_renewed_certificate_and_with_the_last_good_one() {
    let pki = Pki::new();
    let builder = builder(pki.tls("server"));
    let mut server = Running::start(&builder).await;
    let address = server.address;
    let mut client: Client = SecureGrpcClientBuilder::new("localhost")
        .with_tls(pki.tls("client"))
        .build(format!("https://{address}"))
        .await
        .unwrap();
    let mut expected = certificate(&pki.path("client.crt"));

    for renewed in [None, Some(true), Some(false)] {
        match renewed {
            None => {}
            Some(true) => {
                pki.renew("client");
                assert_ne!(expected, certificate(&pki.path("client.crt")));
                expected = certificate(&pki.path("client.crt"));
            }
            // A key that is not that of the certificate.
            Some(false) => drop(fs::copy(pki.path("server.key"), pki.path("client.key")).unwrap()),
        }
        server.stop().await.unwrap();
        server = Running::start_at(&builder, address).await;
        // The first call may still find the connection that broke.
        eventually(async || {
            let call = client.augment_persona_request(rag::AugmentPersonaRequestRequest::default());
            call.await.ok()
        })
        .await;
        assert_eq!(*server.shown.lock().unwrap(), expected, "{renewed:?}");
    }
    server.stop().await.unwrap();
}
