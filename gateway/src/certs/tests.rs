use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use intellirouter::security::{
    ClientCertificates, IdentitySigner, IdentityVerifier, JwtAuthenticator, JwtConfig,
    client_config, server_config,
};
use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// With all files made.
    fn made() -> Self {
        let place = Self::new();
        place.ensure().unwrap();
        place
    }

    fn ensure(&self) -> Result<DevFiles, CertsError> {
        ensure(self.dir.path())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Every file but the lock, with its content.
    fn content(&self) -> BTreeMap<String, String> {
        fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with(".lock"))
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect()
    }

    /// The names of the files that `ensure_at` changed or made.
    fn changed_by_start_at(&self, now: SystemTime) -> Vec<String> {
        let before = self.content();
        ensure_at(self.dir.path(), now).unwrap();
        let after = self.content();
        after
            .into_iter()
            .filter(|(name, text)| before.get(name) != Some(text))
            .map(|(n, _)| n)
            .collect()
    }

    fn changed_by_start(&self) -> Vec<String> {
        self.changed_by_start_at(SystemTime::now())
    }
}

#[test]
fn the_first_start_makes_exactly_the_listed_files() {
    let place = Place::new();
    place.ensure().unwrap();
    let names: Vec<_> = place.content().into_keys().collect();
    assert_eq!(
        names,
        [
            "backend.crt",
            "backend.key",
            "ca.crt",
            "ca.key",
            "gateway-client.crt",
            "gateway-client.key",
            "gateway.crt",
            "gateway.key",
            "identity.key",
            "identity.pub",
            "jwt.secret",
        ]
    );
}

#[test]
fn a_directory_that_does_not_exist_is_made() {
    let place = Place::new();
    let deep = place.path("a/b");
    ensure(&deep).unwrap();
    assert!(deep.join("ca.crt").exists());
}

