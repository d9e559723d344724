//! `forebay cache export`.

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::json;

use super::escaped;
use crate::cli::{
    Failure,
    output::{print, print_json, remark},
    part_file::PartFile,
    progress::Progress,
    running::{Places, RunningArguments},
    text,
    transfer::{Received, download},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArguments {
    /// The images, as for docker: node is docker.io/library/node:latest
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,
    /// The archive to write; - is standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Only these platforms, such as linux/amd64,linux/arm64 [default: all that each image has]
    #[arg(long, value_name = "P", value_delimiter = ',')]
    platform: Vec<String>,
    #[command(flatten)]
    pub(super) running: RunningArguments,
}

impl ExportArguments {
    /// # Errors
    /// No forebay answers, it refuses an image, or the archive cannot be written.
    pub(super) fn run(&self, places: &Places) -> Result<(), Failure> {
        let is_stdout = self.output.as_os_str() == "-";
        if is_stdout && io::stdout().is_terminal() {
            let error =
                anyhow::anyhow!("standard output is a terminal: name a file, or a program that reads the archive");
            return Err(Failure::Configuration(error));
        }
        let (names, platforms) = (self.images.iter().map(|name| ("name", name)), &self.platform);
        let parameters = names.chain(platforms.iter().map(|platform| ("platform", platform)));
        let query: Vec<String> = parameters.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let path = format!("/api/v1/export?{}", query.join("&"));
        let mut progress = Progress::begin();
        if is_stdout {
            let mut stdout = io::stdout().lock();
            download(places, &path, |received| write(received, &mut stdout, &mut progress))?;
            stdout.flush().map_err(|error| Failure::Failed(error.into()))?;
        } else {
            // Nothing is written before forebay has the whole archive to send.
            let mut part = None;
            download(places, &path, |received| {
                if part.is_none() {
                    part = Some(PartFile::create(&self.output).map_err(io::Error::other)?);
                }
                part.as_mut().map_or(Ok(()), |part| write(received, part, &mut progress))
            })?;
            part.map_or(Ok(()), PartFile::finish).map_err(Failure::Failed)?;
        }
        let bytes = progress.done();
        drop(progress);
        match (is_stdout, self.running.json) {
            (true, _) => remark(&format!("{} were written", text::bytes(bytes))),
            (false, true) => print_json(&json!({ "file": self.output.to_string_lossy(), "bytes": bytes }))?,
            (false, false) => print(&format!("{}: {}\n", self.output.display(), text::bytes(bytes)))?,
        }
        Ok(())
    }
}

fn write(received: Received<'_>, target: &mut impl Write, progress: &mut Progress) -> io::Result<()> {
    match received {
        Received::Length(bytes) => progress.set_total(bytes),
        Received::Bytes(bytes) => {
            target.write_all(bytes)?;
            progress.add(bytes.len());
        }
    }
    Ok(())
}
