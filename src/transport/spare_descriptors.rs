//! Descriptors that are kept for when the process has no other: to tell a client that it cannot be served, and operators how
//! things are, takes one.

use std::{fs::File, os::fd::OwnedFd};

use parking_lot::{Mutex, MutexGuard};

use rustix::process::{Resource, getrlimit};

/// A few descriptors of nothing.
#[derive(Debug)]
pub(super) struct Reserve {
    wanted: usize,
    kept: Mutex<Vec<OwnedFd>>,
}

impl Reserve {
    pub(super) fn new(wanted: usize) -> Reserve {
        let reserve = Reserve { wanted, kept: Mutex::default() };
        reserve.refill();
        reserve
    }

    /// Gives one back to the process; whether there was one.
    pub(super) fn release(&self) -> bool {
        self.kept().pop().is_some()
    }

    /// Takes back what was released, as far as the process has any.
    pub(super) fn refill(&self) {
        let mut kept = self.kept();
        while kept.len() < self.wanted {
            let another = match kept.first() {
                Some(one) => one.try_clone(),
                None => File::open("/dev/null").map(OwnedFd::from),
            };
            match another {
                Ok(another) => kept.push(another),
                Err(_) => break,
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.kept.lock()
    }
}

/// How many descriptors may be spent on telling clients that there is no room: more, and clients that are told and stay
/// silent would keep everybody else from being accepted.
pub(super) fn eighth_of_descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| (limit / 8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_released_is_taken_back() {
        let reserve = Reserve::new(2);
        assert!(reserve.release() && reserve.release() && !reserve.release());
        reserve.refill();
        assert!(reserve.release());
        reserve.refill();
        assert_eq!(reserve.kept().len(), 2);
    }
}
