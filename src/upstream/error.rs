//! Why a request to an upstream failed.
//!
//! What must hold: an error never contains a credential, nor the query of a URL (a signed URL is a credential). It is
//! `Clone`, since all requests that waited for the same response get the same error. Which status a client gets is not
//! decided here.

use std::{
    borrow::Cow,
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use reqwest::Url;

use super::{
    client::{
        address_filter::AddressRefused, circuit_breaker::open_circuit::OpenCircuit, http_request::TransportError,
    },
    failure_cause::FailureCause,
    head,
    redacted_url::RedactedUrl,
    response::refusal::Refusal,
};
use crate::{error_chain::sources, small_file::is_lack_of_descriptors};

/// A source of an [`Error`].
type Source = Arc<dyn std::error::Error + Send + Sync>;

/// What kind of failure it was: whose fault, and whether a retry can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The upstream does not have the content (404).
    NotFound,
    /// The range begins at or after the end (416); `total` is the content's length, if the upstream told it.
    RangeNotSatisfiable { total: Option<u64> },
    /// The upstream requires other credentials than the request had (401).
    Unauthorized,
    /// The upstream, or its token realm, refuses forebay's own credentials: no client can help that.
    OurCredentials,
    /// The upstream knows the principal, and denies it access (403).
    Denied,
    /// The upstream's rate limit is reached (429).
    TooManyRequests,
    /// No connection, a connection that broke, or a 5xx.
    Unavailable,
    /// No byte arrived in time.
    Timeout,
    /// forebay itself has no memory or no descriptor left for the request: the upstream may be well.
    Exhausted,
    /// An operator has paused the upstream, which gets no request: what is cached may be served.
    Paused,
    /// The response is larger than forebay holds in memory.
    TooLarge,
    /// The response makes no sense, such as an HTML page with status 200.
    Protocol,
    /// A proxy in front of the upstream refuses (4xx), such as an ingress without a backend or a firewall: the registry
    /// has not seen the request.
    Foreign { status: u16 },
    /// The request is in a loop of mirrors (508).
    Loop,
    /// The upstream does not support the operation (405). For a HEAD (also 501): a GET may succeed.
    Unsupported,
    /// The upstream rejects the request itself (any other 4xx), as for `n=-1`.
    Rejected { status: u16 },
}

impl ErrorKind {
    /// Whether the upstream could not answer: another URL of the failover list may, and cached content may be served
    /// instead.
    pub const fn is_outage(self) -> bool {
        match self {
            Self::Unavailable
            | Self::Timeout
            | Self::Exhausted
            | Self::Paused
            | Self::OurCredentials
            | Self::TooManyRequests
            | Self::Protocol
            | Self::Foreign { .. } => true,
            Self::NotFound
            | Self::RangeNotSatisfiable { .. }
            | Self::Unauthorized
            | Self::Denied
            | Self::TooLarge
            | Self::Loop
            | Self::Unsupported
            | Self::Rejected { .. } => false,
        }
    }

    /// The cause of such an outage if nothing else is known of it. `None`: the upstream has not failed.
    const fn failure_cause(self) -> Option<FailureCause> {
        match self {
            Self::OurCredentials => Some(FailureCause::Credentials),
            Self::TooManyRequests | Self::Unavailable => Some(FailureCause::Status),
            Self::Timeout => Some(FailureCause::Timeout),
            Self::Protocol | Self::Foreign { .. } => Some(FailureCause::NotARegistry),
            // forebay's own lack is no failure of the upstream, and neither is a pause.
            Self::Exhausted
            | Self::Paused
            | Self::NotFound
            | Self::RangeNotSatisfiable { .. }
            | Self::Unauthorized
            | Self::Denied
            | Self::TooLarge
            | Self::Loop
            | Self::Unsupported
            | Self::Rejected { .. } => None,
        }
    }
}

/// Why a request to an upstream failed.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: ErrorKind,
    /// When the upstream accepts a retry, by its `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Whether the upstream redirected to another registry, which requires credentials.
    is_of_other_registry: bool,
    /// No request was sent, since the host has failed too often.
    pub open_circuit: Option<Arc<OpenCircuit>>,
    /// Whether no connection could be made.
    unreached: bool,
    /// Set where the kind does not tell it.
    cause: Option<FailureCause>,
    refusal: Option<Arc<Refusal>>,
    message: Cow<'static, str>,
    source: Option<Source>,
}

