//! `[[warm]]`: images that forebay fetches by itself.

use std::time::Duration;

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
    units::Period,
};
use crate::{
    route::{NameError, RouteError, Routes, resolve_image},
    upstream::{self, Access},
    warm::{Config, NoTime, Platforms, Schedule},
};

/// How many sections there may be, and how many images one may name.
const MAX_JOBS: usize = 100;
const MAX_IMAGES: usize = 1_000;
/// More runs would ask upstreams more often than tags change.
const MIN_PERIOD: Duration = Duration::from_secs(60);

/// The keys of a job.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WarmSection {
    images: Vec<String>,
    every: Option<Period>,
    at: Option<String>,
    platforms: Vec<String>,
    pin: Option<Period>,
}

/// The jobs of the file. The document notes what is wrong with one.
pub(super) fn read(document: &Document<'_>, sections: Vec<WarmSection>, upstreams: &[upstream::Config]) -> Vec<Config> {
    let array = Key::new("warm");
    if sections.len() > MAX_JOBS {
        document.refuse(&array, format!("must be at most {MAX_JOBS} sections; name several images in one"));
        return Vec::new();
    }
    let routes = Routes::new(upstreams.iter().map(|upstream| (upstream, upstream)));
    let read = |(index, section): (usize, WarmSection)| {
        let key = array.item(index);
        // Without the value that was refused, the rest of the section would be judged wrongly.
        if document.is_refused(&key) { None } else { document.keep(section.read(document, &key, &routes)) }
    };
    sections.into_iter().enumerate().filter_map(read).collect()
}

impl WarmSection {
    fn read(self, document: &Document<'_>, key: &Key, routes: &Routes<&upstream::Config>) -> Result<Config, Error> {
        let Self { images, every, at, platforms, pin } = self;
        if images.is_empty() {
            return Err(document.error(key, "needs images: images = [\"docker.io/library/node:22\"]"));
        }
        let of_images = key.field("images");
        if images.len() > MAX_IMAGES {
            return Err(document.error(&of_images, format!("must be at most {MAX_IMAGES} names")));
        }
        let images = document.each(&of_images, &images, |key, image| {
            let found = resolve_image(routes, image).map_err(|error| document.error(key, problem(&error)))?;
            match found.upstream.access {
                Access::Shared => Ok(image.to_owned()),
                Access::Client { .. } => Err(document.error(
                    key,
                    format!(
                        "is of {}, which has access = \"client\": only a client's own pull may fetch it",
                        found.upstream.name
                    ),
                )),
            }
        });
        let platforms = Platforms::parse(platforms.iter().map(String::as_str))
            .map_err(|error| document.error(&key.field("platforms"), error.to_string()))?;
        let schedule = match (every, at) {
            (Some(Period(period)), None) if period < MIN_PERIOD => {
                return Err(document.error(&key.field("every"), "must be at least \"1m\""));
            }
            (Some(Period(period)), None) => Schedule::Every(period),
            (None, Some(time)) => {
                let time = time.parse().map_err(|error: NoTime| document.error(&key.field("at"), error.to_string()))?;
                Schedule::At(time)
            }
            (Some(_), Some(_)) => {
                return Err(document.error(&key.field("at"), "and every are two schedules; keep one of them"));
            }
            (None, None) => {
                return Err(document.error(key, "needs a schedule: every = \"6h\", or at = \"02:00\" in UTC"));
            }
        };
        let pin = pin.map(|Period(period)| period);
        if pin.is_some_and(|pin| pin.is_zero()) {
            return Err(document.error(&key.field("pin"), "must be longer than 0; without the key nothing is pinned"));
        }
        Ok(Config { images, schedule, platforms, pin })
    }
}

fn problem(error: &NameError) -> String {
    match error {
        NameError::Route(RouteError::UnknownUpstream(name)) => {
            format!("is of {name}, which is no upstream here; add [[upstream]] name = {name:?}")
        }
        _ => "is no name of an image; write it as for docker pull, such as \"ghcr.io/owner/image:tag\"".to_owned(),
    }
}
