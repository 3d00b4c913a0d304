//! An upstream as all workers share it: its endpoints, what is known of them,
//! and how many retries are left.
//!
//! Decisions are made per process and sockets belong to a worker: no connection
//! is kept here. Where the endpoints come from is [`super::discover`]'s concern;
//! that, what is known of an endpoint ([`Standing`]) and the retry budget are
//! taken over by the next generation while the settings that they follow are
//! the same, whatever else changes: a reload closes no breaker.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Once};

use arc_swap::ArcSwap;
use intellirouter::resilience::RetryBudget;

use super::connect::{Dialer, UpstreamError};
use super::discover::Discovery;
use super::endpoint::{Endpoint, Standing};
use super::replay::Room;
use super::status::Codes;
use crate::config::{EndpointConfig, UpstreamConfig, UpstreamTls};
use crate::files::{Fingerprint, fingerprint};
use crate::telemetry::UpstreamFigures;

/// See the module's comment.
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(super) config: UpstreamConfig,
    files: Fingerprint,
    /// Those that there are now. Replaced as a whole, and only when it changes:
    /// workers compare the pointer.
    endpoints: ArcSwap<Endpoints>,
    pub(super) budget: Arc<RetryBudget>,
    /// For what calls keep for another try.
    pub(super) replays: Arc<Room>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) discovery: Arc<Discovery>,
    /// Whether its endpoints are looked after; a reload may start it again.
    kept: Once,
    /// Counts those who look after them, of all generations: the latest does.
    pub(super) keepers: Arc<AtomicU64>,
}

/// The endpoints that there are at one time.
pub(crate) type Endpoints = Vec<Arc<Endpoint>>;

impl Upstream {
    /// As the configuration says: `old`, if that is the same and so are its
    /// certificates. Reads files. Endpoints that must be looked for are looked
    /// for from [`Self::start`] on.
    pub(crate) fn open(
        config: &UpstreamConfig,
        old: Option<&Arc<Self>>,
        figures: &UpstreamFigures,
    ) -> Result<Arc<Self>, UpstreamError> {
        let tls = config.tls.as_ref();
        // Before the files are used: a change in between shows at the next look.
        let files = fingerprint(tls.into_iter().flat_map(UpstreamTls::files));
        if let Some(old) = old.filter(|old| old.config == *config && old.files == files) {
            return Ok(old.clone());
        }
        let old_discovery = old.map(|old| &old.discovery);
        let failed = old_discovery.map(|old| old.failed().clone());
        let dialer = Dialer::new(config, figures.clone(), failed.unwrap_or_default())?;
        let discovery = Discovery::open(config, &dialer, old_discovery)?;
        let old_budget = old.filter(|old| old.config.retries == config.retries);
        let retries = &config.retries;
        let this = Self {
            name: config.name.clone(),
            files,
            endpoints: ArcSwap::default(),
            budget: old_budget.map_or_else(
                || RetryBudget::new(retries.budget_ratio, retries.budget_per_second).into(),
                |old| old.budget.clone(),
            ),
            replays: old_budget.map_or_else(
                || Room::new(retries.replay_bytes_in_all, retries.replay_bytes).into(),
                |old| old.replays.clone(),
            ),
            dialer: dialer.into(),
            config: config.clone(),
            kept: Once::new(),
            keepers: old.map(|old| old.keepers.clone()).unwrap_or_default(),
            discovery,
        };
        this.replace(&this.discovery.known(), old.map(|old| &**old))?;
        Ok(Arc::new(this))
    }

    /// What is wrong with the files that an upstream names, if anything. A file
    /// of endpoints that is `followed` already is judged where it is followed.
    pub(crate) fn check(config: &UpstreamConfig, followed: bool) -> Result<(), UpstreamError> {
        let dialer = Dialer::new(config, UpstreamFigures::default(), Arc::default())?;
        if !followed {
            Discovery::first(&config.source, &dialer)?;
        }
        Ok(())
    }

    /// This is in use from now on: it is told which endpoints there are. Must
    /// run on the runtime that lasts as long as the process.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.discovery.serve(self) {
            // Failures to connect were those of other settings.
            for endpoint in &*self.endpoints() {
                endpoint.standing.dial.forget();
            }
        }
        self.kept.call_once(|| self.keep());
    }

    /// Ready once it is known whether there are endpoints, within some seconds.
    pub(crate) async fn first_look(&self) {
        self.discovery.first_look().await;
    }

    /// Shows how many endpoints there are.
    pub(crate) fn observe(&self) {
        let number = i64::try_from(self.endpoints().len());
        self.dialer
            .figures
            .endpoints
            .set(number.unwrap_or(i64::MAX));
    }

    /// What operators are told.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let endpoints = self.endpoints();
        let endpoints: Vec<_> = endpoints.iter().map(|one| one.describe()).collect();
        serde_json::json!({
            "name": self.name,
            "discovery": self.discovery.describe(),
            "retries_left": self.budget.left(),
            "endpoints": endpoints,
        })
    }

    /// Which statuses of a backend are its failures.
    pub(super) fn failures(&self) -> Codes {
        Codes::of(&self.config.breaker.failure_codes)
    }

    /// Those that there are now.
    pub(crate) fn endpoints(&self) -> Arc<Endpoints> {
        self.endpoints.load_full()
    }

    /// From now on there are these; those that are there already stay as they
    /// are. `old` is the upstream of the generation before.
    pub(super) fn replace(
        &self,
        list: &[EndpointConfig],
        old: Option<&Self>,
    ) -> Result<(), UpstreamError> {
        let present = self.endpoints();
        let before = old.map(Self::endpoints).unwrap_or_default();
        let next = list.iter().map(|endpoint| {
            if let Some(same) = present.iter().find(|one| one.config == *endpoint) {
                return Ok(same.clone());
            }
            let known = before.iter().find(|one| one.config == *endpoint);
            let standing = known
                .map(|one| &one.standing)
                .filter(|standing| standing.follows(&self.config));
            let standing = standing.cloned().unwrap_or_else(|| {
                let name = format!("{} {}:{}", self.name, endpoint.host, endpoint.port);
                Arc::new(Standing::new(&name, &self.config))
            });
            Endpoint::new(endpoint, self.dialer.clone(), standing).map(Arc::new)
        });
        let next = next.collect::<Result<Endpoints, _>>()?;
        let is_present = |one: &Arc<Endpoint>| present.iter().any(|had| Arc::ptr_eq(had, one));
        if next.len() != present.len() || !next.iter().all(is_present) {
            self.endpoints.store(Arc::new(next));
        }
        Ok(())
    }
}
