//! `[listen] client_ca_file` and `[[certificates]]`: which clients may prove themselves by a
//! certificate, and who they then are.

use std::path::PathBuf;

use intellirouter::security::ClientCertificates;
use serde::Deserialize;

use super::ListenConfig;
use super::validate::Validate;

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileCertificate {
    /// The certificate has this subject alternative name: a DNS name, an e-mail address or a URI.
    pub(crate) san: Option<String>,
    /// The certificate's subject has this common name.
    pub(crate) subject_cn: Option<String>,
    /// Who the caller is then; by default the name that matched.
    pub(crate) subject: Option<String>,
    /// What the caller may act as.
    pub(crate) roles: Vec<String>,
}

/// Clients are asked for a certificate that leads to `ca_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificatesConfig {
    pub(crate) ca_file: PathBuf,
    /// Whether one without is refused.
    pub(crate) required: bool,
}

/// Whoever shows a certificate with this name is `subject`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateConfig {
    pub(crate) name: CertificateName,
    pub(crate) subject: String,
    pub(crate) roles: Vec<String>,
}

/// A name in a certificate, compared letter for letter with names of the same kind only: an
/// authority that may vouch for some kinds must not reach the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CertificateName {
    Dns(String),
    Email(String),
    Uri(String),
    CommonName(String),
}

impl ListenConfig {
    /// What the handshake asks of clients.
    pub(crate) fn client_certificates(&self) -> ClientCertificates<'_> {
        match &self.clients {
            None => ClientCertificates::Ignored,
            Some(clients) if clients.required => ClientCertificates::Required(&clients.ca_file),
            Some(clients) => ClientCertificates::Optional(&clients.ca_file),
        }
    }
}

const MAX_CERTIFICATES: usize = 1000;
/// Names and subjects, in bytes.
const MAX_NAME: usize = 1024;
/// With [`MAX_ROLE`] so that a token for backends has room for all.
const MAX_ROLES: usize = 32;
const MAX_ROLE: usize = 128;

impl Validate<'_, '_> {
    pub(super) fn client_certificates(
        &mut self,
        ca_file: Option<String>,
        demand: Option<String>,
    ) -> Option<ClientCertificatesConfig> {
        let required = match demand.as_deref() {
            None | Some("optional") => false,
            Some("required") => true,
            Some(other) => {
                let message = format!("expected \"optional\" or \"required\", found \"{other}\"");
                self.source.fault("listen.client_certificates", message);
                false
            }
        };
        if ca_file.is_none() && demand.is_some() {
            let message = "needs listen.client_ca_file, which says whose certificates count";
            self.source.fault("listen.client_certificates", message);
        }
        ca_file.map(|path| ClientCertificatesConfig {
            ca_file: self.file("listen.client_ca_file", Some(path)),
            required,
        })
    }

    pub(super) fn certificates(
        &mut self,
        files: Vec<FileCertificate>,
        asked_for: bool,
    ) -> Vec<CertificateConfig> {
        if !asked_for && !files.is_empty() {
            let message = "need listen.client_ca_file: without it no client is asked for one";
            self.source.fault("certificates", message);
        }
        if files.len() > MAX_CERTIFICATES {
            let message = format!("expected at most {MAX_CERTIFICATES} entries");
            self.source.fault("certificates", message);
        }
        let mut rules: Vec<CertificateConfig> = Vec::new();
        for (i, file) in files.into_iter().take(MAX_CERTIFICATES).enumerate() {
            let at = format!("certificates[{i}]");
            let Some(rule) = self.certificate(&at, file) else {
                continue;
            };
            if rules.iter().any(|above| above.name == rule.name) {
                let message = "an entry above has the same name: this one would never match";
                self.source.fault(&at, message);
            }
            rules.push(rule);
        }
        rules
    }

    fn certificate(&mut self, at: &str, file: FileCertificate) -> Option<CertificateConfig> {
        let (key, text, name) = match (file.san, file.subject_cn) {
            (Some(san), None) => ("san", san.clone(), alternative_name(san)),
            (None, Some(name)) => (
                "subject_cn",
                name.clone(),
                CertificateName::CommonName(name),
            ),
            _ => {
                self.source
                    .fault(at, "expected exactly one of san and subject_cn");
                return None;
            }
        };
        self.certificate_text(&format!("{at}.{key}"), &text);
        let common = matches!(name, CertificateName::CommonName(_));
        if !common && (text.contains('*') || !text.is_ascii()) {
            let message = "expected an exact name in ASCII; there are no wildcards";
            self.source.fault(&format!("{at}.{key}"), message);
        }
        let subject = match file.subject {
            Some(subject) => {
                self.certificate_text(&format!("{at}.subject"), &subject);
                subject
            }
            None => text,
        };
        let good = |role: &String| (1..=MAX_ROLE).contains(&role.len());
        if file.roles.len() > MAX_ROLES || !file.roles.iter().all(good) {
            let message = format!("expected at most {MAX_ROLES} roles of 1 to {MAX_ROLE} bytes");
            self.source.fault(&format!("{at}.roles"), message);
        }
        Some(CertificateConfig {
            name,
            subject,
            roles: file.roles,
        })
    }

