//! With real certificates, real keys and a clock that the tests turn.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::test_util::{authenticate, config_listening, identity};

const ENTRIES: &str = "\
[[certificates]]\nsan = 'spiffe://corp/billing'\nsubject = 'billing'\nroles = ['service', 'user']\n\
[[certificates]]\nsan = 'ops@corp.example'\n\
[[certificates]]\nsubject_cn = 'report'\nsubject = 'reports'\n\
[[certificates]]\nsan = 'billing.corp.example'\nsubject = 'by-dns'\n";

/// An authority in a folder of its own, and the configuration that trusts it.
struct Site {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
            authority,
        };
        fs::write(site.ca(), site.authority.pem()).unwrap();
        site
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    fn config(&self) -> Config {
        config_listening(
            &format!("client_ca_file = '{}'", self.ca().display()),
            ENTRIES,
        )
    }

    fn certificates(&self) -> Arc<Certificates> {
        Certificates::build(&self.config(), &authenticate(&["b"]), None).unwrap()
    }

    fn issue(&self, names: &[&str], common: &[&str]) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let certificate = params(names, common)
            .signed_by(&key, &self.authority)
            .unwrap();
        ClientCertificate::new(Some(&[certificate.der().clone()])).unwrap()
    }
}

/// A client's certificate from 2020 to 2100.
fn params(names: &[&str], common: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.subject_alt_names = names.iter().map(|name| san(name)).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for name in common {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    params
}

fn san(text: &str) -> SanType {
    let name = |text: &str| Ia5String::try_from(text).unwrap();
    match text.split_once('=').unwrap() {
        ("dns", text) => SanType::DnsName(name(text)),
        ("mail", text) => SanType::Rfc822Name(name(text)),
        ("uri", text) => SanType::URI(name(text)),
        ("ip", text) => SanType::IpAddress(text.parse().unwrap()),
        _ => panic!("{text}"),
    }
}

fn subject(certificates: &Certificates, shown: &ClientCertificate) -> Option<String> {
    let identity = shown.identity(certificates, SystemTime::now()).unwrap();
    identity.map(|identity| identity.subject().to_owned())
}

#[test]
fn the_first_entry_with_a_name_of_the_certificate_says_who_calls() {
    let site = Site::new();
    let certificates = site.certificates();
    for (names, common, expected) in [
        (&["uri=spiffe://corp/billing"][..], &[][..], Some("billing")),
        (&["mail=ops@corp.example"], &[], Some("ops@corp.example")),
        (&["dns=billing.corp.example"], &[], Some("by-dns")),
        (&["ip=127.0.0.1"], &["report"], Some("reports")),
        (
            &["dns=billing.corp.example", "uri=spiffe://corp/billing"],
            &["report"],
            Some("billing"),
        ),
        (&["dns=other.corp.example"], &["other"], None),
        (&[], &[], None),
    ] {
        let found = subject(&certificates, &site.issue(names, common));
        assert_eq!(found.as_deref(), expected, "{names:?} {common:?}");
    }
}

#[test]
fn a_name_counts_letter_for_letter_and_among_names_of_its_kind_only() {
    let site = Site::new();
    let certificates = site.certificates();
    for (names, common) in [
        (&["uri=spiffe://corp/billing/"][..], &[][..]),
        (&["uri=spiffe://CORP/billing"], &[]),
        (&["uri=billing.corp.example"], &[]),
        (&["dns=ops@corp.example"], &[]),
        (&["dns=*.corp.example"], &[]),
        (&["dns=report"], &[]),
        (&["dns=Billing.corp.example"], &[]),
        (&[], &["billing.corp.example"]),
        (&[], &["report "]),
    ] {
        let found = subject(&certificates, &site.issue(names, common));
        assert_eq!(found, None, "{names:?} {common:?}");
    }
}

#[test]
fn a_certificate_with_two_common_names_has_none() {
    // rcgen keeps one common name, so the second is put in by hand: an organization of the same
    // length whose type becomes that of a common name (2.5.4.10 to 2.5.4.3).
    let mut params = params(&[], &["report"]);
    params
        .distinguished_name
        .push(DnType::OrganizationName, "report");
    let key = KeyPair::generate().unwrap();
    let mut der = params.self_signed(&key).unwrap().der().to_vec();
    let common = CertificateName::CommonName("report".into());
    assert!(Names::read(&der).unwrap().all.contains(&common));
    let organization = [0x06, 0x03, 0x55, 0x04, 0x0a];
    while let Some(at) = der.windows(5).position(|window| window == organization) {
        der[at + 4] = 0x03;
    }
    assert!(!Names::read(&der).unwrap().all.contains(&common));
}

#[test]
fn the_identity_has_the_roles_of_the_entry_and_the_life_of_the_certificate() {
    let site = Site::new();
    let shown = site.issue(&["uri=spiffe://corp/billing"], &[]);
    let now = SystemTime::now();
    let identity = shown.identity(&site.certificates(), now).unwrap().unwrap();
    assert_eq!(identity.roles(), ["service", "user"]);
    assert_eq!(
        (identity.issuer(), identity.token_id()),
        ("urn:intellirouter:certificate", None)
    );
    assert_eq!(
        (identity.issued_at(), identity.expires),
        (Some(1_577_836_800), 4_102_444_800)
    );
}

#[test]
fn a_connection_does_not_outlive_its_certificate() {
    let site = Site::new();
    let certificates = site.certificates();
    let shown = site.issue(&["uri=spiffe://corp/billing"], &[]);
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
    let before = end - Duration::from_secs(1);
    assert!(shown.identity(&certificates, before).unwrap().is_some());
    let reply = shown.identity(&certificates, end).unwrap_err();
    assert_eq!(
        (reply.code, reply.label),
        (Code::Unauthenticated, "certificate_expired")
    );
}

#[test]
fn a_chain_is_judged_once_as_long_as_nothing_changes() {
    let site = Site::new();
    let authenticate = Arc::new(authenticate(&["b"]));
    let build = |previous| Certificates::build(&site.config(), &authenticate, previous).unwrap();
    let first = build(None);
    let shown = site.issue(&["uri=spiffe://corp/billing"], &[]);
    let now = SystemTime::now();
    let one = shown.identity(&first, now).unwrap().unwrap();
    let unchanged = build(Some(&first));
    assert!(Arc::ptr_eq(&first, &unchanged));
    let again = shown.identity(&unchanged, now).unwrap().unwrap();
    assert!(Arc::ptr_eq(&one, &again));
}

#[test]
fn after_a_change_of_the_ca_file_a_stored_chain_counts_only_if_it_still_leads_there() {
    let site = Site::new();
    let authenticate = Arc::new(authenticate(&["b"]));
    let build = |previous| Certificates::build(&site.config(), &authenticate, previous).unwrap();
    let before = build(None);
    let shown = site.issue(&["uri=spiffe://corp/billing"], &[]);
    assert_eq!(subject(&before, &shown).as_deref(), Some("billing"));
    let other = Site::new();
    fs::write(site.ca(), other.authority.pem()).unwrap();
    let after = build(Some(&before));
    assert_eq!(subject(&after, &shown), None);
    fs::write(site.ca(), other.authority.pem() + &site.authority.pem()).unwrap();
    let both = build(Some(&after));
    assert_eq!(subject(&both, &shown).as_deref(), Some("billing"));
}

#[test]
fn with_other_upstreams_an_identity_is_made_anew() {
    let site = Site::new();
    let (one, two) = (
        Arc::new(authenticate(&["one"])),
        Arc::new(authenticate(&["two"])),
    );
    let first = Certificates::build(&site.config(), &one, None).unwrap();
    let second = Certificates::build(&site.config(), &two, Some(&first)).unwrap();
    let shown = site.issue(&["uri=spiffe://corp/billing"], &[]);
    let now = SystemTime::now();
    let identity = |certificates| shown.identity(certificates, now).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&identity(&first), &identity(&second)));
}

