//! The files that the page loads. They are part of the program.

use std::sync::LazyLock;

use crate::oci::{Algorithm, Digest};

/// A file that the page loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Asset {
    Style,
    Script,
}

const STYLE: &[u8] = include_bytes!("style.css");
const SCRIPT: &[u8] = include_bytes!("script.js");

impl Asset {
    pub(super) fn content(self) -> &'static [u8] {
        match self {
            Self::Style => STYLE,
            Self::Script => SCRIPT,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Style => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
        }
    }

    /// Computed once.
    pub(super) fn digest(self) -> &'static Digest {
        static DIGESTS: LazyLock<[Digest; 2]> =
            LazyLock::new(|| [STYLE, SCRIPT].map(|content| Digest::of(Algorithm::Sha256, content)));
        match self {
            Self::Style => &DIGESTS[0],
            Self::Script => &DIGESTS[1],
        }
    }
}
