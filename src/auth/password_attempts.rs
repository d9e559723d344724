//! Passwords that are tried: how many may prove wrong, and whose have proved right.
//!
//! What must hold: a password that is not known to be right is judged, here or by an upstream, only while its address and its
//! account have places left in the [`FailedLogins`]. A client that leaves before the answer has its place until the answer comes,
//! where what it began goes on, and has shown no wrong one where none comes. A password that was right needs no
//! place, whatever others show from its address or for its account.

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

/// How many requests wait while as many passwords are under way as may prove wrong.
const MAX_WAITING: u64 = 1024;
/// How long each of them waits: longer than an upstream may take to answer is of no use to its client.
const WAITING_TIMEOUT: Duration = Duration::from_secs(30);
/// How many credentials are remembered to have been right.
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
    /// Told whenever a try is over.
    over: Notify,
    waiting: Shares,
    /// Credentials of clients that their upstream took, and how often it refused them since.
    accepted: Cache<(Registry, Principal), u8>,
    accounts: RandomState,
}

/// A password that is being judged. Dropped without a word on it, it has not been.
#[must_use]
pub struct PasswordAttempt {
    /// `None`: it is known to be right, and needs no place.
    place: Option<(PasswordAttempts, Claim)>,
    was_wrong: bool,
}

/// A password that an upstream judges, for as long as its client waits. What the client leaves behind is judged all the same.
#[must_use]
pub struct AttemptFrom {
    tries: PasswordAttempts,
    upstream: Upstream,
    tried: Option<PasswordAttempt>,
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

    /// Begins to try a user's password where `judge` judges it. Waits while as many are under way as may prove wrong.
    ///
    /// # Errors
    /// Too many were wrong, or too many are waiting.
    pub async fn begin(
        &self,
        peer: IpAddr,
        judge: &str,
        user: &str,
        is_known: impl Fn() -> bool,
    ) -> Result<PasswordAttempt, Refusal> {
        let is_trusted = self.0.trusted.contains(peer);
        let (judge, account) = (self.0.accounts.hash_one(judge), self.0.accounts.hash_one((judge, user)));
        let claim = Claim { peer: peer.into(), is_trusted, judge, account };
        let begin = async {
            let mut waiting = None;
            loop {
                // Before the look, so that nothing that is over after it is missed.
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

    /// The same for what a client shows to an upstream that decides by it.
    ///
    /// # Errors
    /// As [`PasswordAttempts::begin`].
    pub async fn begin_at(&self, upstream: &Upstream, peer: IpAddr, user: &str) -> Result<AttemptFrom, Refusal> {
        let credential = credential(upstream);
        let is_known = || credential.as_ref().is_some_and(|credential| self.0.accepted.contains_key(credential));
        let tried = self.begin(peer, upstream.name(), user, is_known).await?;
        if tried.place.is_none() {
            upstream.note_accepted_before();
        }
        Ok(AttemptFrom { tries: self.clone(), upstream: upstream.clone(), tried: Some(tried) })
    }

    /// Ends a try by what the upstream said of the credential.
    fn conclude(&self, credential: Option<(Registry, Principal)>, tried: PasswordAttempt, verdict: Verdict) {
        if let Some(credential) = credential {
            match verdict {
                Verdict::Accepted => self.0.accepted.insert(credential, 0),
                // That something was served says nothing: it may be for everybody.
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
        tried.end(verdict == Verdict::Refused);
    }

    fn ledger(&self) -> MutexGuard<'_, FailedLogins> {
        // What is owed is whole even if a thread panicked beside it.
        self.0.ledger.lock()
    }
}

fn credential(upstream: &Upstream) -> Option<(Registry, Principal)> {
    upstream.principal().map(|asker| (upstream.registry().clone(), asker))
}

impl PasswordAttempt {
    /// The password was judged, or could not be.
    pub fn end(mut self, was_wrong: bool) {
        self.was_wrong = was_wrong;
    }
}

impl AttemptFrom {
    /// The client has its answer.
    pub fn end(mut self) {
        if let Some(tried) = self.tried.take() {
            self.tries.conclude(credential(&self.upstream), tried, self.upstream.verdict());
        }
    }
}

impl Drop for AttemptFrom {
    fn drop(&mut self) {
        if let Some(tried) = self.tried.take() {
            let (tries, credential) = (self.tries.clone(), credential(&self.upstream));
            self.upstream.on_verdict(move |verdict| tries.conclude(credential, tried, verdict));
        }
    }
}

impl Drop for PasswordAttempt {
    fn drop(&mut self) {
        if let Some((tries, claim)) = self.place.take() {
            tries.ledger().settle(&claim, self.was_wrong, Instant::now());
            tries.0.over.notify_waiters();
        }
    }
}
