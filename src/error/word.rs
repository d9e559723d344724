//! A word for each kind of error: the field `failure` of the request line.
//!
//! What must hold: the words are a contract with those who count them; `docs/operations.md` has each of them.

use super::ErrorKind;

impl ErrorKind {
    /// Why the request failed, in one word.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "invalid_name",
            Self::InvalidDigest(_) => "invalid_digest",
            Self::InvalidTag(_) => "invalid_tag",
            Self::InvalidHost(_) => "invalid_host",
            Self::ForeignHost(_) => "foreign_host",
            Self::UnknownRoute(_) => "unconfigured_upstream",
            Self::NotFound => "no_such_path",
            Self::ManifestUnknown => "manifest_unknown",
            Self::BlobUnknown => "blob_unknown",
            Self::UploadUnknown => "upload_unknown",
            Self::NoReferrersEndpoint => "no_referrers_endpoint",
            Self::NameUnknown => "name_unknown",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "upstream_denied",
            Self::Refused => "upstream_unauthorized",
            Self::OurCredentials => "own_credentials",
            Self::ClearLogin => "clear_login",
            Self::LoginElsewhere => "login_elsewhere",
            Self::NoUsers => "no_users",
            Self::NoPushUser => "no_push_user",
            Self::OnlyPulls => "only_pulls",
            Self::DeniedByRule(_) => "denied_by_rule",
            Self::TooYoung { .. } => "too_young",
            Self::Unsupported => "no_pushes",
            Self::Rejected { .. } => "upstream_rejected",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RangeNotSatisfiable { .. } => "range_not_satisfiable",
            Self::TooManyRanges => "too_many_ranges",
            Self::ManifestTooLarge => "manifest_too_large",
            Self::ListTooLarge => "list_too_large",
            Self::TooManyRequests { .. } => "upstream_rate_limit",
            Self::Busy => "passwords_busy",
            Self::TooManyTries { .. } => "too_many_passwords",
            Self::Overloaded(_) => "overloaded",
            Self::Exhausted => "exhausted",
            Self::UpstreamUnavailable { .. } => "upstream_unavailable",
            Self::RegistryElsewhere { .. } => "registry_elsewhere",
            Self::UpstreamResting(_) => "upstream_resting",
            Self::UpstreamPaused => "upstream_paused",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::DigestMismatch => "digest_mismatch",
            Self::Loop => "loop",
            Self::WaitCycle => "wait_cycle",
            Self::Draining => "given_up",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_word() {
        let document = include_str!("../../docs/operations.md");
        let source = include_str!("word.rs").split("#[cfg(test)]").next().unwrap();
        let words: Vec<&str> = source.split(" => \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len(), "a word has one meaning");
        assert!(words.len() > 40, "{words:?}");
        for word in words {
            assert!(document.contains(&format!("`{word}`")), "docs/operations.md does not have {word}");
        }
    }
}
