//! What the steps mean for a pull, in a sentence (pure).
//!
//! What must hold: the sentence names the account, the upstream or the operator that it is up to; it has no address and no
//! password.

use std::fmt;

use crate::{
    cache::{CachedImage, freshness::Freshness},
    metrics::Label as _,
    upstream::{Error, ErrorKind, ExplainedHead},
};

/// How a pull would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pull {
    Succeeds,
    /// With what is cached, while the upstream cannot answer.
    ServesStale,
    /// The client's own credentials decide.
    DependsOnClient,
    Fails,
}

impl Pull {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Succeeds => "succeeds",
            Self::ServesStale => "serves_stale",
            Self::DependsOnClient => "depends_on_client",
            Self::Fails => "fails",
        }
    }
}

/// What the steps have shown.
pub(super) struct Found<'a> {
    /// As a person would pull it from the registry itself.
    pub image: &'a str,
    pub upstream: &'a str,
    /// forebay's own account at the upstream.
    pub account: Option<&'a str>,
    /// Where its credentials are.
    pub place: Option<&'a str>,
    pub has_credentials: bool,
    pub by_client: bool,
    pub head: Result<&'a ExplainedHead, &'a Error>,
    pub cached: &'a CachedImage,
}

impl Found<'_> {
    /// How a pull would end, and why.
    pub(super) fn judge(&self) -> (Pull, String) {
        let error = match self.head {
            Ok(head) => return (Pull::Succeeds, self.of_answer(head)),
            Err(error) => error,
        };
        let is_fresh = matches!(self.cached.tag, Some((_, Freshness::Fresh))) || self.is_cached_digest();
        match error.kind {
            // The upstream is not asked.
            _ if is_fresh && self.cached.is_complete && !self.by_client => {
                let why = self.of_error(error);
                (Pull::Succeeds, format!("all of it is cached, so that a pull needs no upstream for now; but {why}"))
            }
            ErrorKind::Unsupported => {
                (Pull::Succeeds, format!("{} answers no HEAD, so that a pull sends a GET", self.upstream))
            }
            kind if kind.is_outage() => self.of_outage(error),
            ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::NotFound if self.by_client => {
                let why = format!(
                    "{} decides by each client's own credentials, and forebay has none to ask with: a client sees it if its \
                     account does",
                    self.upstream
                );
                (Pull::DependsOnClient, why)
            }
            _ => (Pull::Fails, self.of_error(error)),
        }
    }

    fn of_answer(&self, head: &ExplainedHead) -> String {
        let is_same = head.digest.is_some() && head.digest == self.cached.digest;
        match (is_same, self.cached.manifest.is_some(), self.cached.is_complete) {
            (true, true, true) => "the upstream has it, and all of it is cached".to_owned(),
            (true, true, false) => "the upstream has it; its manifest is cached, and not all layers are".to_owned(),
            (true, false, _) => "the upstream has it; the tag is known, and a pull downloads the image".to_owned(),
            (false, ..) if self.cached.digest.is_some() && head.digest.is_some() => {
                "the upstream has it under another digest than the cache: the tag has moved".to_owned()
            }
            _ => "the upstream has it; a pull downloads it".to_owned(),
        }
    }

    fn of_outage(&self, error: &Error) -> (Pull, String) {
        let why = self.of_error(error);
        let is_served = match self.cached.tag {
            Some((_, freshness)) => freshness != Freshness::Missing,
            None => self.is_cached_digest(),
        };
        match (is_served && self.cached.manifest.is_some(), self.cached.is_complete) {
            (true, true) => (Pull::ServesStale, format!("clients get what is cached: {why}")),
            (true, false) => (
                Pull::Fails,
                format!("{why}: the manifest is cached, but layers are missing that only the upstream has"),
            ),
            (false, _) if self.cached.manifest.is_some() => {
                (Pull::Fails, format!("{why}, and what is cached is older than stale_if_error allows"))
            }
            (false, _) => (Pull::Fails, format!("nothing is cached, and {why}")),
        }
    }

    fn is_cached_digest(&self) -> bool {
        self.cached.tag.is_none() && self.cached.manifest.is_some()
    }

    fn of_error(&self, error: &Error) -> String {
        let (upstream, who) = (self.upstream, Account(self.account));
        let same = format!("Same with: docker pull {}", self.image);
        let cause = error.failure_cause().map(|cause| format!(" ({})", cause.as_str())).unwrap_or_default();
        match error.kind {
            ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Denied if self.has_credentials => {
                format!("the account {who} does not see it, or there is none. {same}")
            }
            ErrorKind::NotFound => {
                format!("there is none, or it is private, and forebay has no account at {upstream}. {same}")
            }
            ErrorKind::Unauthorized | ErrorKind::Denied => {
                format!("{upstream} refuses a client without an account, and forebay has none there. {same}")
            }
            ErrorKind::OurCredentials => {
                format!("{upstream} refuses the password of the account {who}{cause}: renew it{}", In(self.place))
            }
            ErrorKind::TooManyRequests => format!("{upstream} allows no more requests for now{cause}"),
            ErrorKind::Timeout => format!("{upstream} does not answer in time{cause}"),
            ErrorKind::Paused => {
                format!("an operator has paused {upstream}; forebay upstream resume {upstream} ends that")
            }
            ErrorKind::Loop => format!("{upstream} leads back to this mirror"),
            ErrorKind::Exhausted => "forebay itself has no memory or open file left".to_owned(),
            ErrorKind::Foreign { status } | ErrorKind::Rejected { status } => {
                format!("{upstream} refuses the request with {status}{cause}")
            }
            _ => format!("{upstream} cannot answer{cause}"),
        }
    }
}

