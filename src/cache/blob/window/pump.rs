//! The task of a window: it copies what the transfer brings into pieces, as far as the window has room.

use std::{future::pending, sync::Arc};

use bytes::{Buf as _, Bytes};
use tokio::{
    task::consume_budget,
    time::{Instant, sleep},
};

use super::{
    Opening, Window, WindowHead,
    memory::{PIECE, PieceMemory},
    pieces::Held,
};
use crate::{
    cache::{blob::read_error::ReadError, download::transfer::Transfer},
    oci::Verifier,
};

/// Copies the transfer to its end. A wrong digest is the upstream's fault if `is_theirs`.
pub(super) async fn pump(window: &Window, opening: Opening, is_theirs: bool) -> Result<(), ReadError> {
    let mut front = window.front.clone();
    let mut hash = front.hash().await.map_err(|error| ReadError::Storage(error.into()))?.clone();
    window.pieces().begin(hash.clone());
    let source = &window.source;
    let (mut transfer, has_answer) = open(window, opening).await?;
    if has_answer {
        show_head(window, &transfer);
    }
    let mut bytes = Bytes::new();
    loop {
        if bytes.is_empty() {
            let next = transfer.next().await.map_err(ReadError::Upstream)?;
            show_head(window, &transfer);
            let Some(next) = next else {
                let is_right = hash.clone().digest() == source.digest;
                if !is_right && transfer.doubt().map_err(ReadError::Upstream)? {
                    continue;
                }
                if !is_right && is_theirs {
                    source.upstream.note_mismatch(&source.digest);
                }
                // No reader joins a window of wrong bytes.
                return if is_right { Ok(()) } else { Err(ReadError::Mismatch) };
            };
            bytes = next;
            // The transfer reports that it begins the whole blob again.
            if bytes.is_empty() {
                continue;
            }
        }
        let memory = room(window).await;
        // An upstream on the same machine always has more.
        consume_budget().await;
        let is_spare = memory.is_spare();
        let piece = memory.hold(fill(&mut transfer, &mut bytes, window.pieces().high(), &mut hash));
        window.update(|pieces| pieces.push(piece, is_spare, hash.clone()));
    }
}

/// Returns the transfer, and whether the upstream has answered.
async fn open(window: &Window, opening: Opening) -> Result<(Transfer, bool), ReadError> {
    let (source, start) = (&window.source, window.start);
    let (transfer, has_answer) = match opening {
        Opening::Open(transfer) => (*transfer, true),
        Opening::Request => (Transfer::open(source, start, None).await.map_err(ReadError::Upstream)?, true),
        Opening::GoOn { total } => (Transfer::going_on(source, start, None, total), false),
    };
    Ok((transfer.reporting_to(&window.flow, &Arc::default()), has_answer))
}

fn show_head(window: &Window, transfer: &Transfer) {
    if window.head.get().is_none() {
        let _ = window.head.set(WindowHead { total: transfer.total(), notes: transfer.remark().clone() });
        window.changed.send_replace(());
    }
}

/// The bytes of the next piece: those at hand, and what has arrived meanwhile.
fn fill(transfer: &mut Transfer, bytes: &mut Bytes, position: u64, hash: &mut Verifier) -> Vec<u8> {
    let len = PIECE - usize::try_from(position % PIECE as u64).unwrap_or(0);
    let mut piece = Vec::with_capacity(len);
    loop {
        let part = bytes.len().min(len - piece.len());
        piece.extend_from_slice(&bytes[..part]);
        bytes.advance(part);
        if piece.len() == len {
            break;
        }
        match transfer.ready() {
            Some(more) => *bytes = more,
            None => break,
        }
    }
    hash.update(&piece);
    piece
}

/// Waits until the window has room for another piece.
async fn room(window: &Window) -> PieceMemory {
    loop {
        let held = {
            let mut pieces = window.pieces();
            match pieces.make_room(window.share.limit()) {
                Some(held) => held,
                None => match window.share.take() {
                    Some(memory) => return memory,
                    // Other windows have the memory: this one keeps only what its readers still need.
                    None => match (pieces.make_room(0), window.share.take()) {
                        (_, Some(memory)) => return memory,
                        (None, None) => return PieceMemory::Spare,
                        (Some(held), None) => held,
                    },
                },
            }
        };
        wait_for_readers(window, held).await;
    }
}