#[test]
fn where_no_client_is_asked_a_certificate_is_nobody() {
    let site = Site::new();
    let authenticate = Arc::new(authenticate(&[]));
    let config = crate::test_util::config("");
    let off = Certificates::build(&config, &authenticate, None).unwrap();
    assert_eq!(
        subject(&off, &site.issue(&["uri=spiffe://corp/billing"], &[])),
        None
    );
}

#[test]
fn no_certificate_is_shown_by_an_empty_chain() {
    assert!(ClientCertificate::new(None).is_none());
    assert!(ClientCertificate::new(Some(&[])).is_none());
}

#[test]
fn a_caller_by_certificate_is_revoked_by_its_subject() {
    let site = Site::new();
    let path = site.dir.path().join("revoked.txt");
    fs::write(&path, "sub billing issuer urn:intellirouter:certificate\n").unwrap();
    let config = crate::test_util::config(&format!("[revocation]\nfile = '{}'", path.display()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let revocations = crate::revocation::Revocations::new(&config.revocation).unwrap();
    let now = SystemTime::now();
    let shown = site.issue(&["uri=spiffe://corp/billing"], &[]);
    let caller = shown.identity(&site.certificates(), now).unwrap().unwrap();
    assert_eq!(
        revocations.check(&caller, now).unwrap_err().label,
        "revoked"
    );
    assert!(revocations.check(&identity("billing", &[]), now).is_ok());
}

#[test]
fn a_certificate_does_not_speak_for_pages_nor_beside_a_token() {
    let headers = |name: &'static str, value: &'static str| {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        )])
    };
    assert!(counts(&HeaderMap::new()));
    assert!(counts(&headers("sec-fetch-site", "none")));
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "https://app.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "same-origin"),
        ("authorization", "Bearer x"),
        ("authorization", ""),
    ] {
        assert!(!counts(&headers(name, value)), "{name}: {value}");
    }
}

/// One certificate of every kind of name, for all cases.
fn sample() -> Vec<u8> {
    let names = ["uri=spiffe://corp/billing", "dns=a.b", "mail=a@b", "ip=::1"];
    let key = KeyPair::generate().unwrap();
    let certificate = params(&names, &["report"]).self_signed(&key).unwrap();
    certificate.der().to_vec()
}

proptest! {
    #[test]
    fn a_mutilated_certificate_is_read_or_not_and_never_a_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        static SAMPLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(sample);
        let mut der = SAMPLE.clone();
        for (place, byte) in changes {
            let place = place.index(der.len());
            der[place] = byte;
        }
        if let Some(cut) = cut {
            der.truncate(cut.index(der.len()));
        }
        let _ = Names::read(&der);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_nobody(bytes: Vec<u8>) {
        prop_assert!(Names::read(&bytes).is_none());
    }
}
