//! Why a request failed, and what the client is told: status, code, headers, message.
//!
//! The client reads what it can act on; the log has the cause and the same request id.
//!
//! Source: OCI distribution specification v1.1, "Error Codes".

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    auth::Refusal,
    cache::{BlobError, ListError, ManifestError},
    oci::{ContentRange, ErrorCode, Operation, ParseError},
    peer::Refused,
    route::{HostError, RouteError},
    upstream::{self, ErrorKind, Reason},
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
    #[error("{0}")]
    InvalidHost(#[source] HostError),
    #[error(
        "this listener is bound to a loopback address and does not answer to the host {0:?}: to have it do so, add that to server.allowed_hosts"
    )]
    ForeignHost(String),
    #[error("no upstream is configured for {0:?}")]
    UnknownRoute(String),
    #[error("there is nothing at this path; a registry's paths begin with /v2/")]
    NotFound,
    #[error("manifest unknown")]
    ManifestUnknown,
    #[error("blob unknown")]
    BlobUnknown,
    #[error("no such upload: it was begun at another registry or repository, or its URL was not made here")]
    UploadUnknown,
    #[error("the upstream has no endpoint for referrers: ask for the tag that is made of the digest")]
    NoReferrersEndpoint,
    #[error("not known to the upstream")]
    NameUnknown,
    #[error("authentication required")]
    Unauthenticated,
    #[error("the upstream refuses access; the repository may be private or may not exist")]
    Denied,
    /// Who asks it is not who it wants; where that was the client, it may be somebody else.
    #[error("the upstream refuses access; the repository may be private or may not exist")]
    Refused,
    /// No client can help that.
    #[error("the upstream refuses the credentials of this mirror, which are not yours: its operator has to renew them")]
    OurCredentials,
    #[error("passwords are not taken over http: use https, or have the operator set access.allow_clear_login = true")]
    ClearLogin,
    #[error(
        "a login at this host is for another registry: this one needs a host or port of its own (upstream.hosts) to log in at"
    )]
    LoginElsewhere,
    #[error(
        "changes at this upstream need a user of this mirror, and it has none: its operator has to set access.htpasswd"
    )]
    NoUsers,
    #[error(
        "only users that access.push_users names may make changes at this upstream: log in as one of them, or have the operator add this one"
    )]
    NoPushUser,
    #[error(
        "a client certificate only pulls here: log in as a user who may push, or have the operator add \"certificate:*\" to access.push_users"
    )]
    OnlyPulls,
    #[error("this mirror only serves pulls from this upstream")]
    Unsupported,
    #[error("the upstream rejects the request")]
    Rejected {
        /// Its own.
        status: u16,
    },
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    #[error("the range lies outside the blob, which has {len} bytes")]
    RangeNotSatisfiable { len: u64 },
    #[error("too many ranges in one request, or of more bytes than the blob has: ask for fewer")]
    TooManyRanges,
    #[error("the manifest is larger than 16 MiB")]
    ManifestTooLarge,
    #[error("the list is larger than 16 MiB: ask for it in pages, by n and last")]
    ListTooLarge,
    #[error("the upstream's rate limit is reached")]
    TooManyRequests { retry_after: Option<Duration> },
    #[error("too many passwords are being verified; try again soon")]
    Busy,
    #[error("too many wrong passwords came from this address or for this user; try again in {} s", seconds(*retry_after))]
    TooManyTries { retry_after: Duration },
    #[error("{}", overloaded(*.0))]
    Overloaded(Refused),
    #[error("this mirror has no memory or no open file left for this; try again soon")]
    Exhausted,
    #[error("the upstream is not available")]
    UpstreamUnavailable { retry_after: Option<Duration> },
    #[error(
        "the upstream leads to {host}, a registry that asks for credentials: the operator of this mirror has to make {host} an upstream of its own"
    )]
    RegistryElsewhere { host: String },
    #[error("the upstream is not asked just now: {0}")]
    UpstreamResting(Arc<upstream::Resting>),
    #[error("the upstream does not answer in time")]
    UpstreamTimeout,
    #[error("the upstream's content does not match its digest")]
    DigestMismatch,
    #[error("the request went in a circle: an upstream of this mirror leads back to it")]
    Loop,
    #[error("this is on its way by mirrors of which one may wait for this very request; try again soon")]
    WaitCycle,
    #[error("the request was given up, as when the mirror shuts down; try again")]
    Draining,
}

