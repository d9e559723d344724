//! Which store: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.

use std::{fmt, str::FromStr};

/// The longest name of a bucket, in bytes.
const MAX_BUCKET: usize = 63;
/// The longest prefix, in bytes: S3 has room for 1024 in a name, and the longest repository and tag have 384.
const MAX_PREFIX: usize = 256;

/// Whose protocol a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon's S3, and all that is compatible.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

/// A bucket, and where in it objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub scheme: Scheme,
    pub bucket: String,
    /// Without a slash at either end; it may be empty.
    pub prefix: String,
}

/// A text is no [`Location`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be like \"s3://bucket/prefix\", \"gs://bucket/prefix\" or \"az://container/prefix\"")]
pub struct NoLocation;

impl FromStr for Location {
    type Err = NoLocation;

    fn from_str(text: &str) -> Result<Self, NoLocation> {
        let (scheme, rest) = text.split_once("://").ok_or(NoLocation)?;
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            _ => return Err(NoLocation),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_segment = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(is_of_name);
        let is_valid = bucket.len() <= MAX_BUCKET
            && is_segment(bucket)
            && prefix.len() <= MAX_PREFIX
            && (prefix.is_empty() || prefix.split('/').all(is_segment));
        match is_valid {
            true => Ok(Self { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() }),
            false => Err(NoLocation),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_scheme_a_bucket_and_a_prefix() {
        for (text, expected) in [
            ("s3://images", Some("s3://images")),
            ("s3://images/", Some("s3://images")),
            ("s3://images/a/b/", Some("s3://images/a/b")),
            ("gs://images/a", Some("gs://images/a")),
            ("az://images/a", Some("az://images/a")),
            ("s3://", None),
            ("s3://a/../b", None),
            ("s3://a//b", None),
            ("s3://a b", None),
            ("s3://key:secret@a", None),
            ("s3://a?x=1", None),
            ("https://a/b", None),
            ("images", None),
        ] {
            assert_eq!(text.parse::<Location>().ok().map(|it| it.to_string()).as_deref(), expected, "{text}");
        }
    }
}