/// The name of an account, if it is known.
struct Account<'a>(Option<&'a str>);

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.unwrap_or("of the configuration"))
    }
}

/// Where something is, if that is known.
struct In<'a>(Option<&'a str>);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |place| write!(f, " in {place}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        cache::Place,
        oci::{Algorithm, Digest},
    };

    fn digest(content: &str) -> Digest {
        Digest::of(Algorithm::Sha256, content.as_bytes())
    }

    fn cached(freshness: Option<Freshness>, is_complete: bool) -> CachedImage {
        CachedImage {
            digest: Some(digest("a")),
            tag: freshness.map(|freshness| (SystemTime::UNIX_EPOCH, freshness)),
            manifest: Some(Place::Disk),
            is_complete,
            ..CachedImage::default()
        }
    }

    fn judge(head: Result<&str, ErrorKind>, cached: &CachedImage, own: bool, by_client: bool) -> (Pull, String) {
        let head = head.map(|content| ExplainedHead { status: 200, digest: Some(digest(content)), media_type: None });
        let error = head.as_ref().map_err(|kind| Error::new(*kind, "no"));
        let found = Found {
            image: "ghcr.io/o/i:3",
            upstream: "ghcr.io",
            account: own.then_some("ci-bot"),
            place: own.then_some("/etc/ghcr.pw"),
            has_credentials: own,
            by_client,
            head: error.as_ref().map(|head| *head),
            cached,
        };
        found.judge()
    }

    #[test]
    fn an_answer_of_the_upstream_is_a_pull() {
        let stale = Some(Freshness::Stale);
        for (content, cached, sentence) in [
            ("a", cached(stale, true), "all of it is cached"),
            ("a", cached(stale, false), "not all layers are"),
            ("a", CachedImage { manifest: None, ..cached(stale, false) }, "the tag is known"),
            ("b", cached(stale, true), "the tag has moved"),
            ("b", CachedImage::default(), "a pull downloads it"),
        ] {
            let (pull, told) = judge(Ok(content), &cached, false, false);
            assert!(pull == Pull::Succeeds && told.contains(sentence), "{told}");
        }
    }

    #[test]
    fn a_refusal_names_the_account_and_an_outage_what_is_cached() {
        use ErrorKind::{Denied, Loop, NotFound, OurCredentials, Paused, TooManyRequests, Unauthorized, Unavailable};
        let none = || CachedImage::default();
        let (fresh, stale, old) = (Some(Freshness::Fresh), Some(Freshness::Stale), Some(Freshness::Missing));
        let of_account = "the account ci-bot does not see it, or there is none. Same with: docker pull ghcr.io/o/i:3";
        for (kind, cached, own, pull, sentence) in [
            (NotFound, none(), true, Pull::Fails, of_account),
            (Denied, none(), true, Pull::Fails, of_account),
            (NotFound, none(), false, Pull::Fails, "there is none, or it is private"),
            (Unauthorized, none(), false, Pull::Fails, "refuses a client without an account"),
            (NotFound, cached(stale, true), true, Pull::Fails, of_account),
            (NotFound, cached(fresh, true), true, Pull::Succeeds, "all of it is cached"),
            (NotFound, cached(None, true), true, Pull::Succeeds, "all of it is cached"),
            (OurCredentials, none(), true, Pull::Fails, "account ci-bot (credentials): renew it in /etc/ghcr.pw"),
            (TooManyRequests, none(), false, Pull::Fails, "allows no more requests"),
            (Unavailable, none(), false, Pull::Fails, "nothing is cached, and ghcr.io cannot answer (status)"),
            (Unavailable, cached(stale, true), false, Pull::ServesStale, "clients get what is cached"),
            (Unavailable, cached(stale, false), false, Pull::Fails, "layers are missing"),
            (Unavailable, cached(old, true), false, Pull::Fails, "older than stale_if_error"),
            (Paused, cached(stale, true), false, Pull::ServesStale, "forebay upstream resume ghcr.io"),
            (Loop, none(), false, Pull::Fails, "leads back to this mirror"),
            (ErrorKind::Unsupported, none(), false, Pull::Succeeds, "a pull sends a GET"),
        ] {
            let (ended, told) = judge(Err(kind), &cached, own, false);
            assert!(ended == pull && told.contains(sentence), "{kind:?} {cached:?}: {ended:?} {told}");
        }
        let (pull, told) = judge(Err(Unauthorized), &cached(fresh, true), false, true);
        assert!(pull == Pull::DependsOnClient && told.contains("each client's own credentials"), "{told}");
    }
}
