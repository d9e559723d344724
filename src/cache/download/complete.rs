//! When a range of a large blob brings all of it into the cache.

/// When forebay fetches the whole of a large blob of which clients request only ranges.
///
/// Lazy pullers (stargz, SOCI, partial pulls of podman) read a small part of each layer while a container starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Complete {
    /// As soon as a client requests a range.
    Always,
    /// Once half of the blob is here or on its way.
    #[default]
    WhenHalf,
    /// Not before a client requests the whole blob, or the upstream sends no less.
    Never,
}

impl Complete {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::WhenHalf => "when-half",
            Self::Never => "never",
        }
    }
}
