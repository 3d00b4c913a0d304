use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

struct Site {
    dir: TempDir,
}

/// A certificate and its key, in PEM.
struct Pair {
    cert: String,
    key: String,
}

fn pair() -> Pair {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["localhost".to_owned()]).unwrap();
    Pair {
        cert: cert.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

impl Site {
    fn new() -> Self {
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        site.write(&pair());
        fs::write(site.path("ca"), pair().cert).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, pair: &Pair) {
        fs::write(self.path("cert"), &pair.cert).unwrap();
        fs::write(self.path("key"), &pair.key).unwrap();
    }

    fn open(&self) -> TlsReload<ServerConfig> {
        let [cert, key, ca] = ["cert", "key", "ca"].map(|name| self.path(name));
        TlsReload::server(&cert, &key, ClientCertificates::Required(&ca), &[b"h2"]).unwrap()
    }
}

/// Whether the config is another one after `looks`, which must say what is expected.
fn swapped<const N: usize>(reload: &TlsReload<ServerConfig>, looks: [Look; N]) -> bool {
    let before = reload.current();
    for expected in looks {
        assert_eq!(reload.look(Patience::Settled).unwrap(), expected);
    }
    !Arc::ptr_eq(&before, &reload.current())
}

#[test]
fn files_that_did_not_change_keep_the_config_and_its_tickets() {
    let site = Site::new();
    let reload = site.open();
    // Written anew with the same content.
    let ca = fs::read(site.path("ca")).unwrap();
    fs::write(site.path("ca"), ca).unwrap();
    assert!(!swapped(&reload, [Look::Same, Look::Same]));
}

#[test]
fn a_new_pair_is_taken_at_the_second_look_that_finds_it() {
    let site = Site::new();
    let reload = site.open();
    site.write(&pair());
    assert!(!swapped(&reload, [Look::Changing]));
    assert!(swapped(&reload, [Look::Taken, Look::Same]));
}

#[test]
fn a_set_that_changes_between_two_looks_is_left_alone_until_it_rests() {
    let site = Site::new();
    let reload = site.open();
    site.write(&pair());
    assert!(!swapped(&reload, [Look::Changing]));
    site.write(&pair());
    assert!(!swapped(&reload, [Look::Changing]));
    assert!(swapped(&reload, [Look::Taken]));
}

#[test]
fn a_new_ca_alone_is_taken_too() {
    let site = Site::new();
    let reload = site.open();
    fs::write(site.path("ca"), pair().cert).unwrap();
    assert!(swapped(&reload, [Look::Changing, Look::Taken]));
}

#[test]
fn a_link_that_is_swapped_is_seen() {
    let site = Site::new();
    for (version, pair) in [("1", pair()), ("2", pair())] {
        fs::create_dir(site.path(version)).unwrap();
        fs::write(site.path(version).join("cert"), pair.cert).unwrap();
        fs::write(site.path(version).join("key"), pair.key).unwrap();
    }
    symlink("1", site.path("data")).unwrap();
    let data = site.path("data");
    let (cert, key) = (data.join("cert"), data.join("key"));
    let reload = TlsReload::server(&cert, &key, ClientCertificates::Ignored, &[b"h2"]).unwrap();
    symlink("2", site.path("new")).unwrap();
    fs::rename(site.path("new"), site.path("data")).unwrap();
    assert!(swapped(&reload, [Look::Changing, Look::Taken]));
}

#[test]
fn a_certificate_without_its_key_is_not_taken_until_the_key_is_there() {
    let site = Site::new();
    let reload = site.open();
    let new = pair();
    fs::write(site.path("cert"), &new.cert).unwrap();
    assert!(!swapped(&reload, [Look::Changing]));
    let before = reload.current();
    let error = reload.look(Patience::Settled).unwrap_err();
    assert!(error.to_string().contains("does not belong"), "{error}");
    assert!(Arc::ptr_eq(&before, &reload.current()));
    site.write(&new);
    assert!(swapped(&reload, [Look::Changing, Look::Taken]));
}

#[test]
fn a_half_written_or_missing_file_keeps_the_last_good_set() {
    let site = Site::new();
    let reload = site.open();
    let before = reload.current();
    let good = fs::read_to_string(site.path("cert")).unwrap();
    fs::write(site.path("cert"), &good[..good.len() / 2]).unwrap();
    assert!(reload.look(Patience::Now).is_err());
    fs::remove_file(site.path("cert")).unwrap();
    assert!(reload.look(Patience::Now).is_err());
    assert!(Arc::ptr_eq(&before, &reload.current()));
    fs::write(site.path("cert"), good).unwrap();
    assert!(!swapped(&reload, [Look::Same]));
}

#[tokio::test]
async fn a_refresh_takes_what_is_there_at_once_and_reports_what_is_bad() {
    let site = Site::new();
    let reload = Arc::new(site.open());
    let before = reload.current();
    site.write(&pair());
    reload.refresh().await.unwrap();
    let renewed = reload.current();
    assert!(!Arc::ptr_eq(&before, &renewed));
    fs::write(site.path("key"), "rubbish").unwrap();
    let error = reload.refresh().await.unwrap_err();
    assert!(error.to_string().contains("key file"), "{error}");
    assert!(Arc::ptr_eq(&renewed, &reload.current()));
}

#[test]
fn a_client_set_is_followed_as_well() {
    let site = Site::new();
    let [cert, key, ca] = ["cert", "key", "ca"].map(|name| site.path(name));
    let reload = TlsReload::client(Some(&ca), Some((&cert, &key)), &[b"h2"]).unwrap();
    let before = reload.current();
    site.write(&pair());
    assert_eq!(reload.look(Patience::Now).unwrap(), Look::Taken);
    assert!(!Arc::ptr_eq(&before, &reload.current()));
    assert!(!format!("{reload:?}").contains("PRIVATE"));
}