#[test]
fn keys_and_secrets_are_for_the_owner_alone() {
    let place = Place::made();
    for name in place.content().into_keys() {
        let mode = fs::metadata(place.path(&name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        if name.ends_with(".key") || name.ends_with(".secret") {
            assert_eq!(mode, 0o600, "{name}");
        } else {
            assert_eq!(mode & 0o133, 0, "{name}: {mode:o}");
        }
    }
}

#[test]
fn the_next_start_changes_nothing() {
    let place = Place::made();
    assert_eq!(place.changed_by_start(), [""; 0]);
}

#[test]
fn the_certificates_serve_both_sides_of_mutual_tls() {
    let place = Place::new();
    let files = place.ensure().unwrap();
    let ca = Some(&*files.ca_cert);
    let (ignored, required) = (
        ClientCertificates::Ignored,
        ClientCertificates::Required(&files.ca_cert),
    );
    server_config(&files.gateway_cert, &files.gateway_key, ignored, &[]).unwrap();
    server_config(&files.backend_cert, &files.backend_key, required, &[]).unwrap();
    for (cert, key) in [
        (&files.gateway_client_cert, &files.gateway_client_key),
        (&files.backend_cert, &files.backend_key),
    ] {
        client_config(ca, Some((cert, key)), &[]).unwrap();
    }
}

#[test]
fn the_identity_pair_and_the_secret_are_usable() {
    let place = Place::new();
    let files = place.ensure().unwrap();
    let private = fs::read(files.identity_key).unwrap();
    let public = fs::read(files.identity_public).unwrap();
    let signer = IdentitySigner::from_pkcs8_pem(&private, "gw", Duration::from_secs(60)).unwrap();
    let verifier = IdentityVerifier::from_public_pem(&public, "gw", "memory").unwrap();
    let token = signer
        .sign("alice", &[], "memory", SystemTime::now())
        .unwrap();
    assert_eq!(verifier.verify(&token).unwrap().sub, "alice");

    let jwt = JwtAuthenticator::new(JwtConfig {
        secret: fs::read_to_string(files.jwt_secret).unwrap(),
        issuer: "i".into(),
        audience: "a".into(),
        expiration_seconds: 1,
    });
    assert!(jwt.generate_token("memory", vec![]).is_ok());
}

#[test]
fn two_places_share_no_key_and_no_secret() {
    let (one, other) = (Place::made().content(), Place::made().content());
    for (name, text) in one {
        assert_ne!(other[&name], text, "{name}");
    }
}

#[test]
fn a_missing_certificate_is_made_from_the_ca_and_the_key_that_are_there() {
    for name in [
        "gateway.crt",
        "gateway-client.crt",
        "backend.crt",
        "identity.pub",
    ] {
        let place = Place::made();
        place.remove(name);
        assert_eq!(place.changed_by_start(), [name]);
    }
}

#[test]
fn a_missing_key_is_made_with_what_follows_from_it() {
    for (key, follows) in [
        ("gateway.key", "gateway.crt"),
        ("gateway-client.key", "gateway-client.crt"),
        ("backend.key", "backend.crt"),
        ("identity.key", "identity.pub"),
    ] {
        let place = Place::made();
        place.remove(key);
        let mut expected = [key, follows];
        expected.sort_unstable();
        assert_eq!(place.changed_by_start(), expected);
    }
}

#[test]
fn a_missing_secret_is_made_alone() {
    let place = Place::made();
    place.remove("jwt.secret");
    assert_eq!(place.changed_by_start(), ["jwt.secret"]);
}

#[test]
fn a_start_that_was_cut_short_after_any_file_is_completed_with_the_keys_that_are_there() {
    let order = [
        "ca.key",
        "ca.crt",
        "gateway.key",
        "gateway.crt",
        "gateway-client.key",
        "gateway-client.crt",
        "backend.key",
        "backend.crt",
        "identity.key",
        "identity.pub",
    ];
    for present in 0..order.len() {
        let place = Place::made();
        order[present..].iter().for_each(|name| place.remove(name));
        // A cut in the middle of a write leaves this.
        fs::write(place.path(".new"), "half").unwrap();
        place.ensure().unwrap();
        assert_eq!(place.changed_by_start(), [""; 0], "after {present} files");
        assert!(!place.path(".new").exists());
    }
}

#[test]
fn a_certificate_is_renewed_in_its_last_30_days_and_keeps_its_key() {
    let place = Place::made();
    let now = SystemTime::now();
    assert_eq!(place.changed_by_start_at(now + 366 * DAY), [""; 0]);
    assert_eq!(
        place.changed_by_start_at(now + 368 * DAY),
        ["backend.crt", "gateway-client.crt", "gateway.crt"]
    );
    // Long expired, too.
    assert_eq!(place.changed_by_start_at(now + 2000 * DAY).len(), 3);
}

#[test]
fn without_the_cas_key_good_certificates_are_used_and_a_missing_one_is_an_error() {
    let place = Place::made();
    place.remove("ca.key");
    assert_eq!(place.changed_by_start(), [""; 0]);

    place.remove("backend.crt");
    let error = place.ensure().unwrap_err();
    assert!(matches!(error, CertsError::NoCaKey { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("backend.crt") && text.contains("ca.key"),
        "{text}"
    );
}

#[test]
fn a_certificate_of_another_ca_is_an_error_and_is_left_alone() {
    let place = Place::made();
    let theirs = Place::made();
    for name in ["gateway.crt", "gateway.key"] {
        fs::copy(theirs.path(name), place.path(name)).unwrap();
    }
    let before = place.content();

    let error = place.ensure().unwrap_err();

    assert!(matches!(error, CertsError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("gateway.crt"), "{error}");
    assert_eq!(place.content(), before);
}

#[test]
fn a_ca_key_of_another_ca_issues_nothing() {
    let place = Place::made();
    fs::copy(Place::made().path("ca.key"), place.path("ca.key")).unwrap();
    place.remove("gateway.crt");

    let error = place.ensure().unwrap_err();

    assert!(error.to_string().contains("ca.key"), "{error}");
    assert!(!place.path("gateway.crt").exists());
}

#[test]
fn a_file_with_something_else_in_it_is_an_error_that_names_it_and_is_left_alone() {
    for name in [
        "ca.crt",
        "ca.key",
        "gateway.crt",
        "gateway.key",
        "identity.key",
        "jwt.secret",
    ] {
        let place = Place::made();
        fs::write(place.path(name), "rubbish").unwrap();
        let error = place.ensure().unwrap_err();
        assert!(matches!(error, CertsError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read_to_string(place.path(name)).unwrap(), "rubbish");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let place = Place::made();
    let error = ensure(&place.path("ca.crt/below")).unwrap_err();
    assert!(
        matches!(
            error,
            CertsError::Io {
                action: "create",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn starts_at_the_same_time_agree() {
    let place = Place::new();
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| place.ensure())).collect();
        for start in starts {
            start.join().unwrap().unwrap();
        }
    });
    assert_eq!(place.changed_by_start(), [""; 0]);
}
