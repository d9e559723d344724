//! The command line: flags, logging, and exit codes.
//!
//! Exit codes: 0 ok, 1 failed, 2 the command line or the configuration is wrong. Results go to standard output, logs
//! and errors to standard error. Each command is a file below this one; `systemd` talks to the service manager,
//! `fd_limit` raises the limit of open files, `log_lines` formats the log and `log_writer` writes it, `output` prints, and
//! `terminal` asks.

mod banner;
mod cache_command;
mod check;
mod cluster_status;
mod columns;
mod completion;
mod config_command;
mod config_diff;
mod config_show;
mod connection;
mod control;
mod control_place;
mod events;
mod explain_command;
mod fd_limit;
mod hidden_line;
mod log_command;
mod log_lines;
mod log_writer;
mod man;
mod no_match;
mod output;
mod part_file;
mod progress;
mod request_rows;
mod running;
mod screen;
mod serve;
mod status;
mod store_line;
mod systemd;
mod terminal;
mod text;
mod top;
mod top_since;
mod top_table;
mod transfer;
mod upstream_command;
mod user;
mod version;
mod warm_command;

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use forebay::{
    app,
    config::{self, Loaded, Overrides, Variables},
    visible::printable,
};
use tracing_subscriber::{EnvFilter, fmt::format::JsonFields};

use self::{
    cache_command::CacheCommand,
    config_command::{CheckArguments, ConfigCommand},
    explain_command::ExplainArguments,
    log_command::LogArguments,
    status::StatusArguments,
    top::TopArguments,
    upstream_command::UpstreamCommand,
    user::UserCommand,
    warm_command::WarmArguments,
};

/// The filter of the logs, such as `info` or `forebay=debug`.
const LOG_VARIABLE: &str = "FOREBAY_LOG";

const AFTER_HELP: &str = "\
FOREBAY_LOG filters the logs: info, forebay=debug, …
FOREBAY_SERVER__LISTEN and the like set keys of the file: docs/configuration.md";

/// A pull-through caching mirror for container registries.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    /// How logs are written [default: text on a terminal, json elsewhere]
    // Behind the flags of each command.
    #[arg(long, global = true, value_name = "FORMAT", display_order = 900)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror; without a configuration: Docker Hub and the well-known registries on 127.0.0.1:5000
    Serve(ConfigArguments),
    /// Check, show and compare the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The same as `config check`
    Check(CheckArguments),
    /// Print how the running forebay is; exit code 1 if a person should look
    Status(StatusArguments),
    /// Tell step by step how a pull of an image would go; exit code 1 if it would fail
    Explain(ExplainArguments),
    /// Show what is sent to clients and what is downloaded now, until Ctrl-C
    Top(TopArguments),
    /// Print the latest pulls and pushes through the running forebay, and what failed
    Log(LogArguments),
    /// List, test, pause and resume the upstreams of the running forebay
    Upstream {
        #[command(subcommand)]
        command: UpstreamCommand,
    },
    /// Look at the images in the cache of the running forebay, and say which stay
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Have the running forebay fetch images before clients pull them
    Warm(WarmArguments),
    /// Add, list and remove the users of access.htpasswd
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Print the version, and what it was built for
    Version {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print a script that completes commands and flags in a shell
    Completion {
        /// The shell that reads the script
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write the pages of all commands into this directory
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// The configuration file, and the flags that win over it.
#[derive(Clone, Debug, Args)]
struct ConfigArguments {
    /// The configuration file (TOML) [default: /etc/forebay/forebay.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, for TLS and clear HTTP alike, such as ":5000"; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = config::parse_address)]
    listen: Vec<SocketAddr>,
    /// Where /metrics, /healthz and /readyz are
    #[arg(long, value_name = "ADDR", value_parser = config::parse_address)]
    admin: Option<SocketAddr>,
    /// Where the cache is kept
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// How much the cache may take, such as "50 GiB"
    #[arg(long, value_name = "SIZE", value_parser = config::parse_size)]
    max_size: Option<u64>,
}

impl ConfigArguments {
    /// Reads the file, the environment and the flags.
    fn load(&self) -> Result<Loaded, config::Error> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            admin: self.admin,
            cache_dir: self.cache_dir.clone(),
            max_size: self.max_size,
        };
        config::load(self.config.as_deref(), &Variables::of_process(), overrides)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Why a command failed.
enum Failure {
    /// The command line or the configuration is wrong: another try cannot help.
    Configuration(anyhow::Error),
    Failed(anyhow::Error),
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::Configuration(error.into())
    }
}

impl Failure {
    fn of(error: app::Error, loaded: &Loaded) -> Self {
        let is_configuration = error.is_configuration();
        let error = placed(error, loaded);
        if is_configuration { Self::Configuration(error) } else { Self::Failed(error) }
    }
}

/// An error with the place of the key whose value, or whose file, is wrong; and with what else of that kind is wrong,
/// since a start and a reload end at the first error. Blocks.
fn placed(error: app::Error, loaded: &Loaded) -> anyhow::Error {
    if !error.is_configuration() {
        return error.into();
    }
    let others = app::check(&loaded.config).errors;
    let others = others.iter().filter(|other| other.is_configuration());
    let mistakes = std::iter::once(&error).chain(others).map(|error| error.mistake(loaded)).collect();
    config::Error::of(mistakes).map_or_else(|| error.into(), Into::into)
}

/// Runs the command that the command line names.
pub(crate) fn run() -> ExitCode {
    // Files of this process are for its user alone, whatever umask it inherited.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // This comes first: it changes the environment, which is unsound while other threads run.
    let inherited = systemd::inherited_sockets();
    let arguments = Arguments::parse();
    let outcome = log_to_stderr(arguments.log_format).and_then(|flush| {
        let outcome = match arguments.command {
            Command::Serve(config) => serve::run(&config, inherited),
            Command::Config { command } => command.run(),
            Command::Cache { command } => command.run(),
            Command::Check(check) => check.run(),
            Command::Status(status) => status.run(),
            Command::Explain(explain) => explain.run(),
            Command::Top(top) => top.run(),
            Command::Log(log) => log.run(),
            Command::Upstream { command } => command.run(),
            Command::Warm(warm) => warm.run(),
            Command::User { command } => command.run(),
            Command::Version { json } => version::run(json),
            Command::Completion { shell } => completion::run(shell, Arguments::command()),
            Command::Man { dir } => man::run(dir.as_deref(), Arguments::command()),
        };
        // Flush the log before the error is printed, so that the error comes last.
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
    // A configuration may have several mistakes, a line each.
    let lines: String = format!("{error:#}").lines().map(|line| format!("forebay: {}\n", printable(line))).collect();
    // If standard error is closed, the exit code still tells.
    let _ = io::Write::write_all(&mut io::stderr(), lines.as_bytes());
    ExitCode::from(code)
}

fn log_to_stderr(format: Option<LogFormat>) -> Result<log_writer::Flush, Failure> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(filter) => EnvFilter::try_new(&filter)
            .map_err(|error| Failure::Configuration(anyhow::anyhow!("{LOG_VARIABLE}={filter}: {error}")))?,
        Err(_) => EnvFilter::new("info"),
    };
    let terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let (lines, flush) = log_writer::LogWriter::to(io::stderr());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        .with_ansi(output::has_colours(&io::stderr()));
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.event_format(log_lines::LogLines::default()).fmt_fields(JsonFields::new()).init(),
    }
    Ok(flush)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
