//! `intellirouter gateway --config F`

use std::path::PathBuf;

use super::{Failure, control_runtime};
use crate::{Bound, Config, process};

#[derive(clap::Args)]
pub(super) struct Run {
    /// The config file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = Config::load(&self.config).map_err(Failure::usage)?;
        let _log = process::log(&config);
        let runtime = control_runtime()?;
        let served = runtime.block_on(async {
            let bound = Bound::new(config).await?;
            let (address, admin) = (bound.address()?, bound.admin_address()?);
            bound.run(|| announce(address, admin)).await
        });
        // Threads that still serve cut calls must not hold up the exit.
        runtime.shutdown_background();
        served.map_err(|error| match error {
            crate::StartError::Setting { .. } => {
                Failure::usage(format!("{}: {error}", self.config.display()))
            }
            error => error.into(),
        })
    }
}

/// Says on stdout that the gateway is ready.
pub(super) fn announce(address: std::net::SocketAddr, admin: std::net::SocketAddr) {
    super::say(&format!(
        "listening on https://{address}\nadmin on http://{admin}"
    ));
}
