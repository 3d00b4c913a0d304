//! TLS settings that follow their files: a renewed certificate, key or CA is used without a restart.
//!
//! Owns looking at the files and swapping the config; it does not own connections. Whoever makes one
//! asks for [`TlsReload::current`], so a new set holds for new connections, and those that are open
//! go on as they are. Session tickets of an old set are worthless under a new one.
//!
//! Contents are compared, not times or names, so that swapped links, copies and slow clocks are all
//! seen. All files are read before any is used, and used as they were read; a certificate is only
//! taken with its key. A set that is missing, half-written or does not fit together leaves the last
//! good one in place and is logged once with the reason. [`TlsReload::watch`] takes a new set only at
//! the second look in a row that finds it, so that files still being written are left alone.
//!
//! Limits: 1 MiB per file; one look at a time, on a thread that may block.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};

use super::tls::{
    Build, ClientCertificates, TlsPaths, client_from, client_paths, protocols, server_builder,
    server_paths,
};
use crate::error::{IpcError, IpcResult};

// Between the two looks that must agree; a writer is hardly ever this slow between two writes.
const SETTLE: Duration = Duration::from_secs(1);

/// A TLS config and the files that it comes from.
pub struct TlsReload<C> {
    paths: TlsPaths,
    alpn: Vec<Vec<u8>>,
    build: Build<C>,
    current: ArcSwap<C>,
    // Held only by threads that may block.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    taken: Fingerprint,
    /// A new set that the last look found.
    candidate: Option<Fingerprint>,
    /// What was logged last, so that it is logged once.
    fault: Option<String>,
}

type Fingerprint = [u8; 32];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Take a new set only when two looks agree on it.
    Settled,
    /// Take what is there.
    Now,
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Same,
    Changing,
    Taken,
}

impl TlsReload<ServerConfig> {
    /// For accepting connections; as [`super::server_config`].
    pub fn server(
        cert: &Path,
        key: &Path,
        clients: ClientCertificates<'_>,
        alpn: &[&[u8]],
    ) -> IpcResult<Self> {
        let paths = server_paths(cert, key, clients);
        Self::open(paths, alpn, server_builder(clients))
    }
}

impl TlsReload<ClientConfig> {
    /// For making connections; as [`super::client_config`].
    pub fn client(
        ca: Option<&Path>,
        identity: Option<(&Path, &Path)>,
        alpn: &[&[u8]],
    ) -> IpcResult<Self> {
        Self::open(client_paths(ca, identity), alpn, client_from)
    }
}

impl<C: Send + Sync + 'static> TlsReload<C> {
    fn open(paths: TlsPaths, alpn: &[&[u8]], build: Build<C>) -> IpcResult<Self> {
        let files = paths.read()?;
        let alpn = protocols(alpn);
        Ok(Self {
            current: ArcSwap::from_pointee(build(&files, &alpn)?),
            seen: Mutex::new(Seen {
                taken: files.fingerprint(),
                ..Seen::default()
            }),
            paths,
            alpn,
            build,
        })
    }

    /// The config of the last good set.
    pub fn current(&self) -> Arc<C> {
        self.current.load_full()
    }

    /// Takes the files as they are now. A bad set is reported, and leaves the last good one in place;
    /// so does a look that is under way already, which is as good as a new one.
    pub async fn refresh(self: &Arc<Self>) -> IpcResult<()> {
        self.look_aside(Patience::Now).await.map(|_| ())
    }

    /// Looks at the files every so often, for as long as the future is polled.
    pub async fn watch(self: &Arc<Self>, every: Duration) -> Infallible {
        let mut pause = every;
        loop {
            tokio::time::sleep(pause).await;
            // What is wrong has been logged.
            let look = self.look_aside(Patience::Settled).await;
            pause = match look {
                Ok(Look::Changing) => every.min(SETTLE),
                _ => every,
            };
        }
    }

    async fn look_aside(self: &Arc<Self>, patience: Patience) -> IpcResult<Look> {
        let this = Arc::clone(self);
        // Disks may be slow, network disks may hang: no call may wait for one.
        tokio::task::spawn_blocking(move || this.look(patience))
            .await
            .unwrap_or_else(|error| Err(IpcError::Internal(format!("TLS reload: {error}"))))
    }

    fn look(&self, patience: Patience) -> IpcResult<Look> {
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            // What is in there is whole even if a holder of the lock panicked.
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return Ok(Look::Same),
        };
        let look = self.compare(&mut seen, patience);
        match &look {
            Ok(Look::Changing) => {}
            Ok(look) => {
                seen.fault = None;
                if *look == Look::Taken {
                    tracing::info!(files = ?self.paths, "renewed TLS files are in use");
                }
            }
            Err(error) => {
                let fault = error.to_string();
                if seen.fault.as_ref() != Some(&fault) {
                    tracing::warn!(
                        fault,
                        "changed TLS files are not used; the last good ones are"
                    );
                    seen.fault = Some(fault);
                }
            }
        }
        look
    }

    fn compare(&self, seen: &mut Seen, patience: Patience) -> IpcResult<Look> {
        let files = self.paths.read()?;
        let found = files.fingerprint();
        if found == seen.taken {
            seen.candidate = None;
            return Ok(Look::Same);
        }
        if patience == Patience::Settled && seen.candidate.replace(found) != Some(found) {
            return Ok(Look::Changing);
        }
        let config = (self.build)(&files, &self.alpn)?;
        self.current.store(Arc::new(config));
        seen.taken = found;
        seen.candidate = None;
        Ok(Look::Taken)
    }
}

impl<C> fmt::Debug for TlsReload<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsReload")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
