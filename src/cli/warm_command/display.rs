//! What a run shows: a line for each image on standard output; meanwhile bars on a terminal, and elsewhere a line now and
//! then, on standard error.

use std::{collections::HashMap, env, io::IsTerminal as _};

use forebay::visible::printable;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::{
    Failure,
    columns::cut,
    events::Event,
    output::{print, print_json, remark},
    text::{self, counted},
};

/// A line of progress is printed for one event in so many: events come twice a second.
const LINE_EVERY: u64 = 20;
/// Plain characters: every terminal has them. What has no room in its line is cut off, so that the line can be drawn anew.
const BAR: &str = "[{bar:10}] {wide_msg}";
/// The longest name beside a bar, in characters.
const MAX_NAME: usize = 40;

/// Shows the events of a run.
pub(super) struct Display {
    form: Form,
}

enum Form {
    Json,
    Lines { events: u64 },
    Bars(Bars),
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    /// For how many images a line is printed.
    told: u64,
    /// What came last of the progress.
    last: Value,
    images: HashMap<String, ProgressBar>,
}

impl Display {
    pub(super) fn new(is_json: bool) -> Self {
        // Bars need a cursor that moves.
        let has_cursor = std::io::stderr().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb");
        let form = match (is_json, has_cursor) {
            (true, _) => Form::Json,
            (false, true) => Form::Bars(Bars::new()),
            (false, false) => Form::Lines { events: 0 },
        };
        Self { form }
    }

    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn show(&mut self, event: &Event) -> Result<(), Failure> {
        let line = match &*event.name {
            "image" => image_line(&event.data),
            "done" => summary_line(&event.data),
            _ => String::new(),
        };
        match &mut self.form {
            Form::Json => {
                let mut data = event.data.clone();
                data["event"] = json!(event.name);
                print_json(&data)
            }
            _ if event.name == "progress" => {
                self.progress(&event.data);
                Ok(())
            }
            Form::Lines { .. } => print(&line),
            Form::Bars(bars) => {
                match &*event.name {
                    "done" => bars.clear(),
                    _ => bars.note_image(),
                }
                bars.all.suspend(|| print(&line))
            }
        }
    }

    fn progress(&mut self, data: &Value) {
        match &mut self.form {
            Form::Json => {}
            Form::Lines { events } => {
                if *events % LINE_EVERY == LINE_EVERY - 1 {
                    remark(&progress_text(data));
                }
                *events += 1;
            }
            Form::Bars(bars) => {
                if data["phase"] == "fetching" && bars.last["phase"] != "fetching" {
                    bars.all.suspend(|| remark(&plan_text(data)));
                }
                bars.last = data.clone();
                bars.update();
            }
        }
    }

