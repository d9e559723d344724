//! `forebay cache …`: the images in the cache of the running forebay.

mod archive_source;
mod du;
mod export;
mod import;
mod ls;
mod pin;
mod refresh;
mod rm;
mod show;
mod verify;

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use clap::{Subcommand, ValueEnum};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Failure, columns, control, no_match,
    output::{print, print_json},
    running::{Places, RunningArguments},
    text,
};

/// How many images are asked for at a time: as many as a page may have.
const PAGE: usize = 1000;
/// How many pages are read: of more images than a forebay remembers.
const MAX_PAGES: usize = 1000;
/// What stands in a path or a query as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b':').remove(b'.').remove(b'-').remove(b'_');

/// Shows a document to a person, at a time, in lines of so many characters.
type Text = fn(&Value, SystemTime, Option<usize>) -> String;

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// List images: how large each is, what of it is here, how it is used
    Ls {
        /// Only these, such as node:* or ghcr.io/*: the whole name, where * is any run of characters
        pattern: Option<String>,
        /// By what the images are sorted: the largest value first, and names as in a dictionary
        #[arg(long, value_enum, default_value = "used")]
        sort: Sort,
        /// How many images at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Show one image: its platforms, their layers, which of them are here and which images share them
    Show {
        /// The image, as for docker: node is docker.io/library/node:latest
        #[arg(value_name = "REF")]
        image: String,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Pin images: they are not evicted, also what of them comes later; without a pattern, list the pins
    Pin {
        /// The images, such as node:22 or registry.k8s.io/*
        #[arg(value_name = "PATTERN")]
        patterns: Vec<String>,
        /// How long they are pinned, such as 30d [default: until unpin]
        #[arg(long = "for", value_name = "DURATION", value_parser = text::time_span, requires = "patterns")]
        duration: Option<Duration>,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Remove pins: what they kept may be evicted
    Unpin {
        /// The pins, as they were given
        #[arg(value_name = "PATTERN", required = true)]
        patterns: Vec<String>,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Remove images from the cache: their tags, and what no other image has; pinned ones stay
    Rm {
        /// The images, such as node:22 or ghcr.io/org/* [default with --upstream or --older-than: all]
        #[arg(value_name = "PATTERN", required_unless_present_any = ["upstream", "older_than"])]
        patterns: Vec<String>,
        /// Only images of this upstream, such as docker.io
        #[arg(long, value_name = "NAME")]
        upstream: Option<String>,
        /// Only images that no client has used, and no upstream has confirmed, for so long, such as 30d
        #[arg(long, value_name = "DURATION", value_parser = text::duration_argument)]
        older_than: Option<Duration>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Only show what would be removed
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Ask the upstream now what tags name, instead of after tag_ttl, and take that over; it ends a freeze and the pin of an
    /// import
    Refresh {
        /// A tag, or a pattern of tags in the cache
        #[arg(value_name = "REF", required = true)]
        patterns: Vec<String>,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Read what is stored again and compare it with its digests; what is damaged is removed
    Verify {
        /// Only these images [default: all that is in the cache]
        #[arg(value_name = "PATTERN")]
        pattern: Option<String>,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Show what takes the room of the cache: by upstream and repository, and what belongs to no image
    Du(RunningArguments),
    /// Write images into one archive, an OCI image layout, and download what is not in the cache yet
    Export(export::ExportArguments),
    /// Take images from an archive into the cache, pinned and frozen until a refresh: clients get them without an upstream
    Import(import::ImportArguments),
}

/// By what images are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    // The last use.
    Used,
    // The bytes on disk.
    Size,
    // The number of pulls.
    Pulls,
    // The name.
    Name,
}

impl CacheCommand {
    /// # Errors
    /// No forebay answers, or it refuses.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let running = match self {
            Self::Ls { running, .. }
            | Self::Show { running, .. }
            | Self::Du(running)
            | Self::Pin { running, .. }
            | Self::Unpin { running, .. }
            | Self::Rm { running, .. }
            | Self::Refresh { running, .. }
            | Self::Verify { running, .. } => running,
            Self::Export(export) => &export.running,
            Self::Import(import) => &import.running,
        };
        let places = running.places()?;
        let (document, shown): (Value, Text) = match self {
            Self::Pin { patterns, duration, .. } if !patterns.is_empty() => {
                return pin::pin(&places, patterns, *duration, running.json);
            }
            Self::Unpin { patterns, .. } => return pin::unpin(&places, patterns, running.json),
            Self::Rm { patterns, upstream, older_than, yes, dry_run, .. } => {
                let (places, is_json) = (&places, running.json);
                let older_than = older_than.map(text::duration_of_api);
                let filters = [("upstream", upstream.as_deref()), ("older_than", older_than.as_deref())];
                return rm::Removal { places, patterns, filters, is_yes: *yes, is_dry: *dry_run, is_json }.run();
            }
            Self::Refresh { patterns, .. } => return refresh::refresh(&places, patterns, running.json),
            Self::Verify { pattern, .. } => return verify::verify(&places, pattern.as_deref(), running.json),
            Self::Pin { .. } => (get(&places, "pins")?, pin::list),
            Self::Ls { pattern, sort, limit, .. } => (images(&places, pattern.as_deref(), *sort, *limit)?, ls::text),
            Self::Show { image, .. } => (get(&places, &format!("images/{}", escaped(image)))?, show::text),
            Self::Du(_) => (get(&places, "du")?, du::text),
            Self::Export(export) => return export.run(&places),
            Self::Import(import) => return import.run(&places),
        };
        match running.json {
            true => print_json(&document)?,
            false => print(&shown(&document, SystemTime::now(), columns::terminal_width()))?,
        }
        if let Self::Ls { pattern, .. } = self
            && document["images"].as_array().is_some_and(Vec::is_empty)
            && document["reading"] == false
        {
            no_match::remark(&places, pattern.as_deref().unwrap_or("*"));
        }
        Ok(())
    }
}

/// The images in their order: those of one page, or all.
fn images(places: &Places, pattern: Option<&str>, sort: Sort, limit: Option<u32>) -> Result<Value, Failure> {
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    if limit <= PAGE {
        return page(places, pattern, sort, limit, None);
    }
    // By name: an image that is used meanwhile is on another page by its use.
    let mut all = page(places, pattern, Sort::Name, PAGE, None)?;
    let mut images = taken(&mut all);
    for _ in 1..MAX_PAGES {
        let Some(after) = all["next"].as_str().map(str::to_owned) else { break };
        let mut more = page(places, pattern, Sort::Name, PAGE, Some(&after))?;
        images.append(&mut taken(&mut more));
        all = more;
    }
    order(&mut images, sort);
    all["next"] = shorten(&mut images, limit);
    all["images"] = images.into();
    Ok(all)
}

/// Leaves the first images: the name of the last of them if there were more, else null.
fn shorten(images: &mut Vec<Value>, limit: usize) -> Value {
    let is_longer = images.len() > limit;
    images.truncate(limit);
    images.last().filter(|_| is_longer).map_or(Value::Null, |last| last["name"].clone())
}

/// A page of images.
fn page(
    places: &Places,
    pattern: Option<&str>,
    sort: Sort,
    limit: usize,
    after: Option<&str>,
) -> Result<Value, Failure> {
    let sort = match sort {
        Sort::Used => "used",
        Sort::Size => "size",
        Sort::Pulls => "pulls",
        Sort::Name => "name",
    };
    let mut path = format!("images?sort={sort}&limit={limit}");
    for (name, value) in [("match", pattern), ("after", after)] {
        path.extend(value.map(|value| format!("&{name}={}", escaped(value))));
    }
    get(places, &path)
}

fn taken(page: &mut Value) -> Vec<Value> {
    page["images"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

/// Sorts images, which are in the order of their names.
fn order(images: &mut [Value], sort: Sort) {
    match sort {
        // Times of RFC 3339 in the same form and zone are in the order of their texts.
        Sort::Used => images.sort_by(|one, other| other["last_use"].as_str().cmp(&one["last_use"].as_str())),
        Sort::Size => images.sort_by_key(|image| Reverse(image["size"].as_u64())),
        Sort::Pulls => images.sort_by_key(|image| Reverse(image["pulls"].as_u64())),
        Sort::Name => {}
    }
}

fn get(places: &Places, path: &str) -> Result<Value, Failure> {
    Ok(control::get(places, &format!("/api/v1/{path}"))?)
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Whether the answer is not complete yet, as a line for people.
fn reading(document: &Value) -> &'static str {
    match document["reading"].as_bool() {
        Some(true) => "\nforebay is still reading what is on disk: some of it is missing here\n",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_of_all_pages_are_sorted_as_those_of_one() {
        let image = |name: &str, last_use: Value, size: Value, pulls: u64| json!({ "name": name, "last_use": last_use, "size": size, "pulls": pulls });
        let images = [
            image("a", Value::Null, 7.into(), 2),
            image("b", "2026-11-30T07:59:57Z".into(), Value::Null, 9),
            image("c", "2026-11-30T08:00:00Z".into(), 10.into(), 2),
            image("d", Value::Null, 7.into(), 2),
        ];
        for (sort, expected) in
            [(Sort::Used, "cbad"), (Sort::Size, "cadb"), (Sort::Pulls, "bacd"), (Sort::Name, "abcd")]
        {
            let mut images = images.to_vec();
            order(&mut images, sort);
            let names: String = images.iter().filter_map(|image| image["name"].as_str()).collect();
            assert_eq!(names, expected, "{sort:?}");
        }
    }

    #[test]
    fn a_list_tells_that_it_has_more_than_its_limit() {
        for (limit, len, next) in [(1, 1, "a".into()), (2, 2, "b".into()), (3, 3, Value::Null), (4, 3, Value::Null)] {
            let mut images = ["a", "b", "c"].map(|name| json!({ "name": name })).to_vec();
            assert_eq!((shorten(&mut images, limit), images.len()), (next, len), "{limit}");
        }
    }
}
