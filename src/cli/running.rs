//! The flags by which commands find the running forebay.

use std::{env, path::PathBuf};

use clap::{Args, ValueHint};
use forebay::{
    admin::{self, control_socket},
    config::{self, Config, ControlSettings, Variables},
};
use http::HeaderValue;

use super::{
    Failure,
    control_place::{ControlPlace, ListenerUrl},
    output,
};

/// Where the token is, unless a flag says it.
const TOKEN_VARIABLE: &str = "FOREBAY_TOKEN_FILE";

/// Where the running forebay may be.
#[derive(Clone, Debug)]
pub(super) enum Places {
    /// On the first of these sockets on which a program listens.
    Sockets(Vec<PathBuf>),
    Listener {
        url: ListenerUrl,
        /// The value of `Authorization`; it is sensitive.
        authorization: Option<HeaderValue>,
    },
}

impl Places {
    /// Where a forebay with this configuration listens.
    pub(super) fn of_config(config: &Config) -> Self {
        Self::Sockets(control_socket::places(&config.admin, config.state_directory.as_deref()))
    }

    fn of_settings(settings: ControlSettings) -> Self {
        let ControlSettings { socket, state_directory } = settings;
        let config = admin::Config { socket, ..admin::Config::default() };
        Self::Sockets(control_socket::places(&config, state_directory.as_deref()))
    }
}

/// Which forebay is asked, whatever a configuration says.
#[derive(Clone, Debug, Args)]
pub(super) struct ControlArguments {
    /// The running forebay: the path of its control socket, or http://HOST:PORT of its admin listener [default: the
    /// first socket on which one listens]
    #[arg(long, value_name = "PATH|URL", value_parser = ControlPlace::parser(), value_hint = ValueHint::AnyPath)]
    control: Option<ControlPlace>,
    /// A file with the token of admin.token_file, for the admin listener [default: that of $FOREBAY_TOKEN_FILE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,
}

impl ControlArguments {
    /// The place that the flags name; `None`: they name none.
    ///
    /// # Errors
    /// The token cannot be read, or is for no listener.
    pub(super) fn places(&self) -> Result<Option<Places>, Failure> {
        let usage = |problem: &str| Failure::Configuration(anyhow::anyhow!("{problem}"));
        Ok(Some(match &self.control {
            Some(ControlPlace::Listener(url)) => {
                let variable = || env::var_os(TOKEN_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
                let file = self.token_file.clone().or_else(variable);
                let token = file.map(|file| admin::read_token(&file)).transpose();
                let token = token.map_err(|error| Failure::Configuration(error.into()))?;
                let value = token.map(|token| HeaderValue::try_from(format!("Bearer {token}"))).transpose();
                let mut authorization = value.map_err(|_| usage("the token is no value of a header"))?;
                authorization.iter_mut().for_each(|value| value.set_sensitive(true));
                Places::Listener { url: url.clone(), authorization }
            }
            _ if self.token_file.is_some() => {
                return Err(usage("--token-file is for an admin listener: name it with --control http://HOST:PORT"));
            }
            Some(ControlPlace::Socket(path)) => Places::Sockets(vec![path.clone()]),
            None => return Ok(None),
        }))
    }
}

/// Which forebay is asked, and how the answer is printed.
#[derive(Clone, Debug, Args)]
pub(super) struct RunningArguments {
    #[command(flatten)]
    control: ControlArguments,
    /// The configuration file of the running forebay, which may name its socket [default: /etc/forebay/forebay.toml, if it
    /// is there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl RunningArguments {
    /// Where it may be: as the flags say, else as the configuration says, as far as that can be read.
    ///
    /// # Errors
    /// The token cannot be read, or the file that a flag names does not say it.
    pub(super) fn places(&self) -> Result<Places, Failure> {
        if let Some(places) = self.control.places()? {
            return Ok(places);
        }
        match config::load_control_settings(self.config.as_deref(), &Variables::of_process()) {
            Ok((settings, mistake)) => {
                mistake.iter().for_each(|mistake| output::remark(&format!("warning: {mistake}")));
                Ok(Places::of_settings(settings))
            }
            // In the default places another forebay may listen than the one that is meant.
            Err(error) if self.config.is_some() => Err(error.into()),
            Err(error) => {
                let mistake = error.mistakes().first().map(ToString::to_string).unwrap_or_default();
                output::remark(&format!("warning: {mistake}; so the socket is looked for in the default places"));
                Ok(Places::of_settings(ControlSettings::default()))
            }
        }
    }
}
