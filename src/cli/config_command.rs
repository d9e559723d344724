//! `forebay config …`: the commands about the configuration, and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{ConfigArguments, Failure, check, config_diff, config_show, output::print, running::ControlArguments};

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
        #[command(flatten)]
        control: ControlArguments,
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
    /// Also ask each upstream, with a token if it wants one, and the object store
    #[arg(long)]
    online: bool,
    /// Exit with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// The control socket of the forebay whose ports are no other program's [default: as the configuration says]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    control: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check(arguments) => arguments.run(),
            Self::Show { config, origin, json } => config_show::run(&config, origin, json),
            Self::Diff { config, control, json } => config_diff::run(&config, &control, json),
            Self::Example => print(EXAMPLE),
        }
    }
}

impl CheckArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { config, online, strict, control, json } = self;
        check::run(&config, &check::Options { strict, online, json, control })
    }
}
