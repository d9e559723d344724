//! How many wrong passwords clients sent lately, by address and account (pure).
//!
//! What must hold: an attempt takes a place before its password is verified, so that concurrent attempts are bounded
//! like sequential ones; the place of a wrong password is free again only after some time. If many addresses send
//! guesses for an account, it still accepts one attempt from an address without another wrong password for it: its
//! owner is not locked out. Memory is bounded; the least recently used entry is removed.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::peer::PeerPrefix;

/// Wrong passwords from one address, for whatever accounts.
const OF_ADDRESS: Limit = Limit { most: 40, every: Duration::from_secs(10) };
/// Wrong passwords for one account from one address.
const OF_ACCOUNT_THERE: Limit = Limit { most: 20, every: Duration::from_secs(30) };
/// Wrong passwords for one account, wherever they come from.
const OF_ACCOUNT: Limit = Limit { most: 60, every: Duration::from_secs(10) };

/// Places of one address at one verifier (an upstream, or htpasswd): a verifier that hangs delays no other.
const OF_ADDRESS_THERE: Limit = Limit { most: 0, every: Duration::ZERO };

/// How many addresses and accounts are remembered; about 100 bytes each.
const MAX_ENTRIES: NonZeroUsize = match NonZeroUsize::new(65_536) {
    Some(n) => n,
    None => NonZeroUsize::MIN,
};

/// The most wrong passwords at once, and the time after which one more may follow.
#[derive(Clone, Copy, Debug)]
struct Limit {
    most: u32,
    every: Duration,
}

impl Limit {
    /// The debt of `most` wrong passwords.
    fn whole(self) -> Duration {
        self.every.saturating_mul(self.most)
    }
}

/// The origin of a password, and its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub peer: PeerPrefix,
    /// Many clients are behind this address, which has no limit of its own.
    pub is_trusted: bool,
    /// What verifies it.
    pub verifier: u64,
    pub account: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum LoginKey {
    Address(PeerPrefix),
    AddressThere(PeerPrefix, u64),
    AccountThere(PeerPrefix, u64),
    Account(u64),
}

/// Whether a password may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Room {
    Free,
    /// As many passwords are being verified as may prove wrong.
    Taken,
    /// One more may be tried after this time.
    Spent(Duration),
}

#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    /// When no wrong password counts any more.
    until: Option<Instant>,
    under_way: u32,
}

/// The debts of addresses and accounts for wrong passwords.
pub(super) struct FailedLogins(LruCache<LoginKey, Debt>);

impl FailedLogins {
    pub(super) fn new() -> Self {
        Self(LruCache::new(MAX_ENTRIES))
    }

    /// Takes a place, if there is one, until [`FailedLogins::settle`].
    pub(super) fn reserve(&mut self, claim: &Claim, now: Instant) -> Room {
        let there = self.debt(LoginKey::AccountThere(claim.peer, claim.account));
        let of_address = match claim.is_trusted {
            true => Room::Free,
            false => {
                let Debt { under_way, .. } = self.debt(LoginKey::AddressThere(claim.peer, claim.verifier));
                Debt { under_way, ..self.debt(LoginKey::Address(claim.peer)) }.room(OF_ADDRESS, now)
            }
        };
        let of_account = match self.debt(LoginKey::Account(claim.account)).room(OF_ACCOUNT, now) {
            _ if there.is_clean(now) => Room::Free,
            Room::Spent(after) if there.under_way == 0 => Room::Spent(after.min(there.owed(now))),
            Room::Spent(_) => Room::Taken,
            room => room,
        };
        let room = of_address.max(there.room(OF_ACCOUNT_THERE, now)).max(of_account);
        if room == Room::Free {
            for (key, _) in keys(claim) {
                self.0.get_or_insert_mut(key, Debt::default).under_way += 1;
            }
        }
        room
    }

    /// Gives the place back, and notes whether the password was wrong.
    pub(super) fn settle(&mut self, claim: &Claim, was_wrong: bool, now: Instant) {
        for (key, limit) in keys(claim) {
            let debt = self.0.get_or_insert_mut(key, Debt::default);
            debt.under_way = debt.under_way.saturating_sub(1);
            if was_wrong {
                // Single attempts from ever more addresses do not block the account for ever longer.
                debt.until = now.checked_add(debt.owed(now).saturating_add(limit.every).min(limit.whole()));
            }
            if debt.is_clean(now) {
                self.0.pop(&key);
            }
        }
    }

