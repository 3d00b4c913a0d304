//! What operators see of connections: handshakes that fail, endpoints of
//! backends and connections to them, and when certificates expire.
//!
//! Labels are names and paths of the configuration, or from fixed sets.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::{AlertDescription, Error as TlsError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::ReasonLabels;

/// How often certificate files are read.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClosedLabels {
    upstream: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FileLabels {
    file: String,
}

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Transport {
    handshakes: Family<ReasonLabels, Counter>,
    upstream_connections: Family<UpstreamLabels, Gauge>,
    upstream_closed: Family<ClosedLabels, Counter>,
    upstream_endpoints: Family<UpstreamLabels, Gauge>,
    discovery_faults: Family<UpstreamLabels, Counter>,
    expiries: Family<FileLabels, Gauge>,
    certificates: Mutex<Vec<PathBuf>>,
}

impl Transport {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_handshake_failures",
            "TLS handshakes of clients that failed, by reason",
            self.handshakes.clone(),
        );
        for reason in REASONS {
            // A rate needs a figure before the first failure.
            drop(self.handshakes.get_or_create(&ReasonLabels { reason }));
        }
        registry.register(
            "upstream_connections",
            "Open connections to backends, by upstream",
            self.upstream_connections.clone(),
        );
        registry.register(
            "upstream_connections_closed",
            "Connections to backends that the gateway closed itself, by upstream and reason",
            self.upstream_closed.clone(),
        );
        registry.register(
            "upstream_endpoints",
            "Endpoints that are known, by upstream",
            self.upstream_endpoints.clone(),
        );
        registry.register(
            "upstream_discovery_faults",
            "Looks for the endpoints of an upstream that found none, or a fault",
            self.discovery_faults.clone(),
        );
        registry.register(
            "certificate_expiry_seconds",
            "When the first certificate of a file expires, in seconds since 1970",
            self.expiries.clone(),
        );
    }

    pub(crate) fn handshake_failed(&self, error: &io::Error) {
        let reason = reason(error);
        self.handshakes
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// The figures of this upstream; all of them are there from now on.
    pub(crate) fn upstream(&self, name: &str) -> UpstreamFigures {
        let labels = || UpstreamLabels {
            upstream: name.to_owned(),
        };
        UpstreamFigures {
            connections: self.upstream_connections.get_or_create_owned(&labels()),
            endpoints: self.upstream_endpoints.get_or_create_owned(&labels()),
            discovery_faults: self.discovery_faults.get_or_create_owned(&labels()),
            closed: Closed::ALL.map(|closed| {
                let upstream = name.to_owned();
                let reason = closed.label();
                let labels = ClosedLabels { upstream, reason };
                self.upstream_closed.get_or_create_owned(&labels)
            }),
        }
    }

    /// Shows these certificate files from now on, and no others. Reads them.
    pub(crate) fn follow_certificates(&self, files: Vec<PathBuf>) {
        let mut followed = self.followed();
        for gone in followed.iter().filter(|file| !files.contains(file)) {
            self.expiries.remove(&labels(gone));
        }
        *followed = files;
        drop(followed);
        self.read_certificates();
    }

    /// Reads the files again and again, aside, for as long as it is polled.
    pub(crate) async fn watch_certificates(self: std::sync::Arc<Self>) {
        loop {
            tokio::time::sleep(CERTIFICATES_EVERY).await;
            let this = self.clone();
            // Ends early only with the runtime.
            let _ = tokio::task::spawn_blocking(move || this.read_certificates()).await;
        }
    }

    /// A file that can't be read now keeps its figure: so does what was read
    /// from it and is in use.
    fn read_certificates(&self) {
        for file in self.followed().iter() {
            if let Some(expiry) = expiry(file) {
                self.expiries.get_or_create(&labels(file)).set(expiry);
            }
        }
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The figures of one upstream.
#[derive(Clone, Default)]
pub(crate) struct UpstreamFigures {
    /// Connections that are open.
    pub(crate) connections: Gauge,
    /// Endpoints that are known.
    pub(crate) endpoints: Gauge,
    /// Looks that found none, or a fault.
    pub(crate) discovery_faults: Counter,
    /// By [`Closed`].
    closed: [Counter; Closed::ALL.len()],
}

impl UpstreamFigures {
    /// The gateway has closed a connection.
    pub(crate) fn closed(&self, why: Closed) {
        self.closed[why as usize].inc();
    }

    /// How many it has closed for that.
    #[cfg(test)]
    pub(crate) fn how_many_closed(&self, why: Closed) -> u64 {
        self.closed[why as usize].get()
    }
}

/// Why the gateway closes a connection to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It had no call for too long.
    Idle = 0,
    /// It was too old.
    Age = 1,
    /// Its peer did not answer a PING.
    Keepalive = 2,
}

impl Closed {
    const ALL: [Self; 3] = [Self::Idle, Self::Age, Self::Keepalive];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Age => "age",
            Self::Keepalive => "keepalive",
        }
    }
}

