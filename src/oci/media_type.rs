//! Media types: that of a manifest's own `mediaType`, and that of the upstream's Content-Type.
//!
//! forebay keeps a media type byte for byte as it received it, since a client compares it with the type in the
//! manifest. `kind` tells which of the known formats it is.
//!
//! Source: RFC 9110 section 8.3.1 for the grammar; the OCI image specification and Docker's
//! image manifest v2 schemas 1 and 2 for the known types.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use http::HeaderValue;

use super::{ParseError, is_token_byte};

/// The longest media type accepted, in bytes: RFC 6838 allows each of its two names 127.
const MAX_LEN: usize = 255;

/// `type/subtype[; name=value]…`, exactly as it was received. Two are equal only if they are equal byte for byte.
#[derive(Clone)]
pub struct MediaType(Text);

#[derive(Clone)]
enum Text {
    Known(&'static str),
    Received(Arc<str>),
}

/// The manifest formats a registry may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaTypeKind {
    OciManifest,
    OciIndex,
    DockerManifest,
    DockerList,
    /// Image manifest version 2, schema 1, without signatures.
    DockerV1,
    /// Image manifest version 2, schema 1, with its signatures inside.
    DockerV1Signed,
}

impl MediaTypeKind {
    pub const ALL: [Self; 6] = [
        Self::OciManifest,
        Self::OciIndex,
        Self::DockerManifest,
        Self::DockerList,
        Self::DockerV1,
        Self::DockerV1Signed,
    ];

    /// The spelling of the media type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::DockerV1 => "application/vnd.docker.distribution.manifest.v1+json",
            Self::DockerV1Signed => "application/vnd.docker.distribution.manifest.v1+prettyjws",
        }
    }

    /// Whether this is a list of manifests, one for each platform.
    pub const fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }

    /// The kind whose essence is `text`; media types compare without regard to case.
    pub(super) fn of_essence(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }
}

impl MediaType {
    pub const OCI_MANIFEST: Self = Self(Text::Known(MediaTypeKind::OciManifest.as_str()));
    pub const OCI_INDEX: Self = Self(Text::Known(MediaTypeKind::OciIndex.as_str()));
    pub const DOCKER_MANIFEST: Self = Self(Text::Known(MediaTypeKind::DockerManifest.as_str()));
    pub const DOCKER_LIST: Self = Self(Text::Known(MediaTypeKind::DockerList.as_str()));
    pub const DOCKER_V1: Self = Self(Text::Known(MediaTypeKind::DockerV1.as_str()));
    pub const DOCKER_V1_SIGNED: Self = Self(Text::Known(MediaTypeKind::DockerV1Signed.as_str()));

    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Known(text) => text,
            Text::Received(text) => text,
        }
    }

    /// `type/subtype` without the parameters, in its original case.
    pub fn essence(&self) -> &str {
        let text = self.as_str();
        text.split_once(';').map_or(text, |(essence, _)| essence).trim_end_matches([' ', '\t'])
    }

    /// Which of the known formats this is; parameters do not matter.
    pub fn kind(&self) -> Option<MediaTypeKind> {
        MediaTypeKind::of_essence(self.essence())
    }
}

impl From<MediaTypeKind> for MediaType {
    fn from(kind: MediaTypeKind) -> Self {
        Self(Text::Known(kind.as_str()))
    }
}

impl From<&MediaType> for HeaderValue {
    fn from(media_type: &MediaType) -> Self {
        match &media_type.0 {
            Text::Known(text) => Self::from_static(text),
            // The grammar admits visible ASCII, space and tab only, and all of these may stand in a header.
            Text::Received(text) => Self::from_str(text).unwrap_or(Self::from_static("application/octet-stream")),
        }
    }
}

impl FromStr for MediaType {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(kind) = MediaTypeKind::ALL.into_iter().find(|kind| kind.as_str() == text) {
            return Ok(kind.into());
        }
        if text.len() > MAX_LEN {
            return Err(ParseError::MediaType("longer than 255 characters"));
        }
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let (main, sub) = essence
            .trim_end_matches([' ', '\t'])
            .split_once('/')
            .ok_or(ParseError::MediaType("must be type/subtype"))?;
        if !is_token(main) || !is_token(sub) {
            return Err(ParseError::MediaType("the type and the subtype must be tokens"));
        }
        if !are_parameters(parameters.as_bytes()) {
            return Err(ParseError::MediaType("a parameter must be name=token or name=\"text\""));
        }
        Ok(Self(Text::Received(text.into())))
    }
}

