//! Which rule and which upstream a path has.
//!
//! Built once per configuration from the config's routes and from the method
//! options of the descriptor set; the config overrides. A look-up costs one
//! hash for a method that a descriptor or the config names, one more per
//! enclosing service or package otherwise. Nothing is allocated. A path that
//! no route covers is unknown; a method without a rule is refused (default
//! deny).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(crate) use intellirouter::security::ADMIN_ROLE as ADMIN;
pub(crate) use intellirouter::security::policy::{ANYONE, Access, is_name};
use intellirouter::security::policy::{Idempotency, MethodPolicy, method_policies};
use prost_reflect::DescriptorPool;

use crate::config::{Config, EVENT_PATHS, LimitsConfig, RouteConfig};
use crate::limits::{RateLimits, RouteRates};
use crate::telemetry::RouteMetrics;

/// The longest path that is looked up by its prefixes, in bytes, and the most
/// packages that may nest: a look-up must not become work for an attacker.
const MAX_PATH: usize = 1024;
const MAX_DEPTH: usize = 16;

/// Where calls go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The index of an upstream in the configuration.
    Upstream(usize),
    /// A service inside the gateway.
    Local,
    /// Nowhere: the route only names calls that no route covers.
    Nowhere,
}

pub(crate) struct Route {
    pub(crate) target: Target,
    pub(crate) access: Access,
    pub(crate) timeout: Option<Duration>,
    pub(crate) forward_authorization: bool,
    /// One message each way, as the descriptor set says: such a call may end
    /// after its caller's token.
    pub(crate) unary: bool,
    /// Several messages one way or both, as the descriptor set says. Of a method
    /// that no descriptor names neither is known.
    pub(crate) streams: bool,
    /// Whether a call may be made twice.
    pub(crate) idempotent: bool,
    pub(crate) metrics: RouteMetrics,
    /// Unset where no limit covers the route.
    pub(crate) rates: OnceLock<RouteRates>,
}

impl Route {
    fn new(name: &str, target: Target, access: Access) -> Self {
        Self {
            target,
            access,
            timeout: None,
            forward_authorization: false,
            unary: false,
            streams: false,
            idempotent: false,
            metrics: RouteMetrics::new(name.to_owned()),
            rates: OnceLock::new(),
        }
    }

    /// Whether everybody may call, without a token.
    pub(crate) fn is_public(&self) -> bool {
        self.access == Access::Public
    }

    /// The same for a part of what it covers.
    fn part(&self, name: &str) -> Self {
        let mut part = Self::new(name, self.target, self.access.clone());
        part.timeout = self.timeout;
        part.forward_authorization = self.forward_authorization;
        part.unary = self.unary;
        part.streams = self.streams;
        part.idempotent = self.idempotent;
        part
    }
}

pub(crate) struct RouteTable {
    /// By full path, `/package.Service/Method`.
    methods: HashMap<String, Arc<Route>>,
    /// By prefix, `/package.Service/` or `/package.`.
    prefixes: HashMap<String, Arc<Route>>,
    /// Calls that no route covers.
    pub(crate) unknown: Arc<Route>,
    /// `/events` and everything below it.
    pub(crate) events: Arc<Route>,
}

impl RouteTable {
    pub(crate) fn new(config: &Config, descriptors: &DescriptorPool) -> Self {
        let mut table = Self {
            methods: HashMap::new(),
            prefixes: HashMap::new(),
            unknown: Arc::new(Route::new("unknown", Target::Nowhere, Access::NoRule)),
            events: Arc::new(Route::new("/events", Target::Local, Access::NoRule)),
        };
        for (pattern, access) in [
            ("/grpc.health.v1.Health/*", Access::Public),
            ("/grpc.reflection.v1.ServerReflection/*", Access::anyone()),
            ("/intellirouter.events.v1.EventService/*", Access::anyone()),
        ] {
            table.insert(pattern, Route::new(pattern, Target::Local, access));
        }
        for route in &config.routes {
            table.insert(&route.pattern, from_config(route));
        }
        table.name_probe();
        for policy in method_policies(descriptors) {
            let unary = is_unary(descriptors, &policy.path);
            table.refine(config, policy, unary);
        }
        table
    }

    /// With the limits of each route. What a limit names is a route of its own,
    /// where a wider one covers it.
    pub(crate) fn limited(mut self, limits: &RateLimits) -> Self {
        for pattern in limits.patterns() {
            if !self.has(pattern)
                && let Some(wider) = self.wider(pattern)
            {
                self.insert(pattern, wider.part(pattern));
            }
        }
        let set = |name: &str, route: &Route| {
            if let Some(rates) = limits.of_route(name) {
                // Fails only where it is set already, and the table is new.
                let _ = route.rates.set(rates);
            }
        };
        for (path, route) in &self.methods {
            set(path, route);
        }
        for (prefix, route) in &self.prefixes {
            set(&format!("{prefix}*"), route);
        }
        set("unknown", &self.unknown);
        set(EVENT_PATHS, &self.events);
        self
    }

    /// The keys of patterns of rates that cover nothing: written wrongly, they
    /// would limit nobody.
    pub(crate) fn uncovering(&self, limits: &LimitsConfig) -> Vec<String> {
        let mut keys = Vec::new();
        for (i, rate) in limits.rates.iter().enumerate() {
            for (j, pattern) in rate.routes.iter().enumerate() {
                if !self.is_covered_by(pattern) {
                    keys.push(format!("limits.rates[{i}].routes[{j}]"));
                }
            }
        }
        keys
    }

