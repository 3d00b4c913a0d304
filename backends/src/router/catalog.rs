//! The settings of the six strategies: in memory for every request, in the database for the next
//! start.
//!
//! Owns its table and the defaults; a strategy that was never changed has no row. It does not own
//! what the settings mean. A change is in force once it is on disk; changes are made one after the
//! other, as each may build on what the one before left. It fails with [`StorageError`], and with
//! INVALID_ARGUMENT for settings that cannot work.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use intellirouter_proto::intellirouter::model_registry::v1::{
    RoutingStrategy, StrategyConfig, StrategyInfo, UpdateRoutingStrategyRequest,
};
use prost::Message;
use rusqlite::types::Type;
use rusqlite::{Connection, params};
use tokio::sync::Mutex;
use tonic::Status;

use super::error::RouteError;
use super::limits::{ATTEMPTS, TIMEOUT_MS};
use super::readings::Readings;
use super::strategies::{self, Parameters, Strategy};
use crate::faults::Faults;
use crate::storage::{Database, StorageError};

/// The tables of the router, for [`Database::open`].
pub const MIGRATIONS: &[&str] = &["CREATE TABLE routing_strategies (
    type INTEGER PRIMARY KEY,
    enabled INTEGER NOT NULL,
    config BLOB NOT NULL
) STRICT"];

/// Models that are tried after the first unless the strategy's settings say otherwise.
const FALLBACK_ATTEMPTS: u32 = 2;
/// Where an UpdateRoutingStrategy request has the parameters.
const PARAMETERS: &str = "config.parameters";
/// Where a request to be routed has them.
const OVERRIDES: &str = "routing.strategy_parameters";

/// The settings of one strategy.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) kind: RoutingStrategy,
    pub(super) enabled: bool,
    pub(super) config: StrategyConfig,
    /// As its own parameters make it.
    pub(super) ready: Ready,
}

/// A strategy with its parameters read.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) strategy: Arc<dyn Strategy>,
    /// Above it a model has a high latency; `None`: no bound.
    pub(super) max_latency_ms: Option<u32>,
}

impl Setting {
    fn default_of(kind: RoutingStrategy) -> Self {
        let config = StrategyConfig {
            max_fallback_attempts: FALLBACK_ATTEMPTS,
            ..Default::default()
        };
        Self::new(kind, true, config, &mut Faults::default())
    }

    /// Adds to the faults what can't work in the settings.
    fn new(
        kind: RoutingStrategy,
        enabled: bool,
        config: StrategyConfig,
        faults: &mut Faults,
    ) -> Self {
        let ready = read(kind, &[(PARAMETERS, &config.parameters)], faults);
        Self {
            kind,
            enabled,
            config,
            ready,
        }
    }

    /// The same settings, in force or not.
    fn enabled(&self, enabled: bool) -> Self {
        Self {
            enabled,
            config: self.config.clone(),
            ready: self.ready.clone(),
            kind: self.kind,
        }
    }

    /// The strategy as it is for a request with these parameters, which override the stored ones.
    pub(super) fn with(&self, overrides: &HashMap<String, String>, faults: &mut Faults) -> Ready {
        if overrides.is_empty() {
            return self.ready.clone();
        }
        let maps = [
            (PARAMETERS, &self.config.parameters),
            (OVERRIDES, overrides),
        ];
        read(self.kind, &maps, faults)
    }

    /// As callers see it.
    pub(super) fn info(&self) -> StrategyInfo {
        StrategyInfo {
            r#type: self.kind.into(),
            name: strategies::name(self.kind).to_owned(),
            description: strategies::description(self.kind).to_owned(),
            config: Some(self.config.clone()),
            enabled: self.enabled,
        }
    }
}

