//! Removes private names from what clients get to read of an upstream's responses.

use http::HeaderValue;

use super::{
    auth::scope::Scope,
    error::Error,
    response::{redaction::PrivateNames, refusal::Refusal, warning::ContentNotes},
    state::UpstreamState,
};

impl UpstreamState {
    /// Names that clients must not see in the response to a request of this scope. Where clients use their own
    /// credentials, they know what those are for.
    fn private(&self, scope: &Scope) -> PrivateNames {
        let mut names = self.private_names.clone();
        if self.uses_client_credentials() {
            return PrivateNames { names, requested: vec![] };
        }
        names.extend(self.authenticator.account());
        PrivateNames {
            names,
            requested: scope.repositories().map(|repository| repository.as_str().to_owned()).collect(),
        }
    }

    /// The error, with as much of the upstream's words as clients may read.
    pub(super) fn error_for_clients(&self, error: Error, scope: &Scope) -> Error {
        match error.refusal().filter(|refusal| !refusal.reasons.is_empty()) {
            Some(refusal) => {
                let refusal = Refusal::clone(refusal).without(&self.private(scope));
                error.with_refusal(refusal)
            }
            None => error,
        }
    }

    pub(super) fn refusal_for_clients(&self, refusal: Refusal, scope: &Scope) -> Refusal {
        if refusal.reasons.is_empty() { refusal } else { refusal.without(&self.private(scope)) }
    }

    pub(super) fn without_private(&self, mut notes: ContentNotes, scope: &Scope) -> ContentNotes {
        if !notes.warnings.is_empty() {
            let private = self.private(scope);
            let names_private = |text: &HeaderValue| {
                str::from_utf8(text.as_bytes()).map_or(true, |text| private.is_named_in_text(text))
            };
            notes.warnings.retain(|warning| !names_private(warning));
        }
        notes
    }
}
