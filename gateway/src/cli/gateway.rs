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
        process::log(&config);
        let runtime = control_runtime()?;
        runtime.block_on(async {
            let bound = Bound::new(config)?;
            let (address, admin) = (bound.address()?, bound.admin_address()?);
            bound.run(|| announce(address, admin)).await
        })?;
        // Threads that still serve cut calls must not hold up the exit.
        runtime.shutdown_background();
        Ok(())
    }
}

/// Says on stdout that the gateway is ready.
pub(super) fn announce(address: std::net::SocketAddr, admin: std::net::SocketAddr) {
    println!("listening on https://{address}");
    println!("admin on http://{admin}");
}
