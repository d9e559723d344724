//! The platform that an image is for, as an index or a configuration says.
//!
//! Source: OCI image specification v1.1, "Image Index" (`platform`) and "Image Configuration". A mirror only shows it: what is
//! written there in any other way is no platform, and no error.

use std::{env::consts::ARCH, fmt, str::FromStr, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;

/// The longest part that is read, in bytes.
const MAX_PART: usize = 32;
/// What BuildKit writes for what runs nowhere, such as attestations.
const UNKNOWN: &str = "unknown";

/// `os/architecture` or `os/architecture/variant`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform(Arc<str>);

/// A text that is no platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is os/architecture or os/architecture/variant")]
pub struct NoPlatform;

#[derive(Deserialize)]
struct Text {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct Index<'a> {
    #[serde(borrow, default)]
    manifests: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    platform: Option<&'a RawValue>,
}

impl Platform {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// That of this machine, for containers of Linux; `None` if it has no name.
    pub fn of_this_machine() -> Option<Self> {
        let architecture = match ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        format!("linux/{architecture}").parse().ok()
    }

    /// The platform of a configuration; `None` if it says none.
    pub fn of_configuration(config: &[u8]) -> Option<Self> {
        Self::new(serde_json::from_slice(config).ok()?)
    }

    /// The platforms of the manifests of an index, in its order.
    pub fn of_index(index: &[u8]) -> Vec<Option<Self>> {
        let Ok(Index { manifests }) = serde_json::from_slice(index) else { return Vec::new() };
        let read = |entry: Entry<'_>| Self::new(serde_json::from_str(entry.platform?.get()).ok()?);
        manifests.into_iter().map(read).collect()
    }

    /// Whether an image for this platform is one for `wanted`, which may leave out the variant.
    pub fn is_a(&self, wanted: &Self) -> bool {
        let rest = self.0.strip_prefix(&*wanted.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn new(Text { os, architecture, variant }: Text) -> Option<Self> {
        let is_part = |part: &str| {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !part.is_empty() && part.len() <= MAX_PART && part.bytes().all(is_good)
        };
        let variant = variant.filter(|variant| !variant.is_empty());
        let parts = [Some(os), Some(architecture), variant];
        let mut parts = parts.into_iter().flatten();
        let is_known = parts.clone().all(|part| is_part(&part)) && parts.clone().any(|part| part != UNKNOWN);
        let first = parts.next().filter(|_| is_known)?;
        Some(Self(parts.fold(first, |text, part| text + "/" + &part).into()))
    }
}

impl FromStr for Platform {
    type Err = NoPlatform;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, NoPlatform> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let (Some(os), Some(architecture)) = (parts.next(), parts.next()) else { return Err(NoPlatform) };
        let variant = parts.next();
        match &variant {
            // It would be read as none.
            Some(variant) if variant.is_empty() => Err(NoPlatform),
            _ => Self::new(Text { os, architecture, variant }).ok_or(NoPlatform),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_platform_is_read_as_it_is_written() {
        let long = "a".repeat(MAX_PART + 1);
        for (text, expected) in [
            (r#"{"os":"linux","architecture":"amd64"}"#, Some("linux/amd64")),
            (r#"{"architecture":"arm","os":"linux","variant":"v7","os.version":"1"}"#, Some("linux/arm/v7")),
            (r#"{"os":"linux","architecture":"amd64","variant":""}"#, Some("linux/amd64")),
            (r#"{"os":"linux","architecture":"amd64","variant":null}"#, Some("linux/amd64")),
            (r#"{"os":"unknown","architecture":"unknown"}"#, None),
            (r#"{"os":"","architecture":"amd64"}"#, None),
            (r#"{"os":"li nux","architecture":"amd64"}"#, None),
            (r#"{"os":"linux/x","architecture":"amd64"}"#, None),
            (r#"{"os":"linux","architecture":"amd64","variant":"\u001b[31m"}"#, None),
            (&format!(r#"{{"os":"linux","architecture":"{long}"}}"#), None),
            (r#"{"os":1,"architecture":"amd64"}"#, None),
            (r#"{"os":"linux"}"#, None),
            ("[]", None),
            ("null", None),
            ("", None),
        ] {
            if let Some(name) = expected {
                assert_eq!(name.parse::<Platform>().map(|it| it.to_string()), Ok(name.to_owned()));
            }
            let expected = expected.map(str::to_owned);
            assert_eq!(Platform::of_configuration(text.as_bytes()).map(|it| it.to_string()), expected, "{text}");
            if !text.is_empty() {
                let index = format!(r#"{{"manifests":[{{}},{{"platform":{text}}},{{"platform":null}}]}}"#);
                let read = Platform::of_index(index.as_bytes());
                let read: Vec<_> = read.into_iter().map(|it| it.map(|it| it.to_string())).collect();
                assert_eq!(read, [None, expected, None], "{text}");
            }
        }
        assert_eq!(Platform::of_index(b"{}"), []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(Platform::of_configuration(&bytes), None);
            let _ = Platform::of_index(&bytes);
        }
    }
}
