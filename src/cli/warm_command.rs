//! `forebay warm`: has the running forebay fetch images before clients pull them.
//!
//! What must hold: files are read by this command, as its caller; what it reads is bounded.

mod compose;
mod display;
mod names;
mod variables;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueHint};
use serde_json::{Value, json};

use self::{
    display::Display,
    names::{Names, NamesError},
};
use super::{
    Failure,
    control::{self, ControlError},
    output::remark,
    running::RunningArguments,
    text::{counted, duration_of_api, time_span},
};

/// The longest text with names that is read, in bytes.
const MAX_TEXT: u64 = 4 * 1024 * 1024;
/// What stands for standard input.
const STDIN: &str = "-";
/// What becomes of a run whose command is interrupted.
const INTERRUPTED: &str = "interrupted: the run ends, and with it each download that no client reads; what has come stays, \
    and the next run goes on from there";

#[derive(Debug, Args)]
pub(super) struct WarmArguments {
    /// The images, as for docker pull; "-" reads names from standard input
    #[arg(value_name = "REF", required_unless_present = "files")]
    images: Vec<String>,
    /// A file that names images: a compose file, what `kubectl get pods -o json` prints, a JSON list, or a name a line
    #[arg(short = 'f', long = "file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// The platforms, such as linux/amd64,linux/arm64, or all [default: that of the machine where forebay runs]
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<String>,
    /// Stop before more pulls than this count at Docker Hub
    #[arg(long, value_name = "N", value_parser = number)]
    limit: Option<u32>,
    /// Pin the images for so long, such as "30d": they are not evicted
    #[arg(long, value_name = "DURATION", value_parser = time_span)]
    pin: Option<Duration>,
    #[command(flatten)]
    running: RunningArguments,
}

impl WarmArguments {
    /// # Errors
    /// A file names no images, no forebay answers, or an image could not be fetched.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let images = self.names()?;
        let places = self.running.places()?;
        let request = json!({ "images": images, "platforms": self.platforms, "limit": self.limit,
            "pin": self.pin.map(duration_of_api) });
        let mut display = Display::new(self.running.json);
        let mut written = Ok(());
        let (mut done, mut misnamed): (Option<Value>, u64) = (None, 0);
        let told = control::post(&places, "/api/v1/warm", Some(&request), |event| {
            if written.is_ok() {
                written = display.show(&event);
            }
            misnamed += u64::from(event.data["failure"] == "invalid_name");
            if event.name == "done" {
                done = Some(event.data);
            }
        });
        display.end();
        told.map_err(|error| match error {
            ControlError::Interrupted => Failure::Failed(anyhow!(INTERRUPTED)),
            error => error.into(),
        })?;
        written?;
        let Some(done) = done else {
            return Err(Failure::Failed(anyhow!(
                "forebay has ended the run, as it does when it stops; begin it again"
            )));
        };
        let error = |failed: u64| anyhow!("{} failed", counted(failed, "image"));
        match done["failed"].as_u64().unwrap_or_default() {
            0 => Ok(()),
            // Another try cannot help.
            failed if failed == misnamed => Err(Failure::Configuration(error(failed))),
            failed => Err(Failure::Failed(error(failed))),
        }
    }

    /// The images of the command line, of files and of standard input.
    fn names(&self) -> Result<Vec<String>, Failure> {
        let (from_stdin, named): (Vec<&String>, Vec<&String>) = self.images.iter().partition(|image| *image == STDIN);
        let mut images: Vec<String> = named.into_iter().cloned().collect();
        let stdin = from_stdin.first().map(|_| Path::new(STDIN));
        for path in self.files.iter().map(PathBuf::as_path).chain(stdin) {
            let text = read(path).map_err(Failure::Configuration)?;
            let read = names::read(&text, |name| std::env::var(name).ok());
            let Names { images: named, remarks } = read.map_err(|error| not_understood(path, error))?;
            images.extend(named);
            remarks.iter().for_each(|text| remark(&format!("forebay: {}: {text}", shown(path))));
        }
        Ok(images)
    }
}

fn number(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "write a number, such as 50")
}

fn not_understood(path: &Path, error: NamesError) -> Failure {
    Failure::Configuration(anyhow::Error::new(error).context(shown(path)))
}

fn shown(path: &Path) -> String {
    if path == Path::new(STDIN) { "standard input".to_owned() } else { path.display().to_string() }
}

/// The text of a file, or of standard input.
fn read(path: &Path) -> anyhow::Result<String> {
    let context = || format!("cannot read {}", shown(path));
    let source: Box<dyn Read> = match path == Path::new(STDIN) {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(path).with_context(context)?),
    };
    let mut text = String::new();
    source.take(MAX_TEXT + 1).read_to_string(&mut text).with_context(context)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(anyhow!("{} is longer than {MAX_TEXT} bytes", shown(path)));
    }
    Ok(text)
}
