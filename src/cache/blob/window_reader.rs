//! Reads a whole blob through windows: through another one when the reader falls out.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        Source,
        download::{Download, transfer::Transfer},
    },
    front::Front,
    read_error::ReadError,
    window::{Next, Opening, Seat, UnsentCopies, Wanted, WindowHead, Windows},
};
use crate::upstream::{ErrorKind, Mirrors};

/// How many windows of other readers may fail before the reader gets a transfer of its own.
const MAX_FAILURES: usize = 3;

/// One reader of a blob without room.
pub(super) struct WindowReader {
    windows: Windows,
    source: Source,
    /// The offset of the next byte.
    position: u64,
    total: Option<u64>,
    /// The client has the head of its response: an upstream that cannot answer now is requested again.
    has_head: bool,
    /// Has perhaps left a transfer that has just begun.
    download: Option<Arc<Download>>,
    /// A transfer that has just begun.
    transfer: Option<Box<Transfer>>,
    seat: Option<Seat>,
    copies: UnsentCopies,
    failures: usize,
}

/// What a reader gets through its window.
pub(super) enum FromWindow {
    Bytes(Bytes),
    End,
    /// Nothing: the reader must not, or can no longer, share a transfer.
    Alone,
}

impl WindowReader {
    /// The whole blob, for a client that has no response yet.
    pub(super) fn whole(windows: Windows, source: Source, download: Option<Arc<Download>>) -> Self {
        let copies = UnsentCopies::default();
        let (position, total, has_head, transfer, seat, failures) = (0, None, false, None, None, 0);
        Self { windows, source, position, total, has_head, download, transfer, seat, copies, failures }
    }

    /// The same with a transfer that has just begun.
    pub(super) fn with_transfer(self, transfer: Box<Transfer>) -> Self {
        Self { transfer: Some(transfer), ..self }
    }

    /// The rest of a blob of this size, for a client that has everything before `position`.
    pub(super) fn rest(self, position: u64, total: Option<u64>) -> Self {
        Self { position, total, has_head: true, ..self }
    }

    /// The forebays through which the bytes come.
    pub(super) fn mirrors(&self) -> Option<Mirrors> {
        self.seat.as_ref().and_then(Seat::mirrors)
    }

    /// Waits for the upstream's answer; `None` if the reader must not share a transfer.
    pub(super) async fn head(&mut self, front: &Front) -> Result<Option<WindowHead>, ReadError> {
        while self.sit(front).await {
            let Some(seat) = &mut self.seat else { break };
            match seat.head().await {
                Ok(head) => {
                    self.has_head = true;
                    self.total = self.total.or(head.total);
                    return Ok(Some(head));
                }
                Err(error) => self.failed(error, front)?,
            }
        }
        Ok(None)
    }

    /// The next bytes, after which `front` has their hash. Cancel-safe.
    pub(super) async fn next(&mut self, front: &mut Front) -> Result<FromWindow, ReadError> {
        while self.sit(front).await {
            let Some(seat) = &mut self.seat else { break };
            match seat.next(front, &self.copies).await {
                Next::Bytes(bytes) => {
                    self.position += bytes.len() as u64;
                    return Ok(FromWindow::Bytes(bytes));
                }
                Next::End => return Ok(FromWindow::End),
                Next::FellOut => self.seat = None,
                Next::Failed(error) => self.failed(error, front)?,
            }
        }
        Ok(FromWindow::Alone)
    }

    /// A transfer for this reader only.
    pub(super) async fn alone(&mut self) -> Result<Transfer, ReadError> {
        self.seat = None;
        match self.transfer.take() {
            Some(transfer) => Ok(*transfer),
            None if self.has_head => Ok(Transfer::going_on(&self.source, self.position, None, self.total)),
            None => Transfer::open(&self.source, 0, None).await.map_err(ReadError::Upstream),
        }
    }

    /// Makes sure that the reader has a seat; `false` if it must read alone.
    async fn sit(&mut self, front: &Front) -> bool {
        if self.seat.is_some() {
            return true;
        }
        if self.failures >= MAX_FAILURES {
            return false;
        }
        let Self { windows, source, position, total, has_head, download, transfer, .. } = self;
        let opening = || match transfer.take().or_else(|| download.take()?.take_transfer().map(Box::new)) {
            Some(transfer) => Opening::Open(transfer),
            None if *has_head => Opening::GoOn { total: *total },
            None => Opening::Request,
        };
        let wanted = Wanted { source, position: *position, front };
        let seat = windows.seat(&wanted, opening).await;
        self.seat = seat;
        if self.seat.is_some() {
            // Another reader's transfer goes on, and nothing reads this one.
            self.transfer = None;
            self.download = None;
        }
        self.seat.is_some()
    }

    /// A failure that may be due to another client's request is no failure of this reader: it looks for another window.
    fn failed(&mut self, error: ReadError, front: &Front) -> Result<(), ReadError> {
        let Some(seat) = &self.seat else { return Ok(()) };
        let is_of_other = match &error {
            ReadError::Upstream(error) => {
                !seat.source().is_same(&self.source) || (error.kind == ErrorKind::Loop && !seat.is_first)
            }
            ReadError::Storage(_) => !seat.is_first && !front.is_in_file(),
            ReadError::Mismatch | ReadError::Abandoned => false,
        };
        if !is_of_other {
            return Err(error);
        }
        self.failures += 1;
        self.seat = None;
        Ok(())
    }
}
