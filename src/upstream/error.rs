//! Why the upstream did not give what was asked for, in words the caller can act on.
//!
//! What must hold: an error never contains a credential, nor the query of a URL (a signed URL is a
//! credential). It is `Clone`, since everyone who waited for the same answer gets the same error.
//! Which status a client is told is not decided here.

use std::{
    borrow::Cow,
    fmt, io,
    num::IntErrorKind,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header};
use reqwest::Url;
use rustls::pki_types::pem;

use super::{
    client::{address_filter::AddressRefused, circuit_breaker::Resting},
    response::refusal::Refusal,
};
use crate::small_file::is_lack_of_descriptors;

/// A source of an [`Error`].
type Source = Arc<dyn std::error::Error + Send + Sync>;

/// The longest `Retry-After` that is believed: one day.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What kind of failure it was: whose fault, and whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The upstream answered that it does not have it (404).
    NotFound,
    /// The range begins at or after the end (416); `total` is the content's length when it was told.
    RangeNotSatisfiable { total: Option<u64> },
    /// The upstream wants other credentials than the ones forebay has, or has not (401).
    Unauthorized,
    /// The upstream, or its realm, does not take forebay's own password: no client can help that.
    OurCredentials,
    /// The upstream knows who asks, and refuses (403).
    Denied,
    /// The upstream's rate limit is reached (429).
    TooManyRequests,
    /// No connection, a connection that broke, or a 5xx.
    Unavailable,
    /// Nothing came for too long.
    Timeout,
    /// forebay itself has no memory or no descriptor left for it: this says nothing about the upstream.
    Exhausted,
    /// The answer is larger than anything forebay holds in memory.
    TooLarge,
    /// The answer makes no sense, such as an HTML page with status 200.
    Protocol,
    /// Something in front of the upstream refuses (4xx), such as an ingress without a backend or a firewall: the registry has
    /// said nothing.
    Foreign { status: u16 },
    /// The request went in a circle (508).
    Loop,
    /// The upstream does not offer the operation (405); of a HEAD (501, too): only a GET tells.
    Unsupported,
    /// The upstream finds fault with the request itself (any other 4xx), as with `n=-1`.
    Rejected { status: u16 },
}

impl ErrorKind {
    /// Whether the upstream could not answer, as against having answered: another URL of the
    /// failover list may do better, and what is cached may be served instead.
    pub const fn is_outage(self) -> bool {
        match self {
            Self::Unavailable
            | Self::Timeout
            | Self::Exhausted
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
}

/// Why an upstream did not give what was asked for.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: ErrorKind,
    /// How long the upstream asked to be left alone.
    pub retry_after: Option<Duration>,
    /// The upstream led to this registry, which asks for credentials.
    pub elsewhere: Option<Arc<str>>,
    /// It was not asked, since its host does not answer.
    pub resting: Option<Arc<Resting>>,
    /// No connection could be made.
    unreached: bool,
    refusal: Option<Arc<Refusal>>,
    message: Cow<'static, str>,
    source: Option<Source>,
}

impl Error {
    /// `message` says what happened, without credentials and without the query of a URL.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let (message, elsewhere, resting, refusal, source) = (message.into(), None, None, None, None);
        Self { kind, retry_after: None, elsewhere, resting, unreached: false, refusal, message, source }
    }

    /// Its weight in a cache, in KiB: a refusal carries the registry's own text.
    pub(crate) fn weight(&self) -> u32 {
        let text = self.refusal.as_ref().map_or(0, |refusal| refusal.size());
        u32::try_from(text / 1024 + 1).unwrap_or(u32::MAX)
    }

    /// The refusal in the upstream's words, where it gave one.
    pub fn refusal(&self) -> Option<&Arc<Refusal>> {
        self.refusal.as_ref()
    }

    pub(super) fn in_words(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(Arc::new(refusal));
        self
    }

