//! The forebays that a message passed, by its `Via` headers.
//!
//! Source: RFC 9110 section 7.6.3.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

/// A request that passed more proxies than this is in a loop.
pub(super) const MAX_HOPS: usize = 32;
/// The longest value of `Via`, in bytes: half of what servers commonly accept of one header.
pub(super) const MAX_LEN: usize = 4 * 1024;

/// The forebays that a message passed, as they name themselves in `Via`: at least one. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    names: Arc<[Box<str>]>,
    /// There were too many to keep: any other forebay may be among them.
    overflow: bool,
}

impl Mirrors {
    /// `None` when the message passed none.
    pub(super) fn in_headers(headers: &HeaderMap) -> Option<Self> {
        Self::in_values(headers.get_all(header::VIA).iter())
    }

    pub(super) fn in_values<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Option<Self> {
        let lines = values.filter_map(|value| value.to_str().ok()).flat_map(|line| line.split(','));
        let received_by = lines.filter_map(|hop| hop.split_ascii_whitespace().nth(1));
        let mut names: Vec<Box<str>> = received_by
            .filter(|name| *name == "forebay" || name.starts_with("forebay-"))
            .take(MAX_HOPS + 1)
            .map(Into::into)
            .collect();
        let overflow = names.len() > MAX_HOPS || names.iter().map(|name| name.len()).sum::<usize>() > MAX_LEN;
        if overflow {
            names.truncate(1);
        }
        (!names.is_empty()).then(|| Self { names: names.into(), overflow })
    }

    /// Those before the last one, if there are any.
    pub(super) fn without_last(&self) -> Option<Self> {
        let names: Arc<[Box<str>]> = self.names.split_last()?.1.into();
        (self.overflow || !names.is_empty()).then_some(Self { names, overflow: self.overflow })
    }

    /// Whether one of them may be one of `others`.
    pub fn may_overlap(&self, others: &Self) -> bool {
        self.overflow || others.overflow || self.names.iter().any(|name| others.names.contains(name))
    }

    /// As the value of a `Via` header.
    pub fn header(&self) -> Option<HeaderValue> {
        let hops: Vec<String> = self.names.iter().map(|name| format!("1.1 {name}")).collect();
        HeaderValue::try_from(hops.join(", ")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forebays_are_found_in_via() {
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
        assert!(both.may_overlap(&found(&["1.1 forebay-2"]).unwrap()) && !both.may_overlap(&other));
        let known = |vias: &[&'static str]| found(vias).and_then(|found| found.without_last()?.header());
        assert_eq!(known(&["1.1 forebay-1"]), None);
        assert_eq!(known(&["1.1 forebay-1, 1.1 forebay-2"]), Some(HeaderValue::from_static("1.1 forebay-1")));
        let overflow = HeaderValue::try_from(vec!["1.1 forebay-9"; MAX_HOPS + 1].join(", ")).unwrap();
        assert!(other.may_overlap(&Mirrors::in_values([&overflow].into_iter()).unwrap()));
    }
}
