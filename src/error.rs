//! Why a request failed, and what the client is told: status, code, headers, message.
//!
//! The client reads what it can act on; the log has the cause and the same request id.

mod kind;
mod outage;
mod word;

use std::{fmt, sync::Arc};

use http::{HeaderMap, StatusCode};

pub(crate) use self::{
    kind::ErrorKind,
    outage::{Asked, Cached},
};
use crate::{
    auth::Refusal,
    cache::{BlobError, ListError, ManifestError},
    error_chain::ErrorChain,
    oci::Operation,
    route::RouteError,
    upstream::{self, FailureCause, Reason},
};

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Error {
    pub kind: ErrorKind,
    /// For the log, and for what an upstream said; the client is not told of it otherwise.
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, source: Some(source.into()) }
    }

    /// What an upstream's failure means for a client that requested this operation.
    pub(crate) fn of_upstream(operation: Operation, error: upstream::Error) -> Self {
        Self::new(ErrorKind::of_upstream(operation, &error), error)
    }

    /// The same failure, told to the client as another.
    #[must_use]
    pub(crate) fn told_as(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// What caused it, for the log.
    pub(crate) fn cause(&self) -> Option<String> {
        Some(ErrorChain(self.source.as_deref()?).to_string())
    }

    /// How the upstream refused, where it did.
    pub(crate) fn refusal(&self) -> Option<&Arc<upstream::Refusal>> {
        self.upstream_errors().find_map(upstream::Error::refusal)
    }

    /// Whether something in front of the upstream answered in its place.
    pub(crate) fn is_foreign(&self) -> bool {
        self.upstream_errors().any(|error| matches!(error.kind, upstream::ErrorKind::Foreign { .. }))
    }

    /// Why the upstream could not answer. `None`: it answered, or the failure is not its own.
    pub(crate) fn failure_cause(&self) -> Option<FailureCause> {
        let of_kind = self.kind.failure_cause()?;
        Some(self.upstream_errors().find_map(upstream::Error::failure_cause).unwrap_or(of_kind))
    }

    fn upstream_errors(&self) -> impl Iterator<Item = &upstream::Error> {
        let first = self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static));
        std::iter::successors(first, |error| error.source()).filter_map(|error| error.downcast_ref())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl From<RouteError> for Error {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Name(error) => ErrorKind::InvalidName(error),
            RouteError::Digest(error) => ErrorKind::InvalidDigest(error),
            RouteError::Tag(error) => ErrorKind::InvalidTag(error),
            RouteError::UnknownUpstream(name) => ErrorKind::UnknownRoute(name),
            RouteError::NotFound => ErrorKind::NotFound,
            RouteError::MethodNotAllowed => ErrorKind::MethodNotAllowed,
        }
        .into()
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing | Refusal::Malformed | Refusal::Wrong => ErrorKind::Unauthenticated,
            Refusal::Busy => ErrorKind::Busy,
            Refusal::TooMany(retry_after) => ErrorKind::TooManyTries { retry_after },
        }
        .into()
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        let kind = match &error {
            BlobError::Upstream(error) => ErrorKind::of_upstream(Operation::Blob, error),
            BlobError::Mismatch => ErrorKind::DigestMismatch,
            BlobError::Range { len } => ErrorKind::RangeNotSatisfiable { len: *len },
            BlobError::TooManyRanges => ErrorKind::TooManyRanges,
            BlobError::WaitCycle => ErrorKind::WaitCycle,
            BlobError::Crowded(refused) => ErrorKind::Overloaded(*refused),
            BlobError::Exhausted => ErrorKind::Exhausted,
            BlobError::Abandoned => ErrorKind::Draining,
        };
        Self::new(kind, error)
    }
}

impl From<ListError> for Error {
    fn from(error: ListError) -> Self {
        let kind = match &error {
            ListError::Upstream { operation, source } => ErrorKind::of_upstream(*operation, source),
            ListError::NoEndpoint => ErrorKind::NoReferrersEndpoint,
            ListError::Tag(error) => of_manifest(error),
            ListError::WaitCycle => ErrorKind::WaitCycle,
            ListError::Abandoned => ErrorKind::Draining,
        };
        Self::new(kind, error)
    }
}

impl From<ManifestError> for Error {
    fn from(error: ManifestError) -> Self {
        Self::new(of_manifest(&error), error)
    }
}

fn of_manifest(error: &ManifestError) -> ErrorKind {
    match error {
        ManifestError::Upstream(error) => ErrorKind::of_upstream(Operation::Manifest, error),
        ManifestError::Mismatch => ErrorKind::DigestMismatch,
        ManifestError::OtherType | ManifestError::NoManifest => ErrorKind::UpstreamUnavailable { retry_after: None },
        ManifestError::NearRateLimit => ErrorKind::TooManyRequests { retry_after: None },
        ManifestError::CachedNotFound(_) | ManifestError::NotAcceptable => ErrorKind::ManifestUnknown,
        ManifestError::WaitCycle => ErrorKind::WaitCycle,
        ManifestError::TooYoung { rule, until } => ErrorKind::TooYoung { rule: rule.clone(), until: *until },
        ManifestError::Abandoned => ErrorKind::Draining,
    }
}

/// What the client is told: in forebay's words, or in those of the upstream that refused.
#[derive(Debug)]
pub(crate) struct Told {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Code, message and detail of each.
    pub errors: Vec<(String, String, serde_json::Value)>,
}

