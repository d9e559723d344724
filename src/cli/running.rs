//! The flags by which commands find the running forebay.

use std::path::{Path, PathBuf};

use clap::Args;
use forebay::config::{self, Overrides, Variables};

use super::{Failure, control};

/// Which forebay is asked, and how the answer is printed.
#[derive(Clone, Debug, Args)]
pub(super) struct RunningArguments {
    /// The configuration file of the running forebay, which may name its socket [default: /etc/forebay/forebay.toml, if it
    /// is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl RunningArguments {
    /// Where its control socket may be. `control`: what `--control` says; then no file is read.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub(super) fn places(&self, control: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
        if let Some(path) = control {
            return Ok(vec![path.to_owned()]);
        }
        let loaded = config::load(self.config.as_deref(), &Variables::of_process(), Overrides::default())?;
        Ok(control::places(&loaded.config, None))
    }
}