    /// Whether a rate for this pattern covers any call.
    fn is_covered_by(&self, pattern: &str) -> bool {
        let inside = |prefix: &str| {
            let mut routes = self.methods.keys().chain(self.prefixes.keys());
            routes.any(|route| route.starts_with(prefix))
        };
        pattern == EVENT_PATHS
            || self.has(pattern)
            || self.wider(pattern).is_some()
            || pattern.strip_suffix('*').is_some_and(inside)
    }

    /// Whether it is the pattern of a route.
    fn has(&self, pattern: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(prefix) => self.prefixes.contains_key(prefix),
            None => self.methods.contains_key(pattern),
        }
    }

    /// The narrowest route that covers all that `pattern` does.
    fn wider(&self, pattern: &str) -> Option<Arc<Route>> {
        let part = pattern.trim_end_matches('*');
        let covering = self.prefixes.iter().filter(|(p, _)| part.starts_with(*p));
        covering
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, route)| route.clone())
    }

    /// The route of a path, or `None` where nothing covers it. Only paths that
    /// are exactly a service and a method can be covered: a backend that
    /// decodes or normalises paths must not see another one than was judged.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        if let Some(route) = self.methods.get(path) {
            return Some(route);
        }
        if path.len() > MAX_PATH || !is_method_path(path) {
            return None;
        }
        let slash = path.get(1..)?.find('/')? + 1;
        let mut prefix = &path[..=slash];
        for _ in 0..MAX_DEPTH {
            if let Some(route) = self.prefixes.get(prefix) {
                return Some(route);
            }
            prefix = &prefix[..=prefix[..prefix.len() - 1].rfind('.')?];
        }
        None
    }

    /// Methods of the descriptor set that are routed and that no rule covers.
    pub(crate) fn uncovered(&self, descriptors: &DescriptorPool) -> Vec<String> {
        method_policies(descriptors)
            .into_iter()
            .map(|policy| policy.path)
            .filter(|path| {
                self.find(path)
                    .is_some_and(|route| route.access == Access::NoRule)
            })
            .collect()
    }

    /// Health checks are answered at once; the other method watches for ever.
    fn name_probe(&mut self) {
        let check = "/grpc.health.v1.Health/Check";
        if !self.methods.contains_key(check)
            && let Some(covering) = self.find(check)
        {
            let mut probe = covering.part(check);
            probe.unary = true;
            self.insert(check, probe);
        }
    }

    fn insert(&mut self, pattern: &str, route: Route) {
        match pattern.strip_suffix('*') {
            Some(prefix) => self.prefixes.insert(prefix.to_owned(), Arc::new(route)),
            None => self.methods.insert(pattern.to_owned(), Arc::new(route)),
        };
    }

    /// Gives a method of the descriptor set a route of its own, so that its
    /// options hold where the config is silent and metrics name the method.
    fn refine(&mut self, config: &Config, policy: MethodPolicy, unary: bool) {
        let path = policy.path;
        let Some(covering) = self.find(&path) else {
            return;
        };
        let written = config.routes.iter().find(|route| {
            route.pattern == path || Arc::ptr_eq(covering, self.by_pattern(&route.pattern))
        });
        let mut route = Route::new(&path, covering.target, covering.access.clone());
        route.forward_authorization = covering.forward_authorization;
        route.unary = unary;
        route.streams = !unary;
        route.idempotent = written
            .and_then(|route| route.idempotent)
            .unwrap_or(policy.idempotency != Idempotency::Unknown);
        route.timeout = written.and_then(|route| route.timeout).or(policy.timeout);
        if route.access == Access::NoRule {
            route.access = policy.access;
        }
        self.methods.insert(path, Arc::new(route));
    }

    fn by_pattern(&self, pattern: &str) -> &Arc<Route> {
        match pattern.strip_suffix('*') {
            Some(prefix) => self.prefixes.get(prefix),
            None => self.methods.get(pattern),
        }
        .unwrap_or(&self.unknown)
    }
}

fn is_unary(descriptors: &DescriptorPool, path: &str) -> bool {
    let Some((service, name)) = path.trim_start_matches('/').split_once('/') else {
        return false;
    };
    descriptors
        .get_service_by_name(service)
        .and_then(|service| service.methods().find(|method| method.name() == name))
        .is_some_and(|method| !method.is_client_streaming() && !method.is_server_streaming())
}

/// `/package.Service/Method` and nothing else.
fn is_method_path(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(service, method)| service.split('.').all(is_name) && is_name(method))
}

fn from_config(config: &RouteConfig) -> Route {
    let access = match (&config.roles, config.public) {
        (_, true) => Access::Public,
        (None, _) if config.all_roles.is_empty() => Access::NoRule,
        (any, _) => Access::Roles {
            any: any.clone().unwrap_or_default(),
            all: config.all_roles.clone(),
        },
    };
    let target = config.upstream.map_or(Target::Local, Target::Upstream);
    let mut route = Route::new(&config.pattern, target, access);
    route.timeout = config.timeout;
    route.forward_authorization = config.forward_authorization;
    route.idempotent = config.idempotent.unwrap_or(false);
    route
}

#[cfg(test)]
mod tests;