impl Told {
    pub(crate) fn new(error: &Error, asked: Asked<'_>) -> Self {
        let mut told = Self::of(&error.kind, error.refusal().map(Arc::as_ref));
        if matches!(error.kind, ErrorKind::UpstreamPaused) {
            let code = error.kind.code().as_str().to_owned();
            told.errors = vec![(code, asked.message_of_pause(), asked.detail_of_pause())];
        } else if let Some(cause) = error.failure_cause() {
            let own = error.to_string();
            for (_, message, detail) in &mut told.errors {
                if *message == own {
                    *message = asked.message(&error.kind, cause);
                }
                if detail.is_null() {
                    *detail = asked.detail(cause);
                }
            }
        }
        told
    }

    /// `refusal`: how the upstream refused, where it did.
    fn of(error: &ErrorKind, refusal: Option<&upstream::Refusal>) -> Self {
        let (code, message) = (error.code().as_str(), error.to_string());
        let refusal = refusal.filter(|refusal| error.is_of(refusal));
        // The upstream's code may be about forebay's own credentials, and a challenge is forebay's own.
        let has_own_code = matches!(error, ErrorKind::Refused | ErrorKind::Unauthenticated);
        let in_its_words = |reason: &Reason| {
            let code = reason.code.clone().filter(|_| !has_own_code).unwrap_or_else(|| code.to_owned());
            (code, reason.message.clone().unwrap_or_else(|| message.clone()), reason.detail.clone())
        };
        let mut errors: Vec<_> = refusal.iter().flat_map(|refusal| &refusal.reasons).map(in_its_words).collect();
        if errors.is_empty() {
            errors.push((code.to_owned(), message.clone(), serde_json::Value::Null));
        }
        let status = match (error, refusal) {
            (ErrorKind::Denied, Some(upstream::Refusal { status: 451, .. })) => {
                StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS
            }
            (
                ErrorKind::ManifestUnknown | ErrorKind::BlobUnknown | ErrorKind::NameUnknown,
                Some(upstream::Refusal { status: 410, .. }),
            ) => StatusCode::GONE,
            _ => error.status(),
        };
        Self { status, headers: error.headers(), errors }
    }
}

impl ErrorKind {
    /// Whether this is how forebay tells its client of that refusal, so that the upstream's words fit.
    fn is_of(&self, refusal: &upstream::Refusal) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            (ErrorKind::Denied, refusal(403, std::slice::from_ref(&full)), 403, "X", Some("why"), &one),
            (ErrorKind::Denied, refusal(451, std::slice::from_ref(&full)), 451, "X", Some("why"), &one),
            (ErrorKind::BlobUnknown, refusal(410, std::slice::from_ref(&full)), 410, "X", Some("why"), &one),
            (ErrorKind::Denied, refusal(403, &[]), 403, "DENIED", None, &none),
            (ErrorKind::Denied, refusal(403, &[reason(None, None)]), 403, "DENIED", None, &one),
            (ErrorKind::Refused, refusal(401, std::slice::from_ref(&full)), 403, "DENIED", Some("why"), &one),
            (
                ErrorKind::Unauthenticated,
                refusal(401, std::slice::from_ref(&full)),
                401,
                "UNAUTHORIZED",
                Some("why"),
                &one,
            ),
            // It was an outage, and the client is asked who it is.
            (ErrorKind::Unauthenticated, refusal(429, std::slice::from_ref(&full)), 401, "UNAUTHORIZED", None, &none),
            (ErrorKind::ManifestUnknown, refusal(404, std::slice::from_ref(&full)), 404, "X", Some("why"), &one),
            (
                ErrorKind::Rejected { status: 422 },
                refusal(422, std::slice::from_ref(&full)),
                422,
                "X",
                Some("why"),
                &one,
            ),
            (ErrorKind::WaitCycle, refusal(404, std::slice::from_ref(&full)), 503, "UNAVAILABLE", None, &none),
        ] {
            let own = error.to_string();
            let told = Told::of(&error, Some(&refusal));
            let expected = (code.to_owned(), message.unwrap_or(&own).to_owned(), detail.clone());
            assert_eq!((told.status.as_u16(), told.errors), (status, vec![expected]), "{error:?} {refusal:?}");
        }
        let two = Told::of(&ErrorKind::Denied, Some(&refusal(403, &[full.clone(), full])));
        assert_eq!(two.errors.len(), 2);
    }

    #[test]
    fn a_refusal_of_credentials_is_401_and_of_a_guesser_429() {
        for (refusal, status) in [
            (Refusal::Missing, 401),
            (Refusal::Wrong, 401),
            (Refusal::Busy, 429),
            (Refusal::TooMany(std::time::Duration::from_secs(3)), 429),
        ] {
            assert_eq!(Error::from(refusal).kind.status().as_u16(), status, "{refusal:?}");
        }
    }

    #[test]
    fn an_error_keeps_its_cause_and_what_the_upstream_said() {
        let foreign = upstream::Error::new(upstream::ErrorKind::Foreign { status: 404 }, "a page");
        let error = Error::from(ManifestError::Upstream(foreign));
        assert_eq!(error.cause().as_deref(), Some("the upstream cannot give the manifest: a page"));
        assert!(error.is_foreign() && error.refusal().is_none());
        assert!(matches!(error.kind, ErrorKind::ManifestUnknown));
        let told = error.told_as(ErrorKind::Unauthenticated);
        assert!(told.is_foreign() && told.to_string() == "authentication required");
        assert_eq!(Error::from(ErrorKind::Loop).cause(), None);
    }
}
