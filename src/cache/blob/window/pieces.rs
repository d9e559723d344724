//! The pieces that a window keeps, and who reads them (no I/O, no clock).
//!
//! What must hold: the pieces follow one another without a gap. A piece is dropped only when its room is needed, since a
//! reader is about to have taken all there is, and no seat is before its end. A seat that holds others back for [`MAX_HOLD`] in all is removed: its reader falls out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::memory::{PIECE, UnsentCopies};
use crate::{cache::blob::read_error::ReadError, oci::Verifier};

/// How long a reader may hold others back in all, before it goes on without them.
pub(super) const MAX_HOLD: Duration = Duration::from_secs(2);

/// How far a full window is ahead of its fastest reader, in bytes. It reads no further for the sake of the readers that
/// come a little later, such as those of a download whose disk is full: what it drops they would request again.
const AHEAD: u64 = 1024 * 1024;

/// Some bytes of the blob.
struct Piece {
    start: u64,
    bytes: Bytes,
    /// Beyond the budget: readers copy it.
    is_spare: bool,
    /// The hash of the blob up to the end of the piece.
    after: Arc<Verifier>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// One reader's place.
struct Place {
    /// The offset of the next byte that it takes.
    position: u64,
    /// It has taken all there is and wants more.
    is_waiting: bool,
    /// How long it has held others back.
    held: Duration,
}

/// How the body ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The upstream sent all of it, so far as it says.
    Body,
    Failed(ReadError),
}

/// The pieces and the readers of one window.
pub(super) struct Pieces {
    /// The offset of the first byte that is kept, and of the next to come.
    low: u64,
    high: u64,
    /// The hash of the blob up to `low`, once known.
    before: Option<Arc<Verifier>>,
    pieces: VecDeque<Piece>,
    /// By the number of the seat.
    places: BTreeMap<u64, Place>,
    next_seat: u64,
    /// How many readers that have no seat wait until a transfer ends.
    pub(super) outside: usize,
    pub(super) end: Option<End>,
}

/// What a reader finds at its position.
pub(super) enum Look {
    Taken(Taken),
    /// There may be more later.
    Wait,
    /// The next piece has to be copied, and the reader has no room for another copy.
    NoRoom,
    End(End),
    /// The reader held others back for too long.
    FellOut,
}

/// Bytes that a reader takes.
pub(super) struct Taken {
    pub bytes: Bytes,
    /// The hash of the blob before these bytes, if they begin a piece; and after them, if they also end it.
    pub before: Option<Arc<Verifier>>,
    pub after: Option<Arc<Verifier>>,
}

/// What has to happen before the next piece has room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The seats that hold back the first piece.
    pub by: Vec<u64>,
    /// How long they may go on with that; `None` while it keeps no reader waiting.
    pub patience: Option<Duration>,
}

impl Pieces {
    pub(super) fn new(start: u64) -> Self {
        Self {
            low: start,
            high: start,
            before: None,
            pieces: VecDeque::new(),
            places: BTreeMap::new(),
            next_seat: 0,
            outside: 0,
            end: None,
        }
    }

    pub(super) fn low(&self) -> u64 {
        self.low
    }

    pub(super) fn high(&self) -> u64 {
        self.high
    }

    pub(super) fn has_readers(&self) -> bool {
        !self.places.is_empty()
    }

    /// Sets the hash of the blob before the window.
    pub(super) fn begin(&mut self, before: Verifier) {
        self.before = Some(Arc::new(before));
    }

    /// The number of a new seat at `position`; `None` if that is below the window.
    pub(super) fn seat(&mut self, position: u64) -> Option<u64> {
        if position < self.low {
            return None;
        }
        self.next_seat += 1;
        self.places.insert(self.next_seat, Place { position, is_waiting: false, held: Duration::ZERO });
        Some(self.next_seat)
    }

    pub(super) fn leave(&mut self, seat: u64) {
        self.places.remove(&seat);
    }

    /// Adds bytes, after which the blob has the hash `after`.
    pub(super) fn push(&mut self, bytes: Bytes, is_spare: bool, after: Verifier) {
        let start = self.high;
        self.high += bytes.len() as u64;
        self.pieces.push_back(Piece { start, bytes, is_spare, after: Arc::new(after) });
    }

