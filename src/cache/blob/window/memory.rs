//! The memory of all windows.
//!
//! What must hold: the pieces that windows and the connections of their readers keep have no more than [`BUDGET`] bytes
//! together, besides one piece per window and [`MAX_COPIES`] copies of at most [`COPY`] bytes per reader. A piece
//! counts until the last connection has sent it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The largest piece in bytes; pieces end at multiples of it, so that windows which begin elsewhere have the same ones.
pub(super) const PIECE: usize = 64 * 1024;
/// What one window keeps, in bytes: at 1 Gbit/s, the bytes of 60 ms.
const WINDOW: usize = 8 * 1024 * 1024;
/// What all windows keep together, in bytes.
const BUDGET: usize = 32 * 1024 * 1024;
/// The memory of a piece beside its bytes.
const OVERHEAD: usize = 512;
/// How much of a piece beyond the budget a reader copies at a time, in bytes.
const COPY: usize = 16 * 1024;
/// How many copies a reader has that are not sent: the withheld one, and one on its way.
const MAX_COPIES: usize = 2;

/// The memory that windows share. A cheap handle.
#[derive(Clone)]
pub(super) struct WindowMemory(Arc<Inner>);

struct Inner {
    bytes: Arc<Semaphore>,
    windows: AtomicUsize,
}

impl WindowMemory {
    pub(super) fn new() -> Self {
        Self::with_budget(BUDGET)
    }

    pub(super) fn with_budget(bytes: usize) -> Self {
        Self(Arc::new(Inner { bytes: Arc::new(Semaphore::new(bytes)), windows: AtomicUsize::new(0) }))
    }

    /// The share of a new window.
    pub(super) fn share(&self) -> MemoryShare {
        self.0.windows.fetch_add(1, Ordering::Relaxed);
        MemoryShare(self.clone())
    }
}

/// What one window may keep, until this is dropped.
pub(super) struct MemoryShare(WindowMemory);

impl MemoryShare {
    /// In bytes: the more windows there are, the less each keeps.
    pub(super) fn limit(&self) -> usize {
        (BUDGET / self.0.0.windows.load(Ordering::Relaxed).max(1)).clamp(PIECE, WINDOW)
    }

    /// Memory for a piece; `None` if windows and connections keep all of it.
    pub(super) fn take(&self) -> Option<PieceMemory> {
        let bytes = self.0.0.bytes.clone();
        let permit = bytes.try_acquire_many_owned(u32::try_from(PIECE + OVERHEAD).unwrap_or(u32::MAX)).ok()?;
        Some(PieceMemory::Counted(permit))
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.0.0.windows.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The memory of one piece.
pub(super) enum PieceMemory {
    Counted(OwnedSemaphorePermit),
    /// The one piece that a window has beyond the budget: its readers copy it, so that it leaves memory with them.
    Spare,
}

struct Counted {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PieceMemory {
    pub(super) fn is_spare(&self) -> bool {
        matches!(self, Self::Spare)
    }

    /// A piece with these bytes, at most [`PIECE`].
    pub(super) fn hold(self, mut bytes: Vec<u8>) -> Bytes {
        bytes.shrink_to_fit();
        match self {
            Self::Spare => bytes.into(),
            Self::Counted(mut permit) => {
                drop(permit.split(PIECE.saturating_sub(bytes.len())));
                Bytes::from_owner(Counted { bytes, _permit: permit })
            }
        }
    }
}

/// The copies of one reader that its connection has not sent yet.
#[derive(Default)]
pub(in crate::cache::blob) struct UnsentCopies(Arc<Unsent>);

#[derive(Default)]
struct Unsent {
    count: AtomicUsize,
    sent: Notify,
}

struct Copied {
    bytes: Box<[u8]>,
    unsent: Arc<Unsent>,
}

impl UnsentCopies {
    /// Waits until another copy may be made. One task waits at a time.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.0.sent.notified().await;
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.0.count.load(Ordering::Acquire) < MAX_COPIES
    }

    /// A copy of the front of these bytes.
    pub(super) fn copy(&self, bytes: &[u8]) -> Bytes {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Copied { bytes: bytes[..bytes.len().min(COPY)].into(), unsent: self.0.clone() })
    }
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.unsent.count.fetch_sub(1, Ordering::AcqRel);
        self.unsent.sent.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_piece_counts_until_its_last_reader_has_sent_it() {
        let memory = WindowMemory::with_budget(2 * (PIECE + OVERHEAD));
        let share = memory.share();
        let whole = share.take().unwrap().hold(vec![1; PIECE]);
        let small = share.take().unwrap().hold(vec![1; 10]);
        assert!(share.take().is_none(), "a small piece keeps its own length and no more");
        let sent = whole.slice(5..6);
        drop((whole, small));
        let other = share.take();
        assert!(other.is_some() && share.take().is_none());
        drop(sent);
        assert!(share.take().is_some());
    }

    #[test]
    fn many_windows_have_smaller_shares() {
        let memory = WindowMemory::new();
        let mut shares = vec![memory.share()];
        for (windows, limit) in [(1, WINDOW), (4, WINDOW), (8, WINDOW / 2), (10_000, PIECE)] {
            shares.resize_with(windows, || memory.share());
            assert_eq!(shares[0].limit(), limit, "{windows}");
        }
        shares.truncate(1);
        assert_eq!(shares[0].limit(), WINDOW);
    }

    #[tokio::test]
    async fn a_reader_has_two_copies_at_a_time() {
        let copies = UnsentCopies::default();
        let first = copies.copy(&[7; COPY + 1]);
        assert_eq!(first.len(), COPY);
        let _second = copies.copy(&[7; 9]);
        let mut room = pin!(copies.room());
        assert!(futures_util::poll!(&mut room).is_pending());
        drop(first);
        room.await;
    }
}