/// Waits until a reader moves, or those that hold others back have done so for too long.
async fn wait_for_readers(window: &Window, held: Held) {
    let begun = Instant::now();
    let too_long = async {
        match held.patience {
            Some(patience) => sleep(patience).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = window.moved.notified() => {}
        () = too_long => {}
    }
    if held.patience.is_some() {
        let mut pieces = window.pieces();
        pieces.charge(&held.by, begun.elapsed());
        if !pieces.has_readers() {
            window.unread.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::poll;
    use tokio::time::timeout;

    use super::{
        super::{Next, Seat, UnsentCopies, memory::WindowMemory, pieces::MAX_HOLD},
        *,
    };
    use crate::{
        cache::{Source, blob::front::Front},
        oci::{Algorithm, Digest},
        upstream::{self, Context, Upstream},
    };

    fn window(memory: &WindowMemory) -> Arc<Window> {
        let config = upstream::Config::at("registry.example", &["https://registry.example"]);
        let source = Source {
            upstream: Upstream::new(&config, Context::of_test()).unwrap(),
            repository: "team/app".parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, b""),
        };
        let window = Window::new(source, 0, Front::empty(Algorithm::Sha256), memory.share());
        window.pieces().begin(Verifier::new(Algorithm::Sha256));
        Arc::new(window)
    }

    /// A reader without a connection: what it takes is gone at once.
    struct Reader(Seat, Front, UnsentCopies);

    impl Reader {
        fn of(window: &Arc<Window>) -> Self {
            Self(Seat::new(window.clone(), 0, false).unwrap(), Front::empty(Algorithm::Sha256), UnsentCopies::default())
        }

        async fn next(&mut self) -> Next {
            self.0.next(&mut self.1, &self.2).await
        }
    }

    /// Fills the window until it waits for readers.
    async fn fill_up(window: &Window) -> u64 {
        while let Ok(memory) = timeout(Duration::from_millis(1), room(window)).await {
            let is_spare = memory.is_spare();
            let piece = memory.hold(vec![7; PIECE]);
            window.update(|pieces| pieces.push(piece, is_spare, Verifier::new(Algorithm::Sha256)));
        }
        window.pieces().high()
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_alone_is_waited_for() {
        let window = window(&WindowMemory::new());
        let mut reader = Reader::of(&window);
        assert_eq!(fill_up(&window).await, 8 << 20);
        let mut room = pin!(room(&window));
        assert!(timeout(Duration::from_secs(3600), &mut room).await.is_err());
        // It keeps what the reader has, for another one, until the reader has taken nearly all there is.
        let mut pieces = 0;
        while poll!(&mut room).is_pending() {
            assert!(matches!(reader.next().await, Next::Bytes(_)));
            pieces += 1;
        }
        assert_eq!(pieces * PIECE, (7 << 20) + PIECE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_holds_a_fast_one_for_two_seconds() {
        let window = window(&WindowMemory::new());
        let (mut slow, mut fast) = (Reader::of(&window), Reader::of(&window));
        let filled = fill_up(&window).await;
        let mut taken = 0;
        while taken < filled {
            let Next::Bytes(bytes) = fast.next().await else { panic!("there is more") };
            taken += bytes.len() as u64;
        }
        let begun = Instant::now();
        {
            let mut more = pin!(fast.next());
            assert!(poll!(&mut more).is_pending());
            assert!(!room(&window).await.is_spare());
        }
        assert_eq!(begun.elapsed(), MAX_HOLD);
        assert!(matches!(slow.next().await, Next::FellOut));
        drop((slow, fast));
        assert!(timeout(Duration::from_secs(1), window.unread.notified()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn without_memory_a_window_has_one_piece_at_a_time() {
        let memory = WindowMemory::with_budget(0);
        let window = window(&memory);
        let mut reader = Reader::of(&window);
        for round in 1..=3 {
            assert_eq!(fill_up(&window).await, round * PIECE as u64);
            let mut taken = 0;
            while taken < PIECE {
                let Next::Bytes(bytes) = reader.next().await else { panic!("there is more") };
                taken += bytes.len();
            }
        }
    }
}
