//! The error codes of a registry, and the errors of the parsers.

use std::fmt;

/// A code in the body of an error response.
///
/// Source: OCI distribution specification v1.1, "Error Codes"; `UNAVAILABLE` comes from the Docker registry API, since
/// the specification has no such code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unavailable,
}

impl ErrorCode {
    /// The value of `errors[].code`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text cannot be parsed; the message says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("invalid repository name: {0}")]
    Repository(&'static str),
    #[error("invalid tag: {0}")]
    Tag(&'static str),
    #[error("invalid digest: {0}")]
    Digest(&'static str),
    #[error("invalid path: {0}")]
    Path(&'static str),
    #[error("invalid media type: {0}")]
    MediaType(&'static str),
    #[error("invalid manifest: {0}")]
    Manifest(String),
    #[error("invalid host pattern: {0}")]
    Host(&'static str),
    #[error("invalid range: {0}")]
    Range(&'static str),
}
