//! What a server knows of each method, found by the path of a call.
//!
//! Made once, when the server is bound. A look-up costs one hash for a method that the descriptors or
//! the builder name, one more for others. Nothing is allocated, and no path of a caller is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::metrics::{Meter, ServerMetrics};
use super::rules::{HEALTH, Rules};
use crate::security::policy::Access;

// Of its own, so that a full server still says that it lives, and a flood of questions takes no
// place of a call.
const HEALTH_CALLS: usize = 256;

#[derive(Debug)]
pub(super) struct Method {
    pub(super) access: Access,
    /// The longest time for a call.
    pub(super) timeout: Option<Duration>,
    /// One for each call in progress.
    pub(super) places: Arc<Semaphore>,
    pub(super) meter: Option<Meter>,
}

#[derive(Debug)]
pub(super) struct Methods {
    /// By path.
    named: HashMap<String, Arc<Method>>,
    /// The other methods of each service, by its name.
    others: HashMap<&'static str, Arc<Method>>,
    /// Paths of no service: told that there is none, once the caller has shown who it is.
    unknown: Arc<Method>,
}

/// What the table is made from, beside the services.
pub(super) struct Plan<'a> {
    pub(super) rules: &'a Rules,
    pub(super) metrics: Option<&'a (ServerMetrics, String)>,
    pub(super) max_calls: usize,
}

impl Methods {
    pub(super) fn new(services: &[&'static str], plan: &Plan<'_>) -> Self {
        let calls = Arc::new(Semaphore::new(plan.max_calls));
        let health = Arc::new(Semaphore::new(HEALTH_CALLS));
        let method = |label: &str, access: Access, timeout, places: &Arc<Semaphore>| {
            Arc::new(Method {
                access,
                timeout,
                places: Arc::clone(places),
                meter: plan
                    .metrics
                    .map(|(metrics, server)| metrics.meter(server, label)),
            })
        };
        let rules = plan.rules;
        let mut named = HashMap::new();
        let mut others = HashMap::new();
        for service in services.iter().copied() {
            let places = if service == HEALTH { &health } else { &calls };
            for name in rules.named_in(service) {
                let path = format!("/{service}/{name}");
                let access = rules.access(service, Some(name), None);
                named.insert(path.clone(), method(&path, access, None, places));
            }
            for policy in rules.policies_of(service) {
                let name = policy.path.rsplit('/').next();
                let access = rules.access(service, name, Some(&policy.access));
                let entry = method(&policy.path, access, policy.timeout, places);
                named.insert(policy.path.clone(), entry);
            }
            let access = rules.access(service, None, None);
            let label = format!("/{service}/*");
            others.insert(service, method(&label, access, None, places));
        }
        Self {
            named,
            others,
            unknown: method("unknown", Access::anyone(), None, &calls),
        }
    }

    pub(super) fn find(&self, path: &str) -> &Arc<Method> {
        if let Some(method) = self.named.get(path) {
            return method;
        }
        super::rules::split(path)
            .and_then(|(service, _)| self.others.get(service))
            .unwrap_or(&self.unknown)
    }

    /// The named methods that nobody may call, because no rule speaks of them.
    pub(super) fn closed(&self) -> Vec<&str> {
        let closed = |method: &Method| method.access == Access::NoRule;
        let mut paths: Vec<_> = self
            .named
            .iter()
            .filter(|(_, method)| closed(method))
            .map(|(path, _)| path.as_str())
            .collect();
        paths.sort_unstable();
        paths
    }
}