impl Error {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidName(_)
            | Self::InvalidDigest(_)
            | Self::InvalidTag(_)
            | Self::InvalidHost(_)
            | Self::TooManyRanges => StatusCode::BAD_REQUEST,
            Self::Rejected { status } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST),
            Self::ForeignHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::UnknownRoute(_)
            | Self::NotFound
            | Self::ManifestUnknown
            | Self::BlobUnknown
            | Self::UploadUnknown
            | Self::NoReferrersEndpoint
            | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Denied
            | Self::Refused
            | Self::OurCredentials
            | Self::ClearLogin
            | Self::LoginElsewhere
            | Self::NoUsers
            | Self::NoPushUser
            | Self::OnlyPulls => StatusCode::FORBIDDEN,
            Self::Unsupported | Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::ManifestTooLarge | Self::ListTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests { .. } | Self::Busy | Self::TooManyTries { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamUnavailable { .. } | Self::RegistryElsewhere { .. } | Self::DigestMismatch => {
                StatusCode::BAD_GATEWAY
            }
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::UpstreamResting(_) | Self::WaitCycle | Self::Draining | Self::Overloaded(_) | Self::Exhausted => {
                StatusCode::SERVICE_UNAVAILABLE
            }
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
            Self::UploadUnknown => ErrorCode::BlobUploadUnknown,
            Self::Unauthenticated => ErrorCode::Unauthorized,
            Self::Denied
            | Self::Refused
            | Self::OurCredentials
            | Self::ClearLogin
            | Self::LoginElsewhere
            | Self::NoUsers
            | Self::NoPushUser
            | Self::OnlyPulls => ErrorCode::Denied,
            // NAME_UNKNOWN would say that there is no such repository, which clients report and end with.
            Self::InvalidHost(_)
            | Self::ForeignHost(_)
            | Self::NoReferrersEndpoint
            | Self::Rejected { .. }
            | Self::TooManyRanges
            | Self::Unsupported
            | Self::MethodNotAllowed => ErrorCode::Unsupported,
            Self::RangeNotSatisfiable { .. } | Self::ListTooLarge => ErrorCode::SizeInvalid,
            Self::ManifestTooLarge => ErrorCode::ManifestInvalid,
            Self::TooManyRequests { .. } | Self::Busy | Self::TooManyTries { .. } => ErrorCode::TooManyRequests,
            Self::UpstreamUnavailable { .. }
            | Self::RegistryElsewhere { .. }
            | Self::UpstreamResting(_)
            | Self::UpstreamTimeout
            | Self::DigestMismatch
            | Self::Loop
            | Self::WaitCycle
            | Self::Overloaded(_)
            | Self::Exhausted
            | Self::Draining => ErrorCode::Unavailable,
        }
    }

    /// The headers that go with the status.
    pub fn headers(&self) -> HeaderMap {
        let one = |name: HeaderName, value: HeaderValue| HeaderMap::from_iter([(name, value)]);
        let retry = |after: Option<Duration>| {
            after.map(|after| one(header::RETRY_AFTER, HeaderValue::from(seconds(after)))).unwrap_or_default()
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
            Self::Busy | Self::WaitCycle | Self::Overloaded(_) | Self::Exhausted => retry(Some(Duration::from_secs(1))),
            Self::TooManyTries { retry_after } => retry(Some(*retry_after)),
            Self::UpstreamResting(resting) => retry(Some(resting.left())),
            Self::Draining => retry(Some(Duration::from_secs(5))),
            Self::InvalidName(_)
            | Self::InvalidDigest(_)
            | Self::InvalidTag(_)
            | Self::InvalidHost(_)
            | Self::ForeignHost(_)
            | Self::UnknownRoute(_)
            | Self::NotFound
            | Self::ManifestUnknown
            | Self::BlobUnknown
            | Self::UploadUnknown
            | Self::NoReferrersEndpoint
            | Self::NameUnknown
            | Self::Denied
            | Self::Refused
            | Self::OurCredentials
            | Self::ClearLogin
            | Self::LoginElsewhere
            | Self::NoUsers
            | Self::NoPushUser
            | Self::OnlyPulls
            | Self::Rejected { .. }
            | Self::TooManyRanges
            | Self::ManifestTooLarge
            | Self::ListTooLarge
            | Self::RegistryElsewhere { .. }
            | Self::UpstreamTimeout
            | Self::DigestMismatch
            | Self::Loop => HeaderMap::new(),
        }
    }

    /// What an upstream's failure means for a client that asked for this.
    pub fn from_upstream(operation: Operation, error: &upstream::Error) -> Self {
        if let Some(host) = &error.elsewhere {
            return Self::RegistryElsewhere { host: host.to_string() };
        }
        if let Some(resting) = &error.resting {
            return Self::UpstreamResting(resting.clone());
        }
        match error.kind {
            // By a 404 clients go on elsewhere, also where it is not the registry's.
            ErrorKind::NotFound | ErrorKind::Foreign { status: 404 | 410 } => match operation {
                Operation::Manifest => Self::ManifestUnknown,
                Operation::Blob => Self::BlobUnknown,
                _ => Self::NameUnknown,
            },
            ErrorKind::Unauthorized => Self::Refused,
            ErrorKind::OurCredentials => Self::OurCredentials,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::TooManyRequests => Self::TooManyRequests { retry_after: error.retry_after },
            ErrorKind::Timeout => Self::UpstreamTimeout,
            ErrorKind::Exhausted => Self::Exhausted,
            ErrorKind::TooLarge if operation == Operation::Manifest => Self::ManifestTooLarge,
            ErrorKind::TooLarge => Self::ListTooLarge,
            ErrorKind::Loop => Self::Loop,
            ErrorKind::Unsupported => Self::Rejected { status: 405 },
            ErrorKind::Rejected { status } => Self::Rejected { status },
            ErrorKind::Unavailable
            | ErrorKind::Protocol
            | ErrorKind::Foreign { .. }
            | ErrorKind::RangeNotSatisfiable { .. } => Self::UpstreamUnavailable { retry_after: error.retry_after },
        }
    }
}

