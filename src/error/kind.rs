//! Status, code, headers and message of each failure.
//!
//! Source: OCI distribution specification v1.1, "Error Codes".

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    oci::{ContentRange, ErrorCode, Operation, ParseError},
    peer::Refused,
    route::HostError,
    rule::RuleName,
    upstream,
};

/// Why a request failed, by what its client can do about it. The message is for the client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErrorKind {
    #[error("{0}")]
    InvalidName(ParseError),
    #[error("{0}")]
    InvalidDigest(ParseError),
    #[error("{0}")]
    InvalidTag(ParseError),
    #[error("{0}")]
    InvalidHost(HostError),
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
    /// The upstream answers 401. Where it judges the client's own credentials, others may be accepted.
    #[error("the upstream refuses access; the repository may be private or may not exist")]
    Refused,
    /// The client cannot do anything about it.
    #[error("the upstream refuses the credentials of this mirror")]
    OurCredentials,
    #[error("passwords are refused over http: use https, or have the operator set access.allow_clear_login = true")]
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
    #[error("a rule of this mirror denies this: {0}")]
    DeniedByRule(Arc<RuleName>),
    #[error(
        "a rule of this mirror holds this tag back: {rule}; what it names now is served from {}, if it is still there then",
        humantime::format_rfc3339_seconds(*until)
    )]
    TooYoung { rule: Arc<RuleName>, until: SystemTime },
    #[error("this mirror only serves pulls from this upstream")]
    Unsupported,
    #[error("the upstream rejects the request")]
    Rejected {
        /// The upstream's status.
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
    /// The log has its host.
    #[error("the upstream leads to another registry, which asks for credentials")]
    RegistryElsewhere,
    /// The log has the host.
    #[error("the upstream has failed in a row and gets no requests just now")]
    UpstreamResting(Arc<upstream::OpenCircuit>),
    #[error("an operator of this mirror has paused the upstream")]
    UpstreamPaused,
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

impl ErrorKind {
    /// Whether the upstream would say the same to a request that does not come through this forebay. Of all other errors a
    /// peer asks the registry itself.
    pub(crate) fn is_of_upstream(&self) -> bool {
        matches!(
            self,
            Self::InvalidName(_)
                | Self::InvalidDigest(_)
                | Self::InvalidTag(_)
                | Self::ManifestUnknown
                | Self::BlobUnknown
                | Self::NoReferrersEndpoint
                | Self::NameUnknown
                | Self::Denied
                | Self::Refused
                | Self::Rejected { .. }
                | Self::RangeNotSatisfiable { .. }
                | Self::ManifestTooLarge
                | Self::ListTooLarge
                | Self::TooManyRequests { .. }
                | Self::UpstreamUnavailable { .. }
                | Self::UpstreamResting(_)
                | Self::UpstreamTimeout
                | Self::RegistryElsewhere
                | Self::DigestMismatch
        )
    }

    pub(crate) fn status(&self) -> StatusCode {
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
            | Self::OnlyPulls
            | Self::DeniedByRule(_)
            | Self::TooYoung { .. } => StatusCode::FORBIDDEN,
            Self::Unsupported | Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::ManifestTooLarge | Self::ListTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests { .. } | Self::Busy | Self::TooManyTries { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamUnavailable { .. } | Self::RegistryElsewhere | Self::DigestMismatch => {
                StatusCode::BAD_GATEWAY
            }
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::UpstreamResting(_)
            | Self::UpstreamPaused
            | Self::WaitCycle
            | Self::Draining
            | Self::Overloaded(_)
            | Self::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) const fn code(&self) -> ErrorCode {
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
            | Self::ClearLogin
            | Self::LoginElsewhere
            | Self::NoUsers
            | Self::NoPushUser
            | Self::OnlyPulls
            | Self::DeniedByRule(_)
            | Self::TooYoung { .. } => ErrorCode::Denied,
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
            // To DENIED dockerd adds that the client may have to log in, which cannot help here.
            Self::OurCredentials
            | Self::UpstreamUnavailable { .. }
            | Self::RegistryElsewhere
            | Self::UpstreamResting(_)
            | Self::UpstreamPaused
            | Self::UpstreamTimeout
            | Self::DigestMismatch
            | Self::Loop
            | Self::WaitCycle
            | Self::Overloaded(_)
            | Self::Exhausted
            | Self::Draining => ErrorCode::Unavailable,
        }
    }

    /// The headers that the status needs.
    pub(crate) fn headers(&self) -> HeaderMap {
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
            | Self::DeniedByRule(_)
            | Self::TooYoung { .. }
            | Self::Rejected { .. }
            | Self::TooManyRanges
            | Self::ManifestTooLarge
            | Self::ListTooLarge
            | Self::RegistryElsewhere
            | Self::UpstreamPaused
            | Self::UpstreamTimeout
            | Self::DigestMismatch
            | Self::Loop => HeaderMap::new(),
        }
    }

    /// What an upstream's failure means for a client that requested this operation.
    pub(crate) fn of_upstream(operation: Operation, error: &upstream::Error) -> Self {
        if error.is_of_other_registry() {
            return Self::RegistryElsewhere;
        }
        if let Some(resting) = &error.open_circuit {
            return Self::UpstreamResting(resting.clone());
        }
        match error.kind {
            // A client goes on to its next mirror after a 404, also where a proxy in front of the registry sent it.
            upstream::ErrorKind::NotFound | upstream::ErrorKind::Foreign { status: 404 | 410 } => match operation {
                Operation::Manifest => Self::ManifestUnknown,
                Operation::Blob => Self::BlobUnknown,
                _ => Self::NameUnknown,
            },
            upstream::ErrorKind::Unauthorized => Self::Refused,
            upstream::ErrorKind::OurCredentials => Self::OurCredentials,
            upstream::ErrorKind::Denied => Self::Denied,
            upstream::ErrorKind::TooManyRequests => Self::TooManyRequests { retry_after: error.retry_after },
            upstream::ErrorKind::Timeout => Self::UpstreamTimeout,
            upstream::ErrorKind::Exhausted => Self::Exhausted,
            upstream::ErrorKind::Paused => Self::UpstreamPaused,
            upstream::ErrorKind::TooLarge if operation == Operation::Manifest => Self::ManifestTooLarge,
            upstream::ErrorKind::TooLarge => Self::ListTooLarge,
            upstream::ErrorKind::Loop => Self::Loop,
            upstream::ErrorKind::Unsupported => Self::Rejected { status: 405 },
            upstream::ErrorKind::Rejected { status } => Self::Rejected { status },
            upstream::ErrorKind::Unavailable
            | upstream::ErrorKind::Protocol
            | upstream::ErrorKind::Foreign { .. }
            | upstream::ErrorKind::RangeNotSatisfiable { .. } => {
                Self::UpstreamUnavailable { retry_after: error.retry_after }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error() -> ParseError {
        ParseError::Tag("x")
    }

    fn rule_name() -> Arc<RuleName> {
        Arc::new(RuleName { pattern: "docker.io/*:v*".into(), line: Some(7) })
    }

    #[test]
    fn a_client_learns_which_rule_refuses_it_and_for_how_long() {
        let denied = ErrorKind::DeniedByRule(rule_name()).to_string();
        assert_eq!(denied, "a rule of this mirror denies this: \"docker.io/*:v*\" (line 7)");
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let held = ErrorKind::TooYoung { rule: rule_name(), until }.to_string();
        assert!(held.contains("\"docker.io/*:v*\" (line 7)") && held.contains("2027-01-15T08:00:00Z"), "{held}");
    }

    fn header(error: &ErrorKind, name: HeaderName) -> Option<String> {
        error.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn statuses_and_codes() {
        let after = Some(Duration::from_secs(7));
        for (error, status, code) in [
            (ErrorKind::InvalidName(parse_error()), 400, "NAME_INVALID"),
            (ErrorKind::InvalidHost(HostError::Missing), 400, "UNSUPPORTED"),
            (ErrorKind::ForeignHost("x".into()), 421, "UNSUPPORTED"),
            (ErrorKind::InvalidDigest(parse_error()), 400, "DIGEST_INVALID"),
            (ErrorKind::InvalidTag(parse_error()), 400, "TAG_INVALID"),
            (ErrorKind::UnknownRoute("x".into()), 404, "NAME_UNKNOWN"),
            (ErrorKind::NotFound, 404, "NAME_UNKNOWN"),
            (ErrorKind::ManifestUnknown, 404, "MANIFEST_UNKNOWN"),
            (ErrorKind::BlobUnknown, 404, "BLOB_UNKNOWN"),
            (ErrorKind::UploadUnknown, 404, "BLOB_UPLOAD_UNKNOWN"),
            (ErrorKind::NoReferrersEndpoint, 404, "UNSUPPORTED"),
            (ErrorKind::NameUnknown, 404, "NAME_UNKNOWN"),
            (ErrorKind::Unauthenticated, 401, "UNAUTHORIZED"),
            (ErrorKind::Denied, 403, "DENIED"),
            (ErrorKind::DeniedByRule(rule_name()), 403, "DENIED"),
            (ErrorKind::TooYoung { rule: rule_name(), until: SystemTime::UNIX_EPOCH }, 403, "DENIED"),
            (ErrorKind::Refused, 403, "DENIED"),
            (ErrorKind::OurCredentials, 403, "UNAVAILABLE"),
            (ErrorKind::ClearLogin, 403, "DENIED"),
            (ErrorKind::LoginElsewhere, 403, "DENIED"),
            (ErrorKind::NoUsers, 403, "DENIED"),
            (ErrorKind::NoPushUser, 403, "DENIED"),
            (ErrorKind::OnlyPulls, 403, "DENIED"),
            (ErrorKind::Unsupported, 405, "UNSUPPORTED"),
            (ErrorKind::MethodNotAllowed, 405, "UNSUPPORTED"),
            (ErrorKind::Rejected { status: 400 }, 400, "UNSUPPORTED"),
            (ErrorKind::Rejected { status: 405 }, 405, "UNSUPPORTED"),
            (ErrorKind::Rejected { status: 422 }, 422, "UNSUPPORTED"),
            (ErrorKind::RangeNotSatisfiable { len: 9 }, 416, "SIZE_INVALID"),
            (ErrorKind::TooManyRanges, 400, "UNSUPPORTED"),
            (ErrorKind::ManifestTooLarge, 413, "MANIFEST_INVALID"),
            (ErrorKind::ListTooLarge, 413, "SIZE_INVALID"),
            (ErrorKind::TooManyRequests { retry_after: after }, 429, "TOOMANYREQUESTS"),
            (ErrorKind::TooManyTries { retry_after: Duration::from_secs(7) }, 429, "TOOMANYREQUESTS"),
            (ErrorKind::UpstreamUnavailable { retry_after: after }, 502, "UNAVAILABLE"),
            (ErrorKind::RegistryElsewhere, 502, "UNAVAILABLE"),
            (ErrorKind::UpstreamTimeout, 504, "UNAVAILABLE"),
            (ErrorKind::DigestMismatch, 502, "UNAVAILABLE"),
            (ErrorKind::Loop, 508, "UNAVAILABLE"),
            (ErrorKind::WaitCycle, 503, "UNAVAILABLE"),
            (ErrorKind::Draining, 503, "UNAVAILABLE"),
            (ErrorKind::Overloaded(Refused::Full), 503, "UNAVAILABLE"),
            (ErrorKind::Exhausted, 503, "UNAVAILABLE"),
            (ErrorKind::UpstreamPaused, 503, "UNAVAILABLE"),
        ] {
            assert_eq!((error.status().as_u16(), error.code().as_str()), (status, code), "{error:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn headers_that_go_with_a_status() {
        let seconds = |seconds| Some(Duration::from_millis(seconds));
        for (error, name, value) in [
            (ErrorKind::Unauthenticated, header::WWW_AUTHENTICATE, Some("Basic realm=\"forebay\", charset=\"UTF-8\"")),
            (ErrorKind::Unsupported, header::ALLOW, Some("GET, HEAD")),
            (ErrorKind::MethodNotAllowed, header::ALLOW, Some("GET, HEAD")),
            (ErrorKind::Rejected { status: 405 }, header::ALLOW, None),
            (ErrorKind::RangeNotSatisfiable { len: 9 }, header::CONTENT_RANGE, Some("bytes */9")),
            (ErrorKind::TooManyRequests { retry_after: seconds(7_000) }, header::RETRY_AFTER, Some("7")),
            // Never "at once", which is what got us here.
            (ErrorKind::TooManyRequests { retry_after: seconds(100) }, header::RETRY_AFTER, Some("1")),
            (ErrorKind::TooManyRequests { retry_after: None }, header::RETRY_AFTER, None),
            // Never too early.
            (ErrorKind::TooManyTries { retry_after: Duration::from_millis(29_100) }, header::RETRY_AFTER, Some("30")),
            (ErrorKind::UpstreamUnavailable { retry_after: seconds(7_000) }, header::RETRY_AFTER, Some("7")),
            (ErrorKind::WaitCycle, header::RETRY_AFTER, Some("1")),
            (ErrorKind::Draining, header::RETRY_AFTER, Some("5")),
            (ErrorKind::Overloaded(Refused::Share), header::RETRY_AFTER, Some("1")),
            (ErrorKind::Exhausted, header::RETRY_AFTER, Some("1")),
            // Clients must not be made to send us what they have for the upstream.
            (ErrorKind::Denied, header::WWW_AUTHENTICATE, None),
        ] {
            assert_eq!(header(&error, name.clone()).as_deref(), value, "{error:?}: {name}");
        }
    }

    #[test]
    fn what_an_upstreams_failure_means_depends_on_what_was_asked() {
        for (kind, operation, status) in [
            (upstream::ErrorKind::NotFound, Operation::Manifest, 404),
            (upstream::ErrorKind::NotFound, Operation::Tags, 404),
            (upstream::ErrorKind::Unauthorized, Operation::Blob, 403),
            (upstream::ErrorKind::OurCredentials, Operation::Blob, 403),
            (upstream::ErrorKind::Denied, Operation::Blob, 403),
            (upstream::ErrorKind::TooManyRequests, Operation::Manifest, 429),
            (upstream::ErrorKind::Unavailable, Operation::Manifest, 502),
            (upstream::ErrorKind::Protocol, Operation::Manifest, 502),
            (upstream::ErrorKind::Timeout, Operation::Manifest, 504),
            (upstream::ErrorKind::TooLarge, Operation::Manifest, 413),
            (upstream::ErrorKind::Loop, Operation::Manifest, 508),
            (upstream::ErrorKind::Unsupported, Operation::Referrers, 405),
            (upstream::ErrorKind::Rejected { status: 414 }, Operation::Tags, 414),
            (upstream::ErrorKind::Foreign { status: 404 }, Operation::Tags, 404),
            (upstream::ErrorKind::Foreign { status: 403 }, Operation::Tags, 502),
            (upstream::ErrorKind::Foreign { status: 401 }, Operation::Manifest, 502),
        ] {
            let error = ErrorKind::of_upstream(operation, &upstream::Error::new(kind, "no"));
            assert_eq!(error.status().as_u16(), status, "{kind:?}");
        }
        let code = |operation| {
            ErrorKind::of_upstream(operation, &upstream::Error::new(upstream::ErrorKind::NotFound, "no")).code()
        };
        let codes = [Operation::Manifest, Operation::Blob, Operation::Tags].map(|operation| code(operation).as_str());
        assert_eq!(codes, ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"]);
    }
}
