//! The header by which a member confirms that a request came from a peer, and proves its response:
//! `Forebay-Peer: zone=eu-1a, own, m=<HMAC-SHA-256>`.
//!
//! `zone`: where the member is, `-` if it does not say. `own`: the error of the response is the member's, and says nothing of
//! what the registry would answer. `m`: the code over the nonce of the request's proof, the text before, the status and
//! [`PROVEN`].
//!
//! What must hold: a confirmation is good for the response to one request; what tells which content a tag names, or that
//! there is none, cannot be changed on the way. Manifests and blobs are verified by their digests.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    config::MAX_ZONE,
    key::ClusterKey,
    nonces::Nonce,
    proof::{self, HEADER},
};

const ZONE: &str = "zone=";
const NO_ZONE: &str = "-";
const OWN: &str = "own";
const CODE: &str = ", m=";

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The headers that are proven. Lengths are not: the transport may add them.
const PROVEN: [HeaderName; 3] = [DOCKER_CONTENT_DIGEST, header::CONTENT_TYPE, header::AGE];

/// The longest header that is read, in bytes.
const MAX_LEN: usize = 256;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmation<'a> {
    pub zone: Option<&'a str>,
    pub is_own_error: bool,
}

impl<'a> Confirmation<'a> {
    /// The header of the response with this status and these headers. `sent`: the proof of the request; `None`: it is
    /// none.
    pub(super) fn make(
        self,
        key: &ClusterKey,
        sent: &HeaderValue,
        status: u16,
        headers: &HeaderMap,
    ) -> Option<HeaderValue> {
        let zone = self.zone.map_or_else(|| NO_ZONE.to_owned(), |zone| format!("{ZONE}{zone}"));
        let text = if self.is_own_error { format!("{zone}, {OWN}") } else { zone };
        let message = message(&proof::nonce(sent)?, &text, status, headers);
        let code = hex::encode(key.sign(&message)?.as_ref());
        HeaderValue::try_from(format!("{text}{CODE}{code}")).ok()
    }

    /// What the response with this status and these headers confirms to the request with the proof `sent`. `None`: it is
    /// no response of a peer with this key to this request.
    pub(super) fn check(key: &ClusterKey, sent: &HeaderValue, status: u16, headers: &'a HeaderMap) -> Option<Self> {
        let header = headers.get(HEADER)?.to_str().ok().filter(|text| text.len() <= MAX_LEN)?;
        let (text, code) = header.rsplit_once(CODE)?;
        let message = message(&proof::nonce(sent)?, text, status, headers);
        if key.verifies(&message, &hex::decode(code).ok()?) { Self::parse(text) } else { None }
    }

    /// Reads the text before the code.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(", ");
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

/// Each part is preceded by its length, and each header by the number of its values, so that no two responses have the
/// same message.
fn message(nonce: &Nonce, text: &str, status: u16, headers: &HeaderMap) -> Vec<u8> {
    let mut message = b"forebay peer answer 1\0".to_vec();
    let mut add = |part: &[u8]| {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    };
    add(nonce);
    add(text.as_bytes());
    add(&status.to_be_bytes());
    for name in &PROVEN {
        let values = headers.get_all(name);
        add(&(values.iter().count() as u64).to_be_bytes());
        values.iter().for_each(|value| add(value.as_bytes()));
    }
    message
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::cluster::{Proof, ProofParts};

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn sent(key: &ClusterKey) -> HeaderValue {
        let parts = ProofParts {
            method: &Method::GET,
            path_and_query: "/v2/a/manifests/1",
            authorization: None,
            target: "node2:5000",
        };
        Proof::make(key, &parts).unwrap().into_header()
    }

    fn response() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (DOCKER_CONTENT_DIGEST, "sha256:aa"),
            (header::CONTENT_TYPE, "application/vnd.oci.image.index.v1+json"),
            (header::AGE, "7"),
            (header::VIA, "1.1 forebay"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_confirmation_says_and_proves_what_was_answered() {
        let key = ClusterKey::of(KEY).unwrap();
        for (zone, is_own_error) in [None, Some("eu-1a"), Some("-")].into_iter().zip([true, true, false]) {
            let (sent, mut headers) = (sent(&key), response());
            let own = Confirmation { zone, is_own_error };
            let made = own.make(&key, &sent, 200, &headers).unwrap();
            headers.insert(HEADER, made);
            headers.insert(header::VIA, HeaderValue::from_static("1.1 other"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("3"));
            assert_eq!(Confirmation::check(&key, &sent, 200, &headers), Some(own));
        }
    }

    #[test]
    fn no_proven_part_of_a_response_can_be_changed() {
        let (key, other_key) = (ClusterKey::of(KEY).unwrap(), ClusterKey::of(&[b'x'; 32]).unwrap());
        let sent_here = sent(&key);
        let mut good = response();
        let own = Confirmation { zone: Some("eu-1a"), is_own_error: true };
        good.insert(HEADER, own.make(&key, &sent_here, 200, &good).unwrap());
        let changed = |change: &dyn Fn(&mut HeaderMap)| {
            let mut headers = good.clone();
            change(&mut headers);
            headers
        };
        let set = |name: HeaderName, value: &'static str| {
            changed(&|headers| drop(headers.insert(&name, HeaderValue::from_static(value))))
        };
        let other_zone = |headers: &mut HeaderMap| {
            let text = headers[HEADER].to_str().unwrap().replace("eu-1a", "eu-1b");
            headers.insert(HEADER, HeaderValue::try_from(text).unwrap());
        };
        let not_own = |headers: &mut HeaderMap| {
            let text = headers[HEADER].to_str().unwrap().replace(", own", "");
            headers.insert(HEADER, HeaderValue::try_from(text).unwrap());
        };
        let second = |headers: &mut HeaderMap| {
            headers.append(DOCKER_CONTENT_DIGEST, HeaderValue::from_static("sha256:bb"));
        };
        let without = |name: HeaderName| changed(&|headers| drop(headers.remove(&name)));
        for (what, key, sent, status, headers) in [
            ("key", &other_key, &sent_here, 200, good.clone()),
            ("request", &key, &sent(&key), 200, good.clone()),
            ("no request", &key, &HeaderValue::from_static("-"), 200, good.clone()),
            ("status", &key, &sent_here, 404, good.clone()),
            ("digest", &key, &sent_here, 200, set(DOCKER_CONTENT_DIGEST, "sha256:bb")),
            ("no digest", &key, &sent_here, 200, without(DOCKER_CONTENT_DIGEST)),
            ("two digests", &key, &sent_here, 200, changed(&second)),
            ("type", &key, &sent_here, 200, set(header::CONTENT_TYPE, "text/plain")),
            ("age", &key, &sent_here, 200, set(header::AGE, "0")),
            ("zone", &key, &sent_here, 200, changed(&other_zone)),
            ("own", &key, &sent_here, 200, changed(&not_own)),
            ("none", &key, &sent_here, 200, without(HEADER)),
            ("only a zone", &key, &sent_here, 200, set(HEADER, "zone=eu-1a")),
            ("no zone", &key, &sent_here, 200, set(HEADER, "-")),
        ] {
            assert_eq!(Confirmation::check(key, sent, status, &headers), None, "{what}");
        }
        assert!(Confirmation::check(&key, &sent_here, 200, &good).is_some());
    }

    #[test]
    fn other_texts_say_nothing() {
        let long = format!("zone={}", "x".repeat(MAX_ZONE + 1));
        for text in ["", "zone", "own", "-, other", "-, own, own", "eu-1a", &long] {
            assert_eq!(Confirmation::parse(text), None, "{text}");
        }
    }
}
