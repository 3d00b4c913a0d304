//! What a server knows of each method, found by the path of a call.
//!
//! Made once, when the server is bound. A look-up costs one hash for a method that the descriptors or
//! the builder name, one more for others. Nothing is allocated, and no path of a caller is kept.

use std::collections::HashMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::metrics::{Meter, ServerMetrics};
use super::rules::{HEALTH, REFLECTION, Rules};
use crate::security::policy::{Access, MethodPolicy};

// Of their own, so that a full server still says that it lives, and neither questions nor watches,
// for which nobody needs a token, take the place of a call or of each other.
const HEALTH_CHECKS: usize = 1024;
const HEALTH_WATCHES: usize = 64;
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(10);
// Of its own, because it needs no role.
const REFLECTIONS: usize = 64;

const UNKNOWN: &str = "unknown";

#[derive(Debug)]
pub(super) struct Method {
    /// Its path, `/package.Service/*` for others of a service, or `unknown`.
    pub(super) name: String,
    pub(super) access: Access,
    /// The longest time for a call.
    pub(super) timeout: Option<Duration>,
    /// One for each call in progress.
    pub(super) places: Arc<Semaphore>,
    pub(super) meter: Option<Meter>,
    /// Whether that was logged.
    pub(super) status_too_long: Once,
}

/// The places for calls in progress, by what is called.
struct Places {
    calls: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    reflections: Arc<Semaphore>,
}

impl Places {
    fn new(max_calls: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            calls: places(max_calls),
            checks: places(HEALTH_CHECKS),
            watches: places(HEALTH_WATCHES),
            reflections: places(REFLECTIONS),
        }
    }

    fn of(&self, service: &str, method: Option<&str>) -> Arc<Semaphore> {
        let places = match service {
            HEALTH if is_watch(method) => &self.watches,
            HEALTH => &self.checks,
            REFLECTION => &self.reflections,
            _ => &self.calls,
        };
        Arc::clone(places)
    }
}

fn is_watch(method: Option<&str>) -> bool {
    method == Some("Watch")
}

/// A check is answered at once, so whoever takes longer only holds its place.
fn timeout(service: &str, method: Option<&str>, written: Option<Duration>) -> Option<Duration> {
    if service != HEALTH || is_watch(method) {
        return written;
    }
    Some(written.map_or(HEALTH_CHECK_TIMEOUT, |own| own.min(HEALTH_CHECK_TIMEOUT)))
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

impl Plan<'_> {
    fn meter(&self, method: &str) -> Option<Meter> {
        self.metrics
            .map(|(metrics, server)| metrics.meter(server, method))
    }
}

impl Methods {
    pub(super) fn new(services: &[&'static str], plan: &Plan<'_>) -> Self {
        let places = Places::new(plan.max_calls);
        let rules = plan.rules;
        let mut named = HashMap::new();
        let mut others = HashMap::new();
        for service in services.iter().copied() {
            let method = |name: String, method: Option<&str>, policy: Option<&MethodPolicy>| {
                let written = policy.and_then(|policy| policy.timeout);
                Arc::new(Method {
                    access: rules.access(service, method, policy.map(|policy| &policy.access)),
                    timeout: timeout(service, method, written),
                    places: places.of(service, method),
                    meter: plan.meter(&name),
                    status_too_long: Once::new(),
                    name,
                })
            };
            for name in rules.named_in(service) {
                let path = format!("/{service}/{name}");
                named.insert(path.clone(), method(path, Some(name), None));
            }
            for policy in rules.policies_of(service) {
                let path = policy.path.clone();
                let name = path.rsplit('/').next();
                named.insert(path.clone(), method(path.clone(), name, Some(policy)));
            }
            others.insert(service, method(format!("/{service}/*"), None, None));
        }
        let unknown = Arc::new(Method {
            access: Access::anyone(),
            timeout: None,
            places: places.calls,
            meter: plan.meter(UNKNOWN),
            status_too_long: Once::new(),
            name: UNKNOWN.to_owned(),
        });
        Self {
            named,
            others,
            unknown,
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