impl TryFrom<&HeaderValue> for MediaType {
    type Error = ParseError;

    fn try_from(value: &HeaderValue) -> Result<Self, ParseError> {
        value.to_str().map_err(|_| ParseError::MediaType("must be ASCII"))?.trim().parse()
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// `OWS [ name "=" ( token / quoted-string ) ] OWS`, joined by semicolons; empty ones are allowed.
fn are_parameters(mut rest: &[u8]) -> bool {
    loop {
        rest = rest.trim_ascii_start();
        match rest.first() {
            None => return true,
            Some(b';') => {
                rest = &rest[1..];
                continue;
            }
            Some(_) => {}
        }
        let Some((name, value)) = split_at_byte(rest, b'=') else { return false };
        if name.is_empty() || !name.iter().copied().all(is_token_byte) {
            return false;
        }
        let len = if value.first() == Some(&b'"') {
            quoted_len(value)
        } else {
            value.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(value.len())
        };
        if len == 0 {
            return false;
        }
        rest = value[len..].trim_ascii_start();
        if !matches!(rest.first(), None | Some(b';')) {
            return false;
        }
    }
}

fn split_at_byte(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// How long the quoted string at the start of `bytes` is, its quotes included; 0 if it does not end, or has a byte that
/// must not stand in one.
fn quoted_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' if matches!(bytes.get(at + 1), Some(b'\t' | b' '..=b'~')) => at += 2,
            b'\t' | b' '..=b'[' | b']'..=b'~' => at += 1,
            _ => return 0,
        }
    }
    0
}

impl PartialEq for MediaType {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for MediaType {}

impl Hash for MediaType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_ones_are_kept_byte_for_byte() {
        for (text, essence) in [
            ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.index.v1+json"),
            ("application/json; charset=utf-8", "application/json"),
            ("application/JSON ;Charset=UTF-8", "application/JSON"),
            ("application/json;", "application/json"),
            ("application/json;;a=b; ;", "application/json"),
            ("text/plain; a=\"x; \\\" y\"; b=c", "text/plain"),
            ("a/b", "a/b"),
        ] {
            let media_type: MediaType = text.parse().unwrap();
            assert_eq!((media_type.as_str(), media_type.essence()), (text, essence));
            assert_eq!(HeaderValue::from(&media_type), text);
            assert_eq!(MediaType::try_from(&HeaderValue::from_str(text).unwrap()), Ok(media_type));
        }
    }

    #[test]
    fn bad_ones_are_refused() {
        let long = format!("a/{}", "b".repeat(254));
        for bad in [
            "",
            "/",
            "a",
            "a/",
            "/b",
            "a/b/c",
            " a/b",
            "a /b",
            "a/b c",
            "a/b\n",
            "a/b;x",
            "a/b;=y",
            "a/b;x=",
            "a/b; x =y",
            "a/b;x=\"",
            "a/b;x=\"\\",
            "a/b;x=\"y\"z",
            "a/b;x=y z",
            "a/b;x=\"\r\n\"",
            "a/é",
            "a/b, c/d",
            &long,
        ] {
            assert!(matches!(bad.parse::<MediaType>(), Err(ParseError::MediaType(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_kind_ignores_case_and_parameters_equality_does_not() {
        for kind in MediaTypeKind::ALL {
            let known = MediaType::from(kind);
            assert_eq!(known.kind(), Some(kind));
            let shouted: MediaType = format!("{} ; charset=utf-8", kind.as_str().to_uppercase()).parse().unwrap();
            assert_eq!(shouted.kind(), Some(kind));
            assert_ne!(shouted, known);
            assert_eq!(kind.as_str().parse(), Ok(known));
        }
        assert_eq!(MediaType::OCI_INDEX.kind(), Some(MediaTypeKind::OciIndex));
        assert_eq!("application/json".parse::<MediaType>().unwrap().kind(), None);
    }

    proptest! {
        #[test]
        fn what_is_valid_can_stand_in_a_header(text in "[ -~\t\u{80}]{0,40}|[a-z]/[a-z](;[ a-z=\"\\\\]{0,8}){0,3}") {
            if let Ok(media_type) = text.parse::<MediaType>() {
                let value = HeaderValue::from(&media_type);
                prop_assert_eq!(value.as_bytes(), text.as_bytes());
                prop_assert!(media_type.essence().parse::<MediaType>().is_ok());
            }
        }
    }
}
