//! `forebay user …`: the users of the htpasswd file, which the running forebay reads again by itself.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueHint};
use forebay::{
    auth::{Existing, NewPassword, UserFile, UserFileError, UserName},
    config::{self, Variables},
    visible::printable,
};
use serde_json::json;

use super::{
    Failure, output,
    terminal::{self, Hidden},
};

/// The longest input of `--password-stdin` that is read, in bytes; no password is as long.
const MAX_INPUT: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user, or change the password of one; asks for the password twice
    Add {
        /// The user's name
        name: UserName,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
        /// Change the password of a user who is there without asking
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List the users
    Ls {
        #[command(flatten)]
        place: Place,
    },
    /// Remove a user
    Rm {
        /// The user's name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// Which file is meant, and how the result is printed.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The configuration whose access.htpasswd is meant [default: /etc/forebay/forebay.toml, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with = "htpasswd", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The htpasswd file, whatever the configuration says
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    htpasswd: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was done to a user.
#[derive(Clone, Copy, Debug)]
enum Change {
    Added,
    Password,
    Removed,
}

/// The file, its name, and the users whom the configuration lets push.
struct Users {
    file: UserFile,
    path: PathBuf,
    push_users: Vec<String>,
}

impl UserCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add { name, password_stdin, yes, place } => add(&name, password_stdin, yes, &place),
            Self::Ls { place } => list(&place),
            Self::Rm { name, yes, place } => remove(&name, yes, &place),
        }
    }
}

fn add(name: &UserName, from_stdin: bool, yes: bool, place: &Place) -> Result<(), Failure> {
    let users = place.users()?;
    if !from_stdin && !terminal::is_there() {
        return Err(usage("standard input is no terminal: give the password with --password-stdin"));
    }
    let path = users.path.display();
    let is_new = !users.file.exists();
    let is_there = !is_new && users.has(name.as_str())?;
    if is_there && !yes {
        if from_stdin {
            return Err(usage(&format!("{name} is a user of {path} already: --yes changes the password")));
        }
        confirmed(&format!("{name} is a user of {path} already. Change the password?"))?;
    }
    let password = if from_stdin { read_password()? } else { ask_password(name)? };
    let existing = if is_there || yes { Existing::Change } else { Existing::Refuse };
    users.file.set(name, &password, existing).map_err(failed)?;
    if is_new {
        let mode = fs::metadata(&users.path).map_or(0, |file| file.mode() & 0o777);
        output::remark(&format!("{path} is new, with mode {mode:o}: forebay must be able to read it"));
    }
    place.report(name.as_str(), if is_there { Change::Password } else { Change::Added }, &users.path)
}

fn list(place: &Place) -> Result<(), Failure> {
    let users = place.users()?;
    let found = users.file.users().map_err(failed)?;
    match place.json {
        true => {
            let found = found.iter().map(|user| json!({ "name": user.name, "cost": user.cost }));
            let file = users.path.to_string_lossy();
            output::print_json(&json!({ "file": file, "users": found.collect::<Vec<_>>() }))
        }
        false => output::print(&found.iter().map(|user| printable(&user.name) + "\n").collect::<String>()),
    }
}

fn remove(name: &str, yes: bool, place: &Place) -> Result<(), Failure> {
    let users = place.users()?;
    let path = users.path.display();
    if !users.has(name)? {
        return Err(failed(UserFileError::Unknown { user: name.to_owned(), path: users.path.clone() }));
    }
    if !yes {
        if !terminal::is_there() {
            return Err(usage("standard input is no terminal: --yes removes the user without asking"));
        }
        confirmed(&format!("Remove {name} from {path}?"))?;
    }
    users.file.remove(name).map_err(failed)?;
    if users.push_users.iter().any(|user| user == name) {
        output::remark(&format!(
            "warning: access.push_users still names {name}: forebay refuses that at its next start or reload"
        ));
    }
    place.report(name, Change::Removed, &users.path)
}

impl Place {
    /// Prints what was done.
    fn report(&self, name: &str, change: Change, path: &Path) -> Result<(), Failure> {
        let (word, text) = match change {
            Change::Added => ("added", "added to"),
            Change::Password => ("password", "password changed in"),
            Change::Removed => ("removed", "removed from"),
        };
        match self.json {
            true => output::print_json(&json!({ "file": path.to_string_lossy(), "user": name, "change": word })),
            false => output::print(&format!("{}: {text} {}\n", printable(name), path.display())),
        }
    }

    /// The users where the flags or the configuration say.
    fn users(&self) -> Result<Users, Failure> {
        let (path, push_users) = match &self.htpasswd {
            Some(path) => (path.clone(), Vec::new()),
            None => {
                let settings = config::load_user_settings(self.config.as_deref(), &Variables::of_process())?;
                let path = settings.htpasswd.ok_or_else(|| not_configured(self.config.as_deref()))?;
                (path, settings.push_users)
            }
        };
        Ok(Users { file: UserFile::at(&path).map_err(failed)?, path, push_users })
    }
}

impl Users {
    fn has(&self, name: &str) -> Result<bool, Failure> {
        Ok(self.file.users().map_err(failed)?.iter().any(|user| user.name == name))
    }
}

fn not_configured(file: Option<&Path>) -> Failure {
    let file = file.map_or_else(config::default_file, Path::to_owned);
    usage(&format!(
        "no file of users is configured: set access.htpasswd = \"htpasswd\" in {}, or name the file with --htpasswd",
        file.display()
    ))
}

/// What was piped in, without the end of its line.
fn read_password() -> Result<NewPassword, Failure> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_INPUT).read_to_end(&mut input);
    read.map_err(|error| Failure::Failed(anyhow::Error::new(error).context("cannot read standard input")))?;
    let line = input.strip_suffix(b"\n").unwrap_or(&input);
    parse_password(line.strip_suffix(b"\r").unwrap_or(line))
}

/// Asks for it twice, since the terminal does not show it.
fn ask_password(name: &UserName) -> Result<NewPassword, Failure> {
    let hidden = Hidden::begin()?;
    let first = hidden.read_line(&format!("Password of {name}: "))?;
    let password = parse_password(&first)?;
    match hidden.read_line("The same again: ")? == first {
        true => Ok(password),
        false => Err(Failure::Failed(anyhow::anyhow!("the two passwords differ: nothing is changed"))),
    }
}

fn parse_password(bytes: &[u8]) -> Result<NewPassword, Failure> {
    NewPassword::parse(bytes).map_err(|problem| Failure::Configuration(problem.into()))
}

fn confirmed(question: &str) -> Result<(), Failure> {
    match terminal::confirm(question)? {
        true => Ok(()),
        false => Err(Failure::Failed(anyhow::anyhow!("nothing is changed"))),
    }
}

fn usage(problem: &str) -> Failure {
    Failure::Configuration(anyhow::anyhow!("{problem}"))
}

/// A file that is not htpasswd is as wrong as a configuration that is not TOML.
fn failed(error: UserFileError) -> Failure {
    match error {
        UserFileError::File(forebay::auth::Error::Line { .. }) | UserFileError::DanglingLink(_) => {
            Failure::Configuration(error.into())
        }
        error => Failure::Failed(error.into()),
    }
}
