//! `forebay cache import`.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use clap::Args;
use forebay::{oci::layout::LayoutImage, visible::printable};
use serde_json::Value;

use super::{archive_source::ArchiveSource, escaped};
use crate::cli::{
    Failure,
    output::{print, print_json, remark},
    running::{Places, RunningArguments},
    terminal, text,
    transfer::upload,
};

/// How many images are shown before the question: an archive of a stranger may name any number.
const MAX_SHOWN: usize = 100;

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArguments {
    /// An archive with an image layout (of forebay, skopeo or containerd), the directory of one, or - for standard
    /// input
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// The name of the one image in it, as for docker
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Import without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) running: RunningArguments,
}

impl ImportArguments {
    /// # Errors
    /// The archive cannot be read, no forebay answers, or it refuses the archive.
    pub(super) fn run(&self, places: &Places) -> Result<(), Failure> {
        let source = ArchiveSource::open(&self.source).map_err(Failure::Configuration)?;
        if !self.yes && !self.confirm(&source)? {
            return Err(Failure::Failed(anyhow::anyhow!("nothing was imported")));
        }
        let query = self.name.as_ref().map(|name| format!("?as={}", escaped(name))).unwrap_or_default();
        let path = format!("/api/v1/import{query}");
        let answer = upload(places, &path, source.len(), |sink| source.send(sink))?;
        if self.running.json {
            return print_json(&answer);
        }
        let images = answer["images"].as_array().into_iter().flatten();
        print(&images.map(line).collect::<String>())
    }

    /// Shows what would be imported, and asks.
    fn confirm(&self, source: &ArchiveSource) -> Result<bool, Failure> {
        if source.is_stdin() || !terminal::is_there() || !io::stderr().is_terminal() {
            let error = anyhow::anyhow!("without a terminal to ask at, the command needs --yes");
            return Err(Failure::Configuration(error));
        }
        let images = source.images().map_err(Failure::Failed)?;
        for image in images.iter().take(MAX_SHOWN) {
            remark(&planned(image, self.name.as_deref()));
        }
        if let Some(more) = images.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
            remark(&format!("and {more} more"));
        }
        let size = source.len().map(|bytes| format!(", {} in all", text::bytes(bytes))).unwrap_or_default();
        let count = if images.len() == 1 { "this image".to_owned() } else { format!("these {} images", images.len()) };
        terminal::confirm(&format!("Import {count}{size}? Clients get them without a question to the registry."))
    }
}

/// An image before it is imported.
fn planned(image: &LayoutImage, name: Option<&str>) -> String {
    let name = name.or(image.name.as_deref()).unwrap_or("(without a name)");
    // An archive may have been made by a stranger.
    format!("{}  {}", name.escape_debug(), image.manifest.digest)
}

/// An image that was imported.
fn line(image: &Value) -> String {
    let word = |key: &str| printable(image[key].as_str().unwrap_or_default());
    format!("{}  {}  {}\n", word("name"), word("digest"), text::size(&image["bytes"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_is_a_line() {
        let image = json!({ "name": "docker.io/library/node:22", "digest": "sha256:1f2e", "bytes": 2048 });
        assert_eq!(line(&image), "docker.io/library/node:22  sha256:1f2e  2.0 KiB\n");
    }
}
