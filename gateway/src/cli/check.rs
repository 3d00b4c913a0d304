//! `intellirouter check --config F`

use std::path::PathBuf;

use intellirouter::events::LogUse;

use super::{Failure, control_runtime};
use crate::gateway::Gateway;
use crate::runtime::descriptors;
use crate::{Config, events};

#[derive(clap::Args)]
pub(super) struct Check {
    /// The config file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Check {
    /// The same steps as a start, without binding a port. A store that is
    /// away is no fault of the config.
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = Config::load(&self.config).map_err(Failure::usage)?;
        let file = self.config.display();
        let gateway = control_runtime()?.block_on(async {
            let log = events::open_log(&config.events, LogUse::Service).await?;
            Gateway::new(config, log, None)
        });
        let runtime = gateway
            .map_err(|error| Failure::usage(format!("{file}: {error}")))?
            .runtime();
        let descriptors = descriptors(&runtime.config)?;
        for method in runtime.routes.uncovered(&descriptors) {
            super::say(&format!(
                "{file}: {method}: no rule lets anybody call this method"
            ));
        }
        if let Some(advice) = runtime.config.limits.advice() {
            super::say(&format!("{file}: {advice}"));
        }
        super::say(&format!("{file}: ok"));
        Ok(())
    }
}
