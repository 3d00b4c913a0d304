use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{ClientConnection, ServerConnection, Stream};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;
use crate::security::{client_config, server_config};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for localhost, good for both ends.
fn issue(authority: &Authority, dir: &TempDir, name: &str) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, authority).unwrap();
    let [cert_path, key_path] = ["crt", "key"].map(|end| dir.path().join(format!("{name}.{end}")));
    fs::write(&cert_path, cert.pem()).unwrap();
    fs::write(&key_path, key.serialize_pem()).unwrap();
    (cert_path, key_path)
}

struct Site {
    dir: TempDir,
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
    stranger: (PathBuf, PathBuf),
}

fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let (known, other) = (authority(), authority());
    let ca = dir.path().join("ca.crt");
    fs::write(&ca, known.pem()).unwrap();
    fs::write(dir.path().join("other.crt"), other.pem()).unwrap();
    Site {
        server: issue(&known, &dir, "server"),
        client: issue(&known, &dir, "client"),
        stranger: issue(&other, &dir, "stranger"),
        ca,
        dir,
    }
}

/// Connects over TCP with or without a certificate; tells how many the server was shown, or `None`
/// where it refused.
fn shown(
    site: &Site,
    clients: ClientCertificates<'_>,
    identity: Option<&(PathBuf, PathBuf)>,
) -> Option<usize> {
    let (cert, key) = &site.server;
    let server = Arc::new(server_config(cert, key, clients, &[]).unwrap());
    let identity = identity.map(|(cert, key)| (cert.as_path(), key.as_path()));
    let client = Arc::new(client_config(Some(&site.ca), identity, &[]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let mut tcp = listener.accept().unwrap().0;
        let mut tls = ServerConnection::new(server).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        stream.write_all(b"x").ok()?;
        stream.flush().ok()?;
        Some(tls.peer_certificates().map_or(0, <[_]>::len))
    });
    let mut tcp = TcpStream::connect(address).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(client, name).unwrap();
    // A refusal comes as an alert in place of the byte; the server's word counts.
    let _ = Stream::new(&mut tls, &mut tcp).read(&mut [0]);
    drop(tcp);
    serving.join().unwrap()
}

#[test]
fn an_optional_certificate_may_be_left_out_and_is_seen_when_it_is_shown() {
    let site = site();
    let optional = ClientCertificates::Optional(&site.ca);
    assert_eq!(shown(&site, optional, None), Some(0));
    assert_eq!(shown(&site, optional, Some(&site.client)), Some(1));
}

#[test]
fn an_optional_certificate_of_a_stranger_is_refused_all_the_same() {
    let site = site();
    let optional = ClientCertificates::Optional(&site.ca);
    assert_eq!(shown(&site, optional, Some(&site.stranger)), None);
}

#[test]
fn a_required_certificate_can_not_be_left_out() {
    let site = site();
    let required = ClientCertificates::Required(&site.ca);
    assert_eq!(shown(&site, required, None), None);
    assert_eq!(shown(&site, required, Some(&site.client)), Some(1));
}

#[test]
fn nobody_is_asked_where_certificates_are_ignored() {
    let site = site();
    let ignored = ClientCertificates::Ignored;
    assert_eq!(shown(&site, ignored, Some(&site.stranger)), Some(0));
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_file(path).unwrap()]
}

#[test]
fn a_chain_is_judged_again_by_other_authorities_and_at_another_time() {
    let site = site();
    let known = ClientVerifier::load(&site.ca).unwrap();
    let other = ClientVerifier::load(&site.dir.path().join("other.crt")).unwrap();
    let (own, now) = (chain(&site.client.0), SystemTime::now());
    known.verify(&own, now).unwrap();
    assert!(other.verify(&own, now).is_err());
    other.verify(&chain(&site.stranger.0), now).unwrap();
    let later = now + Duration::from_secs(200 * 365 * 86_400);
    let error = known.verify(&own, later).unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
}

#[test]
fn no_certificate_and_a_broken_one_are_refused() {
    let site = site();
    let known = ClientVerifier::load(&site.ca).unwrap();
    assert!(known.verify(&[], SystemTime::now()).is_err());
    let broken = [CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])];
    assert!(known.verify(&broken, SystemTime::now()).is_err());
}

#[test]
fn the_content_of_the_ca_file_tells_verifiers_apart_and_not_its_name() {
    let site = site();
    let copy = site.dir.path().join("copy.crt");
    fs::copy(&site.ca, &copy).unwrap();
    let one = ClientVerifier::load(&site.ca).unwrap();
    assert!(one.is_same(&ClientVerifier::load(&copy).unwrap()));
    fs::copy(site.dir.path().join("other.crt"), &copy).unwrap();
    assert!(!one.is_same(&ClientVerifier::load(&copy).unwrap()));
}