    /// What a reader finds, who takes it.
    pub(super) fn take(&mut self, seat: u64, copies: &UnsentCopies) -> Look {
        let Some(place) = self.places.get_mut(&seat) else { return Look::FellOut };
        if place.position >= self.high {
            return match &self.end {
                // The transfer ended before the reader's position.
                Some(End::Body) if place.position > self.high => Look::FellOut,
                Some(end) => Look::End(end.clone()),
                None => {
                    place.is_waiting = true;
                    Look::Wait
                }
            };
        }
        let index = self.pieces.partition_point(|piece| piece.end() <= place.position);
        let Some(piece) = self.pieces.get(index) else { return Look::FellOut };
        let offset = usize::try_from(place.position - piece.start).unwrap_or(usize::MAX);
        let bytes = if piece.is_spare {
            if !copies.has_room() {
                return Look::NoRoom;
            }
            copies.copy(&piece.bytes[offset..])
        } else {
            piece.bytes.slice(offset..)
        };
        place.is_waiting = false;
        place.position += bytes.len() as u64;
        let after = (bytes.len() == piece.bytes.len()).then(|| piece.after.clone());
        let before =
            if index == 0 { self.before.as_ref() } else { self.pieces.get(index - 1).map(|piece| &piece.after) };
        Look::Taken(Taken { bytes, before: before.filter(|_| offset == 0).cloned(), after })
    }

    /// Drops pieces that every reader has, until another one fits into `limit` bytes. Returns what keeps the others.
    pub(super) fn make_room(&mut self, limit: usize) -> Option<Held> {
        let needed = |high: u64, low: u64| usize::try_from(high - low).unwrap_or(usize::MAX).saturating_add(PIECE);
        while let Some(first) = self.pieces.front()
            && needed(self.high, self.low) > limit
        {
            let fastest = self.places.values().map(|place| place.position).max();
            let ahead = AHEAD.min(limit as u64 / 8).max(1);
            if limit > 0
                && self.outside == 0
                && fastest.is_some_and(|fastest| self.high >= fastest.saturating_add(ahead))
            {
                return Some(Held { by: Vec::new(), patience: None });
            }
            let end = first.end();
            let by: Vec<u64> = self.behind(end).collect();
            if !by.is_empty() {
                let least = by.iter().filter_map(|seat| self.places.get(seat)).map(|place| place.held).max();
                let keeps_waiting = self.outside > 0
                    || self.places.values().any(|place| place.is_waiting && place.position >= self.high);
                let patience = keeps_waiting.then(|| MAX_HOLD.saturating_sub(least.unwrap_or_default()));
                return Some(Held { by, patience });
            }
            self.low = end;
            self.before = self.pieces.pop_front().map(|piece| piece.after);
        }
        None
    }

    /// The seats that have not taken all bytes before `end`.
    fn behind(&self, end: u64) -> impl Iterator<Item = u64> {
        self.places.iter().filter(move |(_, place)| place.position < end).map(|(seat, _)| *seat)
    }

