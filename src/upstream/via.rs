//! On whose behalf the upstream is asked, told in `Via` so that a circle of mirrors is found out.
//!
//! What must hold: whatever way a request took to us is told to whom we ask, or the request goes
//! nowhere. Whether we are on that way ourselves is the server's to see.
//!
//! Source: RFC 9110 §7.6.3.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

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

/// The forebays that a message passed, as they name themselves in `Via`: at least one. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    names: Arc<[Box<str>]>,
    /// They are more than a way has that leads anywhere: any other one may be among them.
    endless: bool,
}

impl Mirrors {
    /// `None` when the message passed none.
    pub(super) fn in_headers(headers: &HeaderMap) -> Option<Self> {
        Self::in_values(headers.get_all(header::VIA).iter())
    }

    pub(super) fn in_values<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Option<Self> {
        let ways = values.filter_map(|value| value.to_str().ok()).flat_map(|way| way.split(','));
        let received_by = ways.filter_map(|hop| hop.split_ascii_whitespace().nth(1));
        let mut names: Vec<Box<str>> = received_by
            .filter(|name| *name == "forebay" || name.starts_with("forebay-"))
            .take(MAX_HOPS + 1)
            .map(Into::into)
            .collect();
        let endless = names.len() > MAX_HOPS || names.iter().map(|name| name.len()).sum::<usize>() > MAX_LEN;
        if endless {
            names.truncate(1);
        }
        (!names.is_empty()).then(|| Self { names: names.into(), endless })
    }

    /// Whether one of them may be one of `others`.
    pub fn meet(&self, others: &Self) -> bool {
        self.endless || others.endless || self.names.iter().any(|name| others.names.contains(name))
    }

    /// As a `Via` tells them.
    pub fn header(&self) -> Option<HeaderValue> {
        let hops: Vec<String> = self.names.iter().map(|name| format!("1.1 {name}")).collect();
        HeaderValue::try_from(hops.join(", ")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forebays_on_a_way() {
        let found = |vias: &[&'static str]| {
            let values: Vec<_> = vias.iter().map(|via| HeaderValue::from_static(via)).collect();
            Mirrors::in_values(values.iter())
        };
        let told = |vias: &[&'static str]| found(vias).and_then(|found| found.header());
        for (vias, expected) in [
            (&[][..], None),
            (&["1.1 proxy.lan (squid)", "1.0 fred, 2 other"], None),
            (&["1.1 forebay-1"], Some("1.1 forebay-1")),
            (&["1.0 fred, HTTP/2 forebay-1 (a comment)", "1.1 forebay-2"], Some("1.1 forebay-1, 1.1 forebay-2")),
            (&["forebay-1", ", ,", "1.1"], None),
        ] {
            assert_eq!(told(vias), expected.map(HeaderValue::from_static), "{vias:?}");
        }
        let (both, other) = (found(&["1.1 forebay-1, 1.1 forebay-2"]).unwrap(), found(&["1.1 forebay-3"]).unwrap());
        assert!(both.meet(&found(&["1.1 forebay-2"]).unwrap()) && !both.meet(&other));
        let endless = HeaderValue::try_from(vec!["1.1 forebay-9"; MAX_HOPS + 1].join(", ")).unwrap();
        assert!(other.meet(&Mirrors::in_values([&endless].into_iter()).unwrap()));
    }

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
