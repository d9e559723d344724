//! The `Via` header of requests to the upstream, by which mirrors find a loop.
//!
//! What must hold: a request carries all proxies that it passed on its way to forebay, or it is not sent. Whether
//! forebay itself is among them is checked by the registry stage.
//!
//! Source: RFC 9110 §7.6.3.

use http::HeaderValue;

use super::{
    error::{Error, ErrorKind},
    mirrors::{MAX_HOPS, MAX_LEN},
};

/// The value of `Via` of the requests to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// forebay's own name alone.
    Ours,
    /// The proxies that the request passed, and forebay at the end.
    Behind(HeaderValue),
    /// The request passed too many proxies.
    TooLong,
}

impl Via {
    /// `theirs` is the `Via` of the client's request, `ours` what forebay adds.
    pub(super) fn behind(theirs: Option<&HeaderValue>, ours: &HeaderValue) -> Self {
        let Some(theirs) = theirs.filter(|theirs| !theirs.as_bytes().trim_ascii().is_empty()) else {
            return Self::Ours;
        };
        let value = [theirs.as_bytes(), b", ", ours.as_bytes()].concat();
        let hops = value.split(|byte| *byte == b',').count();
        if value.len() > MAX_LEN || hops > MAX_HOPS {
            return Self::TooLong;
        }
        // Two header values with a comma in between are one.
        HeaderValue::from_bytes(&value).map_or(Self::TooLong, Self::Behind)
    }

    /// The header's value; `None`: forebay alone, which is a default header of the client.
    ///
    /// # Errors
    /// `Loop` when the request passed too many proxies.
    pub(super) fn header(&self) -> Result<Option<&HeaderValue>, Error> {
        match self {
            Self::Ours => Ok(None),
            Self::Behind(value) => Ok(Some(value)),
            Self::TooLong => Err(Error::new(ErrorKind::Loop, "the request passed too many mirrors, as in a loop")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn via_values_are_joined_and_bounded() {
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
