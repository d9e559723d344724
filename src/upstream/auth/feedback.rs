//! What an [`Authenticator`] learns from the upstream's responses to an Authorization.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout},
};

use super::{
    super::Verdict,
    authenticator::Authenticator,
    authorization::{Authorization, Origin},
    credential::Credential,
    token::TokenSubject,
};
use crate::oci::Repository;

/// How long a request waits while another one verifies whether the upstream refuses the password.
const VERIFICATION_TIMEOUT: Duration = Duration::from_secs(30);
/// How old a token has to be for a 403 to mean that it may have expired, and how often forebay renews one for that
/// reason.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60);

impl Authenticator {
    /// Notes that the upstream refused the Authorization.
    pub(in crate::upstream) async fn note_refused(&self, authorization: &Authorization) {
        match &authorization.origin {
            Origin::Token { key, token, .. } => self.tokens.remove(key, token).await,
            Origin::OwnPassword { credential, .. } => self.note_credential_refused(credential, None).await,
            Origin::ClientPassword(verdict) => verdict.note(Verdict::Refused),
        }
    }

    /// Notes that a repository refused forebay's own password, and that no other response tells whether the password is
    /// right.
    pub(in crate::upstream) async fn note_refused_by_repository(&self, authorization: &Authorization) {
        if let Origin::OwnPassword { credential, scope, .. } = &authorization.origin {
            self.note_credential_refused(credential, scope.repository()).await;
        }
    }

    /// Notes that the upstream accepted the Authorization.
    pub(in crate::upstream) fn note_accepted(&self, authorization: &Authorization) {
        if let Origin::OwnPassword { credential, .. } = &authorization.origin {
            self.note_credential_accepted(credential);
        }
    }

    /// Whether this is forebay's own password, and the upstream accepted it when forebay last sent it.
    pub(in crate::upstream) fn was_accepted(&self, authorization: &Authorization) -> bool {
        matches!(&authorization.origin, Origin::OwnPassword { credential, .. } if self.credentials.is_accepted(credential))
    }

    /// Whether this is forebay's own password, and the upstream refused it lately.
    pub(in crate::upstream) fn is_withheld(&self, authorization: &Authorization) -> bool {
        matches!(&authorization.origin, Origin::OwnPassword { credential, .. } if self.credentials.is_withheld(credential))
    }

    /// The path below `/v2/` that the upstream last served with forebay's own password.
    pub(in crate::upstream) fn granted_path(&self) -> Option<Arc<str>> {
        self.granted_path.lock().clone()
    }

    /// Notes that the upstream served this path with forebay's own password.
    pub(in crate::upstream) fn note_granted_path(&self, path: &str) {
        *self.granted_path.lock() = Some(path.into());
    }

    /// Held while a request verifies whether a refusal is about forebay's own password. `None`: the turn did not come
    /// in time.
    pub(in crate::upstream) async fn verification_turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed; the verification may take as long as a request.
        timeout(VERIFICATION_TIMEOUT, self.verification.acquire()).await.ok()?.ok()
    }

    /// Notes that a refusal was not about the password.
    pub(in crate::upstream) fn note_unrelated_refusal(&self) {
        *self.unrelated_refusal.lock() = Some(Instant::now());
    }

    /// Whether a refusal since then was not about the password.
    pub(in crate::upstream) fn had_unrelated_refusal(&self, since: Instant) -> bool {
        self.unrelated_refusal.lock().is_some_and(|at| since < at)
    }

    /// Drops forebay's own token if a 403 to it may mean that it has expired: some registries send 403 instead of 401.
    /// Returns whether forebay should repeat the request with another token.
    pub(in crate::upstream) async fn renew(&self, authorization: &Authorization) -> bool {
        let Origin::Token { key, token, verdict: None } = &authorization.origin else { return false };
        if matches!(key.subject, TokenSubject::Client(_)) || token.obtained().elapsed() < RENEWAL_INTERVAL {
            return false;
        }
        {
            let mut renewed = self.renewed.lock();
            if renewed.is_some_and(|renewed| renewed.elapsed() < RENEWAL_INTERVAL) {
                return false;
            }
            *renewed = Some(Instant::now());
        }
        self.tokens.remove(key, token).await;
        true
    }

    pub(super) async fn note_credential_refused(&self, credential: &Arc<Credential>, at: Option<&Repository>) {
        if self.credentials.note_refused(credential, at).await {
            // The requests that fail of it are logged.
            self.metrics.upstream_credentials(&self.upstream, false);
            self.health.note_credentials(false);
        }
    }

    pub(super) fn note_credential_accepted(&self, credential: &Arc<Credential>) {
        self.metrics.upstream_credentials(&self.upstream, true);
        self.health.note_credentials(true);
        if self.credentials.note_accepted(credential) {
            tracing::info!(upstream = %self.upstream, "the upstream accepts forebay's own credentials again");
        }
    }
}
