//! Why a request failed, and what the client is told: status, code, headers, message.
//!
//! The client reads what it can act on; the log has the cause and the same request id.
//!
//! Source: OCI distribution specification v1.1, "Error Codes".

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    access::Refusal,
    cache::{BlobError, ManifestError},
    metrics::Operation,
    oci::{ContentRange, ErrorCode, ParseError},
    route::RouteError,
    upstream::{self, ErrorKind},
};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    InvalidName(#[source] ParseError),
    #[error("{0}")]
    InvalidDigest(#[source] ParseError),
    #[error("{0}")]
    InvalidTag(#[source] ParseError),
    #[error("no upstream is configured for {0:?}")]
    UnknownRoute(String),
    #[error("there is nothing at this path; a registry's paths begin with /v2/")]
    NotFound,
    #[error("manifest unknown")]
    ManifestUnknown,
    #[error("blob unknown")]
    BlobUnknown,
    #[error("not known to the upstream")]
    NameUnknown,
    #[error("authentication required")]
    Unauthenticated,
    #[error("the upstream refuses access; the repository may be private or may not exist")]
    Denied,
    #[error("this mirror only serves pulls")]
    Unsupported,
    #[error("the upstream rejects the request")]
    Rejected,
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    #[error("the range lies outside the blob, which has {len} bytes")]
    RangeNotSatisfiable { len: u64 },
    #[error("the manifest is larger than 16 MiB")]
    ManifestTooLarge,
    #[error("the upstream's rate limit is reached")]
    TooManyRequests { retry_after: Option<Duration> },
    #[error("the upstream is not available")]
    UpstreamUnavailable { retry_after: Option<Duration> },
    #[error("the upstream does not answer in time")]
    UpstreamTimeout,
    #[error("the upstream's content does not match its digest")]
    DigestMismatch,
    #[error("the request went in a circle: an upstream of this mirror leads back to it")]
    Loop,
    #[error("the mirror is shutting down")]
    Draining,
}

impl Error {
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::InvalidName(_) | Self::InvalidDigest(_) | Self::InvalidTag(_) | Self::Rejected => {
                StatusCode::BAD_REQUEST
            }
            Self::UnknownRoute(_) | Self::NotFound | Self::ManifestUnknown | Self::BlobUnknown | Self::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported | Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::ManifestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamUnavailable { .. } | Self::DigestMismatch => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidName(_) => ErrorCode::NameInvalid,
            Self::InvalidDigest(_) => ErrorCode::DigestInvalid,
            Self::InvalidTag(_) => ErrorCode::TagInvalid,
            Self::UnknownRoute(_) | Self::NotFound | Self::NameUnknown => ErrorCode::NameUnknown,
            Self::ManifestUnknown => ErrorCode::ManifestUnknown,
            Self::BlobUnknown => ErrorCode::BlobUnknown,
            Self::Unauthenticated => ErrorCode::Unauthorized,
            Self::Denied => ErrorCode::Denied,
            Self::Rejected | Self::Unsupported | Self::MethodNotAllowed => ErrorCode::Unsupported,
            Self::RangeNotSatisfiable { .. } => ErrorCode::SizeInvalid,
            Self::ManifestTooLarge => ErrorCode::ManifestInvalid,
            Self::TooManyRequests { .. } => ErrorCode::TooManyRequests,
            Self::UpstreamUnavailable { .. }
            | Self::UpstreamTimeout
            | Self::DigestMismatch
            | Self::Loop
            | Self::Draining => ErrorCode::Unavailable,
        }
    }

    /// The headers that go with the status.
    pub fn headers(&self) -> HeaderMap {
        let one = |name: HeaderName, value: HeaderValue| HeaderMap::from_iter([(name, value)]);
        let retry = |after: Option<Duration>| {
            after.map(|after| one(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)))).unwrap_or_default()
        };
        match self {
            Self::Unauthenticated => {
                one(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Basic realm="forebay", charset="UTF-8""#))
            }
            Self::Unsupported | Self::MethodNotAllowed => one(header::ALLOW, HeaderValue::from_static("GET, HEAD")),
            Self::RangeNotSatisfiable { len } => HeaderValue::from_str(&ContentRange::unsatisfied(*len))
                .map(|value| one(header::CONTENT_RANGE, value))
                .unwrap_or_default(),
            Self::TooManyRequests { retry_after } | Self::UpstreamUnavailable { retry_after } => retry(*retry_after),
            Self::Draining => retry(Some(Duration::from_secs(5))),
            Self::InvalidName(_)
            | Self::InvalidDigest(_)
            | Self::InvalidTag(_)
            | Self::UnknownRoute(_)
            | Self::NotFound
            | Self::ManifestUnknown
            | Self::BlobUnknown
            | Self::NameUnknown
            | Self::Denied
            | Self::Rejected
            | Self::ManifestTooLarge
            | Self::UpstreamTimeout
            | Self::DigestMismatch
            | Self::Loop => HeaderMap::new(),
        }
    }

    /// What an upstream's failure means for a client that asked for this.
    pub fn from_upstream(operation: Operation, error: &upstream::Error) -> Self {
        match error.kind {
            ErrorKind::NotFound => match operation {
                Operation::Manifest => Self::ManifestUnknown,
                Operation::Blob => Self::BlobUnknown,
                _ => Self::NameUnknown,
            },
            ErrorKind::Unauthorized | ErrorKind::Denied => Self::Denied,
            ErrorKind::TooManyRequests => Self::TooManyRequests { retry_after: error.retry_after },
            ErrorKind::Timeout => Self::UpstreamTimeout,
            ErrorKind::TooLarge => Self::ManifestTooLarge,
            ErrorKind::Loop => Self::Loop,
            ErrorKind::Unsupported => Self::MethodNotAllowed,
            ErrorKind::Rejected { .. } => Self::Rejected,
            ErrorKind::Unavailable | ErrorKind::Protocol | ErrorKind::RangeNotSatisfiable { .. } => {
                Self::UpstreamUnavailable { retry_after: error.retry_after }
            }
        }
    }
}

impl From<RouteError> for Error {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Name(error) => Self::InvalidName(error),
            RouteError::Digest(error) => Self::InvalidDigest(error),
            RouteError::Tag(error) => Self::InvalidTag(error),
            RouteError::UnknownUpstream(name) => Self::UnknownRoute(name),
            RouteError::NotFound => Self::NotFound,
            RouteError::MethodNotAllowed => Self::MethodNotAllowed,
        }
    }
}

impl From<Refusal> for Error {
    fn from(_: Refusal) -> Self {
        Self::Unauthenticated
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Upstream(error) => Self::from_upstream(Operation::Blob, &error),
            BlobError::Mismatch => Self::DigestMismatch,
            BlobError::Range { len } => Self::RangeNotSatisfiable { len },
            BlobError::Abandoned => Self::Draining,
        }
    }
}

impl From<ManifestError> for Error {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Upstream(error) => Self::from_upstream(Operation::Manifest, &error),
            ManifestError::Mismatch => Self::DigestMismatch,
            ManifestError::KnownMissing | ManifestError::NotAcceptable => Self::ManifestUnknown,
            ManifestError::Abandoned => Self::Draining,
        }
    }
}
