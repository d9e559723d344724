//! The header by which a peer proves that a request is one of the cluster's.
//!
//! `Forebay-Peer: t=1764515000, n=<nonce>, to=<host:port>, m=<HMAC-SHA-256>`: seconds since 1970, 16 random bytes, the
//! peer that the request is for, and the code over these and the parts of the request.
//!
//! What must hold: a proof is good for one request, to one peer, within [`MAX_SKEW`].

use std::time::SystemTime;

use aws_lc_rs::rand;
use http::{HeaderName, HeaderValue};

use super::{
    key::ClusterKey,
    nonces::{MAX_SKEW, NONCE_LEN, Nonce, Nonces},
    refused_proof::RefusedProof,
};

/// The name of the header.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("forebay-peer");

/// The longest header that is read, in bytes.
const MAX_LEN: usize = 512;

/// The parts of a request that are proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProofParts<'a> {
    pub method: &'a http::Method,
    /// As the request line has it.
    pub path_and_query: &'a str,
    /// The credentials of a client that are passed on.
    pub authorization: Option<&'a HeaderValue>,
    /// The peer that the request is for, as `host:port`.
    pub target: &'a str,
}

/// A proof, as the value of [`HEADER`].
pub(crate) struct Proof(HeaderValue);

impl Proof {
    /// `None`: the system has no randomness, or no time.
    pub(super) fn make(key: &ClusterKey, parts: &ProofParts<'_>) -> Option<Self> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let time = seconds(SystemTime::now())?;
        let code = hex::encode(key.sign(&message(parts, time, &nonce))?.as_ref());
        let text = format!("t={time}, n={}, to={}, m={code}", hex::encode(nonce), parts.target);
        HeaderValue::try_from(text).ok().map(Self)
    }

    pub(crate) fn into_header(self) -> HeaderValue {
        self.0
    }

    /// Checks that the header is a proof for a request of these parts. `parts.target` is the `to` of the header; `is_own`:
    /// whether that is this forebay.
    pub(super) fn check(
        header: &HeaderValue,
        key: &ClusterKey,
        parts: &ProofParts<'_>,
        is_own: bool,
        nonces: &Nonces,
    ) -> Result<(), RefusedProof> {
        Self::check_at(header, key, parts, is_own, nonces, SystemTime::now())
    }

    /// The key comes first: what else is wrong is told only of those that have it. The nonce comes last, so that nothing but
    /// proofs takes room.
    fn check_at(
        header: &HeaderValue,
        key: &ClusterKey,
        parts: &ProofParts<'_>,
        is_own: bool,
        nonces: &Nonces,
        now: SystemTime,
    ) -> Result<(), RefusedProof> {
        let claim = Claim::parse(header).ok_or(RefusedProof::Form)?;
        let now = seconds(now).ok_or(RefusedProof::Form)?;
        let message = message(parts, claim.time, &claim.nonce);
        if !key.verifies(&message, &claim.code) {
            return Err(RefusedProof::Key);
        }
        if claim.target != parts.target || !is_own {
            return Err(RefusedProof::Target);
        }
        if claim.time.abs_diff(now) > MAX_SKEW.as_secs() {
            return Err(RefusedProof::Clock { skew_seconds: claim.time.wrapping_sub(now).cast_signed() });
        }
        nonces.note(claim.nonce, claim.time, now)
    }

    /// The peer that the request of a header is for, by its own words.
    pub(crate) fn target(header: &HeaderValue) -> Option<&str> {
        Claim::parse(header).map(|claim| claim.target)
    }
}

/// The nonce of a header.
pub(super) fn nonce(header: &HeaderValue) -> Option<Nonce> {
    Claim::parse(header).map(|claim| claim.nonce)
}

/// What a header says.
struct Claim<'a> {
    time: u64,
    nonce: Nonce,
    target: &'a str,
    code: Vec<u8>,
}

