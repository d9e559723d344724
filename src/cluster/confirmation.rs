//! The header by which a member confirms that a request came from a peer: `Forebay-Peer: zone=eu-1a, own`.
//!
//! `zone`: where the member is, `-` if it does not say. `own`: the error of the response is the member's, and says nothing of
//! what the registry would answer.

use http::HeaderValue;

use super::config::MAX_ZONE;

const ZONE: &str = "zone=";
const NO_ZONE: &str = "-";
const OWN: &str = "own";

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmation<'a> {
    pub zone: Option<&'a str>,
    pub is_own_error: bool,
}

impl<'a> Confirmation<'a> {
    /// `None`: the text is none of a header.
    pub(crate) fn to_header(self) -> Option<HeaderValue> {
        let zone = self.zone.map_or_else(|| NO_ZONE.to_owned(), |zone| format!("{ZONE}{zone}"));
        let text = if self.is_own_error { format!("{zone}, {OWN}") } else { zone };
        HeaderValue::try_from(text).ok()
    }

    pub(crate) fn parse(header: &'a HeaderValue) -> Option<Self> {
        let mut parts = header.to_str().ok()?.split(", ");
        let zone = match parts.next()? {
            NO_ZONE => None,
            text => Some(text.strip_prefix(ZONE).filter(|zone| zone.len() <= MAX_ZONE)?),
        };
        let is_own_error = match parts.next() {
            None => false,
            Some(OWN) => true,
            Some(_) => return None,
        };
        parts.next().is_none().then_some(Self { zone, is_own_error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_writes_the_other_reads() {
        for zone in [None, Some("eu-1a"), Some("-")] {
            for is_own_error in [false, true] {
                let confirmation = Confirmation { zone, is_own_error };
                let header = confirmation.to_header().unwrap();
                assert_eq!(Confirmation::parse(&header), Some(confirmation), "{header:?}");
            }
        }
        let long = format!("zone={}", "x".repeat(MAX_ZONE + 1));
        for text in ["", "zone", "own", "-, other", "-, own, own", "eu-1a", &long] {
            assert_eq!(Confirmation::parse(&HeaderValue::from_str(text).unwrap()), None, "{text}");
        }
    }
}
