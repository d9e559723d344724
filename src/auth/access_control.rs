//! Says who a client is: by a password of the htpasswd file, by a certificate, or anonymous.

use std::{
    net::IpAddr,
    sync::{Arc, Once},
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    Identity, Refusal,
    basic::Credentials,
    config::{Anonymous, Config, PushUsers},
    htpasswd::Error,
    password_attempts::PasswordAttempts,
    password_queue::VerificationQueue,
    rules::Rules,
};
use crate::{
    file_watch::{self, Changed, POLL_INTERVAL},
    metrics::Metrics,
    peer::TrustedNetworks,
};

/// The access rules of one configuration and one reading of its htpasswd file. They never change: a reload replaces the
/// whole value. A cheap handle.
#[derive(Clone)]
pub struct AccessControl {
    rules: Arc<Rules>,
    queue: Arc<VerificationQueue>,
    /// Logs only once that credentials are ignored.
    ignored: Arc<Once>,
}

impl AccessControl {
    /// Blocks on the htpasswd file.
    ///
    /// # Errors
    /// When the htpasswd file cannot be read or has a line that is not understood.
    pub fn load(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            rules: Arc::new(Rules::load(config)?),
            queue: Arc::new(VerificationQueue::new(TrustedNetworks::default())),
            ignored: Arc::new(Once::new()),
        })
    }

    /// The same rules, but these networks have no limited share of the verification queue.
    #[must_use]
    pub fn trusting(self, trusted: TrustedNetworks) -> AccessControl {
        AccessControl { queue: Arc::new(VerificationQueue::new(trusted)), ..self }
    }

    /// Says who the client at `peer` is. `authorization` is the client's header, which is ignored if there are no
    /// users; `client_certificate`: whether the client showed a certificate that the client CA signed.
    ///
    /// # Errors
    /// When the client may not pull.
    pub async fn check(
        &self,
        attempts: &PasswordAttempts,
        peer: IpAddr,
        authorization: Option<&HeaderValue>,
        client_certificate: bool,
    ) -> Result<Identity, Refusal> {
        let Some(header) = authorization else { return self.check_without(client_certificate) };
        if self.rules.users.is_none() {
            self.ignored.call_once(|| {
                info!(client = %peer, "a client shows credentials: they are ignored, since there is no access.htpasswd; this is told once");
            });
            return self.check_without(client_certificate);
        }
        let credentials = Credentials::parse(header).ok_or(Refusal::Malformed)?;
        self.verify(credentials, attempts, peer).await.map(Identity::User)
    }

    /// The same for a client that sent no credentials, without waiting.
    ///
    /// # Errors
    /// When the client may not pull.
    pub fn check_without(&self, client_certificate: bool) -> Result<Identity, Refusal> {
        match self.rules.config.anonymous {
            _ if client_certificate => Ok(Identity::Certificate),
            Anonymous::Pull => Ok(Identity::Anonymous),
            Anonymous::None => Err(Refusal::Missing),
        }
    }

    /// Whether passwords are accepted on a connection: in clear only on loopback, or if the operator allows it.
    pub fn takes_passwords(&self, tls: bool, peer: IpAddr) -> bool {
        tls || peer.to_canonical().is_loopback() || self.rules.config.allow_clear_login
    }

    /// Whether anonymous clients may pull.
    pub fn is_open(&self) -> bool {
        self.rules.config.anonymous == Anonymous::Pull
    }

    /// The only clients that may push, where that is configured.
    pub fn push_users(&self) -> Option<PushUsers> {
        self.rules.config.push_users.clone()
    }

    /// Whether there is an htpasswd file.
    pub fn has_users(&self) -> bool {
        self.rules.users.is_some()
    }

    async fn verify(
        &self,
        credentials: Credentials,
        attempts: &PasswordAttempts,
        peer: IpAddr,
    ) -> Result<Arc<str>, Refusal> {
        let rules = self.rules.clone();
        if let Some(user) = rules.remembered(&credentials) {
            return Ok(user);
        }
        // Before the queue, so that no address fills it with guesses.
        let is_known = || rules.remembered(&credentials).is_some();
        let attempt = attempts.begin(peer, "access.htpasswd", &credentials.user, is_known).await?;
        let turn = self.queue.wait(peer).await.ok_or(Refusal::Busy)?;
        // Another request of the same pull may have been verified while this one waited.
        if let Some(user) = rules.remembered(&credentials) {
            return Ok(user);
        }
        let verification = tokio::task::spawn_blocking(move || {
            let user = rules.verify(&credentials);
            // The turn ends with the work, not with the request: a client that leaves does not free its core.
            drop(turn);
            attempt.end(user.is_none());
            user
        });
        verification.await.ok().flatten().ok_or(Refusal::Wrong)
    }
}

/// Replaces `access` when its htpasswd file changes, until `shutdown`.
pub(crate) async fn watch(access: Arc<ArcSwap<AccessControl>>, metrics: Metrics, shutdown: CancellationToken) {
    let watched = access.clone();
    let read = move || {
        let current = watched.load_full();
        let changed = current.rules.load_changed()?;
        let with_rules = |rules| AccessControl { rules: Arc::new(rules), ..AccessControl::clone(&current) };
        Ok(changed.map(|Changed { fingerprint, content }| Changed {
            fingerprint,
            content: (with_rules(content), current.clone()),
        }))
    };
    file_watch::watch(POLL_INTERVAL, shutdown, read, |read: Result<_, Error>| match read {
        Ok((changed, current)) => {
            // A reload of the configuration in the meantime has read the file itself.
            let replaced = access.compare_and_swap(&current, Arc::new(changed));
            if Arc::ptr_eq(&replaced, &current) {
                metrics.reload("htpasswd", true);
                let file = current.rules.config.htpasswd.as_deref().unwrap_or("".as_ref());
                info!(htpasswd = %file.display(), "the new users are in force");
            }
        }
        Err(failure) => {
            metrics.reload("htpasswd", false);
            error!(error = &failure as &dyn std::error::Error, "the htpasswd file is not usable; the old users stay");
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn passwords_need_tls_or_loopback_or_permission() {
        for (tls, peer, allowed, takes) in [
            (true, "192.0.2.1", false, true),
            (false, "192.0.2.1", false, false),
            (false, "192.0.2.1", true, true),
            (false, "127.0.0.1", false, true),
            (false, "127.5.5.5", false, true),
            (false, "::1", false, true),
            (false, "::ffff:127.0.0.1", false, true),
            (false, "::ffff:192.0.2.1", false, false),
            (false, "fe80::1", false, false),
            (false, "0.0.0.0", false, false),
        ] {
            let config = Config { allow_clear_login: allowed, ..Config::default() };
            let access = AccessControl::load(&config).unwrap();
            assert_eq!(access.takes_passwords(tls, peer.parse().unwrap()), takes, "{tls} {peer} {allowed}");
        }
    }

    /// Such a password counts as no guess, however often the client sends it.
    #[tokio::test]
    async fn a_password_is_ignored_if_there_are_no_users() {
        let config = Config::default();
        let (access, tries) =
            (AccessControl::load(&config).unwrap(), PasswordAttempts::new(TrustedNetworks::default()));
        let header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode("ann:pw"))).unwrap();
        for _ in 0..200 {
            let peer = IpAddr::from([192, 0, 2, 1]);
            assert_eq!(access.check(&tries, peer, Some(&header), false).await, Ok(Identity::Anonymous));
        }
    }
}
