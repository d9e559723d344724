//! `forebay config …`: the commands about the configuration, and their flags.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use super::{ConfigArguments, Failure, check, config_diff, config_show};

/// Every key with its default and a comment: the file that the documents describe.
const EXAMPLE: &str = include_str!("../../config.example.toml");

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Validate the configuration, and warn of what cannot work
    Check(CheckArguments),
    /// Print the effective configuration, as a file that leads to it
    Show {
        #[command(flatten)]
        config: ConfigArguments,
        /// Add a comment to each key: default, file:line, variable or flag
        #[arg(long)]
        origin: bool,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Compare the file with the configuration of the running forebay; exit code 1 if they differ
    Diff {
        #[command(flatten)]
        config: ConfigArguments,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration file with every key
    Example,
}

/// `forebay config check`, and `forebay check`, which is the same.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Also ask each upstream, with a token if it wants one
    #[arg(long)]
    online: bool,
    /// Exit with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl ConfigCommand {
    /// `control`: what `--control` says.
    pub(super) fn run(self, control: Option<PathBuf>) -> Result<(), Failure> {
        match self {
            Self::Check(arguments) => arguments.run(control),
            Self::Show { config, origin, json } => config_show::run(&config, origin, json),
            Self::Diff { config, json } => config_diff::run(&config, control.as_deref(), json),
            Self::Example => {
                // A closed pipe is no failure.
                let _ = io::stdout().write_all(EXAMPLE.as_bytes());
                Ok(())
            }
        }
    }
}

impl CheckArguments {
    pub(super) fn run(self, control: Option<PathBuf>) -> Result<(), Failure> {
        let Self { config, online, strict, json } = self;
        check::run(&config, &check::Options { strict, online, json, control })
    }
}
