//! `forebay upstream …`: how the upstreams are, and whether they answer now.

use std::{path::Path, time::SystemTime};

use clap::Subcommand;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, control, output::print, running::RunningArguments, status, text};

#[derive(Debug, Subcommand)]
pub(super) enum UpstreamCommand {
    /// List the upstreams, and how they are as far as requests have shown
    Ls(RunningArguments),
    /// Ask upstreams now, with a token if they want one
    Test {
        /// The upstreams [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        running: RunningArguments,
    },
}

impl UpstreamCommand {
    /// # Errors
    /// No forebay answers, or an upstream does not.
    pub(super) fn run(&self, control: Option<&Path>) -> Result<(), Failure> {
        match self {
            Self::Ls(running) => ls(running, control),
            Self::Test { names, running } => test(names, running, control),
        }
    }
}

fn ls(running: &RunningArguments, control: Option<&Path>) -> Result<(), Failure> {
    let document = control::get(&running.places(control)?, "/api/v1/upstreams")?;
    match running.json {
        true => print(&format!("{document}\n")),
        false => print(&status::upstreams(&document["upstreams"], SystemTime::now()).to_string()),
    }
}

fn test(names: &[String], running: &RunningArguments, control: Option<&Path>) -> Result<(), Failure> {
    let places = running.places(control)?;
    let names = if names.is_empty() { all_names(&control::get(&places, "/api/v1/upstreams")?) } else { names.to_vec() };
    let (mut failed, mut printed) = (0, Ok(()));
    for name in &names {
        let path = format!("/api/v1/upstreams/{}/test", utf8_percent_encode(name, NON_ALPHANUMERIC));
        control::post(&places, &path, |event| {
            failed += usize::from(event.data["result"] == "failed");
            let line = if running.json { event.data.to_string() } else { line(&event.data) };
            if printed.is_ok() {
                printed = print(&format!("{line}\n"));
            }
        })?;
    }
    printed?;
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(anyhow::anyhow!("{failed} of {} upstreams failed", names.len()))),
    }
}

fn all_names(document: &Value) -> Vec<String> {
    let upstreams = document["upstreams"].as_array().into_iter().flatten();
    upstreams.filter_map(|upstream| upstream["name"].as_str().map(str::to_owned)).collect()
}

/// The result of a test, for a person.
fn line(result: &Value) -> String {
    let name = result["upstream"].as_str().unwrap_or_default();
    let took = result["seconds"].as_f64().map(text::seconds).unwrap_or_default();
    match result["result"].as_str() {
        Some("ok") => format!("{name}: ok, {took}"),
        Some("wants_client_credentials") => format!("{name}: ok, {took} (requires client credentials)"),
        _ => format!("{name}: failed after {took}: {}", result["problem"].as_str().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_is_a_line() {
        let result =
            |result: &str| json!({ "upstream": "quay.io", "result": result, "seconds": 0.25, "problem": "no" });
        for (word, expected) in [
            ("ok", "quay.io: ok, 250 ms"),
            ("wants_client_credentials", "quay.io: ok, 250 ms (requires client credentials)"),
            ("failed", "quay.io: failed after 250 ms: no"),
        ] {
            assert_eq!(line(&result(word)), expected);
        }
    }
}