impl Error {
    /// `message` says what happened, without credentials and without the query of a URL.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            retry_after: None,
            is_of_other_registry: false,
            open_circuit: None,
            unreached: false,
            cause: None,
            refusal: None,
            message: message.into(),
            source: None,
        }
    }

    /// Why the upstream could not answer. `None`: it answered, or forebay itself failed.
    pub fn failure_cause(&self) -> Option<FailureCause> {
        let of_kind = self.kind.failure_cause()?;
        // What it was before it became forebay's own credentials does not count.
        if of_kind == FailureCause::Credentials {
            return Some(of_kind);
        }
        let known = || sources(self).filter_map(|source| source.downcast_ref::<Self>()).find_map(|error| error.cause);
        Some(known().unwrap_or(of_kind))
    }

    /// The failure has this cause, which its kind does not tell.
    pub(super) fn with_cause(mut self, cause: FailureCause) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Its weight in a cache, in KiB: a refusal carries the registry's own text.
    pub(crate) fn weight(&self) -> u32 {
        let text = self.refusal.as_ref().map_or(0, |refusal| refusal.size());
        u32::try_from(text / 1024 + 1).unwrap_or(u32::MAX)
    }

    /// The upstream's own words, where it refused with a reason.
    pub fn refusal(&self) -> Option<&Arc<Refusal>> {
        self.refusal.as_ref()
    }

    pub(super) fn with_refusal(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(Arc::new(refusal));
        self
    }

    /// Whether the Range alone may be the cause, so that a GET of the whole content may succeed.
    pub(crate) fn may_be_due_to_range(&self) -> bool {
        match self.kind {
            ErrorKind::NotFound
            | ErrorKind::RangeNotSatisfiable { .. }
            | ErrorKind::Unauthorized
            | ErrorKind::Denied
            | ErrorKind::TooManyRequests
            | ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Protocol
            | ErrorKind::Foreign { .. }
            | ErrorKind::Unsupported
            | ErrorKind::Rejected { .. } => !self.unreached,
            ErrorKind::Exhausted
            | ErrorKind::Paused
            | ErrorKind::OurCredentials
            | ErrorKind::TooLarge
            | ErrorKind::Loop => false,
        }
    }

    /// Whether the upstream cannot have acted on the request.
    pub fn is_before_sending(&self) -> bool {
        let is_refused_here = matches!(
            self.kind,
            ErrorKind::Exhausted | ErrorKind::Paused | ErrorKind::OurCredentials | ErrorKind::TooManyRequests
        );
        self.unreached || self.open_circuit.is_some() || is_refused_here
    }

    /// Whether the upstream answered: the next request may well be served.
    pub fn is_answer(&self) -> bool {
        self.source.is_none()
            && self.open_circuit.is_none()
            && !matches!(self.kind, ErrorKind::Timeout | ErrorKind::Exhausted | ErrorKind::Paused)
    }

    pub(super) fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    pub(super) fn retry_after(mut self, headers: &HeaderMap) -> Self {
        self.retry_after = head::retry_after(headers, SystemTime::now());
        self
    }

    /// Whether the upstream redirected to another registry, which requires credentials.
    pub fn is_of_other_registry(&self) -> bool {
        self.is_of_other_registry
    }

    /// The upstream redirected to `host`, a registry that requires credentials.
    pub(super) fn redirected_to_registry(mut self, host: &str) -> Self {
        let advice = "a registry that asks for credentials, and has to be an upstream of its own";
        self.message = format!("{}: the upstream redirects to {host}, {advice}", self.message).into();
        self.is_of_other_registry = true;
        self
    }

    /// The client may retry at once.
    pub fn retry_at_once(mut self) -> Self {
        self.retry_after = Some(Duration::from_secs(1));
        self
    }

    /// A request without a response, or a body that broke off.
    pub(super) fn from_transport(doing: &'static str, url: &Url, error: impl Into<TransportError>) -> Self {
        let error = error.into();
        let refused = sources(&error).any(|source| source.is::<AddressRefused>());
        let is_lack =
            |source: &(dyn std::error::Error + 'static)| source.downcast_ref().is_some_and(is_lack_of_descriptors);
        let kind = if refused {
            ErrorKind::Protocol
        } else if sources(&error).any(is_lack) {
            ErrorKind::Exhausted
        } else if error.is_timeout() {
            ErrorKind::Timeout
        } else {
            ErrorKind::Unavailable
        };
        let unreached = error.is_connect();
        let cause = Some(FailureCause::of_transport(&error, unreached, error.is_timeout()));
        Self { unreached, cause, ..Self::new(kind, format!("{doing} {}", RedactedUrl(url))).caused_by(error) }
    }

    /// Whether a TLS connection ended without `close_notify`.
    pub(super) fn is_unannounced_end(&self) -> bool {
        let is_end = |source: &(dyn std::error::Error + 'static)| {
            source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
        };
        self.source.as_ref().is_some_and(|source| sources(&**source).any(is_end))
    }

    /// No request was sent: the upstream's rate limit lasts for `left`, and other requests wait for a turn.
    pub(super) fn limited(url: &Url, left: Duration) -> Self {
        let why = format!("the rate limit of {} is reached, and other requests wait for a turn", RedactedUrl(url));
        Self { retry_after: Some(left), ..Self::new(ErrorKind::TooManyRequests, why) }
    }

    /// No request was sent: the host has failed too often.
    pub(super) fn circuit_open(circuit: OpenCircuit) -> Self {
        let (retry_after, cause, message) = (Some(circuit.left()), Some(circuit.cause()), circuit.to_string());
        let open_circuit = Some(Arc::new(circuit));
        Self { retry_after, open_circuit, unreached: true, cause, ..Self::new(ErrorKind::Unavailable, message) }
    }

    /// Whether no connection could be made.
    pub(super) fn is_unreached(&self) -> bool {
        self.unreached
    }

    pub(super) fn timed_out(doing: &'static str, url: &Url, after: Duration) -> Self {
        Self::new(
            ErrorKind::Timeout,
            format!("{doing} {}: no response within {} s", RedactedUrl(url), after.as_secs_f64()),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_outage_has_a_cause_and_no_refusal_has() {
        for (kind, cause) in [
            (ErrorKind::NotFound, None),
            (ErrorKind::RangeNotSatisfiable { total: None }, None),
            (ErrorKind::Unauthorized, None),
            (ErrorKind::Denied, None),
            (ErrorKind::TooLarge, None),
            (ErrorKind::Loop, None),
            (ErrorKind::Unsupported, None),
            (ErrorKind::Rejected { status: 400 }, None),
            (ErrorKind::Exhausted, None),
            (ErrorKind::Paused, None),
            (ErrorKind::OurCredentials, Some(FailureCause::Credentials)),
            (ErrorKind::TooManyRequests, Some(FailureCause::Status)),
            (ErrorKind::Unavailable, Some(FailureCause::Status)),
            (ErrorKind::Timeout, Some(FailureCause::Timeout)),
            (ErrorKind::Protocol, Some(FailureCause::NotARegistry)),
            (ErrorKind::Foreign { status: 403 }, Some(FailureCause::NotARegistry)),
        ] {
            let error = Error::new(kind, "no");
            assert_eq!(error.failure_cause(), cause, "{kind:?}");
            let is_own = matches!(kind, ErrorKind::Exhausted | ErrorKind::Paused);
            assert_eq!(cause.is_some(), kind.is_outage() && !is_own, "{kind:?}");
        }
    }

    #[test]
    fn the_cause_of_a_wrapped_error_is_its_own() {
        let inner = || Error::new(ErrorKind::Unavailable, "the realm").with_cause(FailureCause::Dns);
        let wrapped = Error::new(ErrorKind::Unavailable, "no token").caused_by(inner());
        assert_eq!(wrapped.failure_cause(), Some(FailureCause::Dns));
        let mut refused = inner();
        refused.kind = ErrorKind::OurCredentials;
        assert_eq!(refused.failure_cause(), Some(FailureCause::Credentials));
        refused.kind = ErrorKind::NotFound;
        assert_eq!(refused.failure_cause(), None);
    }
}
