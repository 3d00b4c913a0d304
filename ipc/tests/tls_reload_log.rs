//! What is logged about TLS files. A process of its own: the log is the whole process's, and a test
//! beside it would decide by chance which events are seen.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io;
use std::sync::{Arc, Mutex};

use intellirouter::security::{ClientCertificates, TlsReload};
use rcgen::{CertificateParams, KeyPair};
use tracing_subscriber::fmt::MakeWriter;

#[tokio::test]
async fn a_bad_set_is_logged_once_with_the_reason_and_again_after_it_was_good() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .init();
    let dir = tempfile::tempdir().unwrap();
    let (cert_path, key_path) = (dir.path().join("cert"), dir.path().join("key"));
    let good = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    fs::write(&cert_path, params.self_signed(&good).unwrap().pem()).unwrap();
    fs::write(&key_path, good.serialize_pem()).unwrap();
    let reload = Arc::new(
        TlsReload::server(&cert_path, &key_path, ClientCertificates::Ignored, &[b"h2"]).unwrap(),
    );

    for _ in 0..2 {
        fs::write(&key_path, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        for _ in 0..3 {
            reload.refresh().await.unwrap_err();
        }
        fs::write(&key_path, good.serialize_pem()).unwrap();
        reload.refresh().await.unwrap();
    }

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("does not belong").count(), 2, "{log}");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
