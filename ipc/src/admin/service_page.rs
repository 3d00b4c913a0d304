//! The page of a service: whether it lives, whether it is ready, and its metrics.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use prometheus_client::registry::Registry;

use super::{Answer, Page};

/// Whether a service is ready, with a word about it for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It takes calls.
    Ready,
    /// It takes none, and why: `/readyz` answers 503 with this text. Must not hold a secret.
    NotReady(String),
}

/// `/livez`, `/readyz` and `/metrics`.
pub struct ServicePage {
    registry: Arc<Registry>,
    ready: Box<dyn Fn() -> Readiness + Send + Sync>,
}

impl ServicePage {
    /// Shows the metrics of `registry`; `ready` is asked at every look at `/readyz`.
    pub fn new(
        registry: Arc<Registry>,
        ready: impl Fn() -> Readiness + Send + Sync + 'static,
    ) -> Self {
        Self {
            registry,
            ready: Box::new(ready),
        }
    }
}

impl Page for ServicePage {
    fn get(&self, path: &str) -> Option<Answer> {
        Some(match path {
            "/livez" => Answer::text("ok\n"),
            "/readyz" => match (self.ready)() {
                Readiness::Ready => Answer::text("ready\n"),
                Readiness::NotReady(why) => {
                    Answer::text_with(StatusCode::SERVICE_UNAVAILABLE, why + "\n")
                }
            },
            "/metrics" => Answer::metrics(&self.registry),
            _ => return None,
        })
    }

    fn paths(&self) -> &'static [&'static str] {
        &["/livez", "/readyz", "/metrics"]
    }
}

impl fmt::Debug for ServicePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServicePage").finish_non_exhaustive()
    }
}
