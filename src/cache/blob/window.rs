//! A window on a blob without room: one transfer whose bytes several readers share in memory.
//!
//! What must hold: a window is read by at least one reader, and ends with its last one. Only clients of one registry
//! read it (and of one repository, if the upstream authorizes clients), since its bytes are not verified. The transfer
//! waits while the window is full; a reader that holds others back for too long falls out.

mod choice;
mod memory;
mod pieces;
mod pump;
mod table;

use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

pub(super) use self::memory::UnsentCopies;
pub(crate) use self::table::Windows;
use self::{
    memory::MemoryShare,
    pieces::{End, Look, Pieces, Taken},
};
use super::{
    super::{
        Source,
        download::transfer::{Transfer, TransferFlow},
    },
    front::Front,
    read_error::ReadError,
};
use crate::upstream::{ContentNotes, Mirrors};

/// How the transfer of a window begins.
pub(super) enum Opening {
    /// With a transfer that has just begun.
    Open(Box<Transfer>),
    /// With a request for all bytes; the error of its answer is the reader's.
    Request,
    /// With a request for the rest of a blob of this size, sent again if it fails.
    GoOn { total: Option<u64> },
}

/// What a reader needs.
pub(super) struct Wanted<'a> {
    pub source: &'a Source,
    /// The offset of the first byte.
    pub position: u64,
    /// The bytes before it.
    pub front: &'a Front,
}

/// What the upstream said before the bytes.
#[derive(Clone)]
pub(super) struct WindowHead {
    /// The size of the blob, if the upstream tells it.
    pub total: Option<u64>,
    pub notes: ContentNotes,
}

/// A window, as its pump and its readers share it.
struct Window {
    /// The blob as the reader named it for whom the window was opened.
    source: Source,
    start: u64,
    /// The bytes before the window, as that reader has them.
    front: Front,
    share: MemoryShare,
    pieces: Mutex<Pieces>,
    head: OnceLock<WindowHead>,
    flow: watch::Sender<TransferFlow>,
    /// Signals readers that there is more, or an end.
    changed: watch::Sender<()>,
    /// Signals the pump that a reader moved, waits or left.
    moved: Notify,
    /// Signals the task of the window that no reader is left.
    unread: Notify,
}

impl Window {
    fn new(source: Source, start: u64, front: Front, share: MemoryShare) -> Self {
        // Its readers set its pace, and a slow one would hold up all that a peer sends on that connection.
        let source = source.without_peers();
        let source = Source { upstream: source.upstream.with_transfer_log(&source.digest), ..source };
        Self {
            source,
            start,
            front,
            share,
            pieces: Mutex::new(Pieces::new(start)),
            head: OnceLock::new(),
            flow: watch::Sender::new(TransferFlow::Asking),
            changed: watch::Sender::new(()),
            moved: Notify::new(),
            unread: Notify::new(),
        }
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock()
    }

    /// Whether a request that passed these forebays may wait for the window.
    fn admits(&self, mirrors: Option<&Mirrors>) -> bool {
        let Some(mirrors) = mirrors else { return true };
        match &*self.flow.borrow() {
            TransferFlow::Asking => !self.source.upstream.may_be_mirror(),
            TransferFlow::From(by) => by.as_ref().is_none_or(|by| !by.may_overlap(mirrors)),
        }
    }

    /// Tells readers and pump that something changed.
    fn update<T>(&self, change: impl FnOnce(&mut Pieces) -> T) -> T {
        let value = change(&mut self.pieces());
        self.changed.send_replace(());
        self.moved.notify_one();
        value
    }
}

/// A reader's place in a window.
pub(super) struct Seat {
    window: Arc<Window>,
    number: u64,
    changed: watch::Receiver<()>,
    /// The reader's bytes before its position have the window's hash.
    is_same: bool,
    /// The window was opened for this reader.
    pub(super) is_first: bool,
}

/// What a reader gets of a window.
pub(super) enum Next {
    Bytes(bytes::Bytes),
    /// The body is over.
    End,
    Failed(ReadError),
    /// The reader has no place any more.
    FellOut,
}

impl Seat {
    /// `None` if the window has dropped the bytes at this position.
    fn new(window: Arc<Window>, position: u64, is_first: bool) -> Option<Self> {
        let number = window.pieces().seat(position)?;
        let changed = window.changed.subscribe();
        Some(Self { window, number, changed, is_same: false, is_first })
    }

    /// The blob as the reader named it for whom the window was opened.
    pub(super) fn source(&self) -> &Source {
        &self.window.source
    }

    /// The forebays through which the bytes come.
    pub(super) fn mirrors(&self) -> Option<Mirrors> {
        match &*self.window.flow.borrow() {
            TransferFlow::From(mirrors) => mirrors.clone(),
            TransferFlow::Asking => None,
        }
    }

    /// Waits for the upstream's answer.
    pub(super) async fn head(&mut self) -> Result<WindowHead, ReadError> {
        loop {
            self.changed.borrow_and_update();
            if let Some(head) = self.window.head.get() {
                return Ok(head.clone());
            }
            if let Some(end) = &self.window.pieces().end {
                return Err(match end {
                    End::Failed(error) => error.clone(),
                    End::Body => ReadError::Abandoned,
                });
            }
            // The seat keeps the window and with it the sender.
            let _ = self.changed.changed().await;
        }
    }

    /// The next bytes, after which `front` has their hash; `copies` are the reader's. Cancel-safe.
    pub(super) async fn next(&mut self, front: &mut Front, copies: &UnsentCopies) -> Next {
        if front.is_in_file()
            && !front.is_same_file(&self.window.front)
            && let Err(error) = front.hash().await
        {
            return Next::Failed(ReadError::Storage(Arc::new(error)));
        }
        loop {
            self.changed.borrow_and_update();
            let look = self.window.pieces().take(self.number, copies);
            match look {
                Look::Taken(taken) => {
                    self.window.moved.notify_one();
                    return Next::Bytes(self.hashed(taken, front));
                }
                Look::Wait => {
                    self.window.moved.notify_one();
                    let _ = self.changed.changed().await;
                }
                Look::NoRoom => copies.room().await,
                Look::End(End::Body) => return Next::End,
                Look::End(End::Failed(error)) => return Next::Failed(error),
                Look::FellOut => return Next::FellOut,
            }
        }
    }

    /// Takes the hash of the window, if the bytes before were the same, and else adds the bytes: so they are hashed
    /// once for all readers.
    fn hashed(&mut self, taken: Taken, front: &mut Front) -> bytes::Bytes {
        let Taken { bytes, before, after } = taken;
        if let (false, Some(before)) = (self.is_same, before) {
            match front {
                Front::Hashed(own) => self.is_same = own.clone().digest() == (*before).clone().digest(),
                // Only the file with which the window began is not hashed yet.
                Front::InFile(..) => {
                    *front = Front::Hashed((*before).clone());
                    self.is_same = true;
                }
            }
        }
        match after {
            Some(after) if self.is_same => *front = Front::Hashed((*after).clone()),
            _ => front.update(&bytes),
        }
        bytes
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut pieces = self.window.pieces();
        pieces.leave(self.number);
        self.window.moved.notify_one();
        if !pieces.has_readers() {
            self.window.unread.notify_one();
        }
    }
}