/// How an error is told: in forebay's words, or in those of the upstream that refused.
#[derive(Debug)]
pub struct Told {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Code, message and detail of each.
    pub errors: Vec<(String, String, serde_json::Value)>,
}

impl Told {
    /// `refusal`: what the upstream said, if it was asked.
    pub fn of(error: &Error, refusal: Option<&upstream::Refusal>) -> Self {
        let (code, message) = (error.code().as_str(), error.to_string());
        let refusal = refusal.filter(|refusal| error.is_upstreams(refusal));
        // To whom forebay asks as itself, a 401 is none; and a challenge is forebay's own.
        let has_own_code = matches!(error, Error::Refused | Error::Unauthenticated);
        let in_its_words = |reason: &Reason| {
            let code = reason.code.clone().filter(|_| !has_own_code).unwrap_or_else(|| code.to_owned());
            (code, reason.message.clone().unwrap_or_else(|| message.clone()), reason.detail.clone())
        };
        let mut errors: Vec<_> = refusal.iter().flat_map(|refusal| &refusal.reasons).map(in_its_words).collect();
        if errors.is_empty() {
            errors.push((code.to_owned(), message.clone(), serde_json::Value::Null));
        }
        let status = match (error, refusal) {
            (Error::Denied, Some(upstream::Refusal { status: 451, .. })) => StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
            (
                Error::ManifestUnknown | Error::BlobUnknown | Error::NameUnknown,
                Some(upstream::Refusal { status: 410, .. }),
            ) => StatusCode::GONE,
            _ => error.status(),
        };
        Self { status, headers: error.headers(), errors }
    }
}

