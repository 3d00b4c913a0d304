use std::fs::{self, File};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::files::MAX_FILE_BYTES;
use super::*;

struct Files {
    dir: TempDir,
    config: TlsConfig,
}

fn files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let config = TlsConfig::new(
        dir.path().join("own.crt"),
        dir.path().join("own.key"),
        dir.path().join("ca.crt"),
    );
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    fs::write(&config.cert_path, cert.pem()).unwrap();
    fs::write(&config.key_path, key.serialize_pem()).unwrap();
    fs::write(&config.ca_cert_path, cert.pem()).unwrap();
    Files { dir, config }
}

// Both directions must refuse the same files with the same words.
fn refusals(config: &TlsConfig) -> [String; 2] {
    let client = config.load_client_config("localhost").unwrap_err();
    let server = config.load_server_config().unwrap_err();
    assert!(matches!(client, IpcError::Security(_)), "{client}");
    assert!(matches!(server, IpcError::Security(_)), "{server}");
    [client.to_string(), server.to_string()]
}

#[test]
fn good_files_give_http2_configs_for_both_directions() {
    let files = files();
    let client = files.config.load_client_config("localhost").unwrap();
    let server = files.config.load_server_config().unwrap();
    assert_eq!(client.alpn_protocols, [b"h2"]);
    assert_eq!(server.alpn_protocols, [b"h2"]);
}

#[test]
fn a_server_keeps_no_sessions_and_gives_one_ticket() {
    let files = files();
    let server = files.config.load_server_config().unwrap();
    assert!(!server.session_storage.can_cache());
    assert!(server.ticketer.enabled());
    assert_eq!(server.send_tls13_tickets, 1);
    assert_eq!(server.max_early_data_size, 0);
}

#[test]
fn a_missing_file_is_named() {
    for path in [
        |c: &TlsConfig| c.cert_path.clone(),
        |c: &TlsConfig| c.key_path.clone(),
        |c: &TlsConfig| c.ca_cert_path.clone(),
    ] {
        let files = files();
        let path = path(&files.config);
        fs::remove_file(&path).unwrap();
        for error in refusals(&files.config) {
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(error.contains("No such file"), "{error}");
        }
    }
}

#[test]
fn a_file_with_something_else_in_it_is_named_with_what_was_expected() {
    let files = files();
    let stranger = files.dir.path().join("rubbish");
    fs::write(&stranger, "rubbish").unwrap();
    let good = &files.config;
    for (config, expected) in [
        (
            TlsConfig {
                cert_path: stranger.clone(),
                ..good.clone()
            },
            "PEM certificate",
        ),
        (
            TlsConfig {
                key_path: stranger.clone(),
                ..good.clone()
            },
            "PEM private key",
        ),
        (
            TlsConfig {
                ca_cert_path: stranger.clone(),
                ..good.clone()
            },
            "PEM certificate",
        ),
        (
            TlsConfig {
                key_path: good.cert_path.clone(),
                ..good.clone()
            },
            "PEM private key",
        ),
        (
            TlsConfig {
                cert_path: good.key_path.clone(),
                ..good.clone()
            },
            "PEM certificate",
        ),
    ] {
        for error in refusals(&config) {
            assert!(error.contains(expected), "{error}");
        }
    }
}

#[test]
fn a_key_of_another_certificate_is_refused_and_both_files_are_named() {
    let files = files();
    let other = KeyPair::generate().unwrap();
    fs::write(&files.config.key_path, other.serialize_pem()).unwrap();
    for error in refusals(&files.config) {
        assert!(
            error.contains("own.key") && error.contains("own.crt"),
            "{error}"
        );
        assert!(error.contains("does not belong"), "{error}");
    }
}

#[test]
fn a_damaged_certificate_is_refused_at_load() {
    let files = files();
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&files.config.cert_path, damaged).unwrap();
    for error in refusals(&files.config) {
        assert!(error.contains("own.crt"), "{error}");
    }
}

#[test]
fn a_file_over_one_mebibyte_is_not_read_to_its_end() {
    let files = files();
    let file = File::create(&files.config.ca_cert_path).unwrap();
    file.set_len(MAX_FILE_BYTES + 1).unwrap();
    for error in refusals(&files.config) {
        assert!(error.contains("1 MiB"), "{error}");
    }
}

#[test]
fn without_a_ca_file_no_client_config_is_made() {
    let error = client_config(None, None, &[]).unwrap_err();
    assert!(error.to_string().contains("CA file"), "{error}");
}

#[test]
fn a_domain_that_is_no_name_is_an_invalid_argument() {
    let files = files();
    let error = files.config.load_client_config("not a name").unwrap_err();
    assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
}
