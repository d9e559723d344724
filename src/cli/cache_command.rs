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
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Subcommand, ValueEnum};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, control, output::print, running::RunningArguments, text};

/// How many images are asked for at a time.
const PAGE: usize = 500;
/// What stands in a path or a query as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b':').remove(b'.').remove(b'-').remove(b'_');

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// List images: how large each is, what of it is here, how it is used
    Ls {
        /// Only these, such as node:* or ghcr.io/*: the whole name, where * is any run of characters
        pattern: Option<String>,
        /// By what the images are sorted, the largest value first
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
        #[arg(long = "for", value_name = "DURATION", requires = "patterns")]
        duration: Option<String>,
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
        /// The images, such as node:22 or ghcr.io/org/*
        #[arg(value_name = "PATTERN", required = true)]
        patterns: Vec<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Only show what would be removed
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        #[command(flatten)]
        running: RunningArguments,
    },
    /// Ask the upstream now what tags name, instead of after tag_ttl, and take that over; it ends a freeze
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
    /// Take images from an archive into the cache: clients get them without an upstream
    Import(import::ImportArguments),
}

/// By what images are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// The last use
    Used,
    /// The bytes on disk
    Size,
    /// The number of pulls
    Pulls,
}

impl CacheCommand {
    /// `control`: what `--control` says.
    ///
    /// # Errors
    /// No forebay answers, or it refuses.
    pub(super) fn run(&self, control: Option<&Path>) -> Result<(), Failure> {
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
        let places = running.places(control)?;
        let (document, text): (Value, fn(&Value, SystemTime) -> String) = match self {
            Self::Pin { patterns, duration, .. } if !patterns.is_empty() => {
                return pin::pin(&places, patterns, duration.as_deref(), running.json);
            }
            Self::Unpin { patterns, .. } => return pin::unpin(&places, patterns, running.json),
            Self::Rm { patterns, yes, dry_run, .. } => {
                let (places, is_json) = (&places[..], running.json);
                return rm::Removal { places, patterns, is_yes: *yes, is_dry: *dry_run, is_json }.run();
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
            true => print(&format!("{document}\n")),
            false => print(&text(&document, SystemTime::now())),
        }
    }
}

/// All pages of images as one.
fn images(places: &[PathBuf], pattern: Option<&str>, sort: Sort, limit: Option<u32>) -> Result<Value, Failure> {
    let sort = match sort {
        Sort::Used => "used",
        Sort::Size => "size",
        Sort::Pulls => "pulls",
    };
    let mut left = limit.map_or(usize::MAX, |limit| limit as usize);
    let mut all = Value::Null;
    let mut after: Option<String> = None;
    while left > 0 {
        let mut path = format!("images?sort={sort}&limit={}", left.min(PAGE));
        for (name, value) in [("match", pattern), ("after", after.as_deref())] {
            path.extend(value.map(|value| format!("&{name}={}", escaped(value))));
        }
        let mut page = get(places, &path)?;
        after = page["next"].as_str().map(str::to_owned);
        let images = page["images"].as_array_mut().map(std::mem::take).unwrap_or_default();
        left = if after.is_none() || images.is_empty() { 0 } else { left.saturating_sub(images.len()) };
        if all.is_null() {
            all = page;
        } else {
            all["next"] = page["next"].take();
        }
        if let Some(known) = all["images"].as_array_mut() {
            known.extend(images);
        }
    }
    Ok(all)
}

fn get(places: &[PathBuf], path: &str) -> Result<Value, Failure> {
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

/// A number of bytes; empty if there is none.
fn size(bytes: &Value) -> String {
    bytes.as_u64().map(text::bytes).unwrap_or_default()
}

/// How long ago a time was; empty if there is none.
fn age(time: &Value, now: SystemTime) -> String {
    if time.is_null() { String::new() } else { text::age(time, now) }
}
