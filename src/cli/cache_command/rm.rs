//! `forebay cache rm`: shows what would go, asks, and removes it.

use forebay::visible::printable;
use serde_json::Value;

use super::escaped;
use crate::cli::{
    Failure, control,
    events::Event,
    no_match,
    output::{json_line, print, remark},
    running::Places,
    terminal,
    text::{counted, size},
};

/// All images.
const ALL: &str = "*";
/// How many images are named before the question.
const MAX_SHOWN: usize = 100;

/// What is removed, and how.
pub(super) struct Removal<'a> {
    pub places: &'a Places,
    /// Empty: all.
    pub patterns: &'a [String],
    /// What else an image must be, as parameters of the API.
    pub filters: [(&'static str, Option<&'a str>); 2],
    pub is_yes: bool,
    pub is_dry: bool,
    pub is_json: bool,
}

/// What came of it, over all patterns.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    images: u64,
    pinned: u64,
    bytes: u64,
    is_whole: bool,
}

impl Removal<'_> {
    /// # Errors
    /// forebay refuses, there is no terminal to ask at, the person says no, or an image is pinned.
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.is_dry {
            return self.all(true, true).map(drop);
        }
        if !self.is_yes {
            if !terminal::is_there() {
                let why = "standard input is no terminal to ask at: say --yes, or look first with --dry-run";
                return Err(Failure::Configuration(anyhow::anyhow!(why)));
            }
            let Outcome { images, bytes, pinned, .. } = self.all(true, true)?;
            if images == 0 {
                return verdict(pinned);
            }
            if !terminal::confirm(&format!("Remove {}?", sum(images, bytes)))? {
                return Err(Failure::Failed(anyhow::anyhow!("nothing is removed")));
            }
        }
        verdict(self.all(false, self.is_yes)?.pinned)
    }

    /// Removes what the patterns match, one after the other. `is_told`: prints each image.
    fn all(&self, is_dry: bool, is_told: bool) -> Result<Outcome, Failure> {
        let (mut outcome, mut shown) = (Outcome::default(), 0);
        let all = [ALL.to_owned()];
        let filters: String = self
            .filters
            .iter()
            .filter_map(|(name, value)| value.map(|value| format!("&{name}={}", escaped(value))))
            .collect();
        for pattern in if self.patterns.is_empty() { &all } else { self.patterns } {
            let path = format!("/api/v1/images?match={}{filters}&dry_run={is_dry}", escaped(pattern));
            let mut printed = Ok(());
            let before = outcome.images + outcome.pinned;
            outcome.is_whole = false;
            control::delete(self.places, &path, |event| {
                outcome.note(&event);
                let is_shown = self.is_json || (is_told && event.name == "image" && shown < MAX_SHOWN);
                shown += usize::from(event.name == "image");
                if is_shown && printed.is_ok() {
                    printed = print(&self.line(&event));
                }
            })?;
            printed?;
            if !outcome.is_whole {
                return Err(Failure::Failed(anyhow::anyhow!("forebay ended before all was removed")));
            }
            if outcome.images + outcome.pinned == before {
                match filters.is_empty() {
                    true => no_match::remark(self.places, pattern),
                    false => remark("there are no such images to remove"),
                }
            }
        }
        if !self.is_json {
            if is_told && shown > MAX_SHOWN {
                print(&format!("and {} more\n", shown - MAX_SHOWN))?;
            }
            let verb = if is_dry { "would be removed" } else { "removed" };
            if outcome.images > 0 {
                print(&format!("{} {verb}\n", sum(outcome.images, outcome.bytes)))?;
            }
        }
        Ok(outcome)
    }

    fn line(&self, event: &Event) -> String {
        if self.is_json {
            return json_line(&event.data);
        }
        let name = printable(event.data["name"].as_str().unwrap_or_default());
        match event.data["result"].as_str() {
            Some("pinned") => format!("{name}  pinned, stays\n"),
            _ => name + "\n",
        }
    }
}

impl Outcome {
    fn note(&mut self, event: &Event) {
        if event.name == "done" {
            let count = |key: &str| Value::as_u64(&event.data[key]).unwrap_or_default();
            self.images += count("images");
            self.pinned += count("pinned");
            self.bytes += count("bytes");
            self.is_whole = true;
        }
    }
}

/// Images that are pinned were to go, too.
fn verdict(pinned: u64) -> Result<(), Failure> {
    match pinned {
        0 => Ok(()),
        1 => Err(Failure::Failed(anyhow::anyhow!("1 image is pinned and stays; unpin it first"))),
        pinned => Err(Failure::Failed(anyhow::anyhow!("{pinned} images are pinned and stay; unpin them first"))),
    }
}

fn sum(images: u64, bytes: u64) -> String {
    format!("{}, {}", counted(images, "image"), size(&bytes.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sums_are_those_of_all_patterns() {
        let done = |images: u64, pinned: u64| Event {
            name: "done".to_owned(),
            data: json!({ "images": images, "pinned": pinned, "bytes": 4096 }),
        };
        let mut outcome = Outcome::default();
        outcome.note(&Event { name: "progress".to_owned(), data: json!({ "objects": 1 }) });
        assert_eq!(outcome, Outcome::default());
        outcome.note(&done(1, 0));
        outcome.note(&done(2, 3));
        assert_eq!(outcome, Outcome { images: 3, pinned: 3, bytes: 8192, is_whole: true });
        assert_eq!((sum(1, 4096), sum(3, 8192)), ("1 image, 4.0 KiB".to_owned(), "3 images, 8.0 KiB".to_owned()));
    }
}