    fn certificate_text(&mut self, key: &str, text: &str) {
        if !(1..=MAX_NAME).contains(&text.len()) {
            self.source
                .fault(key, format!("expected 1 to {MAX_NAME} bytes"));
        }
    }
}

/// A URI has a scheme, and with it a colon, which the other two have not.
fn alternative_name(text: String) -> CertificateName {
    if text.contains(':') {
        CertificateName::Uri(text)
    } else if text.contains('@') {
        CertificateName::Email(text)
    } else {
        CertificateName::Dns(text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const LISTEN: &str = "[listen]\nclient_ca_file = 'ca.crt'\n";

    fn faults(text: &str) -> Vec<String> {
        let faults = Config::parse(text, "test.toml", Path::new("/nowhere")).unwrap_err();
        let all = faults.faults.into_iter();
        all.map(|fault| format!("{}: {}", fault.key, fault.message))
            .collect()
    }

    #[test]
    fn the_kind_of_a_name_follows_from_its_letters() {
        for (text, kind) in [
            ("spiffe://corp/billing", CertificateName::Uri as fn(_) -> _),
            ("urn:uuid:1", CertificateName::Uri),
            ("https://user@host", CertificateName::Uri),
            ("ops@corp.example", CertificateName::Email),
            ("billing.corp.example", CertificateName::Dns),
        ] {
            assert_eq!(alternative_name(text.into()), kind(text.into()), "{text}");
        }
    }

    #[test]
    fn every_fault_names_its_key_and_what_was_expected() {
        let entry = |text: &str| format!("{LISTEN}[[certificates]]\n{text}");
        let long = "x".repeat(1025);
        for (text, expected) in [
            (
                entry(""),
                "certificates[0]: expected exactly one of san and subject_cn",
            ),
            (
                entry("san = 'a'\nsubject_cn = 'a'"),
                "certificates[0]: expected exactly one",
            ),
            (
                entry("san = '*.corp'"),
                "certificates[0].san: expected an exact name",
            ),
            (
                entry("san = 'bücher.example'"),
                "certificates[0].san: expected an exact name",
            ),
            (
                entry("subject_cn = ''"),
                "certificates[0].subject_cn: expected 1 to 1024 bytes",
            ),
            (
                entry(&format!("san = '{long}'")),
                "certificates[0].san: expected 1 to 1024",
            ),
            (
                entry("san = 'a'\nsubject = ''"),
                "certificates[0].subject: expected 1 to",
            ),
            (
                entry("san = 'a'\nroles = ['']"),
                "certificates[0].roles: expected at most 32",
            ),
            (
                entry("san = 'a'\n[[certificates]]\nsan = 'a'"),
                "certificates[1]: an entry above has the same name",
            ),
            (
                "[[certificates]]\nsan = 'a'".into(),
                "certificates: need listen.client_ca_file",
            ),
            (
                "[listen]\nclient_certificates = 'optional'".into(),
                "listen.client_certificates: needs listen.client_ca_file",
            ),
            (
                format!("{LISTEN}client_certificates = 'maybe'"),
                "listen.client_certificates: expected \"optional\" or \"required\"",
            ),
            (LISTEN.into(), "listen.client_ca_file: /nowhere/ca.crt"),
        ] {
            let found = faults(&text);
            assert!(
                found.iter().any(|fault| fault.contains(expected)),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn the_subject_is_the_name_that_matched_unless_another_is_given() {
        let config = crate::test_util::config_listening(
            "client_ca_file = 'ca.crt'",
            "[[certificates]]\nsan = 'spiffe://corp/a'\n\
             [[certificates]]\nsubject_cn = 'a'\nsubject = 'b'\nroles = ['service']\n",
        );
        let subjects: Vec<_> = config
            .certificates
            .iter()
            .map(|rule| &*rule.subject)
            .collect();
        assert_eq!(subjects, ["spiffe://corp/a", "b"]);
        assert_eq!(config.certificates[1].roles, ["service"]);
        assert!(!config.listen.clients.unwrap().required);
    }
}
