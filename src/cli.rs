//! The command line: flags, logging, and what the exit code says.
//!
//! Exit codes: 0 ok, 1 failed, 2 the command line or the configuration is wrong. What the operator
//! asked to see goes to standard output; logs and errors go to standard error. Each command is a
//! file beneath this one; `systemd` is what the service manager is told and gives, `descriptors` how
//! many files the process may open.

mod banner;
mod check;
mod descriptors;
mod log;
mod serve;
mod systemd;

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use forebay::{
    app,
    config::{self, Config, Overrides},
};
use tracing_subscriber::EnvFilter;

/// What the logs are filtered by, such as `info` or `forebay=debug`.
const LOG_VARIABLE: &str = "FOREBAY_LOG";

/// A pull-through caching mirror for container registries.
#[derive(Debug, Parser)]
#[command(version, after_help = "FOREBAY_LOG filters the logs: info, forebay=debug, …")]
struct Arguments {
    /// How logs are written [default: text on a terminal, json elsewhere]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror; without a configuration: Docker Hub and the well-known registries on 127.0.0.1:5000
    Serve(ConfigArguments),
    /// Validate the configuration
    Check {
        #[command(flatten)]
        config: ConfigArguments,
        /// Also ask each upstream, with a token if it wants one
        #[arg(long)]
        online: bool,
    },
}

/// The configuration file, and the flags that win over it.
#[derive(Clone, Debug, Args)]
struct ConfigArguments {
    /// The configuration file (TOML) [default: none, everything has its default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, for TLS and clear HTTP alike; may be given more than once
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// Where /metrics, /healthz and /readyz are
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Where the cache is kept
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// How much the cache may take, such as "50 GiB"
    #[arg(long, value_name = "SIZE", value_parser = config::parse_size)]
    max_size: Option<u64>,
}

impl ConfigArguments {
    fn load(&self) -> Result<Config, config::Error> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            admin: self.admin,
            cache_dir: self.cache_dir.clone(),
            max_size: self.max_size,
        };
        Config::load(self.config.as_deref(), overrides)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Why a command did not do what it was asked to.
enum Failure {
    /// What it was told is wrong: trying again cannot help.
    Configuration(anyhow::Error),
    Failed(anyhow::Error),
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::Configuration(error.into())
    }
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Self {
        if error.is_configuration() { Self::Configuration(error.into()) } else { Self::Failed(error.into()) }
    }
}

/// Runs the command that the command line asks for.
pub(crate) fn run() -> ExitCode {
    // What this process makes is for its user alone, whatever was inherited.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // Before anything else, since taking them changes the environment, which threads must not see.
    let inherited = systemd::inherited_sockets();
    let arguments = Arguments::parse();
    let outcome = log_to_stderr(arguments.log_format).and_then(|flush| {
        let outcome = match arguments.command {
            Command::Serve(config) => serve::run(&config, inherited),
            Command::Check { config, online } => check::run(&config, online),
        };
        // Before the reason for a failure is told, which is the last word.
        drop(flush);
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => refuse(&error, 1),
        Err(Failure::Configuration(error)) => refuse(&error, 2),
    }
}

fn refuse(error: &anyhow::Error, code: u8) -> ExitCode {
    // A closed standard error leaves nobody to tell; the exit code still says it.
    let _ = io::Write::write_all(&mut io::stderr(), format!("forebay: {error:#}\n").as_bytes());
    ExitCode::from(code)
}

fn log_to_stderr(format: Option<LogFormat>) -> Result<log::Flush, Failure> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(filter) => EnvFilter::try_new(&filter)
            .map_err(|error| Failure::Configuration(anyhow::anyhow!("{LOG_VARIABLE}={filter}: {error}")))?,
        Err(_) => EnvFilter::new("info"),
    };
    let terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let (lines, flush) = log::Lines::to(io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).with_ansi(terminal);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(flush)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
