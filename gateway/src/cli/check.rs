//! `intellirouter check --config F`

use std::path::PathBuf;

use super::{Failure, control_runtime};
use crate::gateway::{Gateway, descriptors};
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
            let log = events::open_log(&config.events).await?;
            let gateway = Gateway::new(config, log, None)?;
            gateway.tls()?;
            Ok::<_, crate::StartError>(gateway)
        });
        let gateway = gateway.map_err(|error| Failure::usage(format!("{file}: {error}")))?;
        let descriptors = descriptors(&gateway.config)?;
        for method in gateway.routes.uncovered(&descriptors) {
            super::say(&format!(
                "{file}: {method}: no rule lets anybody call this method"
            ));
        }
        super::say(&format!("{file}: ok"));
        Ok(())
    }
}
