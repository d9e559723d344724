//! The types that a client accepts: its `Accept` headers, and the class of clients that accept the same types.
//!
//! forebay forwards the headers to the upstream unchanged. An older registry converts manifests, so that a tag may have
//! another manifest for another `Accept`: forebay remembers the manifest of a tag for each [`AcceptClass`].
//!
//! Source: RFC 9110 section 12.5.1. Parameters other than the weight are ignored.

use std::{cell::RefCell, collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use http::{HeaderMap, HeaderValue, header::ACCEPT};
use sha2::{Digest as _, Sha256};

use super::{MediaType, MediaTypeKind, ParseError, is_token_byte, manifest_type::is_manifest_type};

/// How many different sets of headers each thread remembers. A mirror has few kinds of clients, and each kind always
/// sends the same headers.
const MAX_REMEMBERED: usize = 8;

thread_local! {
    /// The sets of headers that were parsed last, in the order of first use.
    static REMEMBERED: RefCell<Vec<Accept>> = const { RefCell::new(Vec::new()) };
}

/// The `Accept` headers of one request. A client without any accepts everything. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Accept(Arc<Read>);

/// The parsed headers.
#[derive(Debug)]
struct Read {
    values: Vec<HeaderValue>,
    ranges: AcceptedRanges,
    class: AcceptClass,
}

#[derive(Debug)]
struct AcceptedRanges(Vec<MediaRange>);

/// `type/subtype`, `type/*` or `*/*`, in lower case, and whether its weight is above zero.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MediaRange {
    essence: String,
    accepted: bool,
}

impl Accept {
    /// What container clients send: images and indices, of OCI and of Docker.
    pub fn of_images() -> Self {
        let types = [MediaType::OCI_INDEX, MediaType::OCI_MANIFEST, MediaType::DOCKER_LIST, MediaType::DOCKER_MANIFEST];
        let values = types.iter().map(|media_type| (ACCEPT, HeaderValue::from(media_type)));
        Self::from_headers(&values.collect())
    }

    /// All `Accept` headers together; an element that is no media range is ignored.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        REMEMBERED.with_borrow_mut(|remembered| {
            let same = |accept: &&Accept| accept.0.values.iter().eq(headers.get_all(ACCEPT));
            if let Some(accept) = remembered.iter().find(same) {
                return accept.clone();
            }
            let accept = Self::read(headers);
            if remembered.len() == MAX_REMEMBERED {
                remembered.remove(0);
            }
            remembered.push(accept.clone());
            accept
        })
    }

    fn read(headers: &HeaderMap) -> Self {
        // Copied, so that a remembered value does not keep a connection's buffer.
        let copied = headers.get_all(ACCEPT).iter().filter_map(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
        let values: Vec<HeaderValue> = copied.collect();
        let ranges = values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| split_unquoted(text, ','))
            .filter_map(MediaRange::parse)
            .collect();
        let ranges = AcceptedRanges(ranges);
        let class = ranges.class();
        Self(Arc::new(Read { values, ranges, class }))
    }

    /// Whether the client takes a manifest that is known by this type. A type that is no manifest's, such as
    /// `application/json`, is one that the upstream sends to all clients, whatever they accept.
    pub fn takes(&self, media_type: &MediaType) -> bool {
        self.allows(media_type) || !is_manifest_type(media_type)
    }

    /// Whether the client can read content of this type.
    ///
    /// The most specific range decides. `application/*` allows every type that a registry may hold: clients that send
    /// it mean this.
    pub fn allows(&self, media_type: &MediaType) -> bool {
        let ranges = &self.0.ranges;
        if ranges.0.is_empty() {
            return true;
        }
        let essence = media_type.essence();
        ranges
            .verdict(essence)
            .or_else(|| ranges.verdict_on_family(essence))
            .or_else(|| ranges.verdict("*/*"))
            .unwrap_or_else(|| ranges.verdict("application/*").unwrap_or(false))
    }

    /// The class of this request: equal for requests that accept the same types.
    pub fn class(&self) -> AcceptClass {
        self.0.class
    }

    /// The headers as the client sent them, to be forwarded; none if the client sent none.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderValue> {
        self.0.values.iter()
    }
}

