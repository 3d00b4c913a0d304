//! `intellirouter certs --dir D`

use std::path::PathBuf;

use super::Failure;

#[derive(clap::Args)]
pub(super) struct Certs {
    /// Where the files go; what is there already is kept
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
}

impl Certs {
    pub(super) fn run(self) -> Result<(), Failure> {
        crate::certs::ensure(&self.dir).map_err(Failure::other)?;
        super::say(&format!(
            "development certificates and keys are in {}",
            self.dir.display()
        ));
        Ok(())
    }
}
