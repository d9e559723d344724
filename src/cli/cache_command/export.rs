//! `forebay cache export`.

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::json;

use crate::cli::{
    Failure,
    output::{print, print_json, remark},
    part_file::PartFile,
    progress::Progress,
    running::{Places, RunningArguments},
    text,
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
