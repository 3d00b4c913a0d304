//! Changing the configuration of a gateway that runs.

use rustix::process::Signal;

use crate::client::in_time;
use crate::{Config, Gateway, Site};

/// What the log says of a change that is in use.
pub const TAKEN: &str = "the changed configuration is in use";
/// What the log says of one that is not.
pub const REFUSED: &str = "the changed configuration is not used";

/// How often the log has said this.
pub fn said(gateway: &Gateway, what: &str) -> usize {
    let lines = gateway.process.error_lines();
    lines.iter().filter(|line| line.contains(what)).count()
}

/// Waits until the log says this once more than `before`.
pub async fn says_again(gateway: &Gateway, what: &str, before: usize) {
    in_time(what, async {
        while said(gateway, what) <= before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Writes a config and tells the gateway, which must say `outcome`.
pub async fn reload(site: &Site, gateway: &Gateway, config: &Config, outcome: &str) {
    site.write("gateway.toml", &config.render());
    hang_up(gateway, outcome).await;
}

/// Tells the gateway to look at its files, upon which it must say `outcome`.
pub async fn hang_up(gateway: &Gateway, outcome: &str) {
    let before = said(gateway, outcome);
    gateway.process.signal(Signal::HUP);
    says_again(gateway, outcome, before).await;
}
