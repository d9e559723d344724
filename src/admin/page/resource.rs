//! Which part of the page a path means (pure).

use crate::html::{Asset, LIVE, STYLE};

static SCRIPT: Asset = Asset::script(include_bytes!("script.js"));

/// A part of the page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resource {
    Home,
    /// What changes by itself.
    Now,
    /// The images that a search found.
    Images,
    Asset(&'static Asset),
}

impl Resource {
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Home,
            "/page/now" => Self::Now,
            "/page/images" => Self::Images,
            "/page/style.css" => Self::Asset(&STYLE),
            "/page/live.js" => Self::Asset(&LIVE),
            "/page/script.js" => Self::Asset(&SCRIPT),
            _ => return None,
        })
    }
}
