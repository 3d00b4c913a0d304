//! What is read of a client's certificate: its names and when it holds.
//!
//! The signature is not looked at here. Whatever is malformed makes the certificate unreadable;
//! names of other kinds, such as addresses, are passed over.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::config::CertificateName;

/// The names, and the validity in seconds since 1970.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) all: Vec<CertificateName>,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

impl Names {
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let alternative = certificate.subject_alternative_name().ok()?;
        let alternative = alternative
            .iter()
            .flat_map(|names| &names.value.general_names);
        let alternative = alternative.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(CertificateName::Dns((*name).to_owned())),
            GeneralName::RFC822Name(name) => Some(CertificateName::Email((*name).to_owned())),
            GeneralName::URI(name) => Some(CertificateName::Uri((*name).to_owned())),
            _ => None,
        });
        let mut common = certificate.subject().iter_common_name();
        let common = match (common.next(), common.next()) {
            (Some(name), None) => name.as_str().ok(),
            // With several it is not clear which one is meant.
            _ => None,
        };
        let common = common.map(|name| CertificateName::CommonName(name.to_owned()));
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let validity = certificate.validity();
        Some(Self {
            all: alternative.chain(common).collect(),
            not_before: seconds(validity.not_before.timestamp()),
            not_after: seconds(validity.not_after.timestamp()),
        })
    }
}