/// Later maps override earlier ones, entry by entry.
fn read(
    kind: RoutingStrategy,
    maps: &[(&'static str, &HashMap<String, String>)],
    faults: &mut Faults,
) -> Ready {
    let mut parameters = Parameters::new(faults);
    for (at, map) in maps {
        parameters.add(at, map);
    }
    let max_latency_ms = parameters.number("max_latency_ms", 1..=TIMEOUT_MS);
    let strategy = strategies::read(kind, &mut parameters);
    parameters.finish(kind);
    Ready {
        strategy,
        max_latency_ms,
    }
}

/// The settings of all strategies.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) database: Database,
    settings: Arc<RwLock<Vec<Arc<Setting>>>>,
    /// Held from the look at what is there until the change is in force.
    changing: Arc<Mutex<()>>,
}

impl Catalog {
    /// Reads what the database holds.
    pub(super) async fn open(database: Database) -> Result<Self, StorageError> {
        let mut stored = database.read(load).await?;
        let all = strategies::ALL.into_iter().map(|kind| {
            let setting = stored.remove(&kind.into());
            Arc::new(setting.unwrap_or_else(|| Setting::default_of(kind)))
        });
        Ok(Self {
            database,
            settings: Arc::new(RwLock::new(all.collect())),
            changing: Arc::default(),
        })
    }

    /// All strategies, in the order of their numbers.
    pub(super) fn all(&self) -> Vec<Arc<Setting>> {
        let settings = self.settings.read();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The strategy that a request asks for. UNSPECIFIED: round robin, or if that is disabled, the
    /// first that is enabled.
    pub(super) fn enabled(&self, kind: RoutingStrategy) -> Result<Arc<Setting>, RouteError> {
        let all = self.all();
        let mut enabled = all.iter().filter(|setting| setting.enabled);
        let found = match kind {
            RoutingStrategy::Unspecified => enabled.next(),
            kind => enabled.find(|setting| setting.kind == kind),
        };
        let found = found.cloned();
        found.ok_or_else(|| RouteError::Disabled(strategies::name(kind)))
    }

    /// Changes one strategy. Without a config, what it had stays.
    pub(super) async fn update(
        &self,
        request: UpdateRoutingStrategyRequest,
        readings: &Readings,
    ) -> Result<Arc<Setting>, Status> {
        let kind = check(&request)?;
        let (enabled, given) = (request.enabled, request.config);
        let given = match given {
            Some(config) => {
                let read = move || {
                    let mut faults = Faults::default();
                    let setting = Setting::new(kind, enabled, config, &mut faults);
                    faults.into_result().map(|()| setting)
                };
                Some(readings.run(read).await??)
            }
            None => None,
        };
        // Goes along with the write, which is done even if the caller goes away.
        let turn = Arc::clone(&self.changing).lock_owned().await;
        let setting = Arc::new(given.unwrap_or_else(|| self.current(kind).enabled(enabled)));
        let memory = Arc::clone(&self.settings);
        let written = self.database.write_then(
            move |db| {
                store(db, &setting)?;
                Ok::<_, StorageError>(setting)
            },
            move |setting| {
                let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
                let mut places = memory.iter_mut();
                if let Some(place) = places.find(|place| place.kind == setting.kind) {
                    *place = Arc::clone(setting);
                }
                drop(turn);
            },
        );
        Ok(written.await.map_err(|error| {
            // The caller learns no more than that it failed.
            tracing::error!(%error, "the settings of a strategy could not be stored");
            RouteError::Storage(error)
        })?)
    }

    fn current(&self, kind: RoutingStrategy) -> Arc<Setting> {
        let found = self.all().into_iter().find(|setting| setting.kind == kind);
        found.unwrap_or_else(|| Arc::new(Setting::default_of(kind)))
    }
}

/// Which strategy the request is about, if it is well formed.
fn check(request: &UpdateRoutingStrategyRequest) -> Result<RoutingStrategy, Status> {
    let mut faults = Faults::default();
    let kind = request.r#type();
    if kind == RoutingStrategy::Unspecified {
        let expected = "expected a value of RoutingStrategy other than \
                        ROUTING_STRATEGY_UNSPECIFIED";
        faults.add("type", expected);
    }
    if let Some(config) = &request.config {
        faults.map(PARAMETERS, &config.parameters, None);
        let fallback = config.fallback_strategy;
        faults.variant::<RoutingStrategy>("config.fallback_strategy", fallback, "RoutingStrategy");
        if fallback != 0 && fallback == request.r#type {
            let expected = "expected another strategy than the one it is the fallback of";
            faults.add("config.fallback_strategy", expected);
        }
        let attempts = config.max_fallback_attempts;
        faults.at_most("config.max_fallback_attempts", attempts, ATTEMPTS - 1);
        faults.at_most("config.timeout_ms", config.timeout_ms, TIMEOUT_MS);
    }
    faults.into_result()?;
    Ok(kind)
}

fn store(db: &Connection, setting: &Setting) -> Result<(), rusqlite::Error> {
    db.execute(
        "INSERT INTO routing_strategies (type, enabled, config) VALUES (?1, ?2, ?3)
         ON CONFLICT (type) DO UPDATE SET enabled = excluded.enabled, config = excluded.config",
        params![
            i32::from(setting.kind),
            setting.enabled,
            setting.config.encode_to_vec()
        ],
    )?;
    Ok(())
}

fn load(db: &Connection) -> Result<HashMap<i32, Setting>, StorageError> {
    let mut rows = db.prepare("SELECT type, enabled, config FROM routing_strategies")?;
    let settings = rows.query_map([], |row| {
        let (number, enabled, config): (i32, bool, Vec<u8>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let kind = RoutingStrategy::try_from(number)
            .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, number.into()))?;
        let config = StrategyConfig::decode(config.as_slice()).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(2, Type::Blob, Box::new(error))
        })?;
        let mut faults = Faults::default();
        let setting = Setting::new(kind, enabled, config, &mut faults);
        faults.into_result().map_err(|status| {
            let why = status.message().to_owned();
            rusqlite::Error::FromSqlConversionFailure(2, Type::Blob, why.into())
        })?;
        Ok((number, setting))
    })?;
    Ok(settings.collect::<Result<_, _>>()?)
}