    /// Whether it may be the Range alone that got no good answer, so that a GET of the whole may get one.
    pub fn may_be_of_the_range(&self) -> bool {
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
            ErrorKind::Exhausted | ErrorKind::OurCredentials | ErrorKind::TooLarge | ErrorKind::Loop => false,
        }
    }

    /// Whether nothing of what was to be done can have been done.
    pub fn is_before_sending(&self) -> bool {
        let is_refused_here =
            matches!(self.kind, ErrorKind::Exhausted | ErrorKind::OurCredentials | ErrorKind::TooManyRequests);
        self.unreached || self.resting.is_some() || is_refused_here
    }

    /// Whether it was answered, as against not heard of: the next request may well be served.
    pub fn is_answer(&self) -> bool {
        self.source.is_none()
            && self.resting.is_none()
            && !matches!(self.kind, ErrorKind::Timeout | ErrorKind::Exhausted)
    }

    pub(super) fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    pub(super) fn retry_after(mut self, headers: &HeaderMap) -> Self {
        self.retry_after = retry_after(headers, SystemTime::now());
        self
    }

    /// The upstream led to `host`, a registry that asks for credentials.
    pub(super) fn led_to(mut self, host: String) -> Self {
        let advice = "a registry that asks for credentials, and has to be an upstream of its own";
        self.message = format!("{}: the upstream redirects to {host}, {advice}", self.message).into();
        self.elsewhere = Some(host.into());
        self
    }

    /// The same request will be answered when it comes again.
    pub fn retry_at_once(mut self) -> Self {
        self.retry_after = Some(Duration::from_secs(1));
        self
    }

    /// A request that got no answer, or a body that broke.
    pub(super) fn from_transport(doing: &'static str, url: &Url, error: reqwest::Error) -> Self {
        // reqwest's text ends with the URL, and a redirect's URL may be signed.
        let error = error.without_url();
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
        Self { unreached, ..Self::new(kind, format!("{doing} {}", Shown(url))).caused_by(error) }
    }

    /// Whether a connection with TLS ended without saying so before.
    pub(super) fn is_unannounced_end(&self) -> bool {
        let is_end = |source: &(dyn std::error::Error + 'static)| {
            source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
        };
        self.source.as_ref().is_some_and(|source| sources(&**source).any(is_end))
    }

    /// It was not asked, since it said to come again after so long, and others wait for that.
    pub(super) fn limited(url: &Url, left: Duration) -> Self {
        let why = format!("{} has had enough of requests for now, and others wait their turn", Shown(url));
        Self { retry_after: Some(left), ..Self::new(ErrorKind::TooManyRequests, why) }
    }

    /// It was not asked, since its host does not answer; whose name is perhaps not for clients.
    pub(super) fn resting(resting: Resting, is_private: bool) -> Self {
        let (retry_after, message) = (Some(resting.left()), resting.to_string());
        let resting = Some(Arc::new(if is_private { resting.unnamed() } else { resting }));
        Self { retry_after, resting, unreached: true, ..Self::new(ErrorKind::Unavailable, message) }
    }

    /// Whether no connection could be made.
    pub(super) fn is_unreached(&self) -> bool {
        self.unreached
    }

    pub(super) fn timed_out(doing: &'static str, url: &Url, after: Duration) -> Self {
        Self::new(ErrorKind::Timeout, format!("{doing} {}: nothing came for {} s", Shown(url), after.as_secs()))
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

/// Why an [`Upstream`](super::Upstream) could not be set up from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("upstream {upstream}: cannot read the CA file {path}")]
    ReadCa { upstream: Arc<str>, path: std::path::PathBuf, source: std::io::Error },
    #[error("upstream {upstream}: {path} is not a PEM file of certificates")]
    ParseCa { upstream: Arc<str>, path: std::path::PathBuf, source: pem::Error },
    #[error("upstream {upstream}: {path} has no certificate in it")]
    EmptyCa { upstream: Arc<str>, path: std::path::PathBuf },
    #[error("upstream {upstream}: cannot use the credentials in {path}")]
    Credentials { upstream: Arc<str>, path: std::path::PathBuf, source: std::io::Error },
    #[error("upstream {upstream}: cannot set up TLS; each certificate of `ca` must be one of X.509")]
    Tls { upstream: Arc<str>, source: rustls::Error },
    #[error("upstream {upstream}: cannot set up the HTTP client")]
    Client { upstream: Arc<str>, source: reqwest::Error },
    #[error("upstream {upstream}: no URL is given")]
    NoUrl { upstream: Arc<str> },
    #[error("upstream {upstream}: a credential helper is named by letters, digits, '.', '_' and '-': not {helper:?}")]
    Helper { upstream: Arc<str>, helper: String },
    #[error("the Via value is not a header value")]
    Via,
}

/// A URL as it may be logged: without userinfo, query and fragment.
pub(super) struct Shown<'a>(pub &'a Url);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

/// An error, its source, and so on.
pub(super) fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// `Retry-After` as a duration from `now`: seconds, or an HTTP date (RFC 9110 §10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => MAX_RETRY_AFTER,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases: &[(&str, Option<u64>)] = &[
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("99999999999999", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("-1", None),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_shown_url_has_no_secrets() {
        let url = Url::parse("https://user:pass@cdn.example:8443/blob?X-Amz-Signature=abc#frag").unwrap();
        assert_eq!(Shown(&url).to_string(), "https://cdn.example:8443/blob");
    }
}
