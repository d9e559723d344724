//! The memory for documents that are read from upstreams, and the turns to work on them: one budget for the process.
//!
//! What must hold: no byte of a document is read before there is room for all of it; one upstream never takes all of
//! the room.

use std::{fmt, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::offload::Offload;

/// The unit of the budget, in bytes.
const UNIT: usize = 64 * 1024;
/// The largest manifest, tag list or index of referrers, in bytes.
pub(in crate::upstream) const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// How many manifests and lists of one upstream are read into memory at a time, beside small ones.
pub(in crate::upstream) const MAX_DOCUMENTS: usize = 64;

/// The budget of all upstreams: 256 MiB.
const MAX_UNITS: usize = 4096;
/// The part of it that one upstream may use: three quarters.
const MAX_UNITS_OF_ONE: usize = MAX_UNITS / 4 * 3;

/// The budget of all upstreams. A cheap handle.
#[derive(Clone)]
pub struct ReadBudget {
    bytes: Arc<Semaphore>,
    documents: Offload,
}

/// The part of the budget that one upstream may use.
pub(in crate::upstream) struct Share {
    all: ReadBudget,
    own: Arc<Semaphore>,
}

/// Room for one document, released when dropped.
pub(in crate::upstream) struct Room {
    units: usize,
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// The room of a document that was read, held until it is verified. All are equal: room is no part of a document.
#[derive(Clone, Default)]
pub struct ReadRoom(Option<Arc<Room>>);

impl ReadRoom {
    pub(in crate::upstream) fn of(room: Option<Room>) -> Self {
        Self(room.map(Arc::new))
    }
}

impl fmt::Debug for ReadRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadRoom").field(&self.0.is_some()).finish()
    }
}

impl PartialEq for ReadRoom {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ReadRoom {}

impl Default for ReadBudget {
    fn default() -> Self {
        Self { bytes: Arc::new(Semaphore::new(MAX_UNITS)), documents: Offload::default() }
    }
}

impl Share {
    pub(in crate::upstream) fn new(all: ReadBudget) -> Self {
        Self { all, own: Arc::new(Semaphore::new(MAX_UNITS_OF_ONE)) }
    }

    /// Room for so many bytes, if there is any now.
    pub(in crate::upstream) fn try_take(&self, bytes: usize) -> Option<Room> {
        let units = units(bytes);
        let own = self.own.clone().try_acquire_many_owned(number(units)).ok()?;
        let of_all = self.all.bytes.clone().try_acquire_many_owned(number(units)).ok()?;
        Some(Room { units, _own: own, _of_all: of_all })
    }

    /// Waits for room, first behind others of this upstream. Never `None`: the semaphores are not closed.
    pub(in crate::upstream) async fn take(&self, bytes: usize) -> Option<Room> {
        let units = units(bytes);
        let own = self.own.clone().acquire_many_owned(number(units)).await.ok()?;
        let of_all = self.all.bytes.clone().acquire_many_owned(number(units)).await.ok()?;
        Some(Room { units, _own: own, _of_all: of_all })
    }

    /// Hashes, parses or decodes `len` bytes, off the threads that serve; `None` when the process ends.
    pub(in crate::upstream) async fn work<T: Send + 'static>(
        &self,
        len: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.all.documents.read(len, work).await
    }
}

impl Room {
    /// Whether it is enough for so many bytes.
    pub(in crate::upstream) fn holds(&self, bytes: usize) -> bool {
        units(bytes) <= self.units
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).clamp(1, MAX_UNITS_OF_ONE)
}

fn number(units: usize) -> u32 {
    u32::try_from(units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn as_many(share: &Share, bytes: usize) -> Vec<Room> {
        std::iter::from_fn(|| share.try_take(bytes)).collect()
    }

    #[test]
    fn one_upstream_leaves_a_quarter_to_the_others() {
        let budget = ReadBudget::default();
        let [a, b] = [(); 2].map(|()| Share::new(budget.clone()));
        let rooms = as_many(&a, 16 * MIB);
        let more = as_many(&b, 16 * MIB);
        assert_eq!((rooms.len(), more.len()), (12, 4));
        assert!(a.try_take(1).is_none() && b.try_take(1).is_none());
        drop(rooms);
        assert_eq!(as_many(&b, 16 * MIB).len(), 8);
        drop(more);
        assert_eq!(as_many(&a, 100 * 1024).len(), MAX_UNITS_OF_ONE / 2);
        assert_eq!(budget.bytes.available_permits(), MAX_UNITS);
    }

    #[tokio::test]
    async fn a_large_document_is_not_overtaken_by_small_ones() {
        let share = Share::new(ReadBudget::default());
        let mut rooms = as_many(&share, 16 * MIB);
        let mut large = Box::pin(share.take(16 * MIB));
        assert!((&mut large).now_or_never().is_none());
        let mut small = Box::pin(share.take(1));
        assert!((&mut small).now_or_never().is_none() && share.try_take(1).is_none());
        rooms.pop();
        let room = large.await.unwrap();
        assert!(room.holds(16 * MIB) && !room.holds(16 * MIB + 1));
        assert!((&mut small).now_or_never().is_none());
    }
}
