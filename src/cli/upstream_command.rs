//! `forebay upstream …`: how the upstreams are, whether they answer now, and whether they get requests.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::SystemTime,
};

use clap::{Args, Subcommand};
use forebay::visible::printable;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Failure, columns, control,
    output::{json_line, print, print_json, print_more},
    running::{Places, RunningArguments},
    status, text,
};

/// How many upstreams are tested at a time: forebay allows as many.
const MAX_TESTS: usize = 2;

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
    /// Send an upstream no requests, and serve what is cached, until it is resumed or forebay restarts
    Pause(OneUpstream),
    /// End a pause
    Resume(OneUpstream),
}

#[derive(Debug, Args)]
pub(super) struct OneUpstream {
    /// The upstream
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    running: RunningArguments,
}

impl UpstreamCommand {
    /// # Errors
    /// No forebay answers, it has no such upstream, or an upstream does not answer.
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls(running) => ls(running),
            Self::Test { names, running } => test(names, running),
            Self::Pause(upstream) => upstream.set("pause"),
            Self::Resume(upstream) => upstream.set("resume"),
        }
    }
}

impl OneUpstream {
    fn set(&self, verb: &str) -> Result<(), Failure> {
        let mut printed = Ok(());
        control::post(&self.running.places()?, &path_of(&self.name, verb), None, |event| {
            let line = if self.running.json { json_line(&event.data) } else { state_line(&event.data) };
            if printed.is_ok() {
                printed = print(&line);
            }
        })?;
        printed
    }
}

fn path_of(upstream: &str, verb: &str) -> String {
    format!("/api/v1/upstreams/{}/{verb}", utf8_percent_encode(upstream, NON_ALPHANUMERIC))
}

/// Whether an upstream is paused, for a person.
fn state_line(result: &Value) -> String {
    let name = result["upstream"].as_str().unwrap_or_default();
    match result["paused_since"].as_str() {
        Some(since) => printable(&format!("{name}: paused since {since}; what is cached is served")) + "\n",
        None if result["was_paused"] == true => {
            printable(&format!("{name}: resumed; for up to 5 s more, tags are served as they are cached")) + "\n"
        }
        None => printable(&format!("{name}: was not paused")) + "\n",
    }
}

fn ls(running: &RunningArguments) -> Result<(), Failure> {
    let document = control::get(&running.places()?, "/api/v1/upstreams")?;
    match running.json {
        true => print_json(&document),
        false => {
            let upstreams = status::upstreams(&document["upstreams"], SystemTime::now());
            print(&upstreams.fit(columns::terminal_width()).to_string())
        }
    }
}

fn test(names: &[String], running: &RunningArguments) -> Result<(), Failure> {
    let places = running.places()?;
    let names = if names.is_empty() { all_names(&control::get(&places, "/api/v1/upstreams")?) } else { names.to_vec() };
    let (all, mut failed) = (names.len(), 0);
    for result in results(places, names) {
        let result = result?;
        failed += usize::from(result["result"] == "failed");
        // The upstreams that are left are not asked for a reader that has left.
        if let ControlFlow::Break(ended) = print_more(&if running.json { json_line(&result) } else { line(&result) }) {
            return ended;
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(anyhow::anyhow!("{failed} of {} failed", text::counted(all as u64, "upstream")))),
    }
}

/// The results of the tests, each as it comes: one that hangs holds up no more than one of the others.
fn results(places: Places, names: Vec<String>) -> mpsc::IntoIter<Result<Value, control::ControlError>> {
    let (sender, results) = mpsc::channel();
    let (names, next) = (Arc::new(names), Arc::new(AtomicUsize::new(0)));
    for _ in 0..MAX_TESTS {
        let (places, names, next, sender) = (places.clone(), names.clone(), next.clone(), sender.clone());
        // They end with the process, if the command ends before.
        thread::spawn(move || {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                let asked = control::post(&places, &path_of(name, "test"), None, |event| {
                    let _ = sender.send(Ok(event.data));
                });
                if let Err(error) = asked
                    && sender.send(Err(error)).is_err()
                {
                    return;
                }
            }
        });
    }
    results.into_iter()
}

fn all_names(document: &Value) -> Vec<String> {
    let upstreams = document["upstreams"].as_array().into_iter().flatten();
    upstreams.filter_map(|upstream| upstream["name"].as_str().map(str::to_owned)).collect()
}

/// The result of a test, for a person.
fn line(result: &Value) -> String {
    let name = result["upstream"].as_str().unwrap_or_default();
    let took = result["seconds"].as_f64().map(text::seconds).unwrap_or_default();
    let told = match result["result"].as_str() {
        Some("ok") => format!("ok, {took}"),
        Some("wants_client_credentials") => format!("ok, {took} (requires client credentials)"),
        _ => format!("failed after {took}: {}", result["problem"].as_str().unwrap_or_default()),
    };
    printable(&format!("{name}: {told}")) + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_is_a_line() {
        let result =
            |result: &str| json!({ "upstream": "quay.io", "result": result, "seconds": 0.25, "problem": "n\u{1b}o" });
        for (word, expected) in [
            ("ok", "quay.io: ok, 250 ms\n"),
            ("wants_client_credentials", "quay.io: ok, 250 ms (requires client credentials)\n"),
            ("failed", "quay.io: failed after 250 ms: n?o\n"),
        ] {
            assert_eq!(line(&result(word)), expected);
        }
    }
}
