//! `forebay cache export`.

use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
};

use clap::Args;
use forebay::visible::printable;
use serde_json::json;

use super::archive_source::ArchiveSource;
use crate::cli::{
    Failure,
    output::{print, print_json, remark},
    part_file::PartFile,
    progress::Progress,
    running::{Places, RunningArguments},
    terminal, text,
    transfer::{OnSignal, Received, download},
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
    /// Replace the file without asking
    #[arg(long)]
    yes: bool,
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
        if !is_stdout {
            self.confirm()?;
        }
        let wanted = json!({ "images": self.images, "platforms": self.platform });
        let request = ("/api/v1/export", &wanted);
        let mut progress = Progress::begin();
        if is_stdout {
            let mut stdout = io::stdout().lock();
            download(places, request, OnSignal::End, |received| write(received, &mut stdout, &mut progress))?;
            stdout.flush().map_err(|error| Failure::Failed(error.into()))?;
        } else {
            // First: a directory that cannot be written is told before anything is downloaded.
            let mut part = PartFile::create(&self.output).map_err(Failure::Failed)?;
            let on_signal = if part.is_file() { OnSignal::Fail } else { OnSignal::End };
            download(places, request, on_signal, |received| write(received, &mut part, &mut progress))?;
            part.finish().map_err(Failure::Failed)?;
        }
        let bytes = progress.done();
        drop(progress);
        if is_stdout {
            remark(&format!("{} were written", text::bytes(bytes)));
            return Ok(());
        }
        // A pipe or a device is not read again.
        let is_file = fs::metadata(&self.output).is_ok_and(|found| found.is_file());
        let images = is_file.then(|| ArchiveSource::open(&self.output)?.images()).transpose();
        let images = images.map_err(Failure::Failed)?.unwrap_or_default();
        if self.running.json {
            let images =
                images.iter().map(|image| json!({ "name": image.name, "digest": image.manifest.digest.as_str() }));
            let (file, images) = (self.output.to_string_lossy(), images.collect::<Vec<_>>());
            return print_json(&json!({ "file": file, "bytes": bytes, "images": images }));
        }
        let lines = images
            .iter()
            .map(|image| format!("{}  {}\n", printable(image.name.as_deref().unwrap_or("-")), image.manifest.digest));
        print(&format!("{}{}: {}\n", lines.collect::<String>(), self.output.display(), text::bytes(bytes)))
    }

    /// Asks, if a file is there that the archive would replace.
    fn confirm(&self) -> Result<(), Failure> {
        let is_there = fs::metadata(&self.output).is_ok_and(|found| found.is_file());
        if self.yes || !is_there {
            return Ok(());
        }
        let path = printable(&self.output.to_string_lossy());
        if !terminal::is_there() {
            let why = format!("{path} is there already: say --yes to replace it");
            return Err(Failure::Configuration(anyhow::anyhow!(why)));
        }
        match terminal::confirm(&format!("Replace {path}?"))? {
            true => Ok(()),
            false => Err(Failure::Failed(anyhow::anyhow!("nothing was exported"))),
        }
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
