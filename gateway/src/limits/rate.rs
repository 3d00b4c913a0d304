//! One rate: which calls it covers, whose bucket each takes from, and how a
//! refusal reads.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::global::{Global, Outcome};
use super::key::{Net, Parts};
use super::local::Local;
use super::metrics::{LimitMetrics, RateMetrics};
use super::pace::Pace;
use super::quota::Quota;
use super::store::{Store, TAG};
use crate::config::{Per, RateConfig};
use crate::layers::authenticate::Identity;
use crate::reply::{OverLimit, Reply};

/// See the module's comment.
pub(super) struct Rate {
    config: RateConfig,
    meter: Meter,
    metrics: RateMetrics,
    /// Why its buckets are full, though a rate of this name had some before.
    starts_full: Option<&'static str>,
    /// What is counted, as refusals name it.
    subject: Arc<str>,
    description: Arc<str>,
}

/// Where it counts. Outlives the rate as long as its numbers stay.
#[derive(Clone)]
enum Meter {
    Local(Arc<Local>),
    Global(Arc<Global>, Arc<Store>),
}

/// What a rate may look at.
pub(super) struct Call<'c> {
    pub(super) address: IpAddr,
    pub(super) route: &'c str,
    pub(super) identity: Option<&'c Identity>,
}

/// No room: how long until one call passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) wait: Duration,
}

impl Rate {
    /// `store` is there where the rate is global; `before` has its name.
    pub(super) fn new(
        config: &RateConfig,
        store: Option<&Arc<Store>>,
        before: Option<&Self>,
        metrics: &LimitMetrics,
    ) -> Self {
        let metrics = metrics.of(&config.name);
        let kinds: Vec<_> = config.meter.per.iter().map(|per| per.name()).collect();
        let (subject, whose) = match kinds.is_empty() {
            true => ("all".to_owned(), "in all".to_owned()),
            false => (kinds.join(","), format!("for each {}", kinds.join(" and "))),
        };
        let description = format!(
            "limit \"{}\": {} calls per {:?} {whose}",
            config.name, config.meter.rate, config.meter.period
        );
        Self {
            meter: Meter::new(config, store, before, &metrics),
            starts_full: before
                .and_then(|before| before.config.meter.starts_full_as(&config.meter)),
            config: config.clone(),
            metrics,
            subject: subject.into(),
            description: description.into(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Tells operators what a reload could not keep.
    pub(super) fn announce(&self) {
        if let Some(changed) = self.starts_full {
            tracing::warn!("limit \"{}\" starts full: {changed} changed", self.name());
        }
    }

    pub(super) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.config.routes.iter().map(String::as_str)
    }

    /// Whether it covers a route of this name.
    pub(super) fn covers_route(&self, name: &str) -> bool {
        let covers = |pattern: &str| {
            pattern == name
                || pattern
                    .strip_suffix('*')
                    .is_some_and(|prefix| name.starts_with(prefix))
        };
        self.config.routes.is_empty() || self.patterns().any(covers)
    }

    pub(super) fn needs_identity(&self) -> bool {
        !self.config.roles.is_empty() || self.is_per(Per::Subject) || self.is_per(Per::Role)
    }

    pub(super) fn may_wait(&self) -> bool {
        matches!(self.meter, Meter::Global(..))
    }

    fn is_per(&self, kind: Per) -> bool {
        self.config.meter.per.contains(&kind)
    }

    /// The buckets that a call takes from: one, or one for each role that it
    /// counts (callers without a role have one in common), or none when it does
    /// not cover the caller.
    pub(super) fn buckets<'c>(&'c self, call: &'c Call<'c>) -> impl Iterator<Item = Parts<'c>> {
        let held = call.identity.map_or(&[][..], Identity::roles);
        let counted = |role: &&String| {
            let roles = &self.config.roles;
            roles.is_empty() || roles.contains(role)
        };
        let covered = self.config.roles.is_empty() || held.iter().any(|role| counted(&role));
        let roles = if self.is_per(Per::Role) { held } else { &[] };
        let roles = roles.iter().filter(counted);
        let alone = covered && roles.clone().next().is_none();
        let caller = call.identity.filter(|_| self.is_per(Per::Subject));
        let parts = move |role| Parts {
            address: self.is_per(Per::Address).then(|| Net::of(call.address)),
            issuer: caller.map(Identity::issuer),
            subject: caller.map(Identity::subject),
            role,
            route: self.is_per(Per::Route).then_some(call.route),
        };
        roles
            .map(|role| Some(role.as_str()))
            .chain(alone.then_some(None))
            .map(parts)
    }

