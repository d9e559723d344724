//! On whose behalf the upstream is asked, told in `Via` so that a circle of mirrors is found out.
//!
//! What must hold: whatever way a request took to us is told to whom we ask, or the request goes
//! nowhere. Whether we are on that way ourselves is the server's to see.
//!
//! Source: RFC 9110 §7.6.3.

use http::HeaderValue;

use super::error::{Error, ErrorKind};

/// A way with more stations than this goes in a circle.
const MAX_HOPS: usize = 32;
/// The longest way that is told, in bytes: half of what servers commonly take of one header.
const MAX_LEN: usize = 4 * 1024;

/// The value of `Via` of the requests to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// We ask for ourselves.
    Ours,
    /// The whole way to the upstream, we at its end.
    Behind(HeaderValue),
    /// The way is too long to be one that leads anywhere.
    TooLong,
}

impl Via {
    /// `theirs` is what came with the request, `ours` what we add.
    pub(super) fn behind(theirs: Option<&HeaderValue>, ours: &HeaderValue) -> Self {
        let Some(theirs) = theirs.filter(|theirs| !theirs.as_bytes().trim_ascii().is_empty()) else {
            return Self::Ours;
        };
        let way = [theirs.as_bytes(), b", ", ours.as_bytes()].concat();
        let hops = way.split(|byte| *byte == b',').count();
        if way.len() > MAX_LEN || hops > MAX_HOPS {
            return Self::TooLong;
        }
        // Two header values with a comma in between are one.
        HeaderValue::from_bytes(&way).map_or(Self::TooLong, Self::Behind)
    }

    /// The header's value; `None`: ours alone, which every request has anyway.
    ///
    /// # Errors
    /// `Loop` when the way was too long.
    pub(super) fn header(&self) -> Result<Option<&HeaderValue>, Error> {
        match self {
            Self::Ours => Ok(None),
            Self::Behind(way) => Ok(Some(way)),
            Self::TooLong => {
                Err(Error::new(ErrorKind::Loop, "the request came through more mirrors than a way has that ends"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways() {
        let behind = |theirs: &str| {
            let ours = HeaderValue::from_static("1.1 forebay-b");
            Via::behind(Some(&HeaderValue::from_str(theirs).unwrap()), &ours)
        };
        let way = |text: &str| Via::Behind(HeaderValue::from_str(text).unwrap());
        assert_eq!(behind("1.1 forebay-a"), way("1.1 forebay-a, 1.1 forebay-b"));
        assert_eq!(behind("1.1 x, 1.1 y (z)"), way("1.1 x, 1.1 y (z), 1.1 forebay-b"));
        assert_eq!(behind(" "), Via::Ours);
        assert_eq!(Via::behind(None, &HeaderValue::from_static("1.1 forebay-b")), Via::Ours);
        let hops = |count| vec!["1.1 x"; count].join(", ");
        assert!(behind(&hops(31)).header().unwrap().is_some());
        assert_eq!(behind(&hops(32)).header().unwrap_err().kind, ErrorKind::Loop);
        assert_eq!(behind(&"x".repeat(5000)), Via::TooLong);
    }
}