    /// Removes the seats among these that have now held others back for too long.
    pub(super) fn charge(&mut self, seats: &[u64], time: Duration) {
        for seat in seats {
            if let Some(place) = self.places.get_mut(seat) {
                place.held += time;
                if place.held >= MAX_HOLD {
                    self.places.remove(seat);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    const SECOND: Duration = Duration::from_secs(1);

    fn begun(start: u64) -> Pieces {
        let mut pieces = Pieces::new(start);
        pieces.begin(Verifier::new(Algorithm::Sha256));
        pieces
    }

    /// The byte at an offset.
    fn byte(offset: u64) -> u8 {
        (offset % 251) as u8
    }

    fn push(pieces: &mut Pieces, len: u64, is_spare: bool) {
        let bytes: Vec<u8> = (pieces.high()..pieces.high() + len).map(byte).collect();
        pieces.push(bytes.into(), is_spare, Verifier::new(Algorithm::Sha256));
    }

    fn take(pieces: &mut Pieces, seat: u64) -> Option<Bytes> {
        match pieces.take(seat, &UnsentCopies::default()) {
            Look::Taken(taken) => Some(taken.bytes),
            _ => None,
        }
    }

    #[test]
    fn a_piece_stays_until_its_room_is_needed() {
        let mut pieces = begun(0);
        let first = pieces.seat(0).unwrap();
        push(&mut pieces, 1000, false);
        assert!(take(&mut pieces, first).is_some());
        assert_eq!((pieces.make_room(PIECE + 1000), pieces.low()), (None, 0));
        // One that comes later still finds the start, and then keeps it.
        let second = pieces.seat(0).unwrap();
        assert_eq!(pieces.make_room(PIECE), Some(Held { by: vec![second], patience: None }));
        assert!(take(&mut pieces, second).is_some());
        assert_eq!((pieces.make_room(PIECE), pieces.low()), (None, 1000));
    }

    #[test]
    fn a_reader_holds_others_back_for_two_seconds_in_all() {
        let mut pieces = begun(0);
        let (slow, fast) = (pieces.seat(0).unwrap(), pieces.seat(0).unwrap());
        push(&mut pieces, 10, false);
        assert!(take(&mut pieces, fast).is_some());
        let held = |patience| Some(Held { by: vec![slow], patience });
        assert_eq!(pieces.make_room(PIECE), held(None), "the other one has not asked for more");
        assert!(matches!(pieces.take(fast, &UnsentCopies::default()), Look::Wait));
        assert_eq!(pieces.make_room(PIECE), held(Some(MAX_HOLD)));
        pieces.charge(&[slow], SECOND);
        assert!(take(&mut pieces, slow).is_some());
        assert_eq!(pieces.make_room(PIECE), None);
        push(&mut pieces, 10, false);
        assert!(take(&mut pieces, fast).is_some());
        pieces.take(fast, &UnsentCopies::default());
        assert_eq!(pieces.make_room(PIECE), held(Some(SECOND)), "what it held back before counts");
        pieces.charge(&[slow], SECOND);
        assert!(matches!(pieces.take(slow, &UnsentCopies::default()), Look::FellOut));
        assert_eq!(pieces.make_room(PIECE), None);
    }

    #[test]
    fn readers_outside_are_kept_waiting_too() {
        let mut pieces = begun(0);
        let stopped = pieces.seat(0).unwrap();
        push(&mut pieces, 10, false);
        pieces.outside = 1;
        assert_eq!(pieces.make_room(PIECE), Some(Held { by: vec![stopped], patience: Some(MAX_HOLD) }));
    }

    #[test]
    fn a_spare_piece_is_copied() {
        let mut pieces = begun(7);
        let (seat, copies) = (pieces.seat(7).unwrap(), UnsentCopies::default());
        push(&mut pieces, PIECE as u64, true);
        let mut taken = Vec::new();
        while let Look::Taken(Taken { bytes, before, after }) = pieces.take(seat, &copies) {
            assert!(bytes.len() < PIECE && after.is_none());
            assert_eq!(before.is_some(), taken.is_empty(), "the hash before is that of the first bytes");
            taken.push(bytes);
        }
        assert_eq!(taken.len(), 2);
        assert!(matches!(pieces.take(seat, &copies), Look::NoRoom));
        taken.clear();
        assert!(matches!(pieces.take(seat, &copies), Look::Taken(_)));
    }

    #[test]
    fn the_end_comes_after_the_bytes() {
        let mut pieces = begun(0);
        let (seat, ahead) = (pieces.seat(0).unwrap(), pieces.seat(11).unwrap());
        push(&mut pieces, 10, false);
        pieces.end = Some(End::Body);
        assert!(take(&mut pieces, seat).is_some());
        assert!(matches!(pieces.take(seat, &UnsentCopies::default()), Look::End(End::Body)));
        assert!(matches!(pieces.take(ahead, &UnsentCopies::default()), Look::FellOut), "it has to look elsewhere");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join,
        Take(usize),
        Leave(usize),
        Charge(usize),
        Push { len: u64, is_spare: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => Just(Step::Join),
            6 => any::<usize>().prop_map(Step::Take),
            1 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::Charge),
            6 => (1..=PIECE as u64, any::<bool>()).prop_map(|(len, is_spare)| Step::Push { len, is_spare }),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// Every reader gets all bytes from its first one on, or falls out, and no more is kept than may be.
        #[test]
        fn readers_get_every_byte_in_order(steps in steps()) {
            let limit = 3 * PIECE;
            let mut pieces = begun(1000);
            let mut readers: Vec<(u64, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Join => readers.push((pieces.seat(pieces.low()).unwrap(), pieces.low())),
                    Step::Take(which) if !readers.is_empty() => {
                        let which = which % readers.len();
                        let (seat, position) = readers[which];
                        match pieces.take(seat, &UnsentCopies::default()) {
                            Look::Taken(taken) => {
                                prop_assert!(!taken.bytes.is_empty());
                                prop_assert!(taken.bytes.iter().zip(position..).all(|(found, at)| *found == byte(at)));
                                readers[which].1 += taken.bytes.len() as u64;
                            }
                            Look::Wait => prop_assert_eq!(position, pieces.high()),
                            Look::FellOut => { readers.remove(which); }
                            Look::NoRoom | Look::End(_) => prop_assert!(false, "it has no copies, and there is no end"),
                        }
                    }
                    Step::Leave(which) if !readers.is_empty() => {
                        pieces.leave(readers.remove(which % readers.len()).0);
                    }
                    Step::Charge(which) if !readers.is_empty() => {
                        pieces.charge(&[readers[which % readers.len()].0], SECOND);
                    }
                    Step::Push { len, is_spare } => match pieces.make_room(limit) {
                        None => {
                            push(&mut pieces, len, is_spare);
                            prop_assert!(pieces.high() - pieces.low() <= limit as u64);
                        }
                        // No reader needs more yet.
                        Some(held) if held.by.is_empty() => {
                            let fastest = pieces.places.values().map(|place| place.position).max();
                            prop_assert!(fastest.is_some_and(|fastest| fastest < pieces.high()));
                        }
                        Some(held) => prop_assert!(held.by.iter().all(|seat| readers.iter().any(|(id, _)| id == seat))),
                    },
                    _ => {}
                }
            }
        }
    }
}
