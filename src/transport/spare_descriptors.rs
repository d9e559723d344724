//! Descriptors that are kept for when the process has no other: to refuse a client, or to serve an operator, takes one.

use std::{fs::File, os::fd::OwnedFd};

use parking_lot::{Mutex, MutexGuard};

use rustix::process::{Resource, getrlimit};

/// A few spare descriptors.
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

    /// Closes one, so that the process can use it. Whether there was one.
    pub(super) fn release(&self) -> bool {
        self.kept().pop().is_some()
    }

    /// Opens spare descriptors again, as far as the process can.
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

/// How many descriptors refusals may use: with more, refused clients that do not read would keep others from being accepted.
pub(super) fn eighth_of_descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| (limit / 8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_descriptor_is_opened_again() {
        let reserve = Reserve::new(2);
        assert!(reserve.release() && reserve.release() && !reserve.release());
        reserve.refill();
        assert!(reserve.release());
        reserve.refill();
        assert_eq!(reserve.kept().len(), 2);
    }
}
