//! Looks after the endpoints of an upstream, for the whole process, once a
//! second: has each of them checked, where the configuration says so, and ejects
//! those that fail more than the others.
//!
//! One task for each upstream, and one for each endpoint that is checked. They
//! follow the endpoints as these come and go, within [`EVERY`], and end that long
//! after the upstream at the latest, or when the next generation has its own: a call
//! may hold the old one for long, and what is known of the endpoints is shared.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::shared::{Endpoints, Upstream};
use super::{ejection, health};
use crate::config::HealthConfig;

/// See the module's comment.
const EVERY: Duration = Duration::from_secs(1);

impl Upstream {
    /// Has its endpoints looked after for as long as it lives.
    pub(crate) fn keep(self: &Arc<Self>) {
        let number = self.keepers.fetch_add(1, Relaxed) + 1;
        tokio::spawn(keep(Arc::downgrade(self), number));
    }
}

async fn keep(upstream: Weak<Upstream>, number: u64) {
    let mut seen = Arc::<Endpoints>::default();
    let mut checks = Vec::new();
    loop {
        if let Some(upstream) = upstream.upgrade()
            && upstream.keepers.load(Relaxed) == number
        {
            let endpoints = upstream.endpoints();
            if !Arc::ptr_eq(&endpoints, &seen) {
                match &upstream.config.health {
                    Some(config) => follow(&mut checks, &endpoints, &upstream.name, config),
                    None => endpoints
                        .iter()
                        .for_each(|one| one.standing.health.forget()),
                }
                seen = endpoints;
            }
            let config = &upstream.config.ejection;
            ejection::look(&upstream.name, &seen, config, Instant::now());
        } else {
            return;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// One that is asked; no longer, when this is dropped.
struct Asked {
    endpoint: Arc<Endpoint>,
    task: JoinHandle<()>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn follow(checks: &mut Vec<Asked>, present: &Endpoints, upstream: &str, config: &HealthConfig) {
    checks.retain(|check| present.iter().any(|one| Arc::ptr_eq(one, &check.endpoint)));
    for endpoint in present {
        if !checks
            .iter()
            .any(|check| Arc::ptr_eq(&check.endpoint, endpoint))
        {
            let check = health::follow(upstream.to_owned(), endpoint.clone(), config.clone());
            checks.push(Asked {
                endpoint: endpoint.clone(),
                task: tokio::spawn(check),
            });
        }
    }
}

#[cfg(test)]
mod tests;