    /// Takes one call's worth from a bucket.
    pub(super) async fn take(&self, parts: &Parts<'_>) -> Result<Quota, Refused> {
        let outcome = match &self.meter {
            Meter::Local(local) => Outcome {
                result: local.take(parts),
                fallback: false,
            },
            Meter::Global(global, _) => global.take(parts).await,
        };
        let metrics = &self.metrics;
        match (outcome.result, outcome.fallback) {
            (Ok(_), false) => &metrics.allowed,
            (Ok(_), true) => &metrics.fallback_allowed,
            (Err(_), false) => &metrics.refused,
            (Err(_), true) => &metrics.fallback_refused,
        }
        .inc();
        match outcome.result {
            Ok(left) => Ok(Quota::new(&self.config.meter, left)),
            Err(wait) => Err(Refused { wait }),
        }
    }

    /// Whether it is counted with other gateways.
    pub(super) fn is_global(&self) -> bool {
        matches!(self.meter, Meter::Global(..))
    }

    /// Undoes one take.
    pub(super) fn give_back(&self, parts: &Parts<'_>) {
        self.metrics.given_back.inc();
        match &self.meter {
            Meter::Local(local) => local.give_back(parts),
            Meter::Global(global, _) => global.give_back(parts),
        }
    }

    /// How long until there is room; takes nothing.
    pub(super) fn wait(&self, parts: &Parts<'_>) -> Duration {
        match &self.meter {
            Meter::Local(local) => local.wait(parts),
            Meter::Global(global, _) => global.wait(parts),
        }
    }

    /// The answer to a call that would pass after `wait`.
    pub(super) fn refusal(&self, wait: Duration) -> Reply {
        Reply::over_limit(
            OverLimit {
                subject: self.subject.clone(),
                description: self.description.clone(),
                quota: Quota::refused(&self.config.meter, wait),
            },
            wait,
        )
    }
}

impl Meter {
    fn new(
        config: &RateConfig,
        store: Option<&Arc<Store>>,
        before: Option<&Rate>,
        metrics: &RateMetrics,
    ) -> Self {
        let meter = &config.meter;
        // Buckets of other callers are of no use.
        let before = before.filter(|before| before.config.meter.per == meter.per);
        let same = before.filter(|before| before.config.meter == *meter);
        match (same.map(|same| &same.meter), store) {
            (Some(Self::Local(local)), _) => return Self::Local(local.clone()),
            (Some(Self::Global(global, old)), Some(store)) if Arc::ptr_eq(old, store) => {
                return Self::Global(global.clone(), old.clone());
            }
            _ => {}
        }
        let (pace, keys) = (Pace::new(meter), metrics.keys.clone());
        match store.filter(|_| meter.global) {
            None => {
                let before = before.and_then(|before| match &before.meter {
                    Self::Local(local) => Some(&**local),
                    Self::Global(..) => None,
                });
                Self::Local(Arc::new(Local::new(pace, meter.keys, keys, before)))
            }
            Some(store) => {
                let before = before.and_then(|before| match &before.meter {
                    Self::Global(global, _) => Some(&**global),
                    Self::Local(_) => None,
                });
                // With its numbers: gateways of another generation count apart.
                let (name, rate, burst) = (&config.name, meter.rate, meter.burst);
                let period = meter.period.as_millis();
                let prefix = format!("{TAG}{name}:{rate}/{period}/{burst}:");
                let store = store.clone();
                let global = Global::new(prefix, pace, meter.keys, keys, store.clone(), before);
                Self::Global(global, store)
            }
        }
    }
}