    fn debt(&mut self, key: LoginKey) -> Debt {
        self.0.get(&key).copied().unwrap_or_default()
    }
}

impl Debt {
    fn owed(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn is_clean(&self, now: Instant) -> bool {
        self.under_way == 0 && self.owed(now).is_zero()
    }

    fn room(&self, limit: Limit, now: Instant) -> Room {
        let whole = limit.whole();
        let owed_with = |more: u32| self.owed(now).saturating_add(limit.every.saturating_mul(more));
        if owed_with(1) > whole {
            return Room::Spent(owed_with(1).saturating_sub(whole));
        }
        if owed_with(self.under_way.saturating_add(1)) > whole { Room::Taken } else { Room::Free }
    }
}

fn keys(claim: &Claim) -> impl Iterator<Item = (LoginKey, Limit)> {
    let of_address = [
        (LoginKey::Address(claim.peer), OF_ADDRESS),
        // It bounds places only: the address has the debt of wrong passwords.
        (LoginKey::AddressThere(claim.peer, claim.verifier), OF_ADDRESS_THERE),
    ];
    of_address.into_iter().filter(|_| !claim.is_trusted).chain([
        (LoginKey::AccountThere(claim.peer, claim.account), OF_ACCOUNT_THERE),
        (LoginKey::Account(claim.account), OF_ACCOUNT),
    ])
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn claim(address: &str, account: u64) -> Claim {
        let address: IpAddr = address.parse().unwrap();
        Claim { peer: address.into(), is_trusted: false, verifier: 0, account }
    }

    /// Sends wrong passwords, one after the other, until one is refused.
    fn guess(ledger: &mut FailedLogins, claim: Claim, now: Instant) -> (u32, Room) {
        let mut tried = 0;
        loop {
            match ledger.reserve(&claim, now) {
                Room::Free => ledger.settle(&claim, true, now),
                room => return (tried, room),
            }
            tried += 1;
        }
    }

    #[test]
    fn an_account_takes_twenty_wrong_passwords_of_an_address() {
        let (mut ledger, now) = (FailedLogins::new(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        let (ann, ann_elsewhere, bob) = (claim("192.0.2.1", 1), claim("192.0.2.2", 1), claim("192.0.2.1", 2));
        assert_eq!(guess(&mut ledger, ann, now), (20, Room::Spent(OF_ACCOUNT_THERE.every)));
        // Another account there, and the same account elsewhere, are not affected.
        assert_eq!(ledger.reserve(&bob, now), Room::Free);
        assert_eq!(ledger.reserve(&ann_elsewhere, now), Room::Free);
        assert_eq!(ledger.reserve(&ann, after(29)), Room::Spent(Duration::from_secs(1)));
        assert_eq!(guess(&mut ledger, ann, after(30)).0, 1);
        assert_eq!(guess(&mut ledger, ann, after(30 + 20 * 30)).0, 20);
    }

    #[test]
    fn an_address_takes_forty_wrong_passwords_for_all_accounts() {
        let (mut ledger, now) = (FailedLogins::new(), Instant::now());
        for account in 0..40 {
            assert_eq!(ledger.reserve(&claim("2001:db8::1", account), now), Room::Free);
            ledger.settle(&claim("2001:db8::1", account), true, now);
        }
        let next = claim("2001:db8::ffff:1", 40);
        assert_eq!(ledger.reserve(&next, now), Room::Spent(OF_ADDRESS.every));
        assert_eq!(ledger.reserve(&Claim { is_trusted: true, ..next }, now), Room::Free);
        assert_eq!(ledger.reserve(&claim("2001:db8:0:1::1", 40), now), Room::Free);
        assert_eq!(ledger.reserve(&next, now + OF_ADDRESS.every), Room::Free);
    }

    #[test]
    fn a_trusted_address_is_held_to_the_limit_of_each_account() {
        let (mut ledger, now) = (FailedLogins::new(), Instant::now());
        let tried: u32 =
            (0..100).map(|n| guess(&mut ledger, Claim { is_trusted: true, ..claim("192.0.2.1", n) }, now).0).sum();
        assert_eq!(tried, 100 * 20);
    }

    #[test]
    fn an_account_guessed_from_everywhere_is_open_to_its_owner() {
        let (mut ledger, now) = (FailedLogins::new(), Instant::now());
        let tried = |ledger: &mut FailedLogins, n: u8, now| guess(ledger, claim(&format!("192.0.2.{n}"), 1), now);
        assert_eq!([0, 1, 2].map(|n| tried(&mut ledger, n, now).0), [20, 20, 20]);
        for n in 3..100 {
            assert_eq!(tried(&mut ledger, n, now), (1, Room::Spent(OF_ACCOUNT.every)), "{n}");
        }
        let owner = claim("192.0.2.200", 1);
        assert_eq!(ledger.reserve(&owner, now), Room::Free);
        // One attempt at a time; another account is not affected.
        assert_eq!(ledger.reserve(&owner, now), Room::Taken);
        ledger.settle(&owner, false, now);
        assert_eq!(ledger.reserve(&owner, now), Room::Free);
        assert_eq!(guess(&mut ledger, claim("192.0.2.3", 2), now).0, 20);
        // The time is that until its next attempt, also if its own debt ends first.
        let later = now + Duration::from_secs(25);
        for n in 210..220 {
            tried(&mut ledger, n, later);
        }
        let own = claim("192.0.2.50", 1);
        assert_eq!(ledger.reserve(&own, later), Room::Spent(Duration::from_secs(5)));
    }

    #[test]
    fn as_many_are_under_way_as_may_prove_wrong() {
        let (mut ledger, now) = (FailedLogins::new(), Instant::now());
        let ann = claim("192.0.2.1", 1);
        for _ in 0..20 {
            assert_eq!(ledger.reserve(&ann, now), Room::Free);
        }
        assert_eq!(ledger.reserve(&ann, now), Room::Taken);
        ledger.settle(&ann, false, now);
        assert_eq!(ledger.reserve(&ann, now), Room::Free);
        for _ in 0..20 {
            ledger.settle(&ann, true, now);
        }
        assert_eq!(ledger.reserve(&ann, now), Room::Spent(OF_ACCOUNT_THERE.every));
    }

    #[test]
    fn a_verifier_that_hangs_delays_no_other() {
        let (mut ledger, now) = (FailedLogins::new(), Instant::now());
        for account in 0..40 {
            assert_eq!(ledger.reserve(&claim("192.0.2.1", account), now), Room::Free);
        }
        assert_eq!(ledger.reserve(&claim("192.0.2.1", 40), now), Room::Taken);
        let elsewhere = |account| Claim { verifier: 1, ..claim("192.0.2.1", account) };
        assert_eq!(ledger.reserve(&elsewhere(40), now), Room::Free);
        ledger.settle(&elsewhere(40), true, now);
        // A wrong password counts, whichever verifier refused it.
        assert_eq!(guess(&mut ledger, elsewhere(41), now).0, 20);
        assert_eq!(guess(&mut ledger, elsewhere(42), now), (19, Room::Spent(OF_ADDRESS.every)));
        for account in 0..40 {
            ledger.settle(&claim("192.0.2.1", account), false, now);
        }
        assert!(!ledger.0.contains(&LoginKey::AddressThere(elsewhere(0).peer, 0)));
    }

    #[test]
    fn right_passwords_leave_nothing_and_the_rest_is_bounded() {
        let (mut ledger, now) = (FailedLogins::new(), Instant::now());
        for n in 0..100 {
            let claim = claim("192.0.2.1", n);
            assert_eq!(ledger.reserve(&claim, now), Room::Free);
            ledger.settle(&claim, false, now);
        }
        assert_eq!(ledger.0.len(), 0);
        for n in 0..u64::try_from(MAX_ENTRIES.get()).unwrap() {
            let claim = Claim { is_trusted: true, ..claim("192.0.2.1", n) };
            assert_eq!(ledger.reserve(&claim, now), Room::Free);
            ledger.settle(&claim, true, now);
        }
        assert_eq!(ledger.0.len(), MAX_ENTRIES.get());
    }
}