impl<'a> Claim<'a> {
    fn parse(header: &'a HeaderValue) -> Option<Self> {
        let text = header.to_str().ok().filter(|text| text.len() <= MAX_LEN)?;
        let mut parts = text.split(", ");
        let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let (time, nonce, target, code) = (part("t")?, part("n")?, part("to")?, part("m")?);
        let nonce = hex::decode(nonce).ok()?.try_into().ok()?;
        let claim = Self { time: time.parse().ok()?, nonce, target, code: hex::decode(code).ok()? };
        parts.next().is_none().then_some(claim)
    }
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Each part is preceded by its length, so that no two requests have the same message.
fn message(parts: &ProofParts<'_>, time: u64, nonce: &Nonce) -> Vec<u8> {
    let mut message = b"forebay peer 1\0".to_vec();
    let authorization = parts.authorization.map_or(&b""[..], HeaderValue::as_bytes);
    let time = time.to_be_bytes();
    for part in [
        parts.method.as_str().as_bytes(),
        parts.path_and_query.as_bytes(),
        authorization,
        parts.target.as_bytes(),
        &time,
        nonce,
    ] {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn key(text: &[u8]) -> ClusterKey {
        ClusterKey::of(text).unwrap()
    }

    fn parts(method: &Method) -> ProofParts<'_> {
        ProofParts { method, path_and_query: "/v2/a/blobs/x?ns=y", authorization: None, target: "node2:5000" }
    }

    #[test]
    fn a_proof_is_good_for_its_own_request_once() {
        let (key, nonces) = (key(KEY), Nonces::default());
        let parts = parts(&Method::GET);
        let header = Proof::make(&key, &parts).unwrap().into_header();
        assert_eq!(Proof::target(&header), Some("node2:5000"));
        assert_eq!(Proof::check(&header, &key, &parts, true, &nonces), Ok(()));
        assert_eq!(Proof::check(&header, &key, &parts, true, &nonces), Err(RefusedProof::Replayed), "a second time");
        let other = Proof::make(&key, &parts).unwrap().into_header();
        assert_eq!(Proof::check(&other, &key, &parts, false, &nonces), Err(RefusedProof::Target));
        assert_eq!(Proof::check(&other, &key, &parts, true, &nonces), Ok(()), "it was not used up");
    }

    #[test]
    fn a_proof_is_for_nothing_else() {
        let (own, header) = (key(KEY), HeaderValue::from_static("Basic YTpi"));
        let get = parts(&Method::GET);
        let proof = Proof::make(&own, &get).unwrap().into_header();
        let other_key = key(b"1123456789abcdef0123456789abcdef");
        for (what, key, parts) in [
            ("key", &other_key, get),
            ("method", &own, parts(&Method::HEAD)),
            ("path", &own, ProofParts { path_and_query: "/v2/a/blobs/x?ns=z", ..get }),
            ("credentials", &own, ProofParts { authorization: Some(&header), ..get }),
            ("target", &own, ProofParts { target: "node3:5000", ..get }),
        ] {
            let checked = Proof::check(&proof, key, &parts, true, &Nonces::default());
            assert_eq!(checked, Err(RefusedProof::Key), "{what}");
        }
        assert_eq!(Proof::check(&proof, &own, &get, true, &Nonces::default()), Ok(()));
    }

    #[test]
    fn a_proof_ends_with_its_time() {
        let (key, parts) = (key(KEY), parts(&Method::GET));
        let proof = Proof::make(&key, &parts).unwrap().into_header();
        let now = SystemTime::now();
        let skew = |checked: Result<(), RefusedProof>| match checked {
            Ok(()) => None,
            Err(RefusedProof::Clock { skew_seconds }) => Some(skew_seconds),
            Err(other) => panic!("{other:?}"),
        };
        for (at, expected) in [
            (now, None),
            (now + MAX_SKEW / 2, None),
            (now - MAX_SKEW / 2, None),
            (now + MAX_SKEW * 2, Some(-120)),
            (now - MAX_SKEW * 2, Some(120)),
        ] {
            let found = skew(Proof::check_at(&proof, &key, &parts, true, &Nonces::default(), at));
            let is_near = match (found, expected) {
                // A second may have begun since the proof was made.
                (Some(found), Some(expected)) => (found - expected).abs() <= 1_i64,
                (found, expected) => found == expected,
            };
            assert!(is_near, "{at:?}: {found:?}");
        }
    }

    #[test]
    fn other_texts_are_no_proofs() {
        let (key, parts) = (key(KEY), parts(&Method::GET));
        let proof = Proof::make(&key, &parts).unwrap().into_header();
        let good = proof.to_str().unwrap().to_owned();
        let cut = &good[..good.len() - 1];
        for text in ["", "t=1", cut, &format!("{good}, x=1"), &good.replace("n=", "n=0"), &"x".repeat(10_000)] {
            let header = HeaderValue::try_from(text).unwrap();
            let checked = Proof::check(&header, &key, &parts, true, &Nonces::default());
            assert_eq!(checked, Err(RefusedProof::Form), "{text}");
        }
    }
}
