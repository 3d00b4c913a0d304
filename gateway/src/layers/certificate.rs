//! Callers who prove themselves by the certificate of their connection.
//!
//! Owns who a certificate stands for, and when it counts; the handshake and its authorities are the
//! server's. The first entry of `[[certificates]]` that has a name of the certificate says who the
//! caller is; a certificate without such a name is nobody, and so is one that can't be read. It is
//! judged once per connection and state of the configuration, again by the authorities that count
//! then, so that a connection does not outlive them; its end is looked at with each call.
//!
//! A call with an `authorization` header is judged by that alone. A certificate is shown by a
//! browser whoever's page makes it call, so it does not count for what a page asks for: a request
//! with `Origin`, or with `Sec-Fetch-Site` other than `none`. Also not for pages that CORS lets in:
//! they prove themselves by tokens, and CORS never allows credentials.
//!
//! Limits: a chain has at most 64 KiB, which is what a handshake can bring; it stays in memory with
//! its connection.

mod names;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use http::header::{AUTHORIZATION, ORIGIN};
use intellirouter::security::ClientVerifier;
use rustls_pki_types::CertificateDer;

use super::authenticate::{Authenticate, Identity};
use crate::config::{CertificateConfig, CertificateName, ClientCertificatesConfig, Config};
use crate::gateway::StartError;
use crate::reply::Reply;
use crate::revocation::unix_seconds;

use names::Names;

/// Who certificates stand for, in one state of the configuration.
pub(crate) struct Certificates {
    /// No two have the same.
    id: u64,
    /// `None` where no client is asked for a certificate.
    trust: Option<Trust>,
    authenticate: Arc<Authenticate>,
}

struct Trust {
    config: ClientCertificatesConfig,
    verifier: ClientVerifier,
    entries: Vec<CertificateConfig>,
    /// The entry of each name.
    by_name: HashMap<CertificateName, usize>,
}

impl Certificates {
    /// Reads the CA file. Gives `previous` where nothing has changed, the content of the file
    /// included, so that connections need not be judged again.
    pub(crate) fn build(
        config: &Config,
        authenticate: &Arc<Authenticate>,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, StartError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let trust = match &config.listen.clients {
            Some(clients) => Some(Trust::read(clients, &config.certificates)?),
            None => None,
        };
        let same = |previous: &&Arc<Self>| {
            Arc::ptr_eq(&previous.authenticate, authenticate)
                && match (&previous.trust, &trust) {
                    (None, None) => true,
                    (Some(old), Some(new)) => old.is_same(new),
                    _ => false,
                }
        };
        if let Some(previous) = previous.filter(same) {
            return Ok(Arc::clone(previous));
        }
        Ok(Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            trust,
            authenticate: Arc::clone(authenticate),
        }))
    }

    /// Who shows this chain, if it counts at all.
    fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Option<Arc<Identity>> {
        let trust = self.trust.as_ref()?;
        if let Err(error) = trust.verifier.verify(chain, now) {
            tracing::debug!(%error, "a client certificate does not count any more");
            return None;
        }
        let names = Names::read(chain.first()?)?;
        let entry = trust.entry(&names)?;
        Some(self.authenticate.by_certificate(
            &entry.subject,
            &entry.roles,
            names.not_before,
            names.not_after,
        ))
    }
}

impl Trust {
    fn read(
        config: &ClientCertificatesConfig,
        entries: &[CertificateConfig],
    ) -> Result<Self, StartError> {
        let verifier = ClientVerifier::load(&config.ca_file)
            .map_err(|error| StartError::setting("listen.client_ca_file", error))?;
        let names = entries.iter().map(|entry| entry.name.clone());
        Ok(Self {
            config: config.clone(),
            verifier,
            entries: entries.to_vec(),
            by_name: names.zip(0..).collect(),
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.config == other.config
            && self.entries == other.entries
            && self.verifier.is_same(&other.verifier)
    }

    /// The first entry that has one of the names.
    fn entry(&self, names: &Names) -> Option<&CertificateConfig> {
        let found = names.all.iter().filter_map(|name| self.by_name.get(name));
        self.entries.get(*found.min()?)
    }
}

/// What the client of one connection has shown.
pub(crate) struct ClientCertificate {
    /// The client's own first.
    chain: Vec<CertificateDer<'static>>,
    judged: ArcSwapOption<Judged>,
}

struct Judged {
    /// The [`Certificates`] that did.
    by: u64,
    identity: Option<Arc<Identity>>,
}

impl ClientCertificate {
    /// From a finished handshake; `None` where the client has shown none.
    pub(crate) fn new(chain: Option<&[CertificateDer<'static>]>) -> Option<Self> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        Some(Self {
            chain: chain.to_vec(),
            judged: ArcSwapOption::empty(),
        })
    }

    /// Whom the certificate stands for, if for anybody.
    pub(crate) fn identity(
        &self,
        certificates: &Certificates,
        now: SystemTime,
    ) -> Result<Option<Arc<Identity>>, Reply> {
        let judged = self.judged.load();
        let identity = match &*judged {
            Some(judged) if judged.by == certificates.id => judged.identity.clone(),
            _ => {
                let identity = certificates.judge(&self.chain, now);
                self.judged.store(Some(Arc::new(Judged {
                    by: certificates.id,
                    identity: identity.clone(),
                })));
                identity
            }
        };
        match identity {
            Some(identity) if unix_seconds(now) >= identity.expires => Err(Reply::unauthenticated(
                "certificate_expired",
                "the client certificate has expired",
            )),
            identity => Ok(identity),
        }
    }
}

/// Whether the certificate of the connection may speak for a request with these headers.
pub(crate) fn counts(headers: &HeaderMap) -> bool {
    let by_page = headers.contains_key(ORIGIN)
        || headers
            .get_all("sec-fetch-site")
            .iter()
            .any(|site| site != "none");
    !by_page && !headers.contains_key(AUTHORIZATION)
}

#[cfg(test)]
mod tests;