impl Default for Accept {
    /// Accepts everything.
    fn default() -> Self {
        Self::from_headers(&HeaderMap::new())
    }
}

impl AcceptedRanges {
    fn class(&self) -> AcceptClass {
        if self.0.is_empty() {
            return AcceptClass { known: AcceptClass::NO_HEADER, others: 0 };
        }
        let wildcard = self.has_wildcard();
        let mut known = if wildcard { AcceptClass::WILDCARD } else { 0 };
        let mut others = BTreeSet::new();
        for range in &self.0 {
            let essence = range.essence.as_str();
            let accepted = self.verdict(essence) == Some(true);
            match (accepted, MediaTypeKind::of_essence(essence)) {
                (true, _) if matches!(essence, "*/*" | "application/*") => {}
                (true, Some(kind)) => known |= AcceptClass::bit(kind),
                (true, None) => drop(others.insert(essence.to_owned())),
                // A refused type matters only if a wider range would allow it.
                (false, _) if wildcard || self.has_family() => drop(others.insert(format!("!{essence}"))),
                (false, _) => {}
            }
        }
        AcceptClass { known, others: hash(&others) }
    }

    /// Whether the headers accept exactly this range. If they name it twice, one acceptance is enough.
    fn verdict(&self, essence: &str) -> Option<bool> {
        let named = self.0.iter().filter(|range| range.essence.eq_ignore_ascii_case(essence));
        named.map(|range| range.accepted).max()
    }

    /// Whether the headers accept `type/*`, for a media type of that family.
    fn verdict_on_family(&self, essence: &str) -> Option<bool> {
        let (main, _) = essence.split_once('/')?;
        let is_family = |range: &&MediaRange| {
            range.essence.strip_suffix("/*").is_some_and(|family| family.eq_ignore_ascii_case(main))
        };
        self.0.iter().filter(is_family).map(|range| range.accepted).max()
    }

    fn has_wildcard(&self) -> bool {
        self.verdict("*/*") == Some(true) || self.verdict("application/*") == Some(true)
    }

    fn has_family(&self) -> bool {
        self.0.iter().any(|range| range.accepted && range.essence.ends_with("/*"))
    }
}

impl MediaRange {
    fn parse(element: &str) -> Option<Self> {
        let mut parts = split_unquoted(element, ';').map(str::trim);
        let essence = match parts.next()? {
            // Java's HttpURLConnection sends `*` and means `*/*`.
            "*" => "*/*".to_owned(),
            essence => essence.to_ascii_lowercase(),
        };
        let (main, sub) = essence.split_once('/')?;
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
        if !is_token(main) || !is_token(sub) || (main == "*" && sub != "*") {
            return None;
        }
        let weight = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim_end().eq_ignore_ascii_case("q").then(|| value.trim_start())
        });
        let zero = |weight: &str| weight.starts_with('0') && weight.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        Some(Self { essence, accepted: !weight.is_some_and(zero) })
    }
}

/// The class of all clients that accept the same types. Its text may stand in a file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcceptClass {
    /// One bit for each known type, and the two bits below.
    known: u8,
    /// A hash of all other types; 0 if there are none.
    others: u64,
}

impl AcceptClass {
    const NO_HEADER: u8 = 0x80;
    const WILDCARD: u8 = 0x40;

    /// The bits are part of the layout on disk: they must never change.
    const fn bit(kind: MediaTypeKind) -> u8 {
        match kind {
            MediaTypeKind::OciManifest => 0x01,
            MediaTypeKind::OciIndex => 0x02,
            MediaTypeKind::DockerManifest => 0x04,
            MediaTypeKind::DockerList => 0x08,
            MediaTypeKind::DockerV1 => 0x10,
            MediaTypeKind::DockerV1Signed => 0x20,
        }
    }
}

impl fmt::Display for AcceptClass {
    /// Two hexadecimal digits, and sixteen more if the client accepts types beyond the known ones.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.known)?;
        if self.others == 0 { Ok(()) } else { write!(f, "{:016x}", self.others) }
    }
}

