//! Attempts to log in: how many may fail, and which credentials were accepted before.
//!
//! What must hold: a password that was not accepted before is verified, here or by an upstream, only while its address
//! and its account have places left in the [`FailedLogins`]. If a client leaves early, its place is taken until the
//! response arrives; without a response the password counts as not wrong. A password that was accepted before needs no
//! place, whatever other clients send from its address or for its account.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use moka::{ops::compute::Op, sync::Cache};
use tokio::sync::Notify;

use super::{
    Refusal,
    failed_logins::{Claim, FailedLogins, Room},
};
use crate::{
    bounded_cache,
    peer::{Shares, TrustedNetworks},
    upstream::{Principal, Registry, Upstream, Verdict},
};

/// How many requests wait while as many passwords are being verified as may prove wrong.
const MAX_WAITING: u64 = 1024;
/// How long each of them waits: no client waits longer for its upstream.
const WAITING_TIMEOUT: Duration = Duration::from_secs(30);
/// How many accepted credentials are remembered.
const MAX_ACCEPTED: u64 = 100_000;
/// A credential that is refused so often, and not accepted in between, is no longer known to be right: its password was
/// changed. A single refusal may be about a repository.
const MAX_REFUSALS_IN_A_ROW: u8 = 50;

/// A cheap handle.
#[derive(Clone)]
pub struct PasswordAttempts(Arc<AttemptsInner>);

struct AttemptsInner {
    trusted: TrustedNetworks,
    /// Held for a few look-ups.
    ledger: Mutex<FailedLogins>,
    /// Notified whenever an attempt is over.
    over: Notify,
    waiting: Shares,
    /// Credentials that an upstream accepted, and how often it refused them since.
    accepted: Cache<(Registry, Principal), u8>,
    accounts: RandomState,
}

/// A password that is being verified. If it is dropped, it was not verified.
#[must_use]
pub struct PasswordAttempt {
    /// `None`: the password was accepted before, and needs no place.
    place: Option<(PasswordAttempts, Claim)>,
    was_wrong: bool,
}

/// A password that an upstream verifies. If the client leaves, the attempt ends with the upstream's verdict all the
/// same.
#[must_use]
pub struct AttemptFrom {
    attempts: PasswordAttempts,
    upstream: Upstream,
    attempt: Option<PasswordAttempt>,
}

impl PasswordAttempts {
    pub fn new(trusted: TrustedNetworks) -> Self {
        Self(Arc::new(AttemptsInner {
            waiting: Shares::new(MAX_WAITING, trusted.clone()),
            trusted,
            ledger: Mutex::new(FailedLogins::new()),
            over: Notify::new(),
            accepted: bounded_cache::lru_of(MAX_ACCEPTED),
            accounts: RandomState::new(),
        }))
    }

    /// Begins an attempt at `verifier`. Waits while as many passwords are being verified as may prove wrong.
    ///
    /// # Errors
    /// Too many passwords were wrong, or too many requests are waiting.
    pub async fn begin(
        &self,
        peer: IpAddr,
        verifier: &str,
        user: &str,
        is_known: impl Fn() -> bool,
    ) -> Result<PasswordAttempt, Refusal> {
        let is_trusted = self.0.trusted.contains(peer);
        let (verifier, account) = (self.0.accounts.hash_one(verifier), self.0.accounts.hash_one((verifier, user)));
        let claim = Claim { peer: peer.into(), is_trusted, verifier, account };
        let begin = async {
            let mut waiting = None;
            loop {
                // Before the check, so that no end of an attempt is missed.
                let over = self.0.over.notified();
                if is_known() {
                    return Ok(PasswordAttempt { place: None, was_wrong: false });
                }
                let room = self.ledger().reserve(&claim, Instant::now());
                match room {
                    Room::Free => return Ok(PasswordAttempt { place: Some((self.clone(), claim)), was_wrong: false }),
                    Room::Spent(after) => return Err(Refusal::TooMany(after)),
                    Room::Taken => {}
                }
                if waiting.is_none() {
                    waiting = Some(self.0.waiting.take(peer, 1).map_err(|_| Refusal::Busy)?);
                }
                over.await;
            }
        };
        tokio::time::timeout(WAITING_TIMEOUT, begin).await.unwrap_or(Err(Refusal::Busy))
    }

    /// The same for credentials that the upstream verifies.
    ///
    /// # Errors
    /// As [`PasswordAttempts::begin`].
    pub async fn begin_at(&self, upstream: &Upstream, peer: IpAddr, user: &str) -> Result<AttemptFrom, Refusal> {
        let credential = credential(upstream);
        let is_known = || credential.as_ref().is_some_and(|credential| self.0.accepted.contains_key(credential));
        let attempt = self.begin(peer, upstream.name(), user, is_known).await?;
        if attempt.place.is_none() {
            upstream.note_accepted_before();
        }
        Ok(AttemptFrom { attempts: self.clone(), upstream: upstream.clone(), attempt: Some(attempt) })
    }

    /// Ends an attempt by the upstream's verdict.
    fn conclude(&self, credential: Option<(Registry, Principal)>, attempt: PasswordAttempt, verdict: Verdict) {
        if let Some(credential) = credential {
            match verdict {
                Verdict::Accepted => self.0.accepted.insert(credential, 0),
                // A response alone is no verdict: its content may be public.
                Verdict::Unknown => {}
                Verdict::Refused => {
                    self.0.accepted.entry(credential).and_compute_with(|known| {
                        match known.map(|entry| entry.into_value()) {
                            None => Op::Nop,
                            Some(refusals) if refusals >= MAX_REFUSALS_IN_A_ROW => Op::Remove,
                            Some(refusals) => Op::Put(refusals + 1),
                        }
                    });
                }
            }
        }
        attempt.end(verdict == Verdict::Refused);
    }

    fn ledger(&self) -> MutexGuard<'_, FailedLogins> {
        self.0.ledger.lock()
    }
}

fn credential(upstream: &Upstream) -> Option<(Registry, Principal)> {
    upstream.principal().map(|asker| (upstream.registry().clone(), asker))
}

impl PasswordAttempt {
    /// The password was verified, or could not be verified.
    pub fn end(mut self, was_wrong: bool) {
        self.was_wrong = was_wrong;
    }
}

impl AttemptFrom {
    /// The client has its response.
    pub fn end(mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.attempts.conclude(credential(&self.upstream), attempt, self.upstream.verdict());
        }
    }
}

impl Drop for AttemptFrom {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            let (attempts, credential) = (self.attempts.clone(), credential(&self.upstream));
            self.upstream.on_verdict(move |verdict| attempts.conclude(credential, attempt, verdict));
        }
    }
}

impl Drop for PasswordAttempt {
    fn drop(&mut self) {
        if let Some((attempts, claim)) = self.place.take() {
            attempts.ledger().settle(&claim, self.was_wrong, Instant::now());
            attempts.0.over.notify_waiters();
        }
    }
}