    /// Takes the bars away.
    pub(super) fn end(&mut self) {
        if let Form::Bars(bars) = &mut self.form {
            bars.clear();
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let total = all.add(bar());
        Self { all, total, told: 0, last: Value::Null, images: HashMap::new() }
    }

    /// An image is looked at, or done: the next event of progress comes in half a second, or never.
    fn note_image(&mut self) {
        self.told += 1;
        if !self.last.is_null() {
            self.update();
        }
    }

    fn update(&mut self) {
        let mut data = std::mem::take(&mut self.last);
        for key in ["resolved", "done"] {
            data[key] = number(&data, key).max(self.told).into();
        }
        self.draw(&data);
        self.last = data;
    }

    fn draw(&mut self, data: &Value) {
        let (position, length) = match &data["phase"] {
            Value::String(phase) if phase == "resolving" => (number(data, "resolved"), number(data, "images")),
            _ => (number(data, "bytes"), number(data, "total")),
        };
        set(&self.total, position, length, progress_text(data));
        let current: Vec<(String, &Value)> =
            data["current"].as_array().into_iter().flatten().map(|image| (visible(&image["image"]), image)).collect();
        self.images.retain(|name, bar| {
            let is_current = current.iter().any(|(current, _)| current == name);
            if !is_current {
                bar.finish_and_clear();
            }
            is_current
        });
        for (name, image) in current {
            let (bytes, total) = (number(image, "bytes"), number(image, "total"));
            let bar = self.images.entry(name.clone()).or_insert_with(|| self.all.insert_before(&self.total, bar()));
            set(
                bar,
                bytes,
                total,
                format!("{} of {}  {}", text::bytes(bytes), text::bytes(total), cut(&name, MAX_NAME)),
            );
        }
    }

    fn clear(&mut self) {
        self.images.drain().for_each(|(_, bar)| bar.finish_and_clear());
        self.total.finish_and_clear();
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    match ProgressStyle::with_template(BAR) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

fn set(bar: &ProgressBar, position: u64, length: u64, message: String) {
    bar.set_length(length.max(1));
    bar.set_position(position);
    bar.set_message(message);
}

/// How far the run is, in a line.
fn progress_text(data: &Value) -> String {
    let (images, done, failed) = (number(data, "images"), number(data, "done"), number(data, "failed"));
    if data["phase"] == "resolving" {
        return format!("{} of {} looked at", number(data, "resolved"), counted(images, "image"));
    }
    let bytes = format!("{} of {}", text::bytes(number(data, "bytes")), text::bytes(number(data, "total")));
    let rate = text::bytes(number(data, "bytes_per_second"));
    let left = data["seconds_left"].as_u64().map(|left| format!(", {} left", text::whole_seconds(left)));
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("{bytes}, {rate}/s{}; {done} of {images} done{failed}", left.unwrap_or_default())
}

/// What all images were found to need, once that is known.
fn plan_text(data: &Value) -> String {
    let (images, bytes) = (counted(number(data, "images"), "image"), text::bytes(number(data, "total")));
    format!("{images}: {bytes} to fetch, {} so far", counted(number(data, "pulls"), "counted pull"))
}

fn image_line(data: &Value) -> String {
    let (outcome, image) = (visible(&data["outcome"]), visible(&data["image"]));
    let problem = visible(&data["problem"]);
    if outcome == "failed" {
        return format!("failed   {image}  {problem}\n");
    }
    let digest = visible(&data["digest"]);
    let digest = text::short_digest(&digest);
    let stale = if problem.is_empty() { String::new() } else { format!("  ({problem})") };
    format!("{outcome:<8} {image}  {}  {digest}{stale}\n", text::bytes(number(data, "bytes")))
}

fn summary_line(data: &Value) -> String {
    let [fetched, cached, failed] = ["fetched", "cached", "failed"].map(|name| number(data, name));
    let (bytes, pulls) = (text::bytes(number(data, "fetched_bytes")), number(data, "pulls"));
    let took = text::seconds(data["seconds"].as_f64().unwrap_or_default());
    let problem = visible(&data["problem"]);
    let problem = if problem.is_empty() { String::new() } else { format!("{problem}\n") };
    let pulls = counted(pulls, "counted pull");
    format!("{problem}{fetched} fetched, {cached} cached, {failed} failed: {bytes} in {took}, {pulls}\n")
}

fn number(data: &Value, name: &str) -> u64 {
    data[name].as_u64().unwrap_or_default()
}

/// A text of forebay, part of which an upstream may have made up; empty if there is none.
fn visible(text: &Value) -> String {
    printable(text.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_line_with_its_outcome() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (data, expected) in [
            (
                json!({ "image": "docker.io/library/node:22", "outcome": "fetched", "digest": digest, "bytes": 408_000_000 }),
                "fetched  docker.io/library/node:22  389.1 MiB  sha256:abababababab\n",
            ),
            (
                json!({ "image": "ghcr.io/o/a:1", "outcome": "cached", "digest": digest, "bytes": 10, "problem": "not sure" }),
                "cached   ghcr.io/o/a:1  10 B  sha256:abababababab  (not sure)\n",
            ),
            (
                json!({ "image": "a:1", "outcome": "failed", "digest": null, "problem": "no\u{1b}[31m tag" }),
                "failed   a:1  no?[31m tag\n",
            ),
        ] {
            assert_eq!(image_line(&data), expected);
        }
    }

    #[test]
    fn progress_and_sums_are_lines() {
        let resolving = json!({ "phase": "resolving", "images": 12, "resolved": 3 });
        assert_eq!(progress_text(&resolving), "3 of 12 images looked at");
        let mut fetching = json!({ "phase": "fetching", "images": 12, "done": 7, "failed": 1, "bytes": 1 << 30,
            "total": 4_u64 << 30, "bytes_per_second": 61 << 20, "seconds_left": 75 });
        let expected = "1.0 GiB of 4.0 GiB, 61.0 MiB/s, 1 min left; 7 of 12 done, 1 failed";
        assert_eq!(progress_text(&fetching), expected);
        fetching["pulls"] = 11.into();
        assert_eq!(plan_text(&fetching), "12 images: 4.0 GiB to fetch, 11 counted pulls so far");
        fetching["seconds_left"] = Value::Null;
        assert!(progress_text(&fetching).contains("61.0 MiB/s; 7 of"));
        let sums = json!({ "fetched": 1, "cached": 2, "failed": 0, "fetched_bytes": 1024, "pulls": 3, "seconds": 1.5 });
        assert_eq!(summary_line(&sums), "1 fetched, 2 cached, 0 failed: 1.0 KiB in 1.5 s, 3 counted pulls\n");
        let full = json!({ "failed": 2, "problem": "the images need more" });
        assert!(summary_line(&full).starts_with("the images need more\n0 fetched"));
    }
}
