//! What a client is told of an outage (pure): the upstream as configured, the cause in one word, whether something stale
//! is cached, and the id of the request. A pause by an operator is told in the same way, and has no cause.
//!
//! What must hold: no address, URL, user name, path or text of a certificate: those are in the log, under the same id.
//! The message is one sentence that a person can act on; clients that show bodies at all show it.

use std::time::Duration;

use serde_json::{Value, json};

use super::ErrorKind;
use crate::{metrics::Label as _, upstream::FailureCause};

/// What is known of a request whose upstream failed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    /// As configured.
    pub upstream: Option<&'a str>,
    /// The id of the request.
    pub id: &'a str,
    pub cached: Cached,
}

/// What could have been served instead of the upstream's response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cached {
    #[default]
    Nothing,
    /// It was confirmed longer ago than `stale_if_error` allows.
    TooOld,
    /// The request is a change, or a login.
    NoMatter,
}

impl ErrorKind {
    /// The cause of such an outage if nothing else is known of it. `None`: it is none of an upstream.
    pub(crate) const fn failure_cause(&self) -> Option<FailureCause> {
        match self {
            Self::OurCredentials => Some(FailureCause::Credentials),
            Self::TooManyRequests { .. } | Self::RegistryElsewhere => Some(FailureCause::Status),
            Self::UpstreamTimeout => Some(FailureCause::Timeout),
            // Content that cannot be a registry's.
            Self::UpstreamUnavailable { .. } | Self::DigestMismatch => Some(FailureCause::NotARegistry),
            Self::UpstreamResting(_) => Some(FailureCause::Refused),
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
            | Self::Unauthenticated
            | Self::Denied
            | Self::Refused
            | Self::ClearLogin
            | Self::LoginElsewhere
            | Self::NoUsers
            | Self::NoPushUser
            | Self::OnlyPulls
            | Self::DeniedByRule(_)
            | Self::TooYoung { .. }
            | Self::Unsupported
            | Self::Rejected { .. }
            | Self::MethodNotAllowed
            | Self::RangeNotSatisfiable { .. }
            | Self::TooManyRanges
            | Self::ManifestTooLarge
            | Self::ListTooLarge
            | Self::UpstreamPaused
            | Self::Busy
            | Self::TooManyTries { .. }
            | Self::Overloaded(_)
            | Self::Exhausted
            | Self::Loop
            | Self::WaitCycle
            | Self::Draining => None,
        }
    }

    /// Whether forebay, or the upstream, could not answer a request that is right.
    pub(crate) fn is_failure(&self) -> bool {
        self.status().is_server_error() || self.failure_cause().is_some()
    }
}

impl Asked<'_> {
    pub(super) fn message(&self, error: &ErrorKind, cause: FailureCause) -> String {
        self.sentence(&what_happened(self.upstream_name(), error, cause))
    }

    /// An operator has paused the upstream.
    pub(super) fn message_of_pause(&self) -> String {
        self.sentence(&format!("an operator of this mirror has paused {}", self.upstream_name()))
    }

    fn upstream_name(&self) -> &str {
        self.upstream.unwrap_or("the upstream")
    }

    fn sentence(&self, what: &str) -> String {
        let cached = match self.cached {
            Cached::Nothing => ", and nothing is cached that may be served instead",
            Cached::TooOld => ", and what is cached is older than stale_if_error allows",
            Cached::NoMatter => "",
        };
        format!("{what}{cached}: try again later, or tell the operator of this mirror the request id {}", self.id)
    }

    pub(super) fn detail(&self, cause: FailureCause) -> Value {
        json!({
            "upstream": self.upstream,
            "cause": cause.as_str(),
            "stale": self.cached == Cached::TooOld,
            "request_id": self.id,
        })
    }

    pub(super) fn detail_of_pause(&self) -> Value {
        json!({
            "upstream": self.upstream,
            "paused": true,
            "stale": self.cached == Cached::TooOld,
            "request_id": self.id,
        })
    }
}