fn labels(file: &Path) -> FileLabels {
    FileLabels {
        file: file.display().to_string(),
    }
}

/// When the first certificate of a chain expires.
fn expiry(file: &Path) -> Option<i64> {
    CertificateDer::pem_file_iter(file)
        .ok()?
        .filter_map(|der| {
            let der = der.ok()?;
            let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
            Some(certificate.validity().not_after.timestamp())
        })
        .min()
}

/// What [`reason`] gives.
const REASONS: [&str; 9] = [
    "no_client_certificate",
    "bad_client_certificate",
    "certificate_refused",
    "alert",
    "incompatible",
    "no_common_protocol",
    "not_tls",
    "broken_rule",
    "connection_lost",
];

/// Why a handshake failed, in a few words that don't come from the client.
fn reason(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(TlsError::NoCertificatesPresented) => "no_client_certificate",
        Some(TlsError::InvalidCertificate(_)) => "bad_client_certificate",
        Some(TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired,
        )) => "certificate_refused",
        Some(TlsError::AlertReceived(_)) => "alert",
        Some(TlsError::PeerIncompatible(_)) => "incompatible",
        Some(TlsError::NoApplicationProtocol) => "no_common_protocol",
        Some(TlsError::InvalidMessage(_)) => "not_tls",
        Some(_) => "broken_rule",
        None => "connection_lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_an_upstream_are_there_before_anything_happens() {
        let transport = Transport::default();
        let figures = transport.upstream("a");
        figures.closed(Closed::Age);
        let shown = registered(&transport);
        for line in [
            "upstream_connections{upstream=\"a\"} 0",
            "upstream_endpoints{upstream=\"a\"} 0",
            "upstream_discovery_faults_total{upstream=\"a\"} 0",
            "upstream_connections_closed_total{upstream=\"a\",reason=\"idle\"} 0",
            "upstream_connections_closed_total{upstream=\"a\",reason=\"age\"} 1",
            "upstream_connections_closed_total{upstream=\"a\",reason=\"keepalive\"} 0",
        ] {
            assert!(shown.contains(line), "{line} is missing in\n{shown}");
        }
    }

    fn registered(transport: &Transport) -> String {
        let mut registry = Registry::with_prefix("intellirouter");
        transport.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    fn certificate(dir: &Path, name: &str, years: &[i32]) -> PathBuf {
        let mut pem = String::new();
        for year in years {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            params.not_after = rcgen::date_time_ymd(*year, 1, 1);
            pem.push_str(&params.self_signed(&key).unwrap().pem());
        }
        let path = dir.join(name);
        std::fs::write(&path, pem).unwrap();
        path
    }

    #[test]
    fn a_file_shows_when_the_first_of_its_chain_expires() {
        let dir = tempfile::tempdir().unwrap();
        let file = certificate(dir.path(), "chain.crt", &[2050, 2040, 2060]);
        let transport = Transport::default();
        transport.follow_certificates(vec![file.clone()]);
        let expected = format!(
            "intellirouter_certificate_expiry_seconds{{file=\"{}\"}} 2208988800",
            file.display()
        );
        assert!(
            registered(&transport).contains(&expected),
            "{}",
            registered(&transport)
        );
    }

    #[test]
    fn a_renewed_file_shows_its_new_time_and_a_broken_one_keeps_its_last() {
        let dir = tempfile::tempdir().unwrap();
        let file = certificate(dir.path(), "leaf.crt", &[2040]);
        let transport = Transport::default();
        transport.follow_certificates(vec![file.clone()]);
        certificate(dir.path(), "leaf.crt", &[2041]);
        transport.read_certificates();
        let shown = registered(&transport);
        assert!(shown.contains("\"} 2240611200"), "{shown}");
        std::fs::write(&file, "half a").unwrap();
        transport.read_certificates();
        assert_eq!(registered(&transport), shown);
    }

    #[test]
    fn a_file_that_is_not_followed_any_more_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let first = certificate(dir.path(), "first.crt", &[2040]);
        let second = certificate(dir.path(), "second.crt", &[2040]);
        let transport = Transport::default();
        transport.follow_certificates(vec![first]);
        transport.follow_certificates(vec![second]);
        let shown = registered(&transport);
        assert!(
            !shown.contains("first.crt") && shown.contains("second.crt"),
            "{shown}"
        );
    }
}