impl Error {
    /// Whether this is how clients are told of that.
    fn is_upstreams(&self, refusal: &upstream::Refusal) -> bool {
        match self {
            Self::ManifestUnknown | Self::BlobUnknown | Self::NameUnknown => matches!(refusal.status, 404 | 410),
            Self::Denied => matches!(refusal.status, 403 | 451),
            Self::Refused | Self::Unauthenticated => refusal.status == 401,
            Self::TooManyRequests { .. } => refusal.status == 429,
            Self::Rejected { status } => refusal.status == *status,
            _ => false,
        }
    }
}

fn overloaded(why: Refused) -> &'static str {
    match why {
        Refused::Full => "too many answers wait for their clients to take them; try again soon",
        Refused::Share => {
            "too many answers wait for clients at your address to take them: take those first, or ask the operator for \
             server.trusted_networks"
        }
    }
}

/// Whole seconds, of which none is too early, and "at once" is never meant.
fn seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
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
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing | Refusal::Malformed | Refusal::Wrong => Self::Unauthenticated,
            Refusal::Busy => Self::Busy,
            Refusal::TooMany(retry_after) => Self::TooManyTries { retry_after },
        }
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Upstream(error) => Self::from_upstream(Operation::Blob, &error),
            BlobError::Mismatch => Self::DigestMismatch,
            BlobError::Range { len } => Self::RangeNotSatisfiable { len },
            BlobError::TooManyRanges => Self::TooManyRanges,
            BlobError::WaitCycle => Self::WaitCycle,
            BlobError::Crowded(why) => Self::Overloaded(why),
            BlobError::Exhausted => Self::Exhausted,
            BlobError::Abandoned => Self::Draining,
        }
    }
}

impl From<ListError> for Error {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Upstream { operation, source } => Self::from_upstream(operation, &source),
            ListError::NoEndpoint => Self::NoReferrersEndpoint,
            ListError::Tag(error) => error.into(),
            ListError::WaitCycle => Self::WaitCycle,
            ListError::Abandoned => Self::Draining,
        }
    }
}

impl From<ManifestError> for Error {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Upstream(error) => Self::from_upstream(Operation::Manifest, &error),
            ManifestError::Mismatch => Self::DigestMismatch,
            ManifestError::OtherType | ManifestError::NoManifest => Self::UpstreamUnavailable { retry_after: None },
            ManifestError::LimitNearlyUsed => Self::TooManyRequests { retry_after: None },
            ManifestError::CachedNotFound(_) | ManifestError::NotAcceptable => Self::ManifestUnknown,
            ManifestError::WaitCycle => Self::WaitCycle,
            ManifestError::Abandoned => Self::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error() -> ParseError {
        ParseError::Tag("x")
    }

