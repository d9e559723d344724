//! The sums of the index: what is on disk, what is promised, and what is missing (pure).
//!
//! What must hold: whatever is on disk never exceeds `max_size` for a reservation that was granted: what one reservation
//! evicts counts as used until it is unlinked, except for the room that this reservation itself was promised.

use super::{NoRoom, Overhead, Totals, Usage, allocated};
use crate::cache::ObjectKind;

#[derive(Default)]
pub(super) struct Sums {
    /// Bytes allocated by entries.
    pub(super) used: u64,
    /// Bytes reserved for downloads and writes in flight.
    pub(super) reserved: u64,
    /// The part of `reserved` that is on disk already.
    written: u64,
    /// What reservations still have to evict. They count it as reserved already, so nothing else may be promised for it.
    debt: u64,
    /// What was evicted beyond a debt and is still on disk.
    surplus: u64,
    /// What was evicted and is still on disk.
    unlinking: u64,
    pub(super) overhead: Overhead,
    pub(super) totals: [Totals; ObjectKind::EVERY.len()],
}

impl Sums {
    /// Bytes on disk and reserved.
    pub(super) fn total(&self) -> u64 {
        (self.used + self.reserved + self.surplus + self.overhead.bytes()).saturating_sub(self.debt)
    }

    /// What this sum is made of.
    pub(super) fn usage(&self) -> Usage {
        let Self { used, overhead, totals, .. } = self;
        Usage {
            totals: *totals,
            overhead: overhead.bytes(),
            in_flight: self.total().saturating_sub(used + overhead.bytes()),
        }
    }

    pub(super) fn add(&mut self, kind: ObjectKind, len: u64) {
        self.used += allocated(len);
        let totals = &mut self.totals[kind as usize];
        totals.bytes += allocated(len);
        totals.objects += 1;
    }

    pub(super) fn remove(&mut self, kind: ObjectKind, len: u64) {
        self.used -= allocated(len);
        let totals = &mut self.totals[kind as usize];
        totals.bytes -= allocated(len);
        totals.objects -= 1;
    }

    /// How many bytes must be evicted to make room for `bytes`, besides those that other reservations evict.
    pub(super) fn short(&self, max_size: u64, bytes: u64, spare: u64) -> u64 {
        let over_size = self.total().saturating_add(bytes).saturating_sub(max_size);
        let will_be_spare = spare.saturating_add(self.unlinking).saturating_add(self.debt);
        let over_disk = (self.reserved - self.written).saturating_add(bytes).saturating_sub(will_be_spare);
        over_size.max(over_disk)
    }

    /// What was evicted, is still on disk, and was promised to no reservation.
    pub(super) fn surplus(&self) -> u64 {
        self.surplus
    }

    /// How many bytes may be evicted, if readers keep so many.
    pub(super) fn evictable(&self, pinned: u64) -> u64 {
        self.used.saturating_sub(pinned).saturating_sub(self.debt)
    }

    /// Promises `bytes` for which `short` bytes have to be evicted.
    pub(super) fn promise_for(&mut self, bytes: u64, short: u64, pinned: u64) -> Result<(), NoRoom> {
        if short > self.evictable(pinned) {
            return Err(NoRoom);
        }
        self.reserved += bytes;
        self.debt += short;
        Ok(())
    }

    /// An entry was evicted for a reservation that still owes `debt`; returns what it owes then.
    pub(super) fn evict(&mut self, kind: ObjectKind, len: u64, debt: u64) -> u64 {
        self.remove(kind, len);
        let paid = debt.min(allocated(len));
        self.debt -= paid;
        self.surplus += allocated(len) - paid;
        self.unlinking += allocated(len);
        debt - paid
    }

    /// Takes a promise back, for which not enough could be evicted.
    pub(super) fn take_back(&mut self, bytes: u64, debt: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
        self.debt -= debt;
    }

    /// Evicted entries are off the disk; `surplus` of their `bytes` were not needed.
    pub(super) fn unlinked(&mut self, bytes: u64, surplus: u64) {
        self.unlinking -= bytes;
        self.surplus -= surplus;
    }

    pub(super) fn promise(&mut self, bytes: u64) {
        self.reserved += bytes;
    }

    pub(super) fn note_written(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes).min(self.reserved);
    }

    pub(super) fn release(&mut self, bytes: u64, written: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
        self.written = self.written.saturating_sub(written).min(self.reserved);
    }
}