fn what_happened(upstream: &str, error: &ErrorKind, cause: FailureCause) -> String {
    let word = cause.as_str();
    match error {
        ErrorKind::OurCredentials => {
            return format!(
                "{upstream} refuses the credentials of this mirror, which are not yours and which its operator has to renew ({word})"
            );
        }
        ErrorKind::RegistryElsewhere => {
            return format!(
                "{upstream} leads to another registry, which the operator of this mirror has to make an upstream of its own ({word})"
            );
        }
        ErrorKind::UpstreamResting(circuit) => {
            let (since, left) = (whole_seconds(circuit.failing_for()), whole_seconds(circuit.left()));
            return format!("{upstream} has failed for {since} s ({word}) and is tried again in {left} s");
        }
        ErrorKind::DigestMismatch => {
            return format!("{upstream} sends content that does not match its digest ({word})");
        }
        _ => {}
    }
    match cause {
        FailureCause::Dns => format!("the name of the host of {upstream} cannot be resolved ({word})"),
        FailureCause::Refused => format!("{upstream} refuses connections or breaks them off ({word})"),
        FailureCause::Timeout => format!("{upstream} does not answer in time ({word})"),
        FailureCause::Tls => format!("no trusted TLS connection to {upstream} can be made ({word})"),
        FailureCause::Credentials => {
            format!("the own credentials of this mirror for {upstream} are refused or cannot be read ({word})")
        }
        FailureCause::NotARegistry => format!("{upstream} does not answer as a registry does ({word})"),
        FailureCause::Status => match error {
            ErrorKind::TooManyRequests { .. } => format!("{upstream} allows no more requests for now ({word})"),
            _ => format!("{upstream} answers with an error of its own ({word})"),
        },
    }
}

fn whole_seconds(duration: Duration) -> u128 {
    duration.as_millis().div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outage_is_told_by_name_word_and_id() {
        let unavailable = ErrorKind::UpstreamUnavailable { retry_after: None };
        for (error, cause, what) in [
            (&unavailable, FailureCause::Dns, "the name of the host of a.example cannot be resolved (dns)"),
            (&unavailable, FailureCause::Refused, "a.example refuses connections or breaks them off (refused)"),
            (&ErrorKind::UpstreamTimeout, FailureCause::Timeout, "a.example does not answer in time (timeout)"),
            (&unavailable, FailureCause::Tls, "no trusted TLS connection to a.example can be made (tls)"),
            (
                &unavailable,
                FailureCause::Credentials,
                "the own credentials of this mirror for a.example are refused or cannot be read (credentials)",
            ),
            (
                &ErrorKind::OurCredentials,
                FailureCause::Credentials,
                "a.example refuses the credentials of this mirror, which are not yours and which its operator has to renew (credentials)",
            ),
            (&unavailable, FailureCause::NotARegistry, "a.example does not answer as a registry does (not_a_registry)"),
            (
                &ErrorKind::DigestMismatch,
                FailureCause::NotARegistry,
                "a.example sends content that does not match its digest (not_a_registry)",
            ),
            (&unavailable, FailureCause::Status, "a.example answers with an error of its own (status)"),
            (
                &ErrorKind::TooManyRequests { retry_after: None },
                FailureCause::Status,
                "a.example allows no more requests for now (status)",
            ),
            (
                &ErrorKind::RegistryElsewhere,
                FailureCause::Status,
                "a.example leads to another registry, which the operator of this mirror has to make an upstream of its own (status)",
            ),
        ] {
            let asked = Asked { upstream: Some("a.example"), id: "58fd6720-4", cached: Cached::Nothing };
            let rest = ", and nothing is cached that may be served instead: try again later, or tell the operator of this \
                        mirror the request id 58fd6720-4";
            assert_eq!(asked.message(error, cause), format!("{what}{rest}"));
        }
    }

    #[test]
    fn a_pause_is_told_without_a_cause() {
        let asked = Asked { upstream: Some("a.example"), id: "1-2", cached: Cached::TooOld };
        let expected = "an operator of this mirror has paused a.example, and what is cached is older than stale_if_error \
                        allows: try again later, or tell the operator of this mirror the request id 1-2";
        assert_eq!(asked.message_of_pause(), expected);
        let detail = json!({ "upstream": "a.example", "paused": true, "stale": true, "request_id": "1-2" });
        assert_eq!(asked.detail_of_pause(), detail);
        assert_eq!(ErrorKind::UpstreamPaused.failure_cause(), None);
    }

    #[test]
    fn what_is_cached_is_told() {
        for (cached, text, stale) in [
            (Cached::Nothing, "nothing is cached", false),
            (Cached::TooOld, "older than stale_if_error", true),
            (Cached::NoMatter, "(timeout): try again", false),
        ] {
            let asked = Asked { upstream: Some("a.example"), id: "1-2", cached };
            let message = asked.message(&ErrorKind::UpstreamTimeout, FailureCause::Timeout);
            assert!(message.contains(text), "{message}");
            let detail = json!({ "upstream": "a.example", "cause": "timeout", "stale": stale, "request_id": "1-2" });
            assert_eq!(asked.detail(FailureCause::Timeout), detail);
        }
    }
}