impl FromStr for AcceptClass {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = || ParseError::MediaType("an accept class is 2 or 18 hexadecimal digits");
        if !matches!(text.len(), 2 | 18) || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        let (known, others) = text.split_at(2);
        let known = u8::from_str_radix(known, 16).map_err(|_| invalid())?;
        let others = match others {
            "" => 0,
            // Each class has exactly one text.
            digits => u64::from_str_radix(digits, 16).ok().filter(|&hash| hash != 0).ok_or_else(invalid)?,
        };
        Ok(Self { known, others })
    }
}

/// The first eight bytes of a SHA-256: equal on every machine and in every version, and no client can choose types
/// whose hash is that of another class.
fn hash(essences: &BTreeSet<String>) -> u64 {
    if essences.is_empty() {
        return 0;
    }
    let mut hasher = Sha256::new();
    for essence in essences {
        hasher.update(essence.as_bytes());
        hasher.update(b"\n");
    }
    let first = hasher.finalize().iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    first.max(1)
}

/// The parts of `text` between separators outside quoted strings.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character| {
        if escaped {
            escaped = false;
        } else if quoted && character == '\\' {
            escaped = true;
        } else if character == '"' {
            quoted = !quoted;
        }
        !quoted && character == separator
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OCI: &str = MediaTypeKind::OciManifest.as_str();
    const INDEX: &str = MediaTypeKind::OciIndex.as_str();
    const V2: &str = MediaTypeKind::DockerManifest.as_str();
    const LIST: &str = MediaTypeKind::DockerList.as_str();
    const SIGNED: &str = MediaTypeKind::DockerV1Signed.as_str();

    fn accept(values: &[&str]) -> Accept {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Accept::from_headers(&headers)
    }

    #[test]
    fn what_is_allowed() {
        let odd = "application/vnd.example+json";
        for (values, allowed, refused) in [
            (&[][..], &[OCI, INDEX, V2, odd, "text/plain"][..], &[][..]),
            (&[""], &[OCI, odd], &[]),
            (&["nonsense, , /, a/, */b, é"], &[OCI, odd], &[]),
            (&["*/*"], &[OCI, odd, "text/plain"], &[]),
            (&["*"], &[OCI, odd], &[]),
            (&["application/*"], &[OCI, odd, "text/plain"], &[]),
            (&["text/*"], &["text/plain"], &[OCI, odd]),
            (&[OCI], &[OCI], &[INDEX, V2, odd]),
            (&[OCI, INDEX], &[OCI, INDEX], &[V2]),
            (
                &["application/json, application/vnd.oci.image.manifest.v1+json;q=0.5"],
                &[OCI, "application/json"],
                &[V2],
            ),
            (&["APPLICATION/VND.OCI.IMAGE.MANIFEST.V1+JSON ; charset=\"a,b;q=0\""], &[OCI], &[V2]),
            (&["*/*, application/vnd.oci.image.manifest.v1+json; q=0"], &[INDEX, odd], &[OCI]),
            (&["*/*;q=0, application/vnd.oci.image.manifest.v1+json"], &[OCI], &[INDEX, odd]),
            (&["*/*;q=0.000"], &[], &[OCI, odd]),
            (&["*/*;Q = 0"], &[], &[OCI]),
            (&["*/*;q=0.001"], &[OCI], &[]),
            (&["application/*;q=0, */*"], &["text/plain"], &[OCI, odd]),
            (&["application/json;v=1;q=0, application/json;v=2"], &["application/json; v=3"], &[OCI]),
            (&["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], &[OCI, odd], &[]),
        ] {
            let accept = accept(values);
            for media_type in allowed {
                assert!(accept.allows(&media_type.parse().unwrap()), "{values:?} should allow {media_type}");
            }
            for media_type in refused {
                assert!(!accept.allows(&media_type.parse().unwrap()), "{values:?} should refuse {media_type}");
            }
        }
    }

    #[test]
    fn the_headers_are_forwarded_as_they_came() {
        let values = [OCI, "a/b ;q=0.1,,  c/d", "not a media range"];
        assert!(accept(&values).headers().eq(values));
        assert_eq!(accept(&[]).headers().count(), 0);
    }

    #[test]
    fn what_is_remembered_is_what_is_read() {
        let one = |number: usize| accept(&[&format!("application/x-{number}"), OCI]);
        for number in (0..3 * MAX_REMEMBERED).chain(0..MAX_REMEMBERED) {
            let (first, again) = (one(number), one(number));
            assert!(Arc::ptr_eq(&first.0, &again.0), "the same headers are read once");
            assert_eq!(first.class(), AcceptedRanges::class(&first.0.ranges));
            assert!(first.allows(&format!("application/x-{number}").parse().unwrap()));
            assert!(!first.allows(&format!("application/x-{}", number + 1).parse().unwrap()));
        }
        assert_eq!(REMEMBERED.with_borrow(Vec::len), MAX_REMEMBERED);
        assert_eq!(accept(&[OCI, INDEX]).headers().count(), 2);
        assert_eq!(accept(&[&format!("{OCI},{INDEX}")]).headers().count(), 1, "not taken for the same");
    }

    #[test]
    fn classes_on_disk_keep_their_names() {
        for (values, class) in [
            (&[][..], "80"),
            (&[""], "80"),
            (&["*/*"], "40"),
            (&["application/*"], "40"),
            (&["*/*;q=0"], "00"),
            (&[OCI], "01"),
            (&[OCI, INDEX, V2, LIST], "0f"),
            (&[SIGNED, V2, "*/*"], "64"),
            // printf "application/json\n" | sha256sum
            (&["application/json", OCI], "0198585c69d6ccb286"),
        ] {
            assert_eq!(accept(values).class().to_string(), class, "{values:?}");
        }
    }

    #[test]
    fn equal_classes_for_equal_acceptance() {
        let joined = [OCI, INDEX, "application/json"].join(",");
        for (one, other) in [
            (&[OCI, INDEX, "application/json"][..], &[joined.as_str()][..]),
            (&["application/json", "text/plain"], &["text/plain;q=0.3, application/JSON, text/plain"]),
            (&[OCI], &["application/vnd.oci.image.manifest.v1+json;q=0.2", "text/plain;q=0"]),
        ] {
            assert_eq!(accept(one).class(), accept(other).class(), "{one:?} {other:?}");
        }
        for (one, other) in [
            (&[OCI][..], &[INDEX][..]),
            (&[OCI], &[OCI, "*/*"]),
            (&["*/*"], &["*/*", "application/vnd.oci.image.manifest.v1+json;q=0"]),
            (&["text/*"], &["text/*", "text/plain;q=0"]),
            (&["text/plain"], &["text/html"]),
            (&[], &["*/*"]),
        ] {
            assert_ne!(accept(one).class(), accept(other).class(), "{one:?} {other:?}");
        }
    }

    #[test]
    fn bad_class_names_are_refused() {
        for bad in ["", "0", "000", "0F", "zz", "+1", "010000000000000000", "01aaaaaaaaaaaaaaaaa", "é"] {
            assert!(bad.parse::<AcceptClass>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_has_a_class_that_can_be_read_back(values in prop::collection::vec("[ -~]{0,40}|[a-c*]/[a-c*](;q=[01])?(, [a-c*]/[a-c*](;q=[01])?){0,3}", 0..4)) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let class = accept(&values).class();
            let text = class.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
            prop_assert_eq!(text.parse::<AcceptClass>().unwrap(), class);
        }

        #[test]
        fn one_class_allows_the_same_types(
            one in "(a/b|a/\\*|\\*/\\*|application/\\*|application/json)(;q=[01])?(, (a/b|a/\\*|\\*/\\*|application/\\*)(;q=[01])?){0,3}",
            other in "(a/b|a/\\*|\\*/\\*|application/\\*|application/json)(;q=[01])?(, (a/b|a/\\*|\\*/\\*|application/\\*)(;q=[01])?){0,3}",
        ) {
            let (one, other) = (accept(&[&one]), accept(&[&other]));
            if one.class() == other.class() {
                for media_type in ["a/b", "a/c", "c/d", "application/json", "application/x", OCI] {
                    let media_type = media_type.parse().unwrap();
                    prop_assert_eq!(one.allows(&media_type), other.allows(&media_type), "{}", media_type);
                }
            }
        }
    }
}