    fn header(error: &Error, name: HeaderName) -> Option<String> {
        error.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn statuses_and_codes() {
        let after = Some(Duration::from_secs(7));
        for (error, status, code) in [
            (Error::InvalidName(parse_error()), 400, "NAME_INVALID"),
            (Error::InvalidHost(HostError::Missing), 400, "UNSUPPORTED"),
            (Error::ForeignHost("x".into()), 421, "UNSUPPORTED"),
            (Error::InvalidDigest(parse_error()), 400, "DIGEST_INVALID"),
            (Error::InvalidTag(parse_error()), 400, "TAG_INVALID"),
            (Error::UnknownRoute("x".into()), 404, "NAME_UNKNOWN"),
            (Error::NotFound, 404, "NAME_UNKNOWN"),
            (Error::ManifestUnknown, 404, "MANIFEST_UNKNOWN"),
            (Error::BlobUnknown, 404, "BLOB_UNKNOWN"),
            (Error::UploadUnknown, 404, "BLOB_UPLOAD_UNKNOWN"),
            (Error::NoReferrersEndpoint, 404, "UNSUPPORTED"),
            (Error::NameUnknown, 404, "NAME_UNKNOWN"),
            (Error::Unauthenticated, 401, "UNAUTHORIZED"),
            (Error::Denied, 403, "DENIED"),
            (Error::Refused, 403, "DENIED"),
            (Error::OurCredentials, 403, "DENIED"),
            (Error::ClearLogin, 403, "DENIED"),
            (Error::LoginElsewhere, 403, "DENIED"),
            (Error::NoUsers, 403, "DENIED"),
            (Error::NoPushUser, 403, "DENIED"),
            (Error::OnlyPulls, 403, "DENIED"),
            (Error::Unsupported, 405, "UNSUPPORTED"),
            (Error::MethodNotAllowed, 405, "UNSUPPORTED"),
            (Error::Rejected { status: 400 }, 400, "UNSUPPORTED"),
            (Error::Rejected { status: 405 }, 405, "UNSUPPORTED"),
            (Error::Rejected { status: 422 }, 422, "UNSUPPORTED"),
            (Error::RangeNotSatisfiable { len: 9 }, 416, "SIZE_INVALID"),
            (Error::TooManyRanges, 400, "UNSUPPORTED"),
            (Error::ManifestTooLarge, 413, "MANIFEST_INVALID"),
            (Error::ListTooLarge, 413, "SIZE_INVALID"),
            (Error::TooManyRequests { retry_after: after }, 429, "TOOMANYREQUESTS"),
            (Error::TooManyTries { retry_after: Duration::from_secs(7) }, 429, "TOOMANYREQUESTS"),
            (Error::UpstreamUnavailable { retry_after: after }, 502, "UNAVAILABLE"),
            (Error::RegistryElsewhere { host: "x".into() }, 502, "UNAVAILABLE"),
            (Error::UpstreamTimeout, 504, "UNAVAILABLE"),
            (Error::DigestMismatch, 502, "UNAVAILABLE"),
            (Error::Loop, 508, "UNAVAILABLE"),
            (Error::WaitCycle, 503, "UNAVAILABLE"),
            (Error::Draining, 503, "UNAVAILABLE"),
            (Error::Overloaded(Refused::Full), 503, "UNAVAILABLE"),
            (Error::Exhausted, 503, "UNAVAILABLE"),
        ] {
            assert_eq!((error.status().as_u16(), error.code().as_str()), (status, code), "{error:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn an_upstreams_words_go_with_its_own_refusal_alone() {
        let reason = |code: Option<&str>, message: Option<&str>| Reason {
            code: code.map(str::to_owned),
            message: message.map(str::to_owned),
            detail: serde_json::json!(1),
        };
        let refusal = |status, reasons: &[Reason]| upstream::Refusal { status, reasons: reasons.to_vec() };
        let full = reason(Some("X"), Some("why"));
        let (none, one) = (serde_json::Value::Null, serde_json::json!(1));
        for (error, refusal, status, code, message, detail) in [
            (Error::Denied, refusal(403, std::slice::from_ref(&full)), 403, "X", Some("why"), &one),
            (Error::Denied, refusal(451, std::slice::from_ref(&full)), 451, "X", Some("why"), &one),
            (Error::BlobUnknown, refusal(410, std::slice::from_ref(&full)), 410, "X", Some("why"), &one),
            (Error::Denied, refusal(403, &[]), 403, "DENIED", None, &none),
            (Error::Denied, refusal(403, &[reason(None, None)]), 403, "DENIED", None, &one),
            (Error::Refused, refusal(401, std::slice::from_ref(&full)), 403, "DENIED", Some("why"), &one),
            (Error::Unauthenticated, refusal(401, std::slice::from_ref(&full)), 401, "UNAUTHORIZED", Some("why"), &one),
            // It was an outage, and the client is asked who it is.
            (Error::Unauthenticated, refusal(429, std::slice::from_ref(&full)), 401, "UNAUTHORIZED", None, &none),
            (Error::ManifestUnknown, refusal(404, std::slice::from_ref(&full)), 404, "X", Some("why"), &one),
            (Error::Rejected { status: 422 }, refusal(422, std::slice::from_ref(&full)), 422, "X", Some("why"), &one),
            (Error::WaitCycle, refusal(404, std::slice::from_ref(&full)), 503, "UNAVAILABLE", None, &none),
        ] {
            let own = error.to_string();
            let told = Told::of(&error, Some(&refusal));
            let expected = (code.to_owned(), message.unwrap_or(&own).to_owned(), detail.clone());
            assert_eq!((told.status.as_u16(), told.errors), (status, vec![expected]), "{error:?} {refusal:?}");
        }
        let two = Told::of(&Error::Denied, Some(&refusal(403, &[full.clone(), full])));
        assert_eq!(two.errors.len(), 2);
    }

    #[test]
    fn headers_that_go_with_a_status() {
        let seconds = |seconds| Some(Duration::from_millis(seconds));
        for (error, name, value) in [
            (Error::Unauthenticated, header::WWW_AUTHENTICATE, Some("Basic realm=\"forebay\", charset=\"UTF-8\"")),
            (Error::Unsupported, header::ALLOW, Some("GET, HEAD")),
            (Error::MethodNotAllowed, header::ALLOW, Some("GET, HEAD")),
            (Error::Rejected { status: 405 }, header::ALLOW, None),
            (Error::RangeNotSatisfiable { len: 9 }, header::CONTENT_RANGE, Some("bytes */9")),
            (Error::TooManyRequests { retry_after: seconds(7_000) }, header::RETRY_AFTER, Some("7")),
            // Never "at once", which is what got us here.
            (Error::TooManyRequests { retry_after: seconds(100) }, header::RETRY_AFTER, Some("1")),
            (Error::TooManyRequests { retry_after: None }, header::RETRY_AFTER, None),
            // Never too early.
            (Error::TooManyTries { retry_after: Duration::from_millis(29_100) }, header::RETRY_AFTER, Some("30")),
            (Error::UpstreamUnavailable { retry_after: seconds(7_000) }, header::RETRY_AFTER, Some("7")),
            (Error::WaitCycle, header::RETRY_AFTER, Some("1")),
            (Error::Draining, header::RETRY_AFTER, Some("5")),
            (Error::Overloaded(Refused::Share), header::RETRY_AFTER, Some("1")),
            (Error::Exhausted, header::RETRY_AFTER, Some("1")),
            // Clients must not be made to send us what they have for the upstream.
            (Error::Denied, header::WWW_AUTHENTICATE, None),
        ] {
            assert_eq!(header(&error, name.clone()).as_deref(), value, "{error:?}: {name}");
        }
    }

    #[test]
    fn what_an_upstreams_failure_means_depends_on_what_was_asked() {
        for (kind, operation, status) in [
            (ErrorKind::NotFound, Operation::Manifest, 404),
            (ErrorKind::NotFound, Operation::Tags, 404),
            (ErrorKind::Unauthorized, Operation::Blob, 403),
            (ErrorKind::OurCredentials, Operation::Blob, 403),
            (ErrorKind::Denied, Operation::Blob, 403),
            (ErrorKind::TooManyRequests, Operation::Manifest, 429),
            (ErrorKind::Unavailable, Operation::Manifest, 502),
            (ErrorKind::Protocol, Operation::Manifest, 502),
            (ErrorKind::Timeout, Operation::Manifest, 504),
            (ErrorKind::TooLarge, Operation::Manifest, 413),
            (ErrorKind::Loop, Operation::Manifest, 508),
            (ErrorKind::Unsupported, Operation::Referrers, 405),
            (ErrorKind::Rejected { status: 414 }, Operation::Tags, 414),
            (ErrorKind::Foreign { status: 404 }, Operation::Tags, 404),
            (ErrorKind::Foreign { status: 403 }, Operation::Tags, 502),
            (ErrorKind::Foreign { status: 401 }, Operation::Manifest, 502),
        ] {
            let error = Error::from_upstream(operation, &upstream::Error::new(kind, "no"));
            assert_eq!(error.status().as_u16(), status, "{kind:?}");
        }
        let code = |operation| Error::from_upstream(operation, &upstream::Error::new(ErrorKind::NotFound, "no")).code();
        let codes = [Operation::Manifest, Operation::Blob, Operation::Tags].map(|operation| code(operation).as_str());
        assert_eq!(codes, ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"]);
    }
}
